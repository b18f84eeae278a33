//! Opens connections, through the proxy where there is one, and says what is wrong on the way.

use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::http::Uri;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite;
use tower_service::Service;

use super::CONNECT;

type BoxError = Box<dyn Error + Send + Sync>;

/// Nothing was sent: there is no connection. Names the proxy or the host, and the cause.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoConnection(String);

impl NoConnection {
    pub(super) fn no_address() -> NoConnection {
        NoConnection("this is no address".into())
    }

    pub(super) fn handshake(error: &tungstenite::Error) -> NoConnection {
        // Other variants may hold the address.
        NoConnection(match error {
            tungstenite::Error::Http(answer) => {
                format!("it refuses the web socket with status {}", answer.status().as_u16())
            }
            tungstenite::Error::Io(error) => format!("the web socket broke at once: {error}"),
            _ => "it does not speak as a web socket".into(),
        })
    }

    fn new(way: &str, error: &(dyn Error + 'static)) -> NoConnection {
        let cause = causes(error);
        let advice = if cause.contains("UnknownIssuer") {
            "; if the site looks into encrypted connections, name its certificates by \
             outgoing.ca_file"
        } else if cause.contains("proxy authorization required") {
            "; write its user and password into outgoing.proxy"
        } else {
            ""
        };
        NoConnection(format!("{way}: {cause}{advice}"))
    }
}

/// What an error says, and what its causes add to it.
pub fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    text
}

/// Opens connections for a client of hyper's.
#[derive(Clone)]
pub struct Connector {
    matcher: Arc<Matcher>,
    https: HttpsConnector<Tunnelled>,
}

impl Connector {
    pub(super) fn new(matcher: Arc<Matcher>, tls: ClientConfig, http2: bool) -> Connector {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        let tunnelled = Tunnelled { matcher: Arc::clone(&matcher), tcp };
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        let https = match http2 {
            true => https.enable_http1().enable_http2().wrap_connector(tunnelled),
            false => https.enable_http1().wrap_connector(tunnelled),
        };
        Connector { matcher, https }
    }
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = NoConnection;
    type Future = BoxFuture<'static, Result<Self::Response, NoConnection>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NoConnection>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let host = to.host().unwrap_or_default();
        if to.scheme_str() != Some("https") && !is_here(host) {
            return ready(Err(NoConnection(format!("{host} is not reached without encryption"))))
                .boxed();
        }
        let way = match self.matcher.intercept(&to).and_then(|p| p.uri().authority().cloned()) {
            Some(proxy) => format!("{host} through the proxy {proxy}"),
            None => host.to_owned(),
        };
        let opening = self.https.call(to);
        async move { opening.await.map_err(|error| NoConnection::new(&way, error.as_ref())) }
            .boxed()
    }
}

/// Whether an address is on this machine, as a stand-in of Slack is.
pub fn is_here(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// TCP to a host, or through a tunnel that a proxy makes.
#[derive(Clone)]
struct Tunnelled {
    matcher: Arc<Matcher>,
    tcp: HttpConnector,
}

impl Service<Uri> for Tunnelled {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let mut tcp = self.tcp.clone();
        match self.matcher.intercept(&to) {
            None => async move { Ok(tcp.call(to).await?) }.boxed(),
            Some(proxy) => {
                let mut tunnel = Tunnel::new(proxy.uri().clone(), tcp);
                if let Some(who) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(who.clone());
                }
                async move { Ok(tunnel.call(to).await?) }.boxed()
            }
        }
    }
}

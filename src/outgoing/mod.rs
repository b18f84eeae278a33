//! The way out: the one place that makes clients for addresses outside of the site.
//!
//! Slack, its web sockets and Jira are reached through it, so that a proxy and a site's own
//! certificates hold for all of them, and for what `operator slack check` says about them.
//! Databases and BMCs never are: they stand in the site.
//!
//! Invariants: user and password of the proxy are in no error, log line or `Debug`; names of this
//! machine are never asked of a proxy.

mod connector;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use secrecy::{ExposeSecret, SecretString};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use tower_service::Service;

pub use connector::{Connector, NoConnection, causes, is_here};

/// Longest time until a connection is up, the proxy's part not included.
const CONNECT: Duration = Duration::from_secs(5);
/// Names that mean this machine.
const HERE: &str = "localhost,127.0.0.1,::1";

/// `[outgoing]` with its secrets read.
#[derive(Clone, Debug, Default)]
pub struct OutgoingSettings {
    /// `http://[user:password@]host[:port]`, asked to tunnel what leaves the site (`CONNECT`).
    pub proxy: Option<SecretString>,
    /// Names, domains, addresses and networks that are reached without it.
    pub no_proxy: Vec<String>,
    /// Certificates (PEM) that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
}

/// The way out cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum OutgoingError {
    #[error(
        "outgoing.proxy: write http://HOST:PORT, with USER:PASSWORD@ before it if it asks who \
             it is, and special characters of these encoded (%40 is @)"
    )]
    Proxy,
    #[error("outgoing.ca_file: {}: {why}", .file.display())]
    CaFile { file: PathBuf, why: String },
    #[error(
        "no certificate is trusted: this system has none ({0}); install the package \
             ca-certificates, or name a file by outgoing.ca_file"
    )]
    NoRoots(String),
}

/// A web socket that may be encrypted.
pub type WebSocket = WebSocketStream<TokioIo<<Connector as tower_service::Service<Uri>>::Response>>;

/// Makes clients. Cheap to clone.
#[derive(Clone)]
pub struct Outgoing {
    proxy: Option<Proxy>,
    matcher: Arc<Matcher>,
    tls: ClientConfig,
}

/// A proxy as the two HTTP libraries want it.
#[derive(Clone)]
struct Proxy {
    client: reqwest::Proxy,
    /// Host and port, for people.
    name: String,
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing").field("proxy", &self.proxy.as_ref().map(|p| &p.name)).finish()
    }
}

impl Outgoing {
    /// Reads the certificates. Connects to nothing.
    pub fn new(settings: &OutgoingSettings) -> Result<Outgoing, OutgoingError> {
        let direct = [HERE].into_iter().chain(settings.no_proxy.iter().map(String::as_str));
        let direct = direct.collect::<Vec<_>>().join(",");
        let (mut proxy, mut matcher) = (None, Matcher::builder().no(direct.as_str()));
        if let Some(secret) = &settings.proxy {
            proxy = Some(Proxy::new(secret, &direct)?);
            matcher = matcher.all(secret.expose_secret());
        }
        let tls = ClientConfig::builder()
            .with_root_certificates(roots(settings.ca_file.as_deref())?)
            .with_no_client_auth();
        Ok(Outgoing { proxy, matcher: Arc::new(matcher.build()), tls })
    }

    /// Builder of an HTTP client. Redirects are left to the caller.
    pub fn client(&self) -> reqwest::ClientBuilder {
        let mut tls = self.tls.clone();
        tls.alpn_protocols = vec![b"h2".into(), b"http/1.1".into()];
        let client = reqwest::Client::builder().use_preconfigured_tls(tls).no_proxy();
        match &self.proxy {
            Some(proxy) => client.proxy(proxy.client.clone()),
            None => client,
        }
    }

    /// Connector for a client of hyper's.
    pub fn connector(&self) -> Connector {
        self.connector_for(true)
    }

    /// Opens a connection to an address without saying anything there.
    pub async fn reach(&self, address: &str) -> Result<(), NoConnection> {
        self.dial(address).await.map(drop)
    }

    /// Opens a web socket. The address may hold a secret, so no error does.
    pub async fn web_socket(
        &self,
        address: &SecretString,
        config: WebSocketConfig,
    ) -> Result<WebSocket, NoConnection> {
        let stream = TokioIo::new(self.dial(address.expose_secret()).await?);
        let opened = client_async_with_config(address.expose_secret(), stream, Some(config)).await;
        opened.map(|(socket, _)| socket).map_err(|error| NoConnection::handshake(&error))
    }

    /// The name of the proxy by which an address is reached.
    pub fn proxy_to(&self, address: &str) -> Option<&str> {
        self.matcher.intercept(&http_address(address)?)?;
        self.proxy.as_ref().map(|proxy| proxy.name.as_str())
    }

    async fn dial(
        &self,
        address: &str,
    ) -> Result<<Connector as Service<Uri>>::Response, NoConnection> {
        let address = http_address(address).ok_or_else(NoConnection::no_address)?;
        // A web socket begins with HTTP/1.1.
        let mut connector = self.connector_for(false);
        connector.call(address).await
    }

    fn connector_for(&self, http2: bool) -> Connector {
        Connector::new(Arc::clone(&self.matcher), self.tls.clone(), http2)
    }
}

impl Proxy {
    fn new(secret: &SecretString, direct: &str) -> Result<Proxy, OutgoingError> {
        let url: reqwest::Url = secret.expose_secret().parse().map_err(|_| OutgoingError::Proxy)?;
        // Both libraries speak to a proxy in plain HTTP; what goes through it is encrypted.
        let plain = url.scheme() == "http" && matches!(url.path(), "" | "/");
        let host = url.host_str().filter(|_| plain && url.query().is_none());
        let host = host.ok_or(OutgoingError::Proxy)?;
        let name = format!("{host}:{}", url.port_or_known_default().unwrap_or(80));
        let client = reqwest::Proxy::all(url.clone()).map_err(|_| OutgoingError::Proxy)?;
        Ok(Proxy { client: client.no_proxy(reqwest::NoProxy::from_string(direct)), name })
    }
}

/// An address with the scheme that libraries of HTTP know.
fn http_address(address: &str) -> Option<Uri> {
    match address.split_once("://")? {
        ("wss", rest) => format!("https://{rest}").parse().ok(),
        ("ws", rest) => format!("http://{rest}").parse().ok(),
        _ => address.parse().ok(),
    }
}

/// The system's certificates, and the site's own.
fn roots(file: Option<&Path>) -> Result<RootCertStore, OutgoingError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(system.certs);
    if let Some(file) = file {
        let wrong = |why: String| OutgoingError::CaFile { file: file.into(), why };
        let certificates = CertificateDer::pem_file_iter(file)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| wrong(error.to_string()))?;
        if certificates.is_empty() {
            return Err(wrong("it holds no certificate (-----BEGIN CERTIFICATE-----)".into()));
        }
        for certificate in certificates {
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
    }
    match roots.is_empty() {
        true => {
            let why = system.errors.first().map_or("none found".into(), ToString::to_string);
            Err(OutgoingError::NoRoots(why))
        }
        false => Ok(roots),
    }
}

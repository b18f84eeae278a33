//! Accepts connections: how many, from whom, and how long they may take.
//!
//! Whoever sends half a request, or a thousand, must not keep others out: Slack's deliveries, a
//! health check, or the Stop of a batch.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower_http::timeout::RequestBodyTimeoutLayer;

use crate::runtime::client_address::TrustedProxies;

/// Longest time for the head of a request, and between two requests of one connection.
const HEAD: Duration = Duration::from_secs(15);
/// Longest pause in the body of a request.
const BODY: Duration = Duration::from_secs(10);
/// Time after which a client that takes nothing of what was sent to it is given up, in milliseconds.
const UNTAKEN: u32 = 60_000;
/// Largest head of a request, in bytes.
const MAX_HEAD: usize = 32 << 10;
/// Wait after a connection could not be accepted: descriptors may be back by then.
const AGAIN: Duration = Duration::from_millis(100);

/// How many connections there may be.
#[derive(Clone, Debug)]
pub(super) struct ConnectionLimits {
    pub most: u32,
    pub most_per_address: u32,
    /// They are many clients in one.
    pub trusted_proxies: TrustedProxies,
}

/// Serves a router until `stop`, and then what is under way, for as long as the caller waits.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ConnectionLimits,
    stop: CancellationToken,
) {
    let router = router.layer(RequestBodyTimeoutLayer::new(BODY));
    let places = Arc::new(Semaphore::new(limits.most as usize));
    let addresses = Arc::new(Addresses::default());
    let graceful = GracefulShutdown::new();
    loop {
        // At the limit others wait outside: places come free, since nothing lasts without an end.
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            accepted = accepted => accepted,
            () = stop.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if !is_of_the_client(&error) {
                    tracing::error!(%error, "connections cannot be accepted");
                    tokio::time::sleep(AGAIN).await;
                }
                continue;
            }
        };
        let address = peer.ip().to_canonical();
        let most = match limits.trusted_proxies.contains(address) {
            true => u32::MAX,
            false => limits.most_per_address,
        };
        let Some(seat) = addresses.seat(address, most) else {
            tracing::debug!(%address, "an address has too many connections; one more is closed");
            continue;
        };
        prepare(&stream);
        let service = router.clone().layer(axum::Extension(ConnectInfo(peer)));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection broke");
            }
            drop((seat, place));
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

/// Whether a connection broke before it was accepted.
fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted | Kind::ConnectionReset | Kind::ConnectionRefused
    )
}

fn prepare(stream: &TcpStream) {
    let set = stream
        .set_nodelay(true)
        .and_then(|()| Ok(setsockopt(stream, sockopt::TcpUserTimeout, &UNTAKEN)?));
    if let Err(error) = set {
        tracing::debug!(%error, "a connection cannot be prepared");
    }
}

/// Connections by address.
#[derive(Debug, Default)]
struct Addresses(Mutex<HashMap<IpAddr, u32>>);

/// A connection that is counted, for as long as the value lives.
#[derive(Debug)]
struct Seat {
    addresses: Arc<Addresses>,
    address: IpAddr,
}

impl Addresses {
    fn seat(self: &Arc<Self>, address: IpAddr, most: u32) -> Option<Seat> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Seat { addresses: Arc::clone(self), address })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.addresses.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// Lets this process have as many descriptors as the system allows it, and returns how many.
pub fn raise_descriptor_limit() -> u64 {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        Ok(hard)
    });
    raised.unwrap_or_else(|error| {
        tracing::warn!(%error, "the limit of descriptors cannot be raised");
        getrlimit(Resource::RLIMIT_NOFILE).map_or(1_024, |(soft, _)| soft)
    })
}

//! A few UDP sockets for the whole fleet.
//!
//! Invariant: a datagram reaches only the one dialogue that is open with the peer it came from.
//! There is at most one such dialogue a peer, since sessions with one BMC are serialised; what a
//! datagram is worth within the dialogue (session, tag, sequence) is decided there.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::UdpSocket;
use tokio::sync::{OnceCell, mpsc};
use tokio::task::JoinHandle;

/// Sockets an address family. One default receive buffer holds some 270 small datagrams, and a
/// thousand BMCs may answer at once.
const SOCKETS: usize = 8;
/// Bytes of a receive buffer, where the system allows as much: a machine that stands still for a
/// moment must not lose the reply to an act, which nothing can bring back.
const RECEIVE_BUFFER: usize = 2 << 20;
/// Datagrams that may wait for one dialogue; more are dropped as the network would drop them.
const WAITING: usize = 16;
/// Larger than any packet of the commands spoken here.
const DATAGRAM: usize = 1024;

type Peers = Mutex<HashMap<(IpAddr, u16), mpsc::Sender<Vec<u8>>>>;

/// The sockets, opened when first needed.
#[derive(Debug, Default)]
pub struct Transport {
    v4: [OnceCell<Port>; SOCKETS],
    v6: [OnceCell<Port>; SOCKETS],
    peers: Arc<Peers>,
}

#[derive(Debug)]
struct Port {
    socket: Arc<UdpSocket>,
    reader: JoinHandle<()>,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Transport {
    /// Starts to listen for `peer`. The caller sees to it that nobody else does.
    pub async fn link(&self, peer: SocketAddr) -> io::Result<PeerLink> {
        let key = (peer.ip(), peer.port());
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let index = hasher.finish() as usize % SOCKETS;
        let (family, any): (_, IpAddr) = match peer {
            SocketAddr::V4(_) => (&self.v4, Ipv4Addr::UNSPECIFIED.into()),
            SocketAddr::V6(_) => (&self.v6, Ipv6Addr::UNSPECIFIED.into()),
        };
        let port = family[index].get_or_try_init(|| open(any, self.peers.clone())).await?;
        let (sender, received) = mpsc::channel(WAITING);
        locked(&self.peers).insert(key, sender);
        Ok(PeerLink { peer, key, socket: port.socket.clone(), received, peers: self.peers.clone() })
    }
}

/// One dialogue's end of a shared socket.
#[derive(Debug)]
pub struct PeerLink {
    peer: SocketAddr,
    key: (IpAddr, u16),
    socket: Arc<UdpSocket>,
    received: mpsc::Receiver<Vec<u8>>,
    peers: Arc<Peers>,
}

impl PeerLink {
    pub async fn send(&self, packet: &[u8]) -> io::Result<()> {
        self.socket.send_to(packet, self.peer).await.map(|_| ())
    }

    /// The next datagram from the peer.
    pub async fn receive(&mut self) -> Vec<u8> {
        match self.received.recv().await {
            Some(datagram) => datagram,
            // The sender lives in the table until this link is dropped.
            None => std::future::pending().await,
        }
    }
}

impl Drop for PeerLink {
    fn drop(&mut self) {
        locked(&self.peers).remove(&self.key);
    }
}

async fn open(any: IpAddr, peers: Arc<Peers>) -> io::Result<Port> {
    let socket = Arc::new(UdpSocket::bind((any, 0)).await?);
    if let Err(error) = setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER) {
        tracing::debug!(%error, "cannot enlarge a receive buffer");
    }
    let reader = tokio::spawn(run_reader(socket.clone(), peers));
    Ok(Port { socket, reader })
}

async fn run_reader(socket: Arc<UdpSocket>, peers: Arc<Peers>) {
    let mut buffer = [0; DATAGRAM];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, from)) => {
                if let Some(dialogue) = locked(&peers).get(&(from.ip(), from.port())) {
                    // A full queue means a flood: dropping is what the protocol expects.
                    let _ = dialogue.try_send(buffer[..length].to_vec());
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot receive from BMCs");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! UDP sockets, a few for the whole fleet.
//!
//! Invariant: a datagram reaches only the one dialogue that is open with its sender. There is at
//! most one such dialogue per peer, because sessions with one BMC run one after the other; the
//! dialogue itself checks the datagram (session, tag, sequence).

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

/// Number of sockets per address family. One default receive buffer holds about 270 small
/// datagrams, and a thousand BMCs may answer at once.
const SOCKETS: usize = 8;
/// Size of a receive buffer in bytes, if the system allows it. A process that is stopped for a
/// moment must not lose the reply to an act, which is never sent again.
const RECEIVE_BUFFER: usize = 2 << 20;
/// Largest number of datagrams that may wait for one dialogue; more are dropped as the network
/// would drop them.
const WAITING: usize = 16;
/// Buffer size in bytes, larger than any packet of the supported commands.
const DATAGRAM: usize = 1024;

type Peers = Mutex<HashMap<(IpAddr, u16), mpsc::Sender<Vec<u8>>>>;

/// Sockets, opened when first needed.
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
    /// Opens all sockets of the families that the system has.
    pub async fn open_all(&self) -> io::Result<()> {
        for (family, any) in self.families() {
            for port in family {
                let opened = port.get_or_try_init(|| open(any, self.peers.clone())).await;
                match opened {
                    Ok(_) => {}
                    // A machine may be without IPv6.
                    Err(_) if any.is_ipv6() => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    fn families(&self) -> [(&[OnceCell<Port>; SOCKETS], IpAddr); 2] {
        [(&self.v4, Ipv4Addr::UNSPECIFIED.into()), (&self.v6, Ipv6Addr::UNSPECIFIED.into())]
    }

    /// Starts to listen for `peer`. The caller makes sure that nobody else does.
    pub async fn link(&self, peer: SocketAddr) -> io::Result<PeerLink> {
        let key = (peer.ip(), peer.port());
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let index = hasher.finish() as usize % SOCKETS;
        let (family, any) = self.families()[usize::from(peer.is_ipv6())];
        let port = family[index].get_or_try_init(|| open(any, self.peers.clone())).await?;
        let (sender, received) = mpsc::channel(WAITING);
        locked(&self.peers).insert(key, sender);
        Ok(PeerLink { peer, key, socket: port.socket.clone(), received, peers: self.peers.clone() })
    }
}

/// Connection of one dialogue to a shared socket.
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

    /// Waits for the next datagram from the peer.
    pub async fn receive(&mut self) -> Vec<u8> {
        match self.received.recv().await {
            Some(datagram) => datagram,
            // Cannot happen: the sender stays in the table until this link is dropped.
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
                    // A full queue means a flood: the protocol expects dropped packets.
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

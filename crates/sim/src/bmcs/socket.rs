//! One UDP socket that answers for every address of 127.0.0.0/8, each from itself.
//!
//! Invariant: an answer is sent from the address that the request was sent to (`IP_PKTINFO`,
//! ip(7)); otherwise no console would accept it.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc::{in_addr, in_pktinfo};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt,
    sockopt,
};

/// Size of the receive buffer in bytes: ten thousand consoles may ask at once. The kernel gives
/// what it allows.
const RECEIVE_BUFFER: usize = 32 << 20;
const DATAGRAM: usize = 2048;

#[derive(Debug)]
pub struct Socket {
    socket: UdpSocket,
    ancillary: Vec<u8>,
}

/// Received datagram: its sender, the address it was sent to, and its length.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    pub from: SocketAddrV4,
    pub to: Ipv4Addr,
    pub length: usize,
}

pub type Buffer = [u8; DATAGRAM];
pub const BUFFER: Buffer = [0; DATAGRAM];

impl Socket {
    /// Binds the socket; port 0 means a free one.
    pub fn bind(port: u16) -> io::Result<Socket> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        // Beyond the system's limit if permitted, else up to the limit.
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
            .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER))?;
        Ok(Socket { socket, ancillary: cmsg_space!(in_pktinfo) })
    }

    pub fn port(&self) -> io::Result<u16> {
        Ok(self.socket.local_addr()?.port())
    }

    /// Waits until a datagram can be received, for at most this time, rounded up to milliseconds.
    pub fn wait(&self, timeout: Duration) -> io::Result<()> {
        let milliseconds = timeout.as_micros().div_ceil(1000);
        let timeout = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Receives a datagram if there is one.
    pub fn receive(&mut self, buffer: &mut Buffer) -> io::Result<Option<Received>> {
        let mut slices = [IoSliceMut::new(buffer)];
        let received = recvmsg::<SockaddrIn>(
            self.socket.as_raw_fd(),
            &mut slices,
            Some(&mut self.ancillary),
            MsgFlags::empty(),
        );
        let received = match received {
            Ok(received) => received,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let to = received.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => Some(address(info.ipi_addr)),
            _ => None,
        });
        let (Some(from), Some(to)) = (received.address, to) else {
            return Err(io::Error::other("a datagram came without its addresses"));
        };
        Ok(Some(Received { from: from.into(), to, length: received.bytes }))
    }

    pub fn send(&self, from: Ipv4Addr, to: SocketAddrV4, datagram: &[u8]) -> io::Result<()> {
        let nowhere = in_addr { s_addr: 0 };
        let source = in_addr { s_addr: u32::from_ne_bytes(from.octets()) };
        let info = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: nowhere };
        sendmsg(
            self.socket.as_raw_fd(),
            &[IoSlice::new(datagram)],
            &[ControlMessage::Ipv4PacketInfo(&info)],
            MsgFlags::empty(),
            Some(&SockaddrIn::from(to)),
        )?;
        Ok(())
    }
}

fn address(address: in_addr) -> Ipv4Addr {
    Ipv4Addr::from(address.s_addr.to_ne_bytes())
}

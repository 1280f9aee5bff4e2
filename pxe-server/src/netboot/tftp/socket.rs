//! The socket of one transfer, and how a window leaves it in one call.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use socket2::{Domain, Protocol, Socket, Type};
use tftp::Burst;

/// A socket of our own port for one node's port: that pair names the transfer (RFC 1350 section 4).
pub(super) struct TransferSocket {
    udp: UdpSocket,
    /// The kernel cuts a window into datagrams for us, until it has said that it can't on this path.
    segmented: bool,
}

impl TransferSocket {
    /// From a free port of `local` on `interface` to `node`.
    pub(super) fn open(interface: &str, local: Ipv4Addr, node: SocketAddrV4) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.bind_device(Some(interface.as_bytes()))?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::from((local, 0)).into())?;
        socket.connect(&SocketAddr::V4(node).into())?;
        Ok(Self { udp: socket.into(), segmented: true })
    }

    /// One datagram of the node, if there is one.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.udp.recv(buffer) {
            Ok(len) => Ok(Some(len)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Sends all of it. What the kernel has no room for is a lost packet, and the transfer's timer deals with it.
    pub(super) fn send(&mut self, burst: &Burst) {
        if self.segmented && burst.len() > 1 {
            match self.send_segmented(burst) {
                // No offload on this path, or blocks above its MTU.
                Err(
                    Errno::EINVAL | Errno::EIO | Errno::EOPNOTSUPP | Errno::ENOPROTOOPT | Errno::EMSGSIZE,
                ) => {
                    self.segmented = false;
                }
                Ok(_) | Err(_) => return,
            }
        }
        for datagram in burst.datagrams() {
            let _ = self.udp.send(datagram);
        }
    }

    fn send_segmented(&self, burst: &Burst) -> Result<usize, Errno> {
        let segment = u16::try_from(burst.datagram_bytes()).map_err(|_| Errno::EINVAL)?;
        let (parts, options) = ([IoSlice::new(burst.bytes())], [ControlMessage::UdpGsoSegments(&segment)]);
        sendmsg::<()>(self.udp.as_raw_fd(), &parts, &options, MsgFlags::empty(), None)
    }
}

impl AsFd for TransferSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.udp.as_fd()
    }
}

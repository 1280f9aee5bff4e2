//! The socket of one transfer, and how a window leaves it in one call.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, recv, send, sendmsg};
use socket2::{Domain, Protocol, Socket, Type};
use tftp::Burst;

/// How long [`TransferSocket::wait`] waits at most.
const WAIT_MAX: Duration = Duration::from_millis(5);
/// How long it stays awake for an answer that is due within as much: waking up takes as long as that.
pub(super) const AWAKE_MAX: Duration = Duration::from_micros(60);

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
        socket.set_read_timeout(Some(WAIT_MAX))?;
        socket.bind(&SocketAddr::from((local, 0)).into())?;
        socket.connect(&SocketAddr::V4(node).into())?;
        Ok(Self { udp: socket.into(), segmented: true })
    }

    /// One datagram of the node, if there is one.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> Result<Option<usize>, Errno> {
        self.receive_with(buffer, MsgFlags::MSG_DONTWAIT)
    }

    /// One datagram of the node, if it comes within milliseconds.
    pub(super) fn wait(&self, buffer: &mut [u8]) -> Result<Option<usize>, Errno> {
        self.receive_with(buffer, MsgFlags::empty())
    }

    /// As [`Self::wait`], at first without falling asleep; whoever else wants the processor gets it.
    pub(super) fn wait_awake(&self, buffer: &mut [u8]) -> Result<Option<usize>, Errno> {
        let until = Instant::now() + AWAKE_MAX;
        while Instant::now() < until {
            if let Some(len) = self.receive(buffer)? {
                return Ok(Some(len));
            }
            std::thread::yield_now();
        }
        self.wait(buffer)
    }

    fn receive_with(&self, buffer: &mut [u8], flags: MsgFlags) -> Result<Option<usize>, Errno> {
        match recv(self.udp.as_raw_fd(), buffer, flags) {
            Ok(len) => Ok(Some(len)),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            // The node's port is closed (ICMP), which the kernel says before it hands out what came earlier: a last
            // acknowledgement counts.
            Err(error) => {
                recv(self.udp.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT).map(Some).map_err(|_| error)
            }
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
            let _ = send(self.udp.as_raw_fd(), datagram, MsgFlags::MSG_DONTWAIT);
        }
    }

    fn send_segmented(&self, burst: &Burst) -> Result<usize, Errno> {
        let segment = u16::try_from(burst.datagram_bytes()).map_err(|_| Errno::EINVAL)?;
        let (parts, options) = ([IoSlice::new(burst.bytes())], [ControlMessage::UdpGsoSegments(&segment)]);
        sendmsg::<()>(self.udp.as_raw_fd(), &parts, &options, MsgFlags::MSG_DONTWAIT, None)
    }
}

impl AsFd for TransferSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.udp.as_fd()
    }
}

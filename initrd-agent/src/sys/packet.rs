//! `AF_PACKET` datagram sockets: IPv4 packets on one interface before it has an address.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::libc;

/// Sees and sends whole IPv4 packets on one interface; the kernel adds and strips the Ethernet header.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    fd: OwnedFd,
    interface_index: libc::c_int,
}

impl PacketSocket {
    /// Opens a non-blocking socket bound to the interface.
    pub(crate) fn open(interface_index: u32) -> io::Result<Self> {
        let interface_index = libc::c_int::try_from(interface_index)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "interface index"))?;
        let protocol = ethertype_ipv4();
        let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: socket() takes no pointers.
        let raw = unsafe { libc::socket(libc::AF_PACKET, kind, libc::c_int::from(protocol)) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `raw` was just returned by the kernel and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        let address = link_address(interface_index, [0; 8]);
        // SAFETY: `address` is a sockaddr_ll and the length given is its size.
        let result = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), ADDRESS_BYTES) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { fd, interface_index })
    }

    /// Sends one IPv4 packet to every station on the link.
    pub(crate) fn broadcast(&self, packet: &[u8]) -> io::Result<()> {
        let address = link_address(self.interface_index, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);
        // SAFETY: the packet and the address are valid for the lengths given, for the whole call.
        let sent = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                0,
                (&raw const address).cast(),
                ADDRESS_BYTES,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Takes one IPv4 packet; `WouldBlock` when none is waiting. Longer packets are cut to the buffer.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        nix::sys::socket::recv(self.fd.as_raw_fd(), buffer, nix::sys::socket::MsgFlags::empty())
            .map_err(io::Error::from)
    }
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.fd.as_raw_fd()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "20 bytes")]
const ADDRESS_BYTES: libc::socklen_t = size_of::<libc::sockaddr_ll>() as libc::socklen_t;

#[expect(clippy::cast_possible_truncation, reason = "ETH_P_IP is 0x0800")]
const fn ethertype_ipv4() -> u16 {
    (libc::ETH_P_IP as u16).to_be()
}

fn link_address(interface_index: libc::c_int, station: [u8; 8]) -> libc::sockaddr_ll {
    // SAFETY: sockaddr_ll is plain integers; all zeros is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or_default();
    address.sll_protocol = ethertype_ipv4();
    address.sll_ifindex = interface_index;
    address.sll_halen = 6;
    address.sll_addr = station;
    address
}

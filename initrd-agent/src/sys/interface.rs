//! Addresses and routes of network interfaces, by the ioctls of netdevice(7) and rt_names.
//!
//! rtnetlink would do the same with a megabyte of code in the binary.

use std::io;
use std::mem::zeroed;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

nix::ioctl_write_ptr_bad!(siocgifflags, libc::SIOCGIFFLAGS, libc::ifreq);
nix::ioctl_write_ptr_bad!(siocsifflags, libc::SIOCSIFFLAGS, libc::ifreq);
nix::ioctl_write_ptr_bad!(siocsifaddr, libc::SIOCSIFADDR, libc::ifreq);
nix::ioctl_write_ptr_bad!(siocsifnetmask, libc::SIOCSIFNETMASK, libc::ifreq);
nix::ioctl_write_ptr_bad!(siocsifmtu, libc::SIOCSIFMTU, libc::ifreq);
nix::ioctl_write_ptr_bad!(siocaddrt, libc::SIOCADDRT, RouteEntry);

/// `struct rtentry` of linux/route.h, which the libc crate has for other libraries only.
#[repr(C)]
struct RouteEntry {
    pad1: libc::c_ulong,
    destination: libc::sockaddr,
    gateway: libc::sockaddr,
    mask: libc::sockaddr,
    flags: libc::c_ushort,
    pad2: libc::c_short,
    pad3: libc::c_ulong,
    pad4: *mut libc::c_void,
    metric: libc::c_short,
    device: *mut libc::c_char,
    mtu: libc::c_ulong,
    window: libc::c_ulong,
    initial_rtt: libc::c_ushort,
}

/// A socket that carries such requests.
#[derive(Debug)]
pub(crate) struct InterfaceControl(OwnedFd);

impl InterfaceControl {
    pub(crate) fn open() -> io::Result<Self> {
        let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        Ok(Self(fd))
    }

    pub(crate) fn set_up(&self, name: &str) -> io::Result<()> {
        let mut request = request(name)?;
        // SAFETY: an ifreq with a terminated name, which outlives the call; the kernel writes the flags into it.
        unsafe { siocgifflags(self.0.as_raw_fd(), &raw mut request) }?;
        // SAFETY: the call above filled in the flags.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        let up = libc::c_short::try_from(libc::IFF_UP).unwrap_or_default();
        request.ifr_ifru.ifru_flags = flags | up;
        // SAFETY: as above; the kernel only reads.
        unsafe { siocsifflags(self.0.as_raw_fd(), &raw const request) }?;
        Ok(())
    }

    pub(crate) fn set_mtu(&self, name: &str, mtu: u16) -> io::Result<()> {
        let mut request = request(name)?;
        request.ifr_ifru.ifru_mtu = libc::c_int::from(mtu);
        // SAFETY: an ifreq with a terminated name, which outlives the call; the kernel only reads.
        unsafe { siocsifmtu(self.0.as_raw_fd(), &raw const request) }?;
        Ok(())
    }

    /// Gives the interface this address instead of any other; the same one again changes nothing.
    pub(crate) fn set_address(&self, name: &str, address: Ipv4Addr, prefix_len: u8) -> io::Result<()> {
        let mut request = request(name)?;
        request.ifr_ifru.ifru_addr = socket_address(address);
        // SAFETY: an ifreq with a terminated name and an AF_INET address; the kernel only reads.
        unsafe { siocsifaddr(self.0.as_raw_fd(), &raw const request) }?;
        request.ifr_ifru.ifru_netmask = socket_address(mask(prefix_len));
        // SAFETY: as above.
        unsafe { siocsifnetmask(self.0.as_raw_fd(), &raw const request) }?;
        Ok(())
    }

    /// Sends everything without a better route to `gateway`; that it is there already is fine.
    pub(crate) fn add_default_route(&self, name: &str, gateway: Ipv4Addr) -> io::Result<()> {
        self.add_route(name, Ipv4Addr::UNSPECIFIED, 0, Some(gateway))
    }

    /// Makes one host reachable on the link itself.
    pub(crate) fn add_host_route(&self, name: &str, host: Ipv4Addr) -> io::Result<()> {
        self.add_route(name, host, 32, None)
    }

    fn add_route(
        &self,
        name: &str,
        destination: Ipv4Addr,
        prefix_len: u8,
        gateway: Option<Ipv4Addr>,
    ) -> io::Result<()> {
        let mut device = name_bytes(name)?;
        let gateway_flag = if gateway.is_some() { libc::RTF_GATEWAY } else { 0 };
        // SAFETY: plain integers and pointers; all zeros is a valid value.
        let mut route: RouteEntry = unsafe { zeroed() };
        route.destination = socket_address(destination);
        route.gateway = socket_address(gateway.unwrap_or(Ipv4Addr::UNSPECIFIED));
        route.mask = socket_address(mask(prefix_len));
        route.flags = libc::RTF_UP | gateway_flag;
        route.device = device.as_mut_ptr();
        // SAFETY: the route has the kernel's layout; it and the name that it points to outlive the call.
        match unsafe { siocaddrt(self.0.as_raw_fd(), &raw const route) } {
            Ok(_) | Err(nix::errno::Errno::EEXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn mask(prefix_len: u8) -> Ipv4Addr {
    Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(prefix_len.min(32))).unwrap_or(0))
}

fn name_bytes(name: &str) -> io::Result<[libc::c_char; libc::IFNAMSIZ]> {
    let mut bytes = [0; libc::IFNAMSIZ];
    // One place stays for the terminator.
    if name.is_empty() || name.len() >= bytes.len() || name.contains('\0') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "an interface name"));
    }
    for (to, from) in bytes.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Ok(bytes)
}

fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: plain integers in a union; all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { zeroed() };
    request.ifr_name = name_bytes(name)?;
    Ok(request)
}

/// An AF_INET address as the generic type: family, port, address (ip(7)).
fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let [a, b, c, d] = address.octets().map(|byte| libc::c_char::from_ne_bytes([byte]));
    libc::sockaddr {
        sa_family: libc::sa_family_t::try_from(libc::AF_INET).unwrap_or_default(),
        sa_data: [0, 0, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_and_names_have_the_kernels_shape() {
        assert_eq!(mask(0), Ipv4Addr::UNSPECIFIED);
        assert_eq!(mask(24), Ipv4Addr::new(255, 255, 255, 0));
        assert_eq!(mask(32), Ipv4Addr::BROADCAST);
        assert!(
            name_bytes("eth0").is_ok() && name_bytes("a-name-of-16-char").is_err() && name_bytes("").is_err()
        );
        assert_eq!(socket_address(Ipv4Addr::new(1, 2, 3, 4)).sa_data[2..6], [1, 2, 3, 4]);
    }
}

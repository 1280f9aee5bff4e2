//! Kernel events about devices (NETLINK_KOBJECT_UEVENT), and asking for them again for devices that were
//! there before us.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, setsockopt, socket, sockopt,
};

use super::root::Root;

/// The kernel's own events; group 2 is udev's.
const KERNEL_GROUP: u32 = 1;

/// Coldplug of a server with many disks gives thousands of events of 200 to 1,000 bytes at once, while the
/// reader may be busy matching.
const RECEIVE_BUFFER_BYTES: usize = 16 << 20;

/// The kernel's own limit is 2 KiB of text (`UEVENT_BUFFER_SIZE`) and a header line.
const EVENT_BYTES_MAX: usize = 8 << 10;

/// Deeper paths than this are no devices but a loop; real ones stay below 25.
const DEVICE_DEPTH_MAX: usize = 48;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Uevent {
    /// `add`, `remove`, `bind`, ...
    pub(crate) action: String,
    /// `pci`, `scsi`, `module`, ...
    pub(crate) subsystem: String,
    /// The device's alias, and for some platform devices a second one.
    pub(crate) aliases: Vec<String>,
}

impl Uevent {
    /// Reads `ACTION@/devices/...` and `KEY=VALUE` texts separated by NUL; `None` if it is no kernel event.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut parts = text.split('\0');
        let (action, _) = parts.next()?.split_once('@')?;
        let values: BTreeMap<&str, &str> = parts.filter_map(|part| part.split_once('=')).collect();
        let aliases = ["MODALIAS", "MODALIAS1"].iter().filter_map(|key| values.get(key));
        Some(Self {
            action: action.to_owned(),
            subsystem: values.get("SUBSYSTEM").copied().unwrap_or_default().to_owned(),
            aliases: aliases.filter(|alias| !alias.is_empty()).map(|alias| (*alias).to_owned()).collect(),
        })
    }
}

/// What one look at the event source gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// An event.
    Event(Uevent),
    /// Nothing within the time.
    Nothing,
    /// Events were lost; devices must be asked for again.
    Overrun,
}

/// Where events come from.
pub(crate) trait EventSource: Send {
    /// Waits up to `limit` for one event.
    fn receive(&mut self, limit: Duration) -> io::Result<Received>;
}

/// The kernel's events.
#[derive(Debug)]
pub(crate) struct KernelEvents {
    socket: OwnedFd,
}

impl KernelEvents {
    /// Opens the socket; from here on no event is missed.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkKObjectUEvent,
        )?;
        // Needs CAP_NET_ADMIN, which PID 1's child has; without it the kernel's default must do.
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES).is_err() {
            tracing::warn!("the kernel allows no large buffer for device events");
        }
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))?;
        Ok(Self { socket })
    }

    fn read(&self) -> io::Result<Option<Received>> {
        let mut buffer = [0; EVENT_BYTES_MAX];
        loop {
            match recvfrom::<NetlinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                // Whoever has a process id is not the kernel.
                Ok((_, Some(sender))) if sender.pid() != 0 => {}
                Ok((length, _)) => {
                    if let Some(event) = buffer.get(..length).and_then(Uevent::parse) {
                        return Ok(Some(Received::Event(event)));
                    }
                }
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS) => return Ok(Some(Received::Overrun)),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl EventSource for KernelEvents {
    fn receive(&mut self, limit: Duration) -> io::Result<Received> {
        if let Some(received) = self.read()? {
            return Ok(received);
        }
        let mut waiting = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        match nix::poll::poll(&mut waiting, limit) {
            Ok(_) | Err(Errno::EINTR) => Ok(self.read()?.unwrap_or(Received::Nothing)),
            Err(error) => Err(error.into()),
        }
    }
}

/// Asks the kernel to send an `add` event for every device that it has, and says how many were asked for.
///
/// Reading `modalias` files instead would miss the aliases that only events carry (mmc, USB attached SCSI).
pub(crate) fn coldplug(root: &Root) -> usize {
    let mut asked = 0;
    walk_devices(&root.at("sys/devices"), DEVICE_DEPTH_MAX, &mut |device| {
        // A device may vanish while we walk; then there is nothing to ask for.
        if std::fs::write(device.join("uevent"), "add").is_ok() {
            asked += 1;
        }
    });
    asked
}

/// Calls `visit` with every directory below `directory` that is a device, parents first.
pub(crate) fn walk_devices(directory: &Path, depth: usize, visit: &mut dyn FnMut(&Path)) {
    let Some(depth) = depth.checked_sub(1) else { return };
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    let mut children = Vec::new();
    let mut is_device = false;
    for entry in entries.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => children.push(entry.path()),
            Ok(kind) if kind.is_file() && entry.file_name() == "uevent" => is_device = true,
            _ => {}
        }
    }
    if is_device {
        visit(directory);
    }
    children.sort();
    for child in children {
        walk_devices(&child, depth, visit);
    }
}

/// All devices below `sys/devices`.
pub(crate) fn all_devices(root: &Root, visit: &mut dyn FnMut(&Path)) {
    walk_devices(&root.at("sys/devices"), DEVICE_DEPTH_MAX, visit);
}

#[cfg(test)]
pub(crate) mod fake {
    use std::collections::VecDeque;

    use super::*;

    /// Events that a test prepared; time passes as fast as it is asked for.
    #[derive(Debug, Default)]
    pub(crate) struct FakeEvents {
        pub(crate) waiting: VecDeque<Received>,
    }

    impl FakeEvents {
        pub(crate) fn of(aliases: &[&str]) -> Self {
            let event = |alias: &&str| {
                Received::Event(Uevent {
                    action: "add".into(),
                    subsystem: "pci".into(),
                    aliases: vec![(*alias).to_owned()],
                })
            };
            Self { waiting: aliases.iter().map(event).collect() }
        }
    }

    impl EventSource for FakeEvents {
        fn receive(&mut self, limit: Duration) -> io::Result<Received> {
            Ok(self.waiting.pop_front().unwrap_or_else(|| {
                std::thread::sleep(limit.min(Duration::from_millis(5)));
                Received::Nothing
            }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_read() {
        let bytes = b"add@/devices/pci0000:00/0000:00:03.0\0ACTION=add\0SUBSYSTEM=pci\0MODALIAS=pci:v00008086\0SEQNUM=7\0";
        let event = Uevent::parse(bytes).unwrap();
        assert_eq!((event.action.as_str(), event.subsystem.as_str()), ("add", "pci"));
        assert_eq!(event.aliases, ["pci:v00008086"]);
    }

    #[test]
    fn a_second_alias_is_read_and_other_messages_are_not() {
        let event = Uevent::parse(b"add@/x\0MODALIAS=acpi:A:\0MODALIAS1=acpi:B:\0").unwrap();
        assert_eq!(event.aliases, ["acpi:A:", "acpi:B:"]);
        assert_eq!(Uevent::parse(b"libudev\0\xfe\xed\xca\xfe"), None);
        assert_eq!(Uevent::parse(b""), None);
    }

    #[test]
    fn coldplug_asks_for_every_device_and_follows_no_link() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::fake(directory.path());
        let devices = root.at("sys/devices");
        for device in ["pci0000:00", "pci0000:00/0000:00:03.0", "pci0000:00/0000:00:03.0/virtio0"] {
            std::fs::create_dir_all(devices.join(device)).unwrap();
            std::fs::write(devices.join(device).join("uevent"), "").unwrap();
        }
        std::fs::create_dir_all(devices.join("pci0000:00/power")).unwrap();
        std::os::unix::fs::symlink(&devices, devices.join("pci0000:00/subsystem")).unwrap();
        assert_eq!(coldplug(&root), 3);
        assert_eq!(std::fs::read_to_string(devices.join("pci0000:00/uevent")).unwrap(), "add");
    }

    #[test]
    fn the_socket_opens_and_waits_no_longer_than_told() {
        let Ok(mut events) = KernelEvents::open() else {
            println!("skipped: no kernel event socket here");
            return;
        };
        let begun = std::time::Instant::now();
        while events.receive(Duration::from_millis(20)).unwrap() != Received::Nothing {
            assert!(begun.elapsed() < Duration::from_secs(5));
        }
    }
}

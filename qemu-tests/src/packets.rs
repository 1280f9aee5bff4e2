//! What goes over a machine's wire while it boots: recorded, told in words, and compared with what it should be.
//!
//! Never sends a packet and never stands between two machines: it listens at the machine's own port.
//!
//! Read first: [`Recorder`], [`Recording`], [`Names`].

mod frame;
mod golden;
mod story;

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

pub use story::Names;

/// The beginning of a frame that is kept: a whole DHCP or TFTP packet, and of larger ones (segments that the kernel
/// has not cut yet) all that says what they are.
const KEPT_BYTES: usize = 1600;
/// One boot has some 300 frames that are kept; by GRUB, which takes kernel and initrd by TFTP, 60,000. Three times that
/// is no boot.
const FRAMES_MAX: usize = 200_000;
/// A kernel and an initrd go by while the recorder may not run at all.
const BUFFER_BYTES: usize = 64 << 20;
/// How soon a recorder stops.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Thread and socket are there at once; a busy machine gets ten seconds.
const STARTED_MAX: Duration = Duration::from_secs(10);

/// Listens at one interface of a namespace until it is told to stop.
#[derive(Debug)]
pub struct Recorder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Vec<Vec<u8>>>>>,
}

impl Recorder {
    /// Begins to listen; all that comes after this returns is heard.
    ///
    /// # Errors
    /// No such namespace or interface, or the process is not root.
    pub fn start(namespace: &str, interface: &str) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, is_ready) = mpsc::sync_channel(1);
        let path = format!("/run/netns/{namespace}");
        let namespace = File::open(&path).with_context(|| format!("opening {path}"))?;
        let (stopped, interface) = (Arc::clone(&stop), interface.to_owned());
        let thread = thread::Builder::new().name("packets".into()).spawn(move || {
            // The thread alone enters the namespace, and ends in it.
            setns(&namespace, CloneFlags::CLONE_NEWNET).context("entering the namespace")?;
            let socket =
                open(&interface).with_context(|| format!("opening a packet socket at {interface}"))?;
            record(&socket, &ready, &stopped)
        })?;
        let recorder = Self { stop, thread: Some(thread) };
        match is_ready.recv_timeout(STARTED_MAX) {
            Ok(()) => Ok(recorder),
            Err(_) => match recorder.stop() {
                Err(error) => Err(error),
                Ok(_) => bail!("the recorder did not start"),
            },
        }
    }

    /// Stops, and gives what was heard.
    ///
    /// # Errors
    /// The socket failed, or more came than a boot ever has.
    pub fn stop(mut self) -> Result<Recording> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { bail!("the recorder was stopped before") };
        match thread.join() {
            Ok(frames) => Ok(Recording { frames: frames? }),
            Err(_) => bail!("the recorder's thread panicked"),
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn open(interface: &str) -> Result<OwnedFd> {
    let nic = nix::ifaddrs::getifaddrs()?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address.as_ref()?.as_link_addr().copied())
        .context("there is no such interface")?;
    let socket =
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, Some(SockProtocol::EthAll))?;
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER_BYTES)?;
    let milliseconds = i64::try_from(LOOK_EVERY.as_micros())?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, milliseconds))?;
    bind(socket.as_raw_fd(), &nic)?;
    Ok(socket)
}

fn record(socket: &OwnedFd, ready: &SyncSender<()>, stop: &AtomicBool) -> Result<Vec<Vec<u8>>> {
    let mut frames = Vec::new();
    let mut buffer = vec![0; KEPT_BYTES];
    // Whoever waits for it may have given up.
    let _ = ready.send(());
    loop {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(len) => {
                let bytes = buffer.get(..len).unwrap_or_default();
                if frame::parse(bytes).is_some() {
                    frames.push(bytes.to_vec());
                }
            }
            // What was sent before the stop has been read by then.
            Err(Errno::EAGAIN) if stop.load(Ordering::Relaxed) => return Ok(frames),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => return Err(error).context("receiving frames"),
        }
        if frames.len() > FRAMES_MAX {
            bail!("more than {FRAMES_MAX} frames of one boot");
        }
    }
}

/// The frames of a boot that say something: DHCP, TFTP, the heads of HTTP, the first word to the agent's port.
#[derive(Clone, Debug)]
pub struct Recording {
    frames: Vec<Vec<u8>>,
}

impl Recording {
    /// The conversation in words, one packet a line, without what differs between two boots.
    #[must_use]
    pub fn told(&self, names: &Names) -> String {
        story::told(&self.frames, names)
    }

    /// Compares the conversation with `goldens/NAME.txt`, whose first line is `title`.
    ///
    /// # Errors
    /// It differs; the error shows where and says how to accept it.
    pub fn is_like(&self, name: &str, title: &str, names: &Names) -> Result<()> {
        golden::check(name, &format!("{title}\n\n{}", self.told(names)))
    }

    /// Writes the frames as a capture file (pcap), for other programs. Times are not kept.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        // Magic, version 2.4, no time zone, no accuracy, bytes kept of a frame, Ethernet.
        let header: [u32; 6] = [0xa1b2_c3d4, 0x0004_0002, 0, 0, u32::try_from(KEPT_BYTES)?, 1];
        header.iter().try_for_each(|word| file.write_all(&word.to_le_bytes()))?;
        for (number, frame) in (0_u32..).zip(&self.frames) {
            let len = u32::try_from(frame.len())?;
            [number, 0, len, len].iter().try_for_each(|word| file.write_all(&word.to_le_bytes()))?;
            file.write_all(frame)?;
        }
        file.flush().with_context(|| format!("writing {}", path.display()))
    }
}

/// Where goldens lie.
fn goldens_dir() -> std::path::PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens");
    let _ = fs::create_dir_all(&dir);
    dir
}

//! Stock BitTorrent clients, each a program of its own at an address of its own.
//!
//! They run in a network namespace with nothing but a loopback device: their ports are free, they reach nobody
//! else, and they have addresses outside 127.0.0.0/8, which transmission takes for no peers.

use super::common::{Image, PATIENCE};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Set in a test program that is inside its namespace.
const INSIDE: &str = "ESIR_TEST_NAMESPACE";

/// Addresses of the namespace: 10.77.0.1 to 10.77.0.9.
const ADDRESSES: u8 = 9;

/// Where every client accepts peers; they have different addresses.
const PORT: u16 = 6881;

/// Bytes per second that a throttled seed gives: the others must exchange to be faster.
const THROTTLED: u32 = 2 * 1024 * 1024;

/// The stock clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Aria2,
    Transmission,
    Libtorrent,
    Rtorrent,
}

pub(crate) const ALL: [Program; 4] =
    [Program::Aria2, Program::Transmission, Program::Libtorrent, Program::Rtorrent];

/// What a client is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Leech,
    Seed,
    /// A seed with little bandwidth.
    ThrottledSeed,
}

/// The address number `number` of the namespace, from 1.
pub(crate) fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number)
}

/// Whether this program runs in a namespace of its own. If not, it runs the one test of this name there, and the
/// caller has nothing more to do.
pub(crate) fn is_inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let works = |options: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(options).args(["ip", "link", "set", "lo", "up"]).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let ways: [&[&str]; 2] = [&["--net"], &["--net", "--map-root-user"]];
    let Some(options) = ways.into_iter().find(|options| works(options)) else {
        println!("skipped: no network namespace can be made");
        return false;
    };
    let mut script = "ip link set lo up".to_owned();
    for number in 1..=ADDRESSES {
        write!(script, " && ip address add {}/32 dev lo", address(number)).unwrap();
    }
    script += " && exec \"$0\" --exact \"$1\" --nocapture";
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.args(options).args(["sh", "-c", &script]).arg(program).arg(test).env(INSIDE, "1");
    let output = command.output().unwrap();
    print!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{test} failed in its namespace");
    false
}

impl Program {
    fn executable(self) -> &'static str {
        match self {
            Program::Aria2 => "aria2c",
            Program::Transmission => "transmission-daemon",
            Program::Libtorrent => "python3",
            Program::Rtorrent => "rtorrent",
        }
    }

    /// Says so if it is not installed.
    pub(crate) fn is_missing(self) -> bool {
        let mut command = Command::new(self.executable());
        match self {
            Program::Libtorrent => command.args(["-c", "import libtorrent"]),
            Program::Rtorrent => command.arg("-h"),
            Program::Aria2 | Program::Transmission => command.arg("--version"),
        };
        let missing = match command.stdout(Stdio::null()).stderr(Stdio::null()).status() {
            Ok(status) => self == Program::Libtorrent && !status.success(),
            Err(_) => true,
        };
        if missing {
            println!("skipped: no {self:?}");
        }
        missing
    }
}

/// A running client; killed by its own id when dropped.
pub(crate) struct Client {
    pub(crate) program: Program,
    pub(crate) peer: SocketAddr,
    child: Child,
    folder: tempfile::TempDir,
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read(self.folder.path().join("log")).unwrap_or_default();
            println!("--- {:?} said ---\n{}", self.program, String::from_utf8_lossy(&log));
        }
    }
}

impl Client {
    /// Starts it at the address of this number. A seed gets the file; every client gets the torrent.
    pub(crate) fn start(program: Program, number: u8, image: &Image, role: Role) -> Client {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        std::fs::write(path.join("image.torrent"), &image.torrent).unwrap();
        if role != Role::Leech {
            std::fs::write(path.join("image.esir"), &image.bytes).unwrap();
        }
        let peer = SocketAddr::from((address(number), PORT));
        let log = std::fs::File::create(path.join("log")).unwrap();
        let mut command = Command::new(program.executable());
        command.current_dir(path).env("HOME", path).env("TERM", "dumb");
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        match program {
            Program::Aria2 => aria2(&mut command, peer, role),
            Program::Transmission => transmission(&mut command, peer, role, &folder),
            Program::Libtorrent => libtorrent(&mut command, peer, role),
            Program::Rtorrent => rtorrent(&mut command, peer, role),
        }
        let child = command.spawn().unwrap();
        Client { program, peer, child, folder }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("image.esir")
    }

    /// Waits until its file is byte-equal to the image.
    pub(crate) async fn completes(&mut self, image: &Image) {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            let whole = std::fs::metadata(self.file()).is_ok_and(|it| it.len() == image.bytes.len() as u64);
            if whole && std::fs::read(self.file()).unwrap() == image.bytes {
                return;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "{:?} ended with {status}", self.program);
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("{:?} did not finish", self.program);
    }
}

fn aria2(command: &mut Command, peer: SocketAddr, role: Role) {
    command
        .args(["--no-conf", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false"])
        .args(["--enable-peer-exchange=false", "--file-allocation=none", "--bt-max-peers=0"])
        .args(["--disable-ipv6=true", "--bt-tracker-interval=2", "--summary-interval=0"])
        .args(["--seed-ratio=0.0", "--bt-hash-check-seed=true", "--check-integrity=true"])
        .arg(format!("--interface={}", peer.ip()))
        .arg(format!("--listen-port={}", peer.port()));
    if role == Role::ThrottledSeed {
        command.arg(format!("--max-upload-limit={THROTTLED}"));
    }
    command.arg("image.torrent");
}

fn transmission(command: &mut Command, peer: SocketAddr, role: Role, folder: &tempfile::TempDir) {
    let path = folder.path();
    let settings = serde_json::json!({
        "bind-address-ipv4": peer.ip().to_string(),
        "peer-port": peer.port(),
        "download-dir": path,
        "watch-dir": path,
        "watch-dir-enabled": true,
        "dht-enabled": false,
        "lpd-enabled": false,
        "pex-enabled": false,
        "utp-enabled": false,
        "port-forwarding-enabled": false,
        "encryption": 0,
        "rename-partial-files": false,
        "rpc-bind-address": peer.ip().to_string(),
        "scrape-paused-torrents-enabled": false,
        "speed-limit-up": THROTTLED / 1000,
        "speed-limit-up-enabled": role == Role::ThrottledSeed,
    });
    std::fs::create_dir(path.join("config")).unwrap();
    std::fs::write(path.join("config/settings.json"), settings.to_string()).unwrap();
    command.args(["--foreground", "--config-dir", "config"]);
}

const LIBTORRENT: &str = "
import libtorrent, sys, time
address, upload = sys.argv[1], int(sys.argv[2])
session = libtorrent.session({
    'listen_interfaces': address, 'outgoing_interfaces': address.split(':')[0],
    'enable_dht': False, 'enable_lsd': False, 'enable_upnp': False, 'enable_natpmp': False,
    'enable_outgoing_utp': False, 'enable_incoming_utp': False,
    'out_enc_policy': 2, 'in_enc_policy': 2, 'upload_rate_limit': upload,
    'alert_mask': libtorrent.alert.category_t.error_notification
        | libtorrent.alert.category_t.status_notification
        | libtorrent.alert.category_t.tracker_notification
        | libtorrent.alert.category_t.connect_notification,
})
session.add_torrent({'ti': libtorrent.torrent_info('image.torrent'), 'save_path': '.'})
while True:
    for alert in session.pop_alerts():
        print(alert.message(), flush=True)
    time.sleep(0.2)
";

fn libtorrent(command: &mut Command, peer: SocketAddr, role: Role) {
    let upload = if role == Role::ThrottledSeed { THROTTLED } else { 0 };
    command.args(["-c", LIBTORRENT, &peer.to_string(), &upload.to_string()]);
}

fn rtorrent(command: &mut Command, peer: SocketAddr, role: Role) {
    let (ip, port) = (peer.ip(), peer.port());
    let mut options = vec![
        "system.daemon.set=true".to_owned(),
        "session.path.set=".to_owned(),
        "directory.default.set=.".to_owned(),
        format!("network.bind_address.set={ip}"),
        format!("network.port_range.set={port}-{port}"),
        "network.port_random.set=no".to_owned(),
        "dht.mode.set=disable".to_owned(),
        "protocol.pex.set=no".to_owned(),
        "trackers.use_udp.set=no".to_owned(),
        "protocol.encryption.set=none".to_owned(),
    ];
    if role == Role::ThrottledSeed {
        options.push(format!("throttle.global_up.max_rate.set={THROTTLED}"));
    }
    command.arg("-n").args(options.iter().flat_map(|option| ["-o", option])).arg("image.torrent");
}

//! What the tests of this module share, and stories over the real sockets.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use dhcp_wire::{MacAddr, PacketView};

use super::*;

/// Set to anything, tests write what they see instead of comparing; then look at the difference with git.
const REFRESH: &str = "ESIR_REFRESH_GOLDENS";

/// Compares `actual` with the file `goldens/NAME.txt`.
pub(super) fn golden(name: &str, actual: &str) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file!());
    let path = here.with_file_name("goldens").join(format!("{name}.txt"));
    if std::env::var_os(REFRESH).is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        return std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(actual, expected, "{} differs; {REFRESH}=1 writes it anew", path.display());
}

/// A packet for people: its fields, its options, then its bytes.
pub(super) fn describe(bytes: &[u8]) -> String {
    let packet = PacketView::new(bytes).expect("a DHCP packet");
    let mut text = String::new();
    let file = String::from_utf8_lossy(&bytes[108..236]).trim_end_matches('\0').to_owned();
    let (kind, broadcast) = (packet.kind().expect("a kind"), packet.wants_broadcast());
    writeln!(text, "{kind:?} {} xid={:08x} broadcast={broadcast}", packet.mac().unwrap(), packet.xid())
        .unwrap();
    let (ci, yi, si, gi) = (packet.ciaddr(), packet.yiaddr(), packet.siaddr(), packet.giaddr());
    writeln!(text, "ciaddr={ci} yiaddr={yi} siaddr={si} giaddr={gi}").unwrap();
    writeln!(text, "sname={:?} file={file:?}", String::from_utf8_lossy(packet.server_name())).unwrap();
    for (code, value) in packet.options() {
        let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
        let readable =
            value.iter().filter(|byte| byte.is_ascii_graphic()).count() + 1 >= value.len() && value.len() > 4;
        let note = if readable { format!("  {:?}", String::from_utf8_lossy(value)) } else { String::new() };
        writeln!(text, "{code:>3}: {hex}{note}").unwrap();
    }
    writeln!(text, "{} bytes", bytes.len()).unwrap();
    for (number, row) in bytes.chunks(32).enumerate().filter(|(_, row)| row.iter().any(|byte| *byte != 0)) {
        let hex: String = row.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "{:04x} {hex}", number * 32).unwrap();
    }
    text
}

#[test]
fn pool_is_checked_against_the_network() {
    let prefix = |len| Prefix::new(Ipv4Addr::new(10, 77, 0, 1), len).unwrap();
    let pool = |first: [u8; 4], last: [u8; 4]| Some(Ipv4Addr::from(first)..=Ipv4Addr::from(last));
    let text = |pool: RangeInclusive<Ipv4Addr>| format!("{}-{}", pool.start(), pool.end());
    assert_eq!(text(checked_pool(None, prefix(24)).unwrap()), "10.77.0.128-10.77.0.254");
    assert_eq!(text(checked_pool(None, prefix(29)).unwrap()), "10.77.0.4-10.77.0.6");
    assert_eq!(text(checked_pool(None, prefix(8)).unwrap()), "10.254.255.255-10.255.255.254");
    let given = pool([10, 77, 0, 5], [10, 77, 0, 5]);
    assert_eq!(checked_pool(given.clone(), prefix(24)).unwrap(), given.unwrap());
    let error = |pool, len| checked_pool(pool, prefix(len)).unwrap_err().to_string();
    assert!(error(None, 30).contains("no room for nodes"));
    assert!(error(pool([10, 77, 0, 9], [10, 77, 0, 5]), 24).contains("write 10.77.0.5-10.77.0.9"));
    assert!(
        error(pool([10, 77, 0, 9], [10, 77, 1, 5]), 24)
            .contains("not in the interface's network 10.77.0.0/24")
    );
    assert!(error(pool([10, 0, 0, 1], [10, 1, 0, 1]), 8).contains("more than 65536"));
}

/// Lets every node start the agent.
struct AgentForAll(std::path::PathBuf);

impl BootPolicy for AgentForAll {
    fn saw_dhcp(&self, _: &DhcpSeen) {}

    fn decide(&self, _: &BootRequest) -> BootDecision {
        BootDecision::Agent { token: "t".into(), extra_arguments: String::new() }
    }

    fn saw_load(&self, _: MacAddr, _: &str) {}

    fn boot_files(&self) -> BootFiles {
        let path = |name| self.0.join(name);
        BootFiles {
            bundle_id: "b1".into(),
            vmlinuz: path("vmlinuz"),
            initrd: path("initrd.img"),
            site_cpio: [0; 512][..].into(),
        }
    }
}

/// A network namespace for a node, joined by a cable to the namespace of the calling thread.
struct NodeSpace(std::process::Child);

impl NodeSpace {
    /// The server's end is `server0` with 10.77.0.1/24, the node's is `node0`, up and without address.
    fn new() -> Self {
        let holder = Command::new("unshare").args(["--net", "sleep", "600"]).spawn().expect("unshare starts");
        let space = Self(holder);
        // Until unshare has made its namespace, its pid stands for ours.
        let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        while of(&space.pid()) == of("thread-self") {
            std::thread::sleep(Duration::from_millis(5));
        }
        run(Command::new("ip").args([
            "link",
            "add",
            "server0",
            "type",
            "veth",
            "peer",
            "name",
            "node0",
            "netns",
            &space.pid(),
        ]));
        run(Command::new("ip").args(["address", "add", "10.77.0.1/24", "dev", "server0"]));
        run(Command::new("ip").args(["link", "set", "server0", "up"]));
        run(space.command("ip").args(["link", "set", "node0", "up"]));
        space
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }

    /// A command in the node's namespace.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid(), "--net", program]);
        command
    }
}

impl Drop for NodeSpace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Standard output; the test ends here if the command fails.
fn run(command: &mut Command) -> Vec<u8> {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Why this machine cannot run stories in namespaces.
fn missing_for_namespaces() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root".into());
    }
    let programs = ["ip", "unshare", "nsenter", "busybox", "curl", "atftp"];
    let there = |program: &&str| {
        Path::new("/usr/bin").join(program).exists() || Path::new("/usr/sbin").join(program).exists()
    };
    programs.iter().find(|program| !there(program)).map(|program| format!("needs `{program}`"))
}

/// The DHCP client of busybox: address, server and boot file.
fn udhcpc(space: &NodeSpace, directory: &Path) -> String {
    let (script, out) = (directory.join("udhcpc.sh"), directory.join("udhcpc.out"));
    let text = format!(
        "#!/bin/sh\n[ $1 = bound ] || exit 0\nip address replace $ip/$mask dev $interface\n\
         echo $ip/$mask $serverid $lease $boot_file > {}\n",
        out.display()
    );
    std::fs::write(&script, text).unwrap();
    run(Command::new("chmod").arg("+x").arg(&script));
    let mut command = space.command("busybox");
    command
        .args(["udhcpc", "-i", "node0", "-n", "-q", "-f", "-t", "5", "-T", "1", "-O", "bootfile", "-s"])
        .arg(&script);
    run(&mut command);
    std::fs::read_to_string(out).unwrap()
}

/// Over the real sockets: a node gets an address, boot programs, a script and a kernel; a restarted server knows it.
#[test]
fn node_in_a_namespace_gets_address_and_boot_files() {
    if let Some(missing) = missing_for_namespaces() {
        println!("skipped: {missing}");
        return;
    }
    // The namespace belongs to the thread, and ends with it.
    std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(story_in_a_namespace());
    })
    .join()
    .unwrap();
}

async fn story_in_a_namespace() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, len: usize| {
        let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
        std::fs::write(directory.path().join(name), &bytes).unwrap();
        bytes
    };
    let (kernel, program) = (file("vmlinuz", 3_000_000), file("snponly.efi", 200_001));
    file("initrd.img", 100);
    let space = NodeSpace::new();
    let store = Store::open(&format!("sqlite:{}", directory.path().join("db").display())).unwrap();
    let start = || {
        let config = NetbootConfig {
            interface: "server0".into(),
            address: None,
            pool: None,
            lease: LEASE_DEFAULT,
            router: None,
            dns: Vec::new(),
            boot_files: directory.path().to_owned(),
            http_port: HTTP_PORT,
            agent_port: 8443,
        };
        let policy = Arc::new(AgentForAll(directory.path().to_owned()));
        Netboot::start(config, policy, store.clone(), axum::Router::new())
    };
    let netboot = start().await.unwrap();
    let error = start().await.err().unwrap().to_string();
    assert!(error.contains("TCP port 80 of 10.77.0.1 is in use by"), "{error}");

    // The commands block, so they run on threads of their own while the server answers.
    let (space, path) = (Arc::new(space), directory.path().to_owned());
    let node = {
        let (space, path) = (Arc::clone(&space), path.clone());
        move || udhcpc(&space, &path)
    };
    let first = tokio::task::spawn_blocking(node.clone()).await.unwrap();
    assert!(first.starts_with("10.77.0.") && first.contains("/24 10.77.0.1 3600"), "{first}");
    let stored = store.list("lease/").unwrap();
    assert_eq!(stored.len(), 1);
    assert!(first.starts_with(&format!("{}/", stored[0].0.trim_start_matches("lease/"))));

    let fetched = {
        let (space, path) = (Arc::clone(&space), path.clone());
        move || {
            let curl = |url: &str| run(space.command("curl").args(["-sf", "--max-time", "20", url]));
            let copy = path.join("copy");
            let mut atftp = space.command("atftp");
            atftp.args(["--option", "blksize 1468", "--option", "windowsize 16", "--option", "tsize 0"]);
            run(atftp.args(["-g", "-r", "snponly.efi", "-l"]).arg(&copy).arg("10.77.0.1"));
            let script = curl("http://10.77.0.1/boot.ipxe?mac=52-54-00-00-00-01&platform=efi");
            (
                curl("tftp://10.77.0.1/snponly.efi"),
                std::fs::read(copy).unwrap(),
                script,
                curl("http://10.77.0.1/boot/b1/vmlinuz"),
            )
        }
    };
    let (by_curl, by_atftp, script, got_kernel) = tokio::task::spawn_blocking(fetched).await.unwrap();
    assert!(by_curl == program && by_atftp == program && got_kernel == kernel);
    assert!(
        String::from_utf8(script)
            .unwrap()
            .contains("kernel http://10.77.0.1/boot/b1/vmlinuz?mac=52-54-00-00-00-01")
    );
    let counts = netboot.counts();
    assert_eq!((counts.tftp_complete, counts.scripts, counts.http_files), (2, 1, 1));
    assert!(counts.dhcp_answered >= 2 && counts.tftp_bytes == 400_002, "{counts:?}");

    netboot.shutdown().await;
    let netboot = start().await.unwrap();
    let again = tokio::task::spawn_blocking(node).await.unwrap();
    assert_eq!(again, first, "the same address from the restarted server");
    netboot.shutdown().await;
}

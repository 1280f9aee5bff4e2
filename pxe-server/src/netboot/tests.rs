//! What the tests of this module share, and stories over the real sockets.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use dhcp_wire::MacAddr;

use super::*;

pub(crate) use super::dhcp::tests::Stranger;

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

/// Lets every node start the agent.
struct AgentForAll(std::path::PathBuf);

impl BootPolicy for AgentForAll {
    fn saw_dhcp(&self, _: &DhcpSeen) {}

    fn decide(&self, _: &BootRequest, _: &boot_menu::Server) -> BootDecision {
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
pub(crate) struct NodeSpace(std::process::Child);

impl NodeSpace {
    /// The server's end is `server0` with 10.77.0.1/24, the node's is `node0`, up and without address.
    pub(crate) fn new() -> Self {
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
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid(), "--net", program]);
        command
    }

    /// Runs `body` on a thread of the node's namespace.
    pub(crate) fn inside<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let namespace = std::fs::File::open(format!("/proc/{}/ns/net", self.pid())).unwrap();
        std::thread::scope(|scope| {
            let inside = move || {
                nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                body()
            };
            scope.spawn(inside).join().unwrap()
        })
    }

    /// Waits until the node has this address.
    pub(super) async fn has_address(&self, address: Ipv4Addr) {
        for _ in 0..100 {
            let shown = run(self.command("ip").args(["-4", "address", "show", "node0"]));
            if String::from_utf8_lossy(&shown).contains(&format!(" {address}/")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the node never had {address}");
    }
}

impl Drop for NodeSpace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Standard output; the test ends here if the command fails.
pub(super) fn run(command: &mut Command) -> Vec<u8> {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Why this machine cannot run stories in namespaces that need these programs.
fn missing_for_namespaces(more: &[&str]) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root".into());
    }
    let programs = [&["ip", "unshare", "nsenter"], more].concat();
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
    in_a_namespace(&["busybox", "curl", "atftp"], story_in_a_namespace);
}

/// Tells a story in a namespace of its own, if this machine has what it needs.
pub(crate) fn in_a_namespace<S: Future<Output = ()>>(
    programs: &[&str],
    story: impl FnOnce() -> S + Send + 'static,
) {
    if let Some(missing) = missing_for_namespaces(programs) {
        println!("skipped: {missing}");
        return;
    }
    // The namespace belongs to the thread, and ends with it.
    std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(story());
    })
    .join()
    .unwrap();
}

/// A file in `directory`, with these many bytes.
fn file(directory: &Path, name: &str, len: usize) -> Vec<u8> {
    let bytes: Vec<u8> = (0..=250).cycle().take(len).collect();
    std::fs::write(directory.join(name), &bytes).unwrap();
    bytes
}

async fn start(directory: &Path, store: &Store) -> anyhow::Result<Netboot> {
    start_with(directory, store, DhcpConfig::default()).await
}

/// A server on `server0` whose boot files are in `directory`.
pub(crate) async fn start_with(directory: &Path, store: &Store, dhcp: DhcpConfig) -> anyhow::Result<Netboot> {
    let config = NetbootConfig {
        interface: "server0".into(),
        address: None,
        dhcp,
        boot_files: directory.to_owned(),
        http_port: 80,
        agent_port: 8443,
        boot_from_peers: false,
    };
    let policy = Arc::new(AgentForAll(directory.to_owned()));
    Netboot::start(config, policy, store.clone(), axum::Router::new()).await
}

/// What a node gets by `curl` and `atftp`.
struct Fetched {
    program_by_curl: Vec<u8>,
    program_by_atftp: Vec<u8>,
    script: Vec<u8>,
    kernel: Vec<u8>,
}

fn fetch(space: &NodeSpace, directory: &Path) -> Fetched {
    let curl = |url: &str| run(space.command("curl").args(["-sf", "--max-time", "20", url]));
    let copy = directory.join("copy");
    let mut atftp = space.command("atftp");
    atftp.args(["--option", "blksize 1468", "--option", "windowsize 16", "--option", "tsize 0"]);
    run(atftp.args(["-g", "-r", "snponly.efi", "-l"]).arg(&copy).arg("10.77.0.1"));
    Fetched {
        program_by_curl: curl("tftp://10.77.0.1/snponly.efi"),
        program_by_atftp: std::fs::read(copy).unwrap(),
        script: curl("http://10.77.0.1/boot.ipxe?mac=52-54-00-00-00-01&platform=efi"),
        kernel: curl("http://10.77.0.1/boot/b1/vmlinuz"),
    }
}

async fn story_in_a_namespace() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().to_owned();
    let (kernel, program) =
        (file(&directory, "vmlinuz", 3_000_000), file(&directory, "snponly.efi", 200_001));
    file(&directory, "initrd.img", 100);
    let space = Arc::new(NodeSpace::new());
    let store = Store::open(&format!("sqlite:{}", directory.join("db").display())).unwrap();
    let netboot = start(&directory, &store).await.unwrap();
    let error = start(&directory, &store).await.err().unwrap().to_string();
    assert!(error.contains("TCP port 80 of 10.77.0.1 is in use by"), "{error}");

    // The commands block, so they run on threads of their own while the server answers.
    let (of_lease, of_fetch) =
        ((Arc::clone(&space), directory.clone()), (Arc::clone(&space), directory.clone()));
    let lease = move || udhcpc(&of_lease.0, &of_lease.1);
    let first = tokio::task::spawn_blocking(lease.clone()).await.unwrap();
    assert!(first.starts_with("10.77.0.") && first.contains("/24 10.77.0.1 3600"), "{first}");
    let stored = store.list("lease/").unwrap();
    assert_eq!(stored.len(), 1);
    assert!(first.starts_with(&format!("{}/", stored[0].0.trim_start_matches("lease/"))));

    let fetched = tokio::task::spawn_blocking(move || fetch(&of_fetch.0, &of_fetch.1)).await.unwrap();
    assert!(
        fetched.program_by_curl == program && fetched.program_by_atftp == program && fetched.kernel == kernel
    );
    let script = String::from_utf8(fetched.script).unwrap();
    assert!(script.contains("kernel http://10.77.0.1/boot/b1/vmlinuz?mac=52-54-00-00-00-01"), "{script}");
    let counts = netboot.counts();
    assert_eq!((counts.tftp_complete, counts.scripts, counts.http_files), (2, 1, 1));
    assert!(counts.dhcp_answered >= 2 && counts.tftp_bytes == 400_002, "{counts:?}");

    netboot.shutdown().await;
    let netboot = start(&directory, &store).await.unwrap();
    let again = tokio::task::spawn_blocking(lease).await.unwrap();
    assert_eq!(again, first, "the same address from the restarted server");
    netboot.shutdown().await;
}

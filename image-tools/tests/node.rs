//! A running system over ssh: everything comes, cleaned, while files change; nothing stays behind.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::{Extras, Seen, assert_equal, is_root, look, make_tree, release, run, succeed, tool};

const SSHD: &str = "/usr/sbin/sshd";
/// The server is up at once; this is for a machine that does other things.
const LIMIT: Duration = Duration::from_secs(60);

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn call(program: &str, arguments: &[&str]) {
    run(program, &arguments.iter().map(OsStr::new).collect::<Vec<_>>());
}

/// A server on loopback with keys and configuration of its own.
struct Node {
    directory: tempfile::TempDir,
    server: Child,
    ssh: String,
}

impl Node {
    fn start() -> Option<Self> {
        if !is_root() {
            return None;
        }
        if !Path::new(SSHD).exists() {
            println!("skipped: {SSHD} is not installed");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::create_dir_all("/run/sshd").unwrap();
        std::fs::create_dir(path("remote-tmp")).unwrap();
        for key in ["host", "admin"] {
            call("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", text(&path(key))]);
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\n\
             StrictModes no\nPermitRootLogin prohibit-password\nSetEnv TMPDIR={}\n",
            text(&path("host")),
            text(&path("admin.pub")),
            text(&path("remote-tmp"))
        );
        std::fs::write(path("sshd_config"), config).unwrap();
        let mut server = Command::new(SSHD);
        server.args(["-D", "-e", "-f", text(&path("sshd_config"))]).stderr(Stdio::null());
        let server = server.spawn().unwrap();
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(start.elapsed() < LIMIT, "sshd answers");
            std::thread::sleep(Duration::from_millis(50));
        }
        let known = text(&path("known")).to_owned();
        let ssh = format!(
            "ssh -F none -p {port} -i {} -o BatchMode=yes -o LogLevel=ERROR -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile={known}",
            text(&path("admin"))
        );
        Some(Self { directory, server, ssh })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn capture(&self, root: &Path, more: &[&str]) -> Output {
        let image = self.path("node.esir");
        let arguments = [
            &["capture", "--host", "root@127.0.0.1", "--ssh", &self.ssh, "--host-root", text(root)],
            &["-o", text(&image), "--level", "1", "--no-default-excludes"][..],
            more,
        ];
        let output = tool(&arguments.concat());
        let left = std::fs::read_dir(self.path("remote-tmp")).unwrap().count();
        assert_eq!(left, 0, "the helper is removed");
        output
    }

    fn extract(&self) -> BTreeMap<PathBuf, Seen> {
        let (image, out) = (self.path("node.esir"), self.path("out"));
        succeed(&["verify", text(&image)]);
        succeed(&["extract", text(&image), "-C", text(&out)]);
        let seen = look(&out);
        release(&out);
        std::fs::remove_dir_all(&out).unwrap();
        seen
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_node_is_captured_over_ssh_with_everything() {
    let Some(node) = Node::start() else { return };
    let source = node.path("source");
    make_tree(&source, Extras::All);
    let before = look(&source);
    let output = node.capture(&source, &["--no-clean"]);
    assert!(output.status.success(), "{}", said(&output));
    let seen = node.extract();
    assert_equal(&seen, &before);
    // The same without ssh.
    let direct = node.path("direct.esir");
    succeed(&["capture", text(&source), "-o", text(&direct), "--no-default-excludes", "--level", "1"]);
    release(&source);
    let id = |image: &Path| succeed(&["inspect", "--json", text(image)]).lines().nth(1).unwrap().to_owned();
    assert_eq!(id(&node.path("node.esir")), id(&direct));
}

#[test]
fn what_belongs_to_the_machine_stays_there_and_is_listed_first() {
    let Some(node) = Node::start() else { return };
    let source = node.path("source");
    for directory in ["etc/ssh", "var/log/journal/x", "var/lib/dhcp", "etc/udev/rules.d", "root"] {
        std::fs::create_dir_all(source.join(directory)).unwrap();
    }
    for (name, contents) in [
        ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
        ("etc/ssh/ssh_host_rsa_key", "secret"),
        ("etc/ssh/sshd_config", "Port 22\n"),
        ("var/log/journal/x/system.journal", "log"),
        ("var/log/wtmp", "log"),
        ("var/lib/dhcp/dhclient.leases", "lease"),
        ("etc/udev/rules.d/70-persistent-net.rules", "rule"),
        ("root/.bash_history", "passwd\n"),
    ] {
        std::fs::write(source.join(name), contents).unwrap();
    }
    let output = node.capture(&source, &["--dry-run"]);
    assert!(output.status.success() && !node.path("node.esir").exists(), "{}", said(&output));
    for expected in [
        "machine-id           1 files         33 B  /etc/machine-id (emptied)",
        "/etc/ssh/ssh_host_rsa_key\n",
        "this was a dry run",
    ] {
        assert!(said(&output).contains(expected), "{expected:?} in {}", said(&output));
    }
    let output = node.capture(&source, &["--keep", "history"]);
    assert!(output.status.success(), "{}", said(&output));
    let seen = node.extract();
    let names: Vec<&str> = seen.keys().map(|path| path.to_str().unwrap()).collect();
    let files =
        ["etc/machine-id", "etc/ssh/sshd_config", "root/.bash_history", "var/log/wtmp", "var/log/journal/x"];
    assert!(files.iter().all(|name| names.contains(name)), "{names:?}");
    let gone =
        ["etc/ssh/ssh_host_rsa_key", "var/log/journal/x/system.journal", "var/lib/dhcp/dhclient.leases"];
    assert!(!gone.iter().any(|name| names.contains(name)), "{names:?}");
    assert_eq!(seen[Path::new("etc/machine-id")].contents, Some(Vec::new()));
    assert!(source.join("etc/ssh/ssh_host_rsa_key").exists(), "the node keeps its own");
    let output = node.capture(&source, &["--keep", "nothing"]);
    assert!(said(&output).contains("there is no cleaning rule \"nothing\""), "{}", said(&output));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn files_that_change_meanwhile_are_read_again() {
    let Some(node) = Node::start() else { return };
    let source = node.path("source");
    std::fs::create_dir_all(source.join("busy")).unwrap();
    for number in 0..2000 {
        std::fs::write(source.join(format!("file-{number:04}")), vec![1; 20_000]).unwrap();
    }
    std::fs::write(source.join("log"), "first\n").unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                let mut log = std::fs::File::options().append(true).open(source.join("log")).unwrap();
                writeln!(log, "line {number}").unwrap();
                let _ = std::fs::remove_file(source.join(format!("busy/{}", number % 50)));
                std::fs::write(source.join(format!("busy/{}", (number + 25) % 50)), vec![2; number % 5000])
                    .unwrap();
                number += 1;
            }
        });
        let output = node.capture(&source, &[]);
        stop.store(true, Ordering::Relaxed);
        assert!(output.status.success(), "{}", said(&output));
    });
    let seen = node.extract();
    assert_eq!(seen.keys().filter(|path| path.to_str().unwrap().starts_with("file-")).count(), 2000);
    let log = seen[Path::new("log")].contents.clone().unwrap();
    assert!(log.starts_with(b"first\n"));
}

#[test]
fn a_root_of_btrfs_is_read_from_a_snapshot_that_goes_again() {
    let Some(node) = Node::start() else { return };
    let (part, place) = (node.path("part"), node.path("mnt"));
    std::fs::File::create(&part).unwrap().set_len(256 << 20).unwrap();
    call("mkfs.btrfs", &["-q", text(&part)]);
    std::fs::create_dir(&place).unwrap();
    call("mount", &["-o", "loop", text(&part), text(&place)]);
    std::fs::write(place.join("file"), "x").unwrap();
    let output = node.capture(&place, &[]);
    let left: Vec<_> = std::fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    call("umount", &[text(&place)]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains(" from a snapshot"), "{}", said(&output));
    assert_eq!(left, ["file"], "the snapshot is removed");
    assert_eq!(node.extract().len(), 2);
}

#[test]
fn a_node_that_cannot_be_reached_is_named() {
    let Some(node) = Node::start() else { return };
    let mut broken = Command::new(env!("CARGO_BIN_EXE_image-tools"));
    broken.args(["capture", "--host", "root@127.0.0.1", "--ssh", "ssh -F none -p 1 -o BatchMode=yes"]);
    let output = broken.args(["-o", text(&node.path("x.esir"))]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("capturing root@127.0.0.1: the helper on the node or ssh ended"),
        "{}",
        said(&output)
    );
    assert!(!node.path("x.esir").exists());
}

//! Menus over the real sockets of the real program, in a network namespace; SIGHUP; what the command line prints.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::server::{Server, write};

const START_TIMEOUT: Duration = Duration::from_secs(30);
/// MD5 of `admin:esir:secret`.
const DIGEST: &str = "11f3f67a677a2f4bb854b22a0fdb4c81";
/// What a loader says of itself.
const NODE: &str = "mac=52-54-00-00-00-01&platform=efi";

/// The server program in a network of its own; killed when dropped.
struct Running {
    server: Server,
    child: Child,
}

impl Running {
    fn start(site: &str) -> Option<Self> {
        Self::start_with(site, &[])
    }

    /// `None`, and a word why, where namespaces cannot be had.
    fn start_with(site: &str, options: &[&str]) -> Option<Self> {
        let there = |program: &str| {
            ["/usr/bin", "/usr/sbin"].iter().any(|folder| Path::new(folder).join(program).exists())
        };
        if !nix::unistd::geteuid().is_root()
            || !["ip", "unshare", "nsenter", "curl"].iter().all(|program| there(program))
        {
            println!("skipped: needs root, ip, unshare, nsenter and curl");
            return None;
        }
        let server = Server::prepare(&["--admin", "127.0.0.1:8080"]);
        let folder = server.folder.path();
        std::fs::create_dir(folder.join("files")).unwrap();
        let big: Vec<u8> = (0..=250).cycle().take(24_000_000).collect();
        std::fs::write(folder.join("files/big"), big).unwrap();
        write(&folder.join("site.toml"), site);
        let network = "ip link set lo up && ip link add server0 type veth peer name node0 && \
                       ip address add 10.77.0.1/24 dev server0 && ip link set server0 up && ip link set node0 up && exec \"$@\"";
        let log = std::fs::File::create(folder.join("server.log")).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--net", "--", "sh", "-c", network, "sh", env!("CARGO_BIN_EXE_pxe-server"), "serve"]);
        command
            .arg("--image")
            .arg(&server.image)
            .arg("--state")
            .arg(server.state())
            .arg("--site")
            .arg(folder.join("site.toml"));
        command.args(options);
        // A server that becomes another user has to get at its files.
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut running = Self { server, child };
        let started = Instant::now();
        while !running.log().contains("waiting for nodes") {
            assert!(running.child.try_wait().unwrap().is_none(), "the server ended: {}", running.log());
            assert!(started.elapsed() < START_TIMEOUT, "the server does not start: {}", running.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(running)
    }

    fn log(&self) -> String {
        self.server.log()
    }

    fn curl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.child.id().to_string(), "--net", "curl", "-s", "--max-time", "60"])
            .args(arguments);
        command
    }

    fn get(&self, path: &str) -> String {
        let output = self.curl(&[&format!("http://10.77.0.1{path}")]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    fn status(&self, arguments: &[&str], path: &str) -> String {
        let url = format!("http://10.77.0.1{path}");
        let output =
            self.curl(&["-o", "/dev/null", "-w", "%{http_code}"]).args(arguments).arg(url).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// SIGHUP, and the log's answer.
    fn reload(&self, site: &str, expected: &str) {
        write(&self.server.folder.path().join("site.toml"), site);
        let before = self.log().len();
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
        let sent = Instant::now();
        while !self.log()[before..].contains(expected) {
            assert!(sent.elapsed() < Duration::from_secs(20), "{expected} is not in {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn site(title: &str) -> String {
    format!(
        "[server]\ninterface = 'server0'\n[boot]\nmenu_files = 'files'\n[user.admin]\ndigest = '{}'\n\
         [entry.local]\nlocal = 'auto'\n[entry.deploy]\ndeploy = true\n[entry.hardware]\ninventory = true\n\
         [entry.big]\nkernel = 'big'\nusers = ['admin']\n\
         [menu.main]\ntitle = '{title}'\ntimeout = 5\nitems = ['local', 'deploy', 'hardware', 'big']\n[default]\nmenu = 'main'\n\
         [group.first]\nmatch = {{ hosts = 'node-000009' }}\nonce = 'hardware'\nthen = 'local'\n",
        DIGEST,
    )
}

#[test]
fn menu_changes_by_a_signal_and_a_broken_file_changes_nothing() {
    let Some(running) = Running::start(&site("Before")) else { return };
    let script = || running.get(&format!("/boot.ipxe?{NODE}"));
    assert!(script().contains("menu Before\n"), "{}", script());
    // A transfer that lasts longer than all of this: its reader is stopped in the middle.
    let (copy, url) = (running.server.folder.path().join("copy"), "http://10.77.0.1/files/big");
    let mut slow = running.curl(&["--limit-rate", "4M", url, "-o", copy.to_str().unwrap()]).spawn().unwrap();
    while std::fs::metadata(&copy).map_or(0, |about| about.len()) == 0 {
        assert!(slow.try_wait().unwrap().is_none(), "the transfer does not begin");
        std::thread::sleep(Duration::from_millis(10));
    }
    let reader = nix::unistd::Pid::from_raw(slow.id().cast_signed());
    nix::sys::signal::kill(reader, nix::sys::signal::Signal::SIGSTOP).unwrap();
    running.reload("[menu.main]\nitems = ['nothing']\n[server]\nmode = 'of'\n", "everything stays as it was");
    let log = running.log();
    assert!(log.contains("site.toml:2: menu.items: there is no section [entry.nothing]"), "{log}");
    assert!(log.contains("site.toml:4: server.mode"), "{log}");
    assert!(script().contains("menu Before\n"));
    running.reload(&site("After"), "read the site file again");
    assert!(script().contains("menu After\n"));
    // DHCP settings too, as far as no socket has to change; and a pool of another network spoils the whole file.
    running.reload(
        &(site("Spoilt") + "[dhcp]\npool = '10.99.0.5-10.99.0.9'\n"),
        "the pool 10.99.0.5-10.99.0.9 is not within",
    );
    running.reload(
        &(site("After") + "[dhcp]\npool = '10.77.0.20-10.77.0.29'\nlease_s = 600\n"),
        "giving addresses by the new settings; leases go on pools=\"10.77.0.20-10.77.0.29\"",
    );
    assert!(script().contains("menu After\n"));
    running.reload(
        &(site("After") + "[dhcp]\nmode = 'proxy'\nprobe = false\n"),
        "differs in dhcp.mode, dhcp.probe: that takes a restart",
    );
    nix::sys::signal::kill(reader, nix::sys::signal::Signal::SIGCONT).unwrap();
    assert!(slow.wait().unwrap().success());
    assert_eq!(
        std::fs::read(copy).unwrap(),
        std::fs::read(running.server.folder.path().join("files/big")).unwrap()
    );
}

#[test]
fn chosen_entries_carry_a_token_a_password_or_nothing() {
    let Some(running) = Running::start(&site("Main")) else { return };
    let item = |item: &str| running.get(&format!("/boot.ipxe?{NODE}&item={item}"));
    assert!(
        !running.get(&format!("/boot.ipxe?{NODE}")).contains("esir.token"),
        "a token is made when it is needed"
    );
    let (first, second) = (item("deploy"), item("deploy"));
    assert!(first.contains("esir.token=") && first != second, "{first}");
    assert!(item("hardware").contains("esir.token="));
    assert!(item("local").contains("exit 1") && !item("local").contains("token"));
    // The same by GRUB's names.
    let config = running.get("/grub/grub.cfg-01-52-54-00-00-00-01");
    assert!(config.contains("menuentry 'local'") && !config.contains("token"), "{config}");
    assert!(running.get("/grub/item/52:54:00:00:00:01/deploy").contains("'esir.token="));
    for name in ["grub/by-mac/52:54:00:00:00:01", "grub/grub.cfg-01-52-54-00-00-00-01"] {
        let by_tftp = running.curl(&[&format!("tftp://10.77.0.1/{name}")]).output().unwrap();
        assert_eq!(String::from_utf8(by_tftp.stdout).unwrap(), config, "{name}");
    }
    // And by PXELINUX's, wherever it lies itself.
    let config = running.get("/pxelinux.cfg/01-52-54-00-00-00-01");
    assert!(config.contains("LABEL deploy\n  CONFIG ::pxelinux/item/52:54:00:00:00:01/deploy\n"), "{config}");
    assert!(!config.contains("token") && !config.contains("LABEL big"), "{config}");
    for url in ["http://10.77.0.1/files", "tftp://10.77.0.1", "tftp://10.77.0.1/files"] {
        let again = running.curl(&[&format!("{url}/pxelinux.cfg/01-52-54-00-00-00-01")]).output().unwrap();
        assert_eq!(String::from_utf8(again.stdout).unwrap(), config, "{url}");
    }
    let agent = running.get("/pxelinux/item/52:54:00:00:00:01/deploy");
    assert!(agent.contains("APPEND esir.server=") && !agent.contains("initrd=initrd.img"), "{agent}");
    assert!(running.get("/pxelinux/item/52:54:00:00:00:01/big").contains("behind a password"));
    assert_eq!(running.status(&[], "/pxelinux.cfg/default"), "404");
    // A password, by the same scheme as iPXE's.
    let protected = format!("/boot.ipxe?{NODE}&item=big");
    assert_eq!(running.status(&[], &protected), "401");
    assert_eq!(running.status(&["--digest", "-u", "admin:wrong"], &protected), "401");
    assert_eq!(running.status(&["--digest", "-u", "eve:secret"], &protected), "401");
    let url = format!("http://10.77.0.1{protected}");
    let right = running.curl(&["--digest", "-u", "admin:secret", &url]).output().unwrap();
    assert!(String::from_utf8(right.stdout).unwrap().contains("kernel http://10.77.0.1/files/big"));
    // Once, and the same once again while that boot lasts.
    let once = || running.get("/boot.ipxe?mac=52-54-00-00-00-09&platform=efi");
    assert!(once().contains("esir.token=") && once().contains("esir.token="));
    assert_eq!(running.status(&[], "/files/../site.toml"), "404");
    assert_eq!(running.status(&["--path-as-is"], "/files/../site.toml"), "404");
}

/// A line of each thread's status.
fn of_threads(pid: u32, field: &str) -> Vec<String> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let status =
        threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap());
    status.map(|status| status.lines().find(|line| line.starts_with(field)).unwrap().to_owned()).collect()
}

#[test]
fn server_that_became_another_user_still_serves_and_has_no_right_in_any_thread() {
    let Some(running) = Running::start_with(&site("Main"), &["--user", "nobody"]) else { return };
    let started = Instant::now();
    while !running.log().contains("works without any right of root") {
        assert!(started.elapsed() < START_TIMEOUT, "{}", running.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = running.child.id();
    for line in of_threads(pid, "Uid:") {
        assert!(!line.split_ascii_whitespace().any(|uid| uid == "0"), "{line}");
    }
    for field in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert!(of_threads(pid, field).iter().all(|line| line.ends_with("\t0000000000000000")), "{field}");
    }
    // What begins only now, with the rights that are left: a lease, a transfer, a token.
    let lease = Command::new("nsenter")
        .args(["--target", &pid.to_string(), "--net", "busybox", "udhcpc", "-i", "node0", "-n", "-q", "-f"])
        .args(["-t", "5", "-T", "1", "-s", "/bin/true"])
        .output()
        .unwrap();
    assert!(lease.status.success(), "{lease:?}\n{}", running.log());
    let by_tftp = running.curl(&["tftp://10.77.0.1/grub/grub.cfg"]).output().unwrap();
    assert!(String::from_utf8(by_tftp.stdout).unwrap().contains("configfile"));
    assert!(running.get(&format!("/boot.ipxe?{NODE}&item=deploy")).contains("esir.token="));
    running.reload(&site("After"), "read the site file again");
}

/// What systemd thinks of the unit, where it is there to be asked.
#[test]
fn unit_is_well_formed_and_hardened() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/pxe-server.service");
    let text = std::fs::read_to_string(&unit).unwrap();
    let folder = tempfile::tempdir().unwrap();
    // The program need not be installed for this.
    let here = folder.path().join("pxe-server.service");
    write(&here, &text.replace("/usr/local/bin/pxe-server", env!("CARGO_BIN_EXE_pxe-server")));
    let analyze = |arguments: &[&str]| {
        let output = Command::new("systemd-analyze").args(arguments).arg(&here).output();
        output.map(|output| {
            (
                output.status.success(),
                String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
            )
        })
    };
    let Ok((good, said)) = analyze(&["verify"]) else { return println!("skipped: no systemd-analyze") };
    assert!(good && !said.contains("pxe-server.service:"), "{said}");
    let (good, said) = analyze(&["security", "--offline=true", "--threshold=45"]).unwrap();
    assert!(good, "{said}");
}

fn pxe_server(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pxe-server")).args(arguments).output().unwrap()
}

#[test]
fn file_is_checked_and_shown_before_any_server_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("site.toml");
    let path_text = path.to_str().unwrap();
    std::fs::create_dir(folder.path().join("files")).unwrap();
    write(&path, &site("Shown"));
    let said = String::from_utf8(pxe_server(&["check", path_text]).stderr).unwrap();
    assert!(
        said.contains("entry `big`: there is no file") && said.contains("files/big; put it there"),
        "{said}"
    );
    std::fs::write(folder.path().join("files/big"), b"kernel").unwrap();
    let output = pxe_server(&["check", path_text]);
    assert!(
        output.status.success() && String::from_utf8(output.stdout).unwrap().contains("no problem found")
    );

    let node = ["--site", path_text, "--mac", "52:54:00:00:00:01", "--firmware"];
    let run = |words: &[&str], more: &[&str]| {
        let output = pxe_server(&[words, &node, more].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run(&["menu", "render"], &["bios"]).contains("menu Shown\nitem e-local local\n"));
    assert!(run(&["menu", "render"], &["secureboot"]).contains("menuentry 'local'"));
    assert!(run(&["menu", "render"], &["uefi", "--item", "deploy"]).contains("esir.token=TOKEN"));
    assert!(run(&["menu", "render"], &["uefi", "--item", "big"]).contains("asked for a password"));
    assert!(run(&["menu", "render"], &["uefi", "--item", "big", "--user", "admin"]).contains("/files/big"));
    let drawn = run(&["menu", "preview"], &["uefi"]);
    assert!(
        drawn.contains("| Shown ") && drawn.contains("> local") && drawn.contains("taken after 5 s"),
        "{drawn}"
    );

    write(&path, "[entry.x]\nlocal = 'exit2'\n[menu.m]\nitems = ['y']\n");
    let output = pxe_server(&["check", path_text]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains(":2: local = \"exit2\"") && said.contains(":4: menu.items"), "{said}");
}

#[test]
fn password_is_hashed_for_both_loaders() {
    use std::io::Write as _;
    let mut command = Command::new(env!("CARGO_BIN_EXE_pxe-server"));
    command.args(["menu", "password", "admin"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"secret\n").unwrap();
    let printed = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    assert!(
        printed.contains("[user.admin]\ndigest = \"DIGEST\"\n".replace("DIGEST", DIGEST).as_str()),
        "{printed}"
    );
    assert!(printed.contains("grub = \"grub.pbkdf2.sha512.10000."), "{printed}");
}

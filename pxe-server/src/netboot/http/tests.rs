//! Scripts as goldens, and the real server on loopback.

mod hostile;

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use boot_menu::Local;

use super::script::Place;
use super::*;
use crate::netboot::policy::{BootDecision, BootFiles, DhcpSeen};
use crate::netboot::tests::golden;

const PLACE: Place = Place {
    http: SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 1), 80),
    agent: SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 1), 8443),
};
const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0xaa, 0xbb, 0xcc]);
/// The address of the site's own node.
const NODE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 77);

#[test]
fn scripts_are_what_they_were() {
    golden(
        "script-agent",
        &script::agent(&PLACE, "b1-5f.2", MAC, "tok_EN-1", " console=ttyS1,9600  ").unwrap(),
    );
    golden("script-local-bios", &script::local(FirmwareKind::Bios, Local::Auto));
    golden("script-local-uefi", &script::local(FirmwareKind::Uefi, Local::Auto));
    golden("script-ignore", &script::ignore());
    let other_port = Place { http: SocketAddrV4::new(*PLACE.http.ip(), 8080), ..PLACE };
    golden("script-ask-again", &script::ask_again(&other_port));
    golden("script-try-later", &script::try_later(&PLACE, "the token has characters"));
}

#[test]
fn no_script_ends_at_a_prompt() {
    let all = [
        script::agent(&PLACE, "b", MAC, "t", "").unwrap(),
        script::local(FirmwareKind::Bios, Local::Auto),
        script::local(FirmwareKind::Uefi, Local::Auto),
        script::ignore(),
        script::ask_again(&PLACE),
        script::try_later(&PLACE, "reason"),
    ];
    for script in all {
        let lines: Vec<_> = script.lines().collect();
        assert_eq!(lines[0], "#!ipxe");
        let last = lines[lines.len() - 1];
        assert!(last == "exit 1" || last.ends_with("|| goto again"), "{last}");
        // A command that can fail says what then; those that cannot are few.
        for line in &lines[1..] {
            let cannot_fail = ["echo ", "sleep ", "exit ", ":"].iter().any(|begin| line.starts_with(begin));
            let falls_through = line.starts_with("chain ") && lines.last() == Some(&"exit 1");
            assert!(cannot_fail || line.contains("||") || falls_through, "{line}");
        }
    }
}

#[test]
fn text_that_would_change_a_script_is_refused() {
    for bad in ["", "a b", "a\nshell", "${net0/mac}", "a||shell", "a;b", "ä"] {
        assert!(script::agent(&PLACE, "b", MAC, bad, "").is_err(), "token {bad:?}");
        assert!(script::agent(&PLACE, bad, MAC, "t", "").is_err(), "bundle {bad:?}");
    }
    for bad in ["a || shell", "a\nshell", "${x}", "a && b", "a # b", "\"", "\\", "\t"] {
        assert!(script::agent(&PLACE, "b", MAC, "t", bad).is_err(), "arguments {bad:?}");
    }
}

/// Says always the same and notes what it is asked.
struct Policy {
    directory: PathBuf,
    decision: BootDecision,
    requests: Mutex<Vec<BootRequest>>,
    loads: Mutex<Vec<(MacAddr, String)>>,
}

impl BootPolicy for Policy {
    fn saw_dhcp(&self, _: &DhcpSeen) {}

    fn decide(&self, request: &BootRequest, _: &boot_menu::Server) -> BootDecision {
        self.requests.lock().unwrap().push(request.clone());
        self.decision.clone()
    }

    fn node_at(&self, address: Ipv4Addr) -> Option<MacAddr> {
        (address == NODE).then_some(MAC)
    }

    fn saw_load(&self, mac: MacAddr, file: &str) {
        self.loads.lock().unwrap().push((mac, file.to_owned()));
    }

    fn menu_files(&self) -> Option<PathBuf> {
        Some(self.directory.join("files"))
    }

    fn boot_files(&self) -> BootFiles {
        BootFiles {
            bundle_id: "b1".into(),
            vmlinuz: self.directory.join("vmlinuz"),
            initrd: self.directory.join("initrd.img"),
            site_cpio: b"070701site"[..].into(),
        }
    }
}

struct World {
    _directory: tempfile::TempDir,
    policy: Arc<Policy>,
    address: SocketAddr,
    http: Http,
    kernel: Vec<u8>,
}

impl World {
    async fn new(decision: BootDecision, large_transfers_max: usize) -> Self {
        Self::with_peers(decision, large_transfers_max, None).await
    }

    async fn with_peers(
        decision: BootDecision,
        large_transfers_max: usize,
        peers: Option<SharedPeers>,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Larger than the buffers of a loopback connection, so that a node that does not read holds its place.
        let kernel: Vec<u8> = (0..24_000_000_u32).map(|at| at.to_le_bytes()[at as usize % 3]).collect();
        std::fs::write(directory.path().join("vmlinuz"), &kernel).unwrap();
        std::fs::write(directory.path().join("initrd.img"), b"zstd initrd").unwrap();
        let policy = Arc::new(Policy {
            directory: directory.path().to_owned(),
            decision,
            requests: Mutex::default(),
            loads: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let extra = Router::new().route(
            "/announce",
            get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { format!("peer {}", peer.ip()) }),
        );
        let http = Http::start_with(
            listener,
            (PLACE.http, PLACE.agent),
            BootPrograms::of(&[("ipxe.efi", b"MZ efi".to_vec())]),
            Arc::clone(&policy) as Arc<dyn BootPolicy>,
            (extra, peers, large_transfers_max),
        );
        Self { _directory: directory, policy, address, http, kernel }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Head in lower case, and body.
    async fn ask(&self, method: &str, path: &str, headers: &str) -> (String, Vec<u8>) {
        let mut stream = self.connect().await;
        ask_over(&mut stream, method, path, headers).await
    }
}

async fn ask_over(stream: &mut TcpStream, method: &str, path: &str, headers: &str) -> (String, Vec<u8>) {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: s\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    assert!(!head.contains("chunked"), "{head}");
    let len = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |len| len.parse().unwrap());
    let mut body = vec![0; if method == "HEAD" { 0 } else { len }];
    stream.read_exact(&mut body).await.unwrap();
    (head, body)
}

fn agent() -> BootDecision {
    BootDecision::Agent { token: "t1".into(), extra_arguments: String::new() }
}

#[tokio::test]
async fn the_policy_is_asked_with_what_firmware_says() {
    let world = World::new(agent(), 4).await;
    let path = "/boot.ipxe?mac=52-54-00-AA-bb-cc&uuid=4C4C4544-0000-1000-8000-0123456789AB&platform=efi&serial=SN%201%0a";
    let (head, body) = world.ask("GET", path, "").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert_eq!(String::from_utf8(body).unwrap(), script::agent(&PLACE, "b1", MAC, "t1", "").unwrap());
    let expected = BootRequest {
        mac: MAC,
        uuid: Some("4c4c4544-0000-1000-8000-0123456789ab".into()),
        serial: Some("SN 1".into()),
        platform: FirmwareKind::Uefi,
        loader: Loader::Ipxe,
        address: Ipv4Addr::LOCALHOST,
        asks: Asks::Start,
        user: None,
    };
    assert_eq!(*world.policy.requests.lock().unwrap(), [expected]);

    let zeros =
        "/boot.ipxe?mac=52:54:00:aa:bb:cc&uuid=00000000-0000-0000-0000-000000000000&platform=pcbios&serial=";
    world.ask("GET", zeros, "").await;
    let last = world.policy.requests.lock().unwrap().pop().unwrap();
    assert_eq!((last.uuid, last.serial, last.platform), (None, None, FirmwareKind::Bios));
}

#[tokio::test]
async fn who_does_not_say_its_address_is_asked_for_it() {
    let world = World::new(agent(), 4).await;
    for path in ["/boot.ipxe", "/boot.ipxe?mac=", "/boot.ipxe?mac=${mac}", "/boot.ipxe?mac=ff-ff-ff-ff-ff-ff"]
    {
        let (_, body) = world.ask("GET", path, "").await;
        assert_eq!(String::from_utf8(body).unwrap(), script::ask_again(&PLACE), "{path}");
    }
    assert!(world.policy.requests.lock().unwrap().is_empty());
}

#[tokio::test]
async fn local_boot_is_the_firmware_s_own() {
    let world = World::new(BootDecision::Local(Local::Auto), 4).await;
    let (_, body) = world.ask("GET", "/boot.ipxe?mac=52-54-00-aa-bb-cc&platform=efi", "").await;
    assert_eq!(String::from_utf8(body).unwrap(), script::local(FirmwareKind::Uefi, Local::Auto));
}

#[tokio::test]
async fn kernel_and_initrd_come_whole_in_parts_and_over_one_connection() {
    let world = World::new(agent(), 4).await;
    let mut stream = world.connect().await;
    let (head, body) = ask_over(&mut stream, "HEAD", "/boot/b1/vmlinuz?mac=52-54-00-aa-bb-cc", "").await;
    assert!(head.contains("content-length: 24000000") && body.is_empty(), "{head}");
    assert!(world.policy.loads.lock().unwrap().is_empty(), "HEAD is no load");

    let (_, body) = ask_over(&mut stream, "GET", "/boot/b1/vmlinuz?mac=52-54-00-aa-bb-cc", "").await;
    assert!(body == world.kernel);
    let (_, body) = ask_over(&mut stream, "GET", "/boot/b1/initrd.img?mac=52-54-00-aa-bb-cc", "").await;
    let mut initrd = b"070701site".to_vec();
    initrd.resize(512, 0);
    initrd.extend_from_slice(b"zstd initrd");
    assert_eq!(body, initrd);

    let (head, body) = ask_over(&mut stream, "GET", "/boot/b1/initrd.img", "Range: bytes=512-515\r\n").await;
    assert!(head.contains("206 partial") && head.contains("content-range: bytes 512-515/523"), "{head}");
    assert_eq!(body, b"zstd");
    let (_, body) = ask_over(&mut stream, "GET", "/boot/b1/initrd.img", "Range: bytes=-6\r\n").await;
    assert_eq!(body, b"initrd");
    let (_, body) = ask_over(&mut stream, "GET", "/boot/b1/initrd.img", "Range: bytes=520-9999\r\n").await;
    assert_eq!(body, b"trd");
    let (head, _) = ask_over(&mut stream, "GET", "/boot/b1/initrd.img", "Range: bytes=523-\r\n").await;
    assert!(head.contains("416 ") && head.contains("content-range: bytes */523"), "{head}");
    let (_, body) = ask_over(&mut stream, "GET", "/boot/b1/initrd.img", "Range: nonsense\r\n").await;
    assert_eq!(body.len(), 523);

    let loads = world.policy.loads.lock().unwrap().clone();
    assert_eq!(loads, [(MAC, "vmlinuz".to_owned()), (MAC, "initrd.img".to_owned())]);
}

/// GRUB up to 2.06, and Red Hat's still, takes a file for empty otherwise.
#[tokio::test]
async fn the_length_is_spelt_as_grub_reads_it() {
    let world = World::new(agent(), 4).await;
    let mut stream = world.connect().await;
    stream
        .write_all(b"GET /boot/b1/initrd.img HTTP/1.1\r\nHost: s\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut whole = Vec::new();
    stream.read_to_end(&mut whole).await.unwrap();
    let text = String::from_utf8_lossy(&whole);
    assert!(text.contains("\r\nContent-Length: 523\r\n"), "{text}");
}

#[tokio::test]
async fn boot_programs_and_other_parts_share_the_port_and_the_rest_is_not_found() {
    let world = World::new(agent(), 4).await;
    let (head, body) = world.ask("GET", "/ipxe.efi", "").await;
    assert!(head.contains("content-type: application/efi"), "{head}");
    assert_eq!(body, b"MZ efi");
    assert_eq!(world.ask("GET", "/announce?x=1", "").await.1, b"peer 127.0.0.1");
    for path in [
        "/",
        "/snponly.efi",
        "/boot/b2/vmlinuz",
        "/boot/b1/store.json",
        "/boot/b1/..%2fvmlinuz",
        "/../etc/passwd",
    ] {
        let (head, _) = world.ask("GET", path, "").await;
        assert!(head.starts_with("http/1.1 404"), "{path}: {head}");
    }
}

#[tokio::test]
async fn node_that_finds_no_place_is_told_when_to_come_back() {
    let world = World::new(agent(), 1).await;
    let mut slow = world.connect().await;
    slow.write_all(b"GET /boot/b1/vmlinuz HTTP/1.1\r\nHost: s\r\n\r\n").await.unwrap();
    slow.read_u8().await.unwrap();

    let (head, _) = world.ask("GET", "/boot/b1/vmlinuz", "").await;
    assert!(head.starts_with("http/1.1 503"), "{head}");
    let after: u8 =
        head.lines().find_map(|line| line.strip_prefix("retry-after: ")).unwrap().parse().unwrap();
    assert!((3..=8).contains(&after), "{after}");
    // What is small, and what has no body, needs no place.
    assert!(world.ask("HEAD", "/boot/b1/vmlinuz", "").await.0.starts_with("http/1.1 200"));
    assert!(world.ask("GET", "/boot.ipxe?mac=52-54-00-aa-bb-cc", "").await.0.starts_with("http/1.1 200"));
    assert_eq!(world.http.counters().put_off.load(Ordering::Relaxed), 1);

    // The slow node is reset: its place is free.
    drop(slow);
    for _ in 0..100 {
        let (head, body) = world.ask("GET", "/boot/b1/vmlinuz", "").await;
        if head.starts_with("http/1.1 200") {
            assert!(body == world.kernel);
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the place was never freed");
}

#[tokio::test]
async fn what_changed_since_is_sent_whole() {
    let world = World::new(agent(), 4).await;
    let (head, _) = world.ask("HEAD", "/boot/b1/initrd.img", "").await;
    assert!(head.contains("etag: \"b1-initrd.img\""), "{head}");
    let part = |tag: &str| format!("Range: bytes=512-515\r\nIf-Range: {tag}\r\n");
    let (head, body) = world.ask("GET", "/boot/b1/initrd.img", &part("\"b1-initrd.img\"")).await;
    assert!(head.contains("206 ") && body == b"zstd", "{head}");
    let (head, body) = world.ask("GET", "/boot/b1/initrd.img", &part("\"b0-initrd.img\"")).await;
    assert!(head.contains("200 ") && body.len() == 523, "{head}");
    let (head, _) = world.ask("HEAD", "/boot/b1/initrd.img", "Range: bytes=0-1\r\n").await;
    assert!(head.contains("200 ") && head.contains("content-length: 523"), "{head}");
}

#[tokio::test]
async fn node_is_sent_to_a_peer_of_its_rack_and_taken_back_when_that_fails() {
    let peers = Arc::new(Mutex::new(BootPeers::new(Vec::new())));
    let world = World::with_peers(agent(), 4, Some(Arc::clone(&peers))).await;
    let peer = Ipv4Addr::new(127, 0, 0, 9);
    assert!(peers.lock().unwrap().invite(Instant::now(), peer));
    peers.lock().unwrap().reported(Instant::now(), peer, Some(6980));

    let ipxe = "User-Agent: iPXE/1.0.0+\r\n";
    let path = "/boot/b1/vmlinuz?mac=52-54-00-aa-bb-cc";
    let (head, body) = world.ask("GET", path, ipxe).await;
    assert!(head.starts_with("http/1.1 302") && body.is_empty(), "{head}");
    assert!(head.contains("location: http://127.0.0.9:6980/boot/b1/vmlinuz"), "{head}");
    // UEFI HTTP boot and GRUB would stop at a redirect.
    assert!(world.ask("GET", path, "User-Agent: UefiHttpBoot/1.0\r\n").await.0.starts_with("http/1.1 200"));
    let (head, body) = world.ask("GET", &format!("{path}&failed=1"), ipxe).await;
    assert!(head.starts_with("http/1.1 200") && body == world.kernel, "{head}");
    let counters = world.http.counters();
    assert_eq!(
        (counters.sent_to_peers.load(Ordering::Relaxed), counters.files.load(Ordering::Relaxed)),
        (1, 2)
    );
}

#[tokio::test]
async fn missing_bundle_is_an_error_of_the_server_and_heals() {
    let world = World::new(agent(), 4).await;
    let path = world.policy.directory.join("initrd.img");
    std::fs::rename(&path, path.with_extension("away")).unwrap();
    assert!(world.ask("GET", "/boot/b1/initrd.img", "").await.0.starts_with("http/1.1 500"));
    std::fs::rename(path.with_extension("away"), &path).unwrap();
    assert_eq!(world.ask("GET", "/boot/b1/initrd.img", "").await.1.len(), 523);
}

#[tokio::test]
async fn garbage_stops_nobody_else() {
    let world = World::new(agent(), 4).await;
    for garbage in [&b"\0\xff\r\n\r\n"[..], b"GET", b"GET / HTTP/9\r\n\r\n", &[b'a'; 100_000]] {
        let mut stream = world.connect().await;
        // The server may have hung up already.
        let _ = stream.write_all(garbage).await;
    }
    let long = format!("/boot.ipxe?mac={}", "5".repeat(50_000));
    let (head, _) = world.ask("GET", &long, "").await;
    assert!(head.starts_with("http/1.1 "), "{head}");
    assert!(world.ask("GET", "/boot.ipxe?mac=52-54-00-aa-bb-cc", "").await.0.starts_with("http/1.1 200"));
}

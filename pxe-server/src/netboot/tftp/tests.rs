//! The real server on loopback: real clients, hostile ones, and what it counts.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tftp::{Fetch, FetchOptions, FetchOutcome, ReadRequest, error_packet};
use tokio::net::UdpSocket;

use super::counters::TftpCounters;
use super::places::TRANSFERS_PER_NODE_MAX;
use super::{FileSource, Tftp};
use crate::netboot::boot_files::BootPrograms;

/// A file of this length in which blocks differ.
fn file(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at * 7 + at / 251) % 256).unwrap()).collect()
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Waits until `holds`; what the server counts comes a moment after its last packet.
async fn eventually(counters: &TftpCounters, holds: impl Fn(&TftpCounters) -> bool) {
    for _ in 0..500 {
        if holds(counters) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{counters:?}");
}

/// Files that note what arrived.
struct Noted {
    files: BootPrograms,
    sent: std::sync::Mutex<Vec<(String, Ipv4Addr)>>,
}

impl FileSource for Noted {
    fn open(&self, name: &str, node: Ipv4Addr) -> Option<axum::body::Bytes> {
        self.files.open(name, node)
    }

    fn sent(&self, name: &str, node: Ipv4Addr) {
        self.sent.lock().unwrap().push((name.to_owned(), node));
    }
}

fn files() -> BootPrograms {
    BootPrograms::of(&[("a", b"hello".to_vec()), ("big", file(1_000_000))])
}

/// The real server on loopback, with the files `a` and `big`.
async fn server() -> (Tftp, UdpSocket, SocketAddrV4) {
    server_of(Arc::new(files())).await
}

async fn server_of(files: Arc<dyn FileSource>) -> (Tftp, UdpSocket, SocketAddrV4) {
    // Any free port: the one that another socket had a moment ago.
    let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, free);
    let tftp = Tftp::start("lo", address, files).unwrap();
    (tftp, UdpSocket::bind("127.0.0.1:0").await.unwrap(), address)
}

async fn answer(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 2048];
    let (len, _) =
        tokio::time::timeout(Duration::from_secs(10), socket.recv_from(&mut buffer)).await.unwrap().unwrap();
    buffer.truncate(len);
    buffer
}

#[tokio::test]
async fn nothing_but_the_named_files_can_be_had_and_nothing_can_be_written() {
    let (tftp, node, address) = server().await;
    for name in ["../../etc/passwd", "/etc/passwd", "a/../a", ".", "A", "a\u{0}b"] {
        node.send_to(format!("\0\x01{name}x\0octet\0").as_bytes(), address).await.unwrap();
        let odd = name.contains('\0') || name.split('/').any(|part| part == "..");
        assert_eq!(answer(&node).await[..4], [0, 5, 0, if odd { 4 } else { 1 }], "{name:?}");
    }
    node.send_to(b"\0\x02a\0octet\0", address).await.unwrap();
    assert_eq!(answer(&node).await[..4], [0, 5, 0, 2]);
    node.send_to(b"\0\x01/a\xff\0octet\0", address).await.unwrap();
    assert_eq!(answer(&node).await, b"\0\x03\0\x01hello");
    assert_eq!(tftp.counters().refused.load(std::sync::atomic::Ordering::Relaxed), 7);
    tftp.shutdown().await;
}

#[tokio::test]
async fn one_node_cannot_take_every_place() {
    let (tftp, _, address) = server().await;
    let mut nodes = Vec::new();
    for _ in 0..TRANSFERS_PER_NODE_MAX + 4 {
        let node = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        node.send_to(b"\0\x01big\0octet\0", address).await.unwrap();
        // An echo of the request from the same port is the same wish, not another.
        node.send_to(b"\0\x01big\0octet\0", address).await.unwrap();
        if nodes.len() < TRANSFERS_PER_NODE_MAX {
            let from = block(&node).await.1;
            node.send_to(&[0, 4, 0, 1], from).await.unwrap();
            assert_eq!(block(&node).await.0, 2);
        }
        nodes.push(node);
    }
    // Another address still gets its file.
    let other = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    other.send_to(b"\0\x01a\0octet\0", address).await.unwrap();
    assert_eq!(answer(&other).await, b"\0\x03\0\x01hello");
    let counters = tftp.counters();
    assert_eq!((read(&counters.started), read(&counters.overloaded)), (9, 8));
    tftp.shutdown().await;
}

/// Number of the next block, and the port it came from.
async fn block(socket: &UdpSocket) -> (u16, std::net::SocketAddr) {
    let mut buffer = vec![0; 2048];
    let received = socket.recv_from(&mut buffer);
    let (_, from) = tokio::time::timeout(Duration::from_secs(10), received).await.unwrap().unwrap();
    (u16::from_be_bytes([buffer[2], buffer[3]]), from)
}

/// Fetches with our own client from `local`; the content and how it ended.
async fn fetch(
    local: Ipv4Addr,
    address: SocketAddrV4,
    request: ReadRequest,
    size_only: bool,
) -> (Vec<u8>, FetchOutcome) {
    let socket = UdpSocket::bind((local, 0)).await.unwrap();
    let mut fetch = Fetch::start(FetchOptions { request, size_only }, Instant::now());
    let (mut to, mut content, mut buffer) = (std::net::SocketAddr::V4(address), Vec::new(), vec![0; 4096]);
    loop {
        if let Some(out) = fetch.poll_send() {
            socket.send_to(&out, to).await.unwrap();
        }
        if let Some(outcome) = fetch.outcome() {
            return (content, outcome);
        }
        let deadline = fetch.poll_timeout().unwrap();
        match tokio::time::timeout_at(deadline.into(), socket.recv_from(&mut buffer)).await {
            Ok(received) => {
                let (len, from) = received.unwrap();
                to = from;
                fetch.handle_packet(Instant::now(), &buffer[..len], &mut |block| {
                    content.extend_from_slice(block)
                });
            }
            Err(_) => fetch.handle_timeout(Instant::now()),
        }
    }
}

fn request(name: &str, blksize: u16, windowsize: u16) -> ReadRequest {
    ReadRequest {
        name: name.into(),
        blksize: Some(blksize),
        windowsize: Some(windowsize),
        tsize: true,
        timeout: None,
    }
}

#[tokio::test]
async fn size_is_told_and_counts_as_no_failure() {
    let (tftp, _, address) = server().await;
    let probe = fetch(Ipv4Addr::LOCALHOST, address, request("big", 1468, 4), true).await;
    assert_eq!(probe, (Vec::new(), FetchOutcome::Size(1_000_000)));
    let (content, _) = fetch(Ipv4Addr::LOCALHOST, address, request("big", 1468, 4), false).await;
    assert!(content == file(1_000_000));
    let counters = tftp.counters();
    eventually(counters, |counters| read(&counters.complete) == 1).await;
    assert_eq!((read(&counters.probed), read(&counters.aborted), read(&counters.bytes)), (1, 0, 1_000_000));
    tftp.shutdown().await;
}

#[tokio::test]
async fn who_has_all_of_a_file_is_told_and_who_asked_for_its_size_is_not() {
    let noted = Arc::new(Noted { files: files(), sent: std::sync::Mutex::default() });
    let (tftp, _, address) = server_of(Arc::clone(&noted) as Arc<dyn FileSource>).await;
    let (asking, loading) = (Ipv4Addr::new(127, 0, 2, 1), Ipv4Addr::new(127, 0, 2, 2));
    fetch(asking, address, request("big", 1468, 4), true).await;
    fetch(loading, address, request("big", 1468, 4), false).await;
    eventually(tftp.counters(), |counters| read(&counters.complete) == 1 && read(&counters.probed) == 1)
        .await;
    assert_eq!(*noted.sent.lock().unwrap(), [("big".to_owned(), loading)]);
    tftp.shutdown().await;
}

#[tokio::test]
async fn many_nodes_are_served_at_once() {
    let (tftp, _, address) = server().await;
    let began = Instant::now();
    let nodes: Vec<_> = (1..=40)
        .map(|at| {
            let (local, window) = (Ipv4Addr::new(127, 0, 1, at), [1, 4, 16][usize::from(at) % 3]);
            tokio::spawn(fetch(local, address, request("big", 1468, window), false))
        })
        .collect();
    for node in nodes {
        let (content, outcome) = node.await.unwrap();
        assert_eq!(outcome, FetchOutcome::Complete);
        assert!(content == file(1_000_000));
    }
    println!("40 MB to 40 nodes in {:?}", began.elapsed());
    eventually(tftp.counters(), |counters| read(&counters.complete) == 40).await;
    tftp.shutdown().await;
}

/// Floods, false ports, path tricks, huge names, stalls: none of it gets a byte of anything or stops a node.
#[tokio::test]
async fn hostile_machine_gets_nothing_and_stops_nobody_else() {
    let (tftp, _, address) = server().await;
    let hostile = tokio::spawn(async move {
        let socket = UdpSocket::bind("127.0.0.66:0").await.unwrap();
        let long = [b"\0\x01", &[b'n'; 1400][..], b"\0octet\0"].concat();
        let options = [b"\0\x01big\0octet\0", &b"blksize\x008\0".repeat(100)[..]].concat();
        for round in 0_u16.. {
            // Requests for real files that are never taken, from one port after the other.
            if round % 4 == 0 {
                let stalls = UdpSocket::bind(("127.0.0.67".parse::<Ipv4Addr>().unwrap(), 0)).await.unwrap();
                let _ = stalls.send_to(b"\0\x01big\0octet\0windowsize\x0065535\0", address).await;
            }
            for packet in
                [&long[..], &options, b"\0\x01../../etc/shadow\0octet\0", b"\0\x02x\0octet\0", b"\xff", b""]
            {
                let _ = socket.send_to(packet, address).await;
            }
            // Acknowledgements and errors to the ports where transfers may be.
            let port = 32768 + round % 28000;
            let _ = socket.send_to(&[0, 4, 0xff, 0xff], (Ipv4Addr::LOCALHOST, port)).await;
            let _ = socket.send_to(&error_packet(0, "stop"), (Ipv4Addr::LOCALHOST, port)).await;
            // Eight packets each millisecond: a flood, but not one that measures this machine's processors.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    for at in 1..=20 {
        let (content, outcome) =
            fetch(Ipv4Addr::new(127, 0, 2, at), address, request("big", 1468, 4), false).await;
        assert_eq!(outcome, FetchOutcome::Complete);
        assert!(content == file(1_000_000));
    }
    hostile.abort();
    let counters = tftp.counters();
    eventually(counters, |counters| read(&counters.complete) == 20).await;
    assert!(read(&counters.refused) > 0, "{counters:?}");
    tftp.shutdown().await;
}

/// Runs a client; its standard error if it fails.
fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {said}")) }
}

/// The commands by which clients of others fetch `big` from `port` into `copy`.
fn clients(port: u16, copy: &Path) -> Vec<Command> {
    let (port, copy) = (port.to_string(), copy.display().to_string());
    let command = |words: &[&str]| {
        let mut command = Command::new("timeout");
        command.arg("30").args(words);
        command
    };
    let url = format!("tftp://127.0.0.1:{port}/big");
    let mut all = vec![
        command(&["curl", "-sf", "-o", &copy, &url]),
        command(&["curl", "-sf", "--tftp-blksize", "1468", "-o", &copy, &url]),
        command(&["curl", "-sf", "--tftp-no-options", "-o", &copy, &url]),
        command(&["busybox", "tftp", "-g", "-r", "big", "-l", &copy, "127.0.0.1", &port]),
        command(&["busybox", "tftp", "-b", "1468", "-g", "-r", "big", "-l", &copy, "127.0.0.1", &port]),
        command(&["tftp", "-m", "binary", "127.0.0.1", &port, "-c", "get", "big", &copy]),
    ];
    for options in
        [&["blksize 512"][..], &["blksize 1468", "windowsize 16", "tsize 0"], &["blksize 8192", "timeout 2"]]
    {
        let mut atftp = command(&["atftp"]);
        for option in options {
            atftp.args(["--option", option]);
        }
        atftp.args(["-g", "-r", "big", "-l", &copy, "127.0.0.1", &port]);
        all.push(atftp);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_others_get_the_file() {
    let missing: Vec<&str> = ["curl", "busybox", "tftp", "atftp"]
        .into_iter()
        .filter(|program| !Path::new("/usr/bin").join(program).exists())
        .collect();
    if !missing.is_empty() {
        println!("skipped: needs {missing:?}; scripts/setup installs them");
        return;
    }
    let (tftp, _, address) = server().await;
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("copy");
    let all = clients(address.port(), &copy);
    let fetches = all.len() as u64;
    for mut client in all {
        let _ = std::fs::remove_file(&copy);
        tokio::task::block_in_place(|| run(&mut client)).unwrap();
        assert!(std::fs::read(&copy).unwrap() == file(1_000_000), "{client:?}");
    }
    eventually(tftp.counters(), |counters| read(&counters.complete) == fetches).await;
    tftp.shutdown().await;
}

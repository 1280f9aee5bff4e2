//! Who asks for what it may not have, floods, and reads nothing.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::unix::fs::symlink;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::super::listener::BootListener;
use super::{LARGE_TRANSFERS_MAX, NODE, World, agent, ask_over};
use crate::netboot::net;

const HOSTILE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);
const HONEST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 88);
const KERNEL: &[u8] = b"GET /boot/b1/vmlinuz HTTP/1.1\r\nHost: s\r\n\r\n";
/// Lies beside the directory of menu files.
const SECRET: &str = "nobody may read this";

async fn connect(from: Ipv4Addr, to: SocketAddr) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddrV4::new(from, 0).into()).unwrap();
    socket.connect(to).await.ok()
}

/// A connection over which this was sent and nothing is read.
async fn sends(from: Ipv4Addr, to: SocketAddr, bytes: &[u8]) -> Option<TcpStream> {
    let mut stream = connect(from, to).await?;
    // The server may have hung up already, and may take no more before its answers are read.
    let sent = tokio::time::timeout(Duration::from_millis(200), stream.write_all(bytes));
    let _ = sent.await;
    Some(stream)
}

#[tokio::test]
async fn no_path_leads_out_of_what_is_served() {
    let world = World::new(agent(), 4).await;
    let (directory, files) = (&world.policy.directory, world.policy.directory.join("files"));
    std::fs::create_dir_all(&files).unwrap();
    std::fs::write(directory.join("secret"), SECRET).unwrap();
    std::fs::write(files.join("linux"), "kernel").unwrap();
    symlink("../secret", files.join("out")).unwrap();
    symlink(directory.join("secret"), files.join("absolute")).unwrap();
    assert_eq!(world.ask("GET", "/files/linux", "").await.1, b"kernel");
    let long = format!("/files/{}secret", "../".repeat(10_000));
    let absolute = format!("/files/{}", directory.join("secret").display());
    let paths = [
        "/secret",
        "/../secret",
        "/files/../secret",
        "/files/..%2fsecret",
        "/files/%2e%2e/secret",
        "/files/..%5csecret",
        "/files/%252e%252e%252fsecret",
        "/files/..%c0%afsecret",
        "/files/linux%00/../../secret",
        "/files/out",
        "/files/absolute",
        "/files//secret",
        "/files/.",
        "/files/",
        "/boot/../secret",
        "/boot/b1/../secret",
        "/boot/b1/..%2f..%2fsecret",
        "/boot/../b1/vmlinuz",
        "/grub/../../secret",
        "/grub/by-mac/..%2f..%2fsecret",
        "/pxelinux.cfg/..%2f..%2fsecret",
        "/pxelinux/menu/%2e%2e/secret",
        &long,
        &absolute,
    ];
    for path in paths {
        let (head, body) = world.ask("GET", path, "").await;
        assert!(head.starts_with("http/1.1 4"), "{path}: {head}");
        assert!(!String::from_utf8_lossy(&body).contains(SECRET), "{path}");
    }
    for method in ["PUT", "POST", "DELETE", "PROPFIND", "CONNECT"] {
        let (head, _) = world.ask(method, "/files/linux", "Content-Length: 0\r\n").await;
        assert!(head.starts_with("http/1.1 4"), "{method}: {head}");
    }
    assert_eq!(std::fs::read(files.join("linux")).unwrap(), b"kernel");
}

#[tokio::test]
async fn who_floods_and_reads_nothing_stops_nobody_else() {
    net::raise_file_limit();
    let world = World::new(agent(), 16).await;
    let mut held = Vec::new();
    // More large files than there are places.
    for _ in 0..20 {
        held.push(sends(HOSTILE, world.address, KERNEL).await);
    }
    // Answers that nobody reads, a head and a body without end, and lengths that cannot be.
    let many = b"GET /boot.ipxe?mac=52-54-00-aa-bb-cc HTTP/1.1\r\nHost: s\r\n\r\n".repeat(10_000);
    let head = [&b"GET / HTTP/1.1\r\nHost: s\r\nX: "[..], &vec![b'x'; 4 << 20]].concat();
    let body = [
        &b"POST /boot.ipxe HTTP/1.1\r\nHost: s\r\nContent-Length: 99999999999999\r\n\r\n"[..],
        &vec![0; 4 << 20],
    ]
    .concat();
    let lengths = b"GET / HTTP/1.1\r\nHost: s\r\nContent-Length: -1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n";
    let headers = [&b"GET / HTTP/1.1\r\nHost: s\r\n"[..], &b"X: y\r\n".repeat(5_000), b"\r\n"].concat();
    for bytes in [&many[..], &head, &body, lengths, &headers] {
        held.push(sends(HOSTILE, world.address, bytes).await);
    }
    // Connections until the server lets it have no more, each with half a request.
    for _ in 0..600 {
        held.push(sends(HOSTILE, world.address, b"GET /boot.ipxe HT").await);
    }
    let mut honest = world.connect().await;
    for _ in 0..3 {
        let (head, body) = ask_over(&mut honest, "GET", "/boot/b1/vmlinuz", "").await;
        assert!(head.starts_with("http/1.1 200") && body == world.kernel, "{head}");
        let (head, _) = ask_over(&mut honest, "GET", "/boot.ipxe?mac=52-54-00-aa-bb-cc", "").await;
        assert!(head.starts_with("http/1.1 200"), "{head}");
    }
    // It has as many connections as it may have.
    let mut refused = connect(HOSTILE, world.address).await.unwrap();
    assert_eq!(refused.read(&mut [0]).await.unwrap_or(0), 0);
}

/// The kernel as `from` gets it, if it gets it now.
async fn kernel(world: &World, from: Ipv4Addr) -> Option<Vec<u8>> {
    let mut stream = connect(from, world.address).await.unwrap();
    let (head, body) = ask_over(&mut stream, "GET", "/boot/b1/vmlinuz", "").await;
    head.starts_with("http/1.1 200").then_some(body)
}

#[tokio::test]
async fn two_hundred_addresses_that_read_nothing_keep_no_node_from_its_kernel() {
    net::raise_file_limit();
    let world = World::new(agent(), LARGE_TRANSFERS_MAX).await;
    let mut held = Vec::new();
    for number in 0..200 {
        held.push(sends(Ipv4Addr::new(127, 0, 1, number), world.address, KERNEL).await);
    }
    // All but those that have a place of the 48 that strangers may have.
    while world.http.counters().put_off.load(Ordering::Relaxed) < 152 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(kernel(&world, NODE).await.is_some_and(|body| body == world.kernel), "at once");
    // Nobody knows this machine, so it waits until one of them has read nothing for five seconds.
    let mut body = None;
    for _ in 0..20 {
        body = kernel(&world, HONEST).await;
        if body.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(body.is_some_and(|body| body == world.kernel));
}

#[tokio::test]
async fn connections_that_stand_still_make_room_for_new_ones() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/", get(|| async { "here" }));
    let serving = tokio::spawn(BootListener::with_bounds(listener, 8, 4).serve(router));
    let mut held = Vec::new();
    for number in 0..50 {
        held.push(sends(Ipv4Addr::new(127, 0, 1, number), address, b"GET / HT").await);
        let mut honest = connect(HONEST, address).await.unwrap();
        assert_eq!(ask_over(&mut honest, "GET", "/", "").await.1, b"here", "beside {number} others");
    }
    let mut first = held.swap_remove(0).unwrap();
    assert_eq!(first.read(&mut [0]).await.unwrap_or(0), 0, "it was ended");
    serving.abort();
}

//! Who asks for what it may not have, floods, and reads nothing.

use std::os::unix::fs::symlink;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::{World, agent, ask_over};
use crate::netboot::net;

const HOSTILE: &str = "127.0.0.66:0";
/// Lies beside the directory of menu files.
const SECRET: &str = "nobody may read this";

async fn connect(world: &World) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(HOSTILE.parse().unwrap()).unwrap();
    socket.connect(world.address).await.ok()
}

/// A connection over which this was sent and nothing is read.
async fn sends(world: &World, bytes: &[u8]) -> Option<TcpStream> {
    let mut stream = connect(world).await?;
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
    let world = World::new(agent(), 10).await;
    let mut held = Vec::new();
    // More large files than there are places.
    for _ in 0..20 {
        held.push(sends(&world, b"GET /boot/b1/vmlinuz HTTP/1.1\r\nHost: s\r\n\r\n").await);
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
        held.push(sends(&world, bytes).await);
    }
    // Connections until the server lets it have no more, each with half a request.
    for _ in 0..600 {
        held.push(sends(&world, b"GET /boot.ipxe HT").await);
    }
    let mut honest = world.connect().await;
    for _ in 0..3 {
        let (head, body) = ask_over(&mut honest, "GET", "/boot/b1/vmlinuz", "").await;
        assert!(head.starts_with("http/1.1 200") && body == world.kernel, "{head}");
        let (head, _) = ask_over(&mut honest, "GET", "/boot.ipxe?mac=52-54-00-aa-bb-cc", "").await;
        assert!(head.starts_with("http/1.1 200"), "{head}");
    }
    // It has as many connections as it may have.
    let mut refused = connect(&world).await.unwrap();
    assert_eq!(refused.read(&mut [0]).await.unwrap_or(0), 0);
}

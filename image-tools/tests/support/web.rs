//! A small HTTP server for what a seed serves, or should not.
#![allow(dead_code, reason = "each test program uses a part")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

/// Serves fixed files by their path, whole or by one range. Lives as long as the test program.
pub(crate) struct Web {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    allowance: Mutex<Allowance>,
    allowed: Condvar,
    sent: AtomicU64,
}

impl Web {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        shared.allowance.lock().unwrap().bytes = u64::MAX;
        let serving = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = serving.clone();
                thread::spawn(move || {
                    // Whoever asked may be gone.
                    let _ = answer(stream, &shared);
                });
            }
        });
        Self { address, shared }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn put(&self, path: &str, bytes: &[u8]) {
        self.shared.files.lock().unwrap().insert(path.to_owned(), bytes.to_vec());
    }

    /// From now on so many bytes of ranges are sent, and no more.
    pub(crate) fn allow(&self, bytes: u64) {
        let mut allowance = self.shared.allowance.lock().unwrap();
        *allowance = Allowance { bytes, number: allowance.number + 1 };
        self.shared.allowed.notify_all();
    }

    /// Bytes of ranges that were sent since the last call.
    pub(crate) fn take_sent(&self) -> u64 {
        self.shared.sent.swap(0, Ordering::Relaxed)
    }
}

/// Bytes of ranges that may still be sent; whoever asks for more waits until the next allowance, and gets nothing.
#[derive(Default)]
struct Allowance {
    bytes: u64,
    number: u32,
}

fn answer(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let target = head.split(' ').nth(1).unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default();
    let Some(bytes) = shared.files.lock().unwrap().get(path).cloned() else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let range = head.lines().find_map(|line| line.strip_prefix("Range: bytes="));
    let range = range.and_then(|range| range.split_once('-'));
    let (status, body) = match range {
        Some((first, last)) => {
            let (first, last): (usize, usize) = (first.parse().unwrap(), last.trim().parse().unwrap());
            let body = &bytes[first..(last + 1).min(bytes.len())];
            let mut allowance = shared.allowance.lock().unwrap();
            let number = allowance.number;
            while allowance.bytes < body.len() as u64 {
                allowance = shared.allowed.wait(allowance).unwrap();
                if allowance.number != number {
                    return Ok(());
                }
            }
            allowance.bytes -= body.len() as u64;
            shared.sent.fetch_add(body.len() as u64, Ordering::Relaxed);
            ("206 Partial Content", body)
        }
        None => ("200 OK", bytes.as_slice()),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)
}

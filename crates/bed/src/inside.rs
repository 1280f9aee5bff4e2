//! Doing something inside a namespace from this process: on a thread of its own, which ends with it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};

/// A call to a program that is already listening on an idle link.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// More than any reply we ask for.
const REPLY_MAX_BYTES: u64 = 64 << 10;

/// Runs `work` on a thread whose network is the namespace at `path`.
pub(crate) fn inside<T: Send>(path: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let namespace = File::open(path).with_context(|| format!("opening {}", path.display()))?;
            setns(&namespace, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("entering {}", path.display()))?;
            work()
        });
        thread.join().map_err(|_| anyhow!("a thread inside {} panicked", path.display()))?
    })
}

/// One HTTP POST from where the calling thread is; the reply must be a 200.
pub(crate) fn post(address: Ipv4Addr, port: u16, path: &str, body: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&(address, port).into(), CALL_TIMEOUT)
        .with_context(|| format!("connecting to {address}:{port}"))?;
    stream.set_read_timeout(Some(CALL_TIMEOUT))?;
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut reply = String::new();
    stream.take(REPLY_MAX_BYTES).read_to_string(&mut reply)?;
    if !reply.starts_with("HTTP/1.1 200") {
        bail!("{address}:{port}{path} answered {}", reply.lines().next().unwrap_or("nothing"));
    }
    Ok(reply)
}

//! `pxe-server seed` as a person calls it: torrent, tracker, web seed and seed of one file.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use serde_json::Value;
use sha1::{Digest as _, Sha1};
use swarm_net::{MemoryStore, Metainfo, Peer, PeerConfig, PieceSet, Secret};

use crate::support::http::{Answer, send};
use crate::support::image::make_image;
use crate::support::peer;

/// A running seed; killed by its own id when dropped.
struct Seed {
    child: Child,
    lines: Box<dyn Iterator<Item = String>>,
    ready: Value,
}

impl Drop for Seed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(file: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pxe-server"));
    command.arg("seed").arg(file).args(["--http", "127.0.0.1:0", "--peers", "127.0.0.1:0"]).args(options);
    command
}

impl Seed {
    fn start(file: &Path, options: &[&str]) -> Self {
        let mut child = command(file, options).arg("--json").stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut lines: Box<dyn Iterator<Item = String>> = Box::new(lines);
        let ready: Value = serde_json::from_str(&lines.next().expect("it says where it is")).unwrap();
        assert_eq!(ready["event"], "ready");
        Self { child, lines, ready }
    }

    fn url(&self) -> &str {
        self.ready["url"].as_str().unwrap()
    }

    fn http(&self) -> SocketAddr {
        self.url().strip_prefix("http://").unwrap().split('/').next().unwrap().parse().unwrap()
    }

    /// What a `fetch` is given behind the `#`.
    fn secret(&self) -> Option<Secret> {
        let command = self.ready["fetch"].as_str().unwrap();
        Secret::from_hex(command.rsplit_once('#')?.1.trim_end_matches('\''))
    }

    async fn get(&self, path: &str, range: Option<&str>) -> Answer {
        let mut request = Request::get(path).header("host", "seed");
        if let Some(range) = range {
            request = request.header("range", range);
        }
        send(self.http(), None, request.body(Full::<Bytes>::default()).unwrap()).await.unwrap()
    }

    /// A peer that knows only what the torrent says.
    async fn leecher(&self, torrent: &[u8]) -> (Peer, Arc<MemoryStore>) {
        let metainfo = Metainfo::parse(torrent).unwrap();
        let store = Arc::new(MemoryStore::new());
        let have = PieceSet::empty(metainfo.pieces.len() as u32);
        let key = self.secret().map(|secret| format!("?key={}", secret.http_key()));
        let announce = format!("{}{}", metainfo.announce.clone().unwrap(), key.unwrap_or_default());
        let config = PeerConfig {
            announce_url: Some(announce),
            secret: self.secret().map(|secret| secret.0),
            open: self.secret().is_none(),
            ..PeerConfig::new(metainfo, Arc::clone(&store) as _, have, "127.0.0.1:0".parse().unwrap())
        };
        (Peer::start(config).await.unwrap(), store)
    }
}

fn random_file(folder: &Path, name: &str, length: usize) -> (PathBuf, Vec<u8>) {
    let mut bytes = vec![0; length];
    getrandom::fill(&mut bytes).unwrap();
    std::fs::write(folder.join(name), &bytes).unwrap();
    (folder.join(name), bytes)
}

fn terminate(seed: &mut Seed) {
    let pid = nix::unistd::Pid::from_raw(seed.child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(seed.child.wait().unwrap().success());
}

#[tokio::test]
async fn any_file_is_hashed_served_and_seeded_to_those_who_know_the_secret() {
    let folder = tempfile::tempdir().unwrap();
    let (file, bytes) = random_file(folder.path(), "disk image.bin", 9 * 262_144 + 5);
    let mut seed = Seed::start(&file, &[]);
    let key = seed.secret().unwrap().http_key();
    assert_eq!(seed.ready["piece_bytes"], 65_536);
    for path in ["/disk%20image.bin.torrent", "/announce", "/disk%20image.bin", "/other"] {
        for query in ["", "?key=", "?key=00", &format!("?akey={key}")] {
            let answer = seed.get(&format!("{path}{query}"), None).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}{query}");
        }
    }
    let with_key = |path: &str| format!("{path}?key={key}");
    assert_eq!(seed.get(&with_key("/other"), None).await.status, StatusCode::NOT_FOUND);
    let torrent = seed.get(&with_key("/disk%20image.bin.torrent"), None).await.body;
    let metainfo = Metainfo::parse(&torrent).unwrap();
    assert!(metainfo.private);
    assert_eq!(metainfo.name, "disk image.bin");
    let hashes: Vec<[u8; 20]> = bytes.chunks(65_536).map(|piece| Sha1::digest(piece).into()).collect();
    assert_eq!(metainfo.pieces, hashes);
    assert_eq!(metainfo.web_seeds, [seed.url().strip_suffix(".torrent").unwrap()]);

    let part = seed.get(&with_key("/disk%20image.bin"), Some("bytes=262140-262150")).await;
    assert_eq!((part.status, part.body.as_ref()), (StatusCode::PARTIAL_CONTENT, &bytes[262_140..=262_150]));

    let (leecher, store) = seed.leecher(&torrent).await;
    assert!(peer::complete(leecher, &store).await == bytes);
    terminate(&mut seed);
    let last: Value = serde_json::from_str(&seed.lines.by_ref().last().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["stats"]["uploaded"]), (&"stats".into(), &bytes.len().into()));
}

#[tokio::test]
async fn open_seed_asks_nobody_for_anything() {
    let folder = tempfile::tempdir().unwrap();
    let (file, bytes) = random_file(folder.path(), "a", 300_000);
    let seed = Seed::start(&file, &["--open", "--piece-bytes", "65536", "--have", "bep3"]);
    assert_eq!(seed.ready["fetch"].as_str().unwrap(), format!("image-tools fetch --open '{}'", seed.url()));
    assert_eq!(seed.ready["pieces"], 5);
    let torrent = seed.get("/a.torrent", None).await.body;
    let (leecher, store) = seed.leecher(&torrent).await;
    assert!(peer::complete(leecher, &store).await == bytes);
}

#[tokio::test]
async fn image_keeps_its_torrent_and_its_companions_come_along() {
    let folder = tempfile::tempdir().unwrap();
    let image = make_image(folder.path(), "debian", None);
    let secret = folder.path().join("secret");
    std::fs::write(&secret, format!("{}\n", Secret([3; 32]).to_hex())).unwrap();
    let seed = Seed::start(&image, &["--secret-file", secret.to_str().unwrap()]);
    assert_eq!(seed.secret(), Some(Secret([3; 32])));
    let beside = std::fs::read(image.with_extension("esir.torrent")).unwrap();
    let beside = Metainfo::parse(&beside).unwrap();
    assert_eq!(seed.ready["info_hash"].as_str().unwrap(), beside.info_hash.to_string());
    let name = image.file_name().unwrap().to_str().unwrap();
    let path = format!("/{name}.manifest?key={}", Secret([3; 32]).http_key());
    let manifest = seed.get(&path, None).await.body;
    assert_eq!(manifest, std::fs::read(image.with_extension("esir.manifest")).unwrap());
}

#[test]
fn what_can_not_be_seeded_ends_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let (file, _) = random_file(folder.path(), "a", 1000);
    let (empty, _) = random_file(folder.path(), "empty", 0);
    let (tracker, _) = random_file(folder.path(), "announce", 10);
    let image = make_image(folder.path(), "debian", None);
    let mut damaged = std::fs::read(&image).unwrap();
    damaged[700_000] ^= 1;
    let check = |file: &Path, options: &[&str], expected: &str| {
        let output = command(file, options).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with("pxe-server: ") && said.trim_end().lines().count() == 1, "{said}");
        assert!(said.contains(expected), "{said}\nshould contain: {expected}");
    };
    check(Path::new("/nowhere"), &[], "opening /nowhere");
    check(folder.path(), &[], "is not a file");
    check(&empty, &[], "is empty");
    check(&tracker, &[], "rename the file");
    check(&file, &["--piece-bytes", "100000"], "is not a power of two");
    check(&file, &["--secret-file", file.to_str().unwrap()], "reading the secret");
    check(&file, &["--secret-file", empty.to_str().unwrap()], "64 hexadecimal digits");
    check(&image, &["--piece-bytes", "65536"], "leave --piece-bytes out");
    std::fs::write(&image, damaged).unwrap();
    check(&image, &[], "piece 2 of");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pxe-server"));
    let output = command.arg("seed").arg(&file).args(["--http", &taken]).output().unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().contains("--http sets another address"));
}

//! `image-tools fetch` as a person or a program calls it: what comes out, what it says, and that only a file which
//! is complete and right gets its name.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;
#[path = "support/web.rs"]
mod web;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use serde_json::Value;
use sha1::{Digest, Sha1};
use support::{fail, random_file, succeed};
use swarm_net::{MemoryStore, Metainfo, Peer, PeerConfig, PieceSet};
use web::Web;

const PIECE_BYTES: u32 = 256 * 1024;
const PIECE: usize = PIECE_BYTES as usize;
const LENGTH: usize = 20 * PIECE + 777;
const SECRET: [u8; 32] = [0x5a; 32];
const NOBODY: [&str; 4] = ["--tracker", "none", "--web-seed", "none"];

/// A directory, content, its torrent, and a server of both.
struct Place {
    directory: tempfile::TempDir,
    bytes: Vec<u8>,
    torrent: Vec<u8>,
    web: Web,
}

impl Place {
    /// The torrent names a web seed and, if wanted, a tracker that does not speak BitTorrent.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("source");
        random_file(&source, LENGTH);
        let bytes = std::fs::read(source).unwrap();
        let hashes: Vec<[u8; 20]> = bytes.chunks(PIECE).map(|piece| Sha1::digest(piece).into()).collect();
        let torrent =
            Metainfo::encode_single_file("debian.esir", LENGTH as u64, PIECE_BYTES, &hashes, None).unwrap();
        let web = Web::start();
        let torrent = Metainfo::with_sources(&torrent, None, &[&web.url("/debian.esir")]).unwrap();
        let place = Self { directory, bytes, torrent, web };
        place.web.put("/debian.esir", &place.bytes);
        place.web.put("/debian.esir.torrent", &place.torrent);
        std::fs::write(place.path("debian.torrent"), &place.torrent).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn url(&self) -> String {
        self.web.url("/debian.esir.torrent")
    }

    fn assert_fetched(&self, name: &str) {
        assert!(std::fs::read(self.path(name)).unwrap() == self.bytes, "other bytes");
        assert!(!self.path(&format!("{name}.part")).exists());
    }

    fn metainfo(&self) -> Metainfo {
        Metainfo::parse(&self.torrent).unwrap()
    }

    /// A complete peer with `SECRET`, in this process.
    async fn seed(&self) -> Peer {
        let metainfo = self.metainfo();
        let store = Arc::new(MemoryStore::holding(&self.bytes, metainfo.piece_length));
        let have = PieceSet::full(u32::try_from(metainfo.pieces.len()).unwrap());
        let config = PeerConfig::new(metainfo, store, have, SocketAddr::from(([127, 0, 0, 1], 0)));
        Peer::start(PeerConfig { secret: Some(SECRET), ..config }).await.unwrap()
    }
}

/// The last line of the kind, as JSON.
fn event(lines: &str, kind: &str) -> Value {
    let events = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.into_iter().rfind(|event| event["event"] == kind).unwrap()
}

fn hex(secret: [u8; 32]) -> String {
    swarm_net::Secret(secret).to_hex()
}

/// A running fetch, killed by its own id when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn without_any_peer_the_web_seed_gives_everything() {
    let place = Place::new();
    let lines = succeed(&["fetch", &place.url(), "--open", "--json", "-o", &place.text("out")]);
    place.assert_fetched("out");
    let complete = event(&lines, "complete");
    assert_eq!(complete["stats"]["web_seed_bytes"], LENGTH);
    assert_eq!(complete["stats"]["left"], 0);
    assert!(complete["seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(place.web.take_sent(), LENGTH as u64);

    let again = succeed(&["fetch", &place.url(), "--open", "-o", &place.text("out")]);
    assert!(again.contains("nothing had to be fetched"), "{again}");
    assert_eq!(place.web.take_sent(), 0);
}

#[test]
fn after_kill_9_it_goes_on_where_it_was() {
    let place = Place::new();
    place.web.allow(8 * PIECE as u64);
    let output = place.text("out");
    let arguments = ["fetch", &place.url(), "--open", "--json", "-o", &output];
    let child = Command::new(env!("CARGO_BIN_EXE_image-tools"))
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut running = Running(child);
    let lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
    let verified = |line: &str| serde_json::from_str::<Value>(line).unwrap()["stats"]["verified"].as_u64();
    // All that was allowed is there, unless the short last piece was among it.
    lines.map_while(Result::ok).find(|line| verified(line) >= Some(8)).unwrap();
    drop(running);
    assert!(!place.path("out").exists(), "a file that is not complete has no name");
    let had = place.web.take_sent();
    place.web.allow(u64::MAX);
    succeed(&arguments);
    place.assert_fetched("out");
    assert_eq!(place.web.take_sent(), LENGTH as u64 - had, "what was there was not fetched again");
}

#[test]
fn damaged_part_of_what_is_there_is_fetched_again_and_nothing_else() {
    let place = Place::new();
    let mut part = place.bytes.clone();
    part[3 * PIECE + 5] ^= 1;
    part.truncate(18 * PIECE + 9);
    part.extend([0; 3 * PIECE]);
    std::fs::write(place.path("out.part"), part).unwrap();
    succeed(&["fetch", &place.text("debian.torrent"), "--open", "-o", &place.text("out")]);
    place.assert_fetched("out");
    assert_eq!(place.web.take_sent(), (LENGTH - 17 * PIECE) as u64);
}

#[test]
fn other_file_of_that_name_is_left_alone() {
    let place = Place::new();
    std::fs::write(place.path("out"), "dear diary").unwrap();
    fail(&["fetch", &place.url(), "--open", "-o", &place.text("out")], "is not the file of this torrent");
    assert_eq!(std::fs::read(place.path("out")).unwrap(), b"dear diary");
}

#[test]
fn two_at_once_do_not_write_one_file() {
    let place = Place::new();
    let file = std::fs::File::create(place.path("out.part")).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    fail(&["fetch", &place.url(), "--open", "-o", &place.text("out")], "another fetch is writing");
}

/// The default runtime has threads of its own, so the seed runs while the command is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secret_makes_the_difference() {
    let place = Place::new();
    let seed = place.seed().await;
    let (address, torrent) = (seed.local_addr().to_string(), place.text("debian.torrent"));
    let secret = |name: &str, digits: &str| {
        std::fs::write(place.path(name), format!("{digits}\n")).unwrap();
        place.text(name)
    };
    let right = secret("right", &hex(SECRET));
    let wrong = secret("wrong", &hex([1; 32]));
    let broken = secret("broken", "abc");
    let base = [&["fetch", &torrent, "--peer", &address, "--give-up", "2"], &NOBODY[..]].concat();
    let with = |more: &[&'static str], file: &str, output: &str| -> Vec<String> {
        let mut arguments: Vec<String> = base.iter().map(ToString::to_string).collect();
        arguments.extend(more.iter().map(ToString::to_string));
        arguments.extend([file.to_owned(), "-o".to_owned(), place.text(output)]);
        arguments
    };
    fail(&with(&["--secret-file"], &wrong, "a"), "nothing has come for 2 s");
    fail(&with(&["--secret-file"], &broken, "a"), "64 hexadecimal digits");
    let mut stranger: Vec<String> = base.iter().map(ToString::to_string).collect();
    stranger.extend(["--open".to_owned(), "-o".to_owned(), place.text("a")]);
    fail(&stranger, "every peer has ended its connection");
    assert!(!place.path("a").exists());
    assert_eq!(seed.stats().uploaded, 0, "strangers get nothing");
    succeed(&with(&["--secret-file"], &right, "b"));
    place.assert_fetched("b");
    let closed = seed.stats().to_json()["closed"].clone();
    assert!(closed["wrong_proof"].as_u64() > Some(0) || closed["no_proof"].as_u64() > Some(0), "{closed}");
}

#[test]
fn what_is_missing_on_the_command_line_is_said() {
    let place = Place::new();
    let torrent = place.text("debian.torrent");
    fail(&["fetch", &torrent], "no swarm secret is given");
    fail(&["fetch", &format!("{}#12", place.url())], "not a secret of 64 hexadecimal digits");
    fail(&["fetch", "https://127.0.0.1/a.torrent", "--open"], "not a plain http:// URL");
    fail(&["fetch", &place.web.url("/nothing.torrent"), "--open"], "status 404");
    fail(&["fetch", "/nowhere/a.torrent", "--open"], "reading /nowhere/a.torrent");
    fail(&[&["fetch", &torrent, "--open"], &NOBODY[..]].concat(), "there is nobody to ask");
}

#[test]
fn torrents_that_are_none_end_in_one_sentence() {
    let place = Place::new();
    let info = |length: &str, piece: &str, pieces: usize| {
        let hashes = "x".repeat(20 * pieces);
        format!(
            "d4:infod6:lengthi{length}e4:name4:name12:piece lengthi{piece}e6:pieces{}:{hashes}ee",
            hashes.len()
        )
    };
    let check = |torrent: &[u8], expected: &str| {
        std::fs::write(place.path("bad.torrent"), torrent).unwrap();
        let web_seed = place.web.url("/debian.esir");
        let arguments = [
            "fetch",
            &place.text("bad.torrent"),
            "--open",
            "--web-seed",
            &web_seed,
            "-o",
            &place.text("out"),
        ];
        fail(&arguments, expected);
        assert!(!place.path("out").exists());
    };
    check(b"", "not a usable torrent");
    check(b"<html>no such page</html>", "not valid bencode");
    check(b"d4:infod5:filesle4:name1:aee", "several files");
    check(b"d4:infod6:lengthi1e4:name9:../../etc12:piece lengthi1e6:pieces20:aaaaaaaaaaaaaaaaaaaaee", "name");
    check(&b"l".repeat(1 << 20), "not valid bencode");
    check(info("0", "16384", 0).as_bytes(), "empty");
    check(info("-1", "16384", 1).as_bytes(), "length");
    check(info("9223372036854775807", "16384", 1).as_bytes(), "pieces are more than");
    check(info("9223372036854775807", "9223372036854775807", 1).as_bytes(), "piece length");
    check(info("16384", "1099511627776", 1).as_bytes(), "piece length");
    check(info("40000", "16384", 2).as_bytes(), "40 bytes of piece hashes do not fit 3 pieces");
    check(info(&(1_u64 << 43).to_string(), &(64 << 20).to_string(), 1 << 17).as_bytes(), "there is room for");
    check(&vec![b'9'; 9 << 20], "longer than");
    place.web.put("/endless.torrent", &vec![b'd'; 20 << 20]);
    fail(&["fetch", &place.web.url("/endless.torrent"), "--open"], "malformed or too long");
}

#[test]
fn tracker_that_talks_nonsense_is_named() {
    let place = Place::new();
    let torrent = place.text("debian.torrent");
    let check = |reply: &[u8], expected: &str| {
        place.web.put("/announce", reply);
        let tracker = place.web.url("/announce");
        let output = place.text("out");
        let arguments = ["fetch", &torrent, "--open", "--web-seed", "none", "--tracker", &tracker];
        fail(&[&arguments[..], &["--give-up", "1", "-o", &output]].concat(), expected);
    };
    check(b"<html>", "the tracker's reply is malformed");
    check(b"d14:failure reason9:no thankse", "it refuses us: no thanks");
    check(&[b"d8:intervali1e5:peers2000000:".as_slice(), &vec![7; 2_000_000], b"e"].concat(), "too long");
}

#[test]
fn signed_image_comes_with_its_companions_and_a_strangers_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let text = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    std::fs::create_dir_all(directory.path().join("tree/etc")).unwrap();
    random_file(&directory.path().join("tree/etc/random"), 3 << 20);
    succeed(&["keygen", "-o", &text("site"), "--no-password"]);
    succeed(&["keygen", "-o", &text("stranger"), "--no-password"]);
    succeed(&["capture", &text("tree"), "-o", &text("a.esir"), "--sign", &text("site.key")]);
    let web = Web::start();
    for suffix in ["", ".torrent", ".manifest", ".manifest.minisig", ".pieces"] {
        web.put(&format!("/a.esir{suffix}"), &std::fs::read(text(&format!("a.esir{suffix}"))).unwrap());
    }
    let (url, web_seed, output) = (web.url("/a.esir.torrent"), web.url("/a.esir"), text("out.esir"));
    let with = |key: &str| {
        succeed_or_fail(&["fetch", &url, "--open", "--web-seed", &web_seed, "-o", &output, "--trust", key])
    };
    assert!(with(&text("stranger.pub")).unwrap_err().contains("the image cannot be trusted"));
    assert!(!directory.path().join("out.esir").exists());
    with(&text("site.pub")).unwrap();
    succeed(&["verify", &output, "--trust", &text("site.pub")]);

    let mut pieces = std::fs::read(text("a.esir.pieces")).unwrap();
    pieces[5] ^= 1;
    web.put("/a.esir.pieces", &pieces);
    assert!(with(&text("site.pub")).unwrap_err().contains("not the one that the manifest names"));
    web.put("/a.esir.torrent", &Place::new().torrent);
    assert!(with(&text("site.pub")).unwrap_err().contains("the torrent is not the one"));
}

fn succeed_or_fail(arguments: &[&str]) -> Result<(), String> {
    let output = support::tool(arguments);
    if output.status.success() { Ok(()) } else { Err(String::from_utf8(output.stderr).unwrap()) }
}

/// What test beds rely on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mirror_checks_keeps_nothing_and_serves_others() {
    let place = Place::new();
    let seed = place.seed().await;
    let (address, torrent) = (seed.local_addr().to_string(), place.text("debian.torrent"));
    let (secret, source) = (place.text("secret"), place.text("source"));
    std::fs::write(&secret, hex(SECRET)).unwrap();
    let common = [&["fetch", &torrent, "--secret-file", &secret, "--json"], &NOBODY[..]].concat();
    let child = Command::new(env!("CARGO_BIN_EXE_image-tools"))
        .args(&common)
        .args(["--peer", &address, "--mirror", &source, "--wait-for-go", "--seed-for", "forever"])
        .args(["--listen", "127.0.0.1:0"])
        .current_dir(place.directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut mirror = Running(child.unwrap());
    let mut lines = BufReader::new(mirror.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let ready = event(&lines.next().unwrap(), "ready");
    assert_eq!(seed.stats().peers, 0, "nobody is connected to before go");
    std::io::Write::write_all(&mut mirror.0.stdin.take().unwrap(), b"go\n").unwrap();
    lines.find(|line| line.contains("\"complete\"")).unwrap();
    seed.shutdown().await;
    let (from, output) = (ready["peer"].as_str().unwrap(), place.text("out"));
    succeed(&[&common[..], &["--peer", from, "-o", &output]].concat());
    place.assert_fetched("out");
    assert!(!place.path("debian.esir").exists() && !place.path("debian.esir.part").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peer_that_gives_damaged_pieces_is_named_and_does_no_harm() {
    let place = Place::new();
    let (secret, torrent) = (place.text("secret"), place.text("debian.torrent"));
    std::fs::write(&secret, hex(SECRET)).unwrap();
    std::fs::write(place.path("debian.esir"), &place.bytes).unwrap();
    let common = [&["fetch", &torrent, "--secret-file", &secret, "--json"], &NOBODY[..3]].concat();
    let child = Command::new(env!("CARGO_BIN_EXE_image-tools"))
        .args(&common)
        .args(["none", "--peer", "127.0.0.1:9", "--corrupt-every", "10", "--seed-for", "forever"])
        .args(["--listen", "127.0.0.1:0"])
        .current_dir(place.directory.path())
        .stdout(Stdio::piped())
        .spawn();
    let mut broken = Running(child.unwrap());
    let mut lines = BufReader::new(broken.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let ready = event(&lines.next().unwrap(), "ready");
    let broken_at = ready["peer"].as_str().unwrap();
    // The web seed brings what the broken peer can't give.
    let (web_seed, output) = (place.web.url("/debian.esir"), place.text("out"));
    let arguments = [&common[..], &[&web_seed, "--peer", broken_at, "-o", &output]].concat();
    let said = succeed(&arguments);
    place.assert_fetched("out");
    assert_eq!(event(&said, "banned")["peer"], broken_at);
    assert!(event(&said, "complete")["stats"]["corrupt_pieces"].as_u64() >= Some(2));
}

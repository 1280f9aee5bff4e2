//! A swarm of the real programs on a bed, whose members can be killed and started again one by one.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use bed::{Bed, Mbit, Place, Shape, Source};
use serde_json::Value;

/// Nothing here takes longer unless it hangs; a busy machine is no fault.
const PATIENCE: Duration = Duration::from_secs(150);
const LOOKED_AT_EVERY: Duration = Duration::from_millis(50);
const HTTP_PORT: u16 = 8080;
pub(crate) const PEER_PORT: u16 = 6881;
const SECRET: &str = "6661756c746661756c746661756c746661756c746661756c746661756c746661";

/// The machine has few processors: one bed at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Why these tests can't be run here.
pub(crate) fn why_skipped() -> Option<String> {
    if std::env::var_os("ESIR_SKIP_VM").is_some() {
        return Some("ESIR_SKIP_VM is set".into());
    }
    (!nix::unistd::Uid::effective().is_root()).then(|| "namespaces need root".into())
}

/// The newest build of a program: the tests of this package don't build those of others.
fn program(name: &str) -> PathBuf {
    let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
    let built = ["release", "debug"].map(|profile| target.join(profile).join(name));
    let newest = built.into_iter().filter_map(|path| Some((modified(&path)?, path))).max();
    newest.unwrap_or_else(|| panic!("{name} has not been built; run scripts/build first")).1
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}

/// A running program and what it said.
pub(crate) struct Member {
    child: Child,
    said: Arc<Mutex<Vec<Value>>>,
    log: PathBuf,
}

impl Member {
    /// All events of this kind.
    pub(crate) fn events(&self, kind: &str) -> Vec<Value> {
        let said = self.said.lock().unwrap();
        said.iter().filter(|line| line["event"] == kind).cloned().collect()
    }

    pub(crate) fn complete(&self) -> Option<Value> {
        self.events("complete").pop()
    }

    /// Bytes that it has, checked and stored.
    pub(crate) fn done_bytes(&self) -> u64 {
        self.events("progress").last().and_then(|line| line["done"].as_u64()).unwrap_or(0)
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn id(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    fn last_words(&self) -> String {
        let last = self.said.lock().unwrap().last().map(Value::to_string).unwrap_or_default();
        format!("{last}\n{}", fs::read_to_string(&self.log).unwrap_or_default())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server and nodes that fetch from it.
pub(crate) struct Swarm {
    pub(crate) server: Option<Member>,
    pub(crate) nodes: Vec<Option<Member>>,
    pub(crate) bed: Bed,
    pub(crate) source: Source,
    names: u32,
    _alone: MutexGuard<'static, ()>,
}

impl Swarm {
    /// A bed with a file at its server; nothing runs yet.
    pub(crate) fn new(nodes: usize, rate: f64, mib: u64) -> Swarm {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let bed = Bed::new(Shape::new(nodes, Some(Mbit(rate)))).unwrap();
        let source = Source::make(&bed.dir().join("image"), mib << 20).unwrap();
        fs::write(bed.dir().join("secret"), SECRET).unwrap();
        let nodes = (0..nodes).map(|_| None).collect();
        Swarm { server: None, nodes, bed, source, names: 0, _alone: alone }
    }

    fn secret(&self) -> PathBuf {
        self.bed.dir().join("secret")
    }

    /// Where a node stores the file.
    pub(crate) fn file(&self, node: usize) -> PathBuf {
        self.bed.dir().join(format!("n{node}"))
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}:{HTTP_PORT}/{path}", self.bed.address(Place::Server))
    }

    /// Starts the server, or starts it again at the same addresses with the same secret.
    pub(crate) fn start_server(&mut self) {
        let address = self.bed.address(Place::Server);
        let argv = [
            program("pxe-server").into_os_string(),
            "seed".into(),
            self.source.path.clone().into(),
            "--http".into(),
            format!("{address}:{HTTP_PORT}").into(),
            "--peers".into(),
            format!("{address}:{PEER_PORT}").into(),
            "--json".into(),
            "--secret-file".into(),
            self.secret().into(),
        ];
        self.server = Some(self.start(Place::Server, &argv));
        self.wait("the server is ready", |swarm| !swarm.server().events("ready").is_empty());
    }

    /// Starts a node's fetch, or starts it again.
    pub(crate) fn start_node(&mut self, node: usize, more: &[&str]) {
        let address = self.bed.address(Place::Node(node));
        let mut argv: Vec<OsString> = vec![
            program("image-tools").into(),
            "fetch".into(),
            self.url("image.torrent").into(),
            "--listen".into(),
            format!("{address}:{PEER_PORT}").into(),
            "--json".into(),
            "--seed-for".into(),
            "forever".into(),
            "--secret-file".into(),
            self.secret().into(),
            "-o".into(),
            self.file(node).into(),
        ];
        argv.extend(more.iter().map(OsString::from));
        self.nodes[node] = Some(self.start(Place::Node(node), &argv));
    }

    pub(crate) fn start_all_nodes(&mut self) {
        (0..self.nodes.len()).for_each(|node| self.start_node(node, &[]));
    }

    fn start(&mut self, place: Place, argv: &[OsString]) -> Member {
        self.names += 1;
        let log = self.bed.dir().join(format!("log-{}", self.names));
        let mut command = self.bed.command(place, argv);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(fs::File::create(&log).unwrap());
        let mut child = command.spawn().unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let (output, heard) = (child.stdout.take().unwrap(), said.clone());
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Ok(value) = serde_json::from_str(&line) {
                    heard.lock().unwrap().push(value);
                }
            }
        });
        Member { child, said, log }
    }

    pub(crate) fn server(&mut self) -> &mut Member {
        self.server.as_mut().expect("the server runs")
    }

    pub(crate) fn node(&mut self, node: usize) -> &mut Member {
        self.nodes[node].as_mut().expect("the node runs")
    }

    /// Waits until `holds`; the test fails if it never does.
    pub(crate) fn wait(&mut self, what: &str, mut holds: impl FnMut(&mut Swarm) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < end, "never: {what}\n{}", self.report());
            thread::sleep(LOOKED_AT_EVERY);
        }
    }

    fn report(&self) -> String {
        let words = |(number, member): (usize, &Option<Member>)| {
            Some(format!("node {number}: {}", member.as_ref()?.last_words()))
        };
        self.nodes.iter().enumerate().filter_map(words).collect::<Vec<_>>().join("\n")
    }

    /// Waits until these nodes are complete, then compares each byte.
    pub(crate) fn complete_and_right(&mut self, nodes: impl IntoIterator<Item = usize>) {
        for node in nodes {
            self.wait(&format!("node {node} is complete"), |swarm| swarm.node(node).complete().is_some());
            assert!(self.source.equals(&self.file(node)).unwrap(), "node {node} has other bytes");
        }
    }

    /// Whether the nodes together store every piece, by their bytes.
    pub(crate) fn nodes_hold_everything(&self) -> bool {
        let piece = usize::try_from(self.source.piece_bytes()).unwrap();
        let wanted = fs::read(&self.source.path).unwrap();
        let mut held = vec![false; wanted.len().div_ceil(piece)];
        for node in 0..self.nodes.len() {
            let whole = fs::read(self.file(node));
            let Ok(bytes) = whole.or_else(|_| fs::read(self.file(node).with_extension("part"))) else {
                continue;
            };
            let pairs = wanted.chunks(piece).zip(bytes.chunks(piece));
            held.iter_mut().zip(pairs).for_each(|(held, (wanted, stored))| *held |= wanted == stored);
        }
        held.iter().all(|held| *held)
    }
}

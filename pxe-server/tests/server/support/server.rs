//! The real program on loopback ports of its own; killed when dropped.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::http::{Answer, send};
use super::image::{make_bundle, make_image, make_key};

const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A state directory, an image, and the server on them.
pub(crate) struct Server {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) image: PathBuf,
    pub(crate) object: String,
    pub(crate) admin: SocketAddr,
    pub(crate) agent: SocketAddr,
    pub(crate) http: SocketAddr,
    options: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// Everything that a start needs, and the server not yet started.
    pub(crate) fn prepare(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let object = make_bundle(&state.join("bundles/default"));
        let trusted = state.join("trusted");
        std::fs::create_dir_all(&trusted).unwrap();
        let (key, _) = make_key(&trusted);
        let image = make_image(folder.path(), "debian-test", Some(&key));
        let [http, agent, peer, admin] = free_ports();
        let site =
            format!("[server]\nhttp_port = {http}\nagent_port = {agent}\npeer_port = {peer}\nmode = 'off'\n");
        std::fs::write(folder.path().join("site.toml"), site).unwrap();
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let (admin, agent, http) = (local(admin), local(agent), local(http));
        Self { folder, image, object, admin, agent, http, options, child: None }
    }

    /// A server that answers.
    pub(crate) async fn start(options: &[&str]) -> Self {
        let mut server = Self::prepare(options);
        server.start_again().await;
        server
    }

    /// Starts on what the last one left.
    pub(crate) async fn start_again(&mut self) {
        let log = self.folder.path().join("server.log");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let child = self.command().stdout(Stdio::null()).stderr(log).spawn().unwrap();
        self.child = Some(child);
        let started = Instant::now();
        while self.get("/v1/status").await.is_err() {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the server ended: {}", self.log());
            assert!(started.elapsed() < START_TIMEOUT, "the server does not answer: {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// More lines of the site file, before the server starts.
    pub(crate) fn add_to_site(&self, text: &str) {
        let path = self.folder.path().join("site.toml");
        let site = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, site + text).unwrap();
    }

    /// `pxe-server serve` as this server is started.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pxe-server"));
        command
            .arg("serve")
            .arg("--image")
            .arg(&self.image)
            .arg("--state")
            .arg(self.state())
            .arg("--site")
            .arg(self.folder.path().join("site.toml"))
            .arg("--admin")
            .arg(self.admin.to_string())
            .args(&self.options);
        command
    }

    /// A start that must fail: its one sentence.
    pub(crate) fn refusal(&self) -> String {
        let output = self.command().output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let error = String::from_utf8(output.stderr).unwrap();
        let said: Vec<&str> = error.lines().filter(|line| line.starts_with("pxe-server: ")).collect();
        assert_eq!(said.len(), 1, "{error}");
        said[0].to_owned()
    }

    /// Runs another subcommand against this server.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let admin = format!("http://{}", self.admin);
        let mut command = Command::new(env!("CARGO_BIN_EXE_pxe-server"));
        command.args(arguments).args(["--admin", &admin]).output().unwrap()
    }

    /// As a power cut would.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("the server runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// By SIGTERM; how it ended.
    pub(crate) fn terminate(&mut self) -> std::process::ExitStatus {
        let mut child = self.child.take().expect("the server runs");
        let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        child.wait().unwrap()
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default()
    }

    /// The pin that the initrd would carry.
    pub(crate) fn pin(&self) -> String {
        let certificate = CertificateDer::from_pem_file(self.state().join("tls/cert.pem")).unwrap();
        let certificate = webpki::EndEntityCert::try_from(&certificate).unwrap();
        hex::encode(Sha256::digest(certificate.subject_public_key_info().as_ref()))
    }

    /// The public half of the task key, as the initrd would carry it.
    pub(crate) fn task_key(&self) -> node_api::VerifyingKey {
        let secret = std::fs::read_to_string(self.state().join("task.key")).unwrap();
        let secret: [u8; 32] = hex::decode(secret.trim()).unwrap().try_into().unwrap();
        node_api::SigningKey::from_bytes(&secret).verifying_key()
    }

    /// An answer of the admin API; an error if nothing answers.
    pub(crate) async fn get(&self, path: &str) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        let request = Request::get(path).header("host", self.admin.to_string()).body(Full::default())?;
        send(self.admin, None, request).await
    }

    pub(crate) async fn json(&self, path: &str) -> Value {
        let answer = self.get(path).await.unwrap();
        assert!(answer.status.is_success(), "{answer:?}");
        answer.json()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        let request = Request::post(path)
            .header("host", self.admin.to_string())
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_string())))
            .unwrap();
        send(self.admin, None, request).await.unwrap()
    }

    /// A boot script's token for this machine; `None` when it boots from its own disk.
    pub(crate) async fn token(&self, mac: &str) -> Option<String> {
        let answer = self.post("/v1/boot", &serde_json::json!({ "mac": mac })).await;
        assert!(answer.status.is_success(), "{answer:?}");
        answer.json::<Value>()["token"].as_str().map(str::to_owned)
    }

    /// The state word of a node.
    pub(crate) async fn node_state(&self, name: &str) -> String {
        self.json(&format!("/v1/nodes/{name}")).await["state"].as_str().unwrap().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Ports that nobody listens on just now. They lie below the range that outgoing connections use.
fn free_ports() -> [u16; 4] {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    let base = 20_000 + u16::try_from(std::process::id() % 1000).unwrap() * 12;
    let mut ports =
        std::iter::repeat_with(|| base.wrapping_add(NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)))
            .filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    // Behind the peer port are those of further images' seeds.
    let [http, agent, admin, peer, ..]: [u16; 8] = std::array::from_fn(|_| ports.next().unwrap());
    [http, agent, peer, admin]
}

/// A file of a test's folder, written.
pub(crate) fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

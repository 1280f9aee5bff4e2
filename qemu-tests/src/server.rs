//! The real `pxe-server` in the lab's namespace.
//!
//! Never reaches into the server's state: what a story asks or orders goes through its command line or its API.

use std::ffi::OsStr;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::time::{Instant, sleep};

use crate::admin::Admin;
use crate::image::BootBundle;
use crate::net::{BRIDGE, Network};
use crate::session::Session;
use crate::vm::FIXED_ADDRESSES;

/// Where the server offers its admin API inside the namespace.
const ADMIN_INSIDE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// From start to the first answer; the server hashes its image's pieces on the way.
const ANSWERS_MAX: Duration = Duration::from_secs(120);
/// Lines of the server's log that an error quotes.
const QUOTED_LINES: usize = 15;

/// How a lab's server is started.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    /// What it deploys; `None` where the site file says it.
    pub image: Option<PathBuf>,
    /// Public keys that may sign images.
    pub trusted: Vec<PathBuf>,
    /// Unknown machines need no approval.
    pub approve_all: bool,
    /// A forged image is served all the same, so that the node is the one to refuse it.
    pub leave_signatures_to_nodes: bool,
    /// A site file.
    pub site: Option<PathBuf>,
    /// Port on the machine's loopback for the dashboard; 0 takes any.
    pub dashboard_port: u16,
}

/// A `pxe-server` process with its state directory.
#[derive(Debug)]
pub struct Server {
    program: PathBuf,
    options: ServerOptions,
    state: PathBuf,
    log: PathBuf,
    admin: Admin,
    process: Mutex<Option<Child>>,
}

impl Server {
    /// Lays out a state directory with boot bundle and trusted keys; starts nothing yet.
    pub(crate) fn prepare(
        program: &Path,
        options: ServerOptions,
        bundle: &BootBundle,
        session: &Session,
        network: &Network,
    ) -> Result<Self> {
        let state = session.dir().join("server");
        for dir in ["bundles", "trusted"] {
            fs::create_dir_all(state.join(dir)).with_context(|| format!("making {}", state.display()))?;
        }
        symlink(&bundle.dir, state.join("bundles/default")).context("linking the boot bundle")?;
        for (number, key) in options.trusted.iter().enumerate() {
            let copy = state.join(format!("trusted/{number}.pub"));
            fs::copy(key, copy).with_context(|| format!("copying {}", key.display()))?;
        }
        let outside = network.forward(options.dashboard_port, ADMIN_INSIDE)?;
        let log = session.dir().join("server.log");
        let process = Mutex::new(None);
        Ok(Self { program: program.to_owned(), options, state, log, admin: Admin::new(outside), process })
    }

    /// Starts the server (also again after [`Self::kill`]) and waits until its admin API answers.
    pub(crate) async fn start(&self, session: &Session, network: &Network) -> Result<()> {
        self.spawn(session, network)?;
        let until = Instant::now() + ANSWERS_MAX;
        while self.admin.nodes().await.is_err() {
            if !self.is_running() || Instant::now() > until {
                bail!("pxe-server does not answer; its log ends:\n{}", self.log_tail(QUOTED_LINES));
            }
            sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    fn spawn(&self, session: &Session, network: &Network) -> Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut serve = network.command(&self.program);
        serve.args(["serve", "--interface", BRIDGE]);
        serve.arg("--admin").arg(ADMIN_INSIDE.to_string()).arg("--state").arg(&self.state);
        serve.args(["--boot-arguments", FIXED_ADDRESSES]);
        if let Some(image) = &self.options.image {
            serve.arg("--image").arg(image);
        }
        if self.options.approve_all {
            serve.arg("--approve-all");
        }
        if self.options.leave_signatures_to_nodes {
            serve.arg("--leave-signatures-to-nodes");
        }
        if let Some(site) = &self.options.site {
            serve.arg("--site").arg(site);
        }
        serve.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = serve.spawn().context("starting pxe-server")?;
        let known = session.owns_process(child.id(), "pxe-server");
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        known.with_context(|| self.log_tail(QUOTED_LINES))
    }

    /// Kills the server as a power cut would: with SIGKILL, in mid-write.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&self) -> Result<()> {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut child) = process.take() else { bail!("pxe-server does not run") };
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Its admin API.
    #[must_use]
    pub const fn admin(&self) -> &Admin {
        &self.admin
    }

    /// Where people see the dashboard.
    #[must_use]
    pub fn dashboard(&self) -> String {
        format!("http://{}/", self.admin.address())
    }

    /// The server's log file.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The end of its log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        let text = fs::read(&self.log).map(|bytes| crate::console::plain(&bytes)).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
    }

    /// Runs the server's command line as an admin would, inside the namespace, and returns what it says.
    ///
    /// # Errors
    /// An exit code that is not 0, with the command's words.
    pub fn command_line<S: AsRef<OsStr>>(
        &self,
        network: &Network,
        words: impl IntoIterator<Item = S>,
    ) -> Result<String> {
        let mut command = network.command(&self.program);
        command.args(words).stdin(Stdio::null());
        let output = command.output().with_context(|| format!("running {command:?}"))?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if !output.status.success() {
            bail!("{command:?}: {said} {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(said)
    }

    fn is_running(&self) -> bool {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        process.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

//! A lab ties network, server and machines together; everything goes when it is dropped.
//!
//! Never shares anything with another lab: several run beside each other, in one process or in several.

mod neighbour;
mod node;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

use crate::image::{BootBundle, TestImage};
use crate::net::Network;
use crate::programs::Programs;
use crate::server::{Server, ServerOptions};
use crate::session::Session;

pub use neighbour::Neighbour;
pub use node::{InstalledSystem, Node, NodeBuilder};

/// First bytes of every machine's hardware address: QEMU's own prefix and a mark.
const MAC_PREFIX: [u8; 5] = [0x52, 0x54, 0x00, 0x77, 0x00];

/// What a lab deploys and how its server runs.
#[derive(Clone, Debug)]
pub struct LabOptions {
    /// The programs under test.
    pub programs: Programs,
    /// Boots the agent.
    pub bundle: BootBundle,
    /// How the server is started.
    pub server: ServerOptions,
    /// Whether stories say on standard error what happens.
    pub quiet: bool,
}

impl LabOptions {
    /// The cached Debian image, deployed by a server that trusts its key; made first where the cache has none.
    ///
    /// # Errors
    /// Programs are not built, or the image or the bundle cannot be made.
    pub fn debian_12() -> Result<(Self, TestImage)> {
        Self::of(crate::image::debian_12)
    }

    /// As [`Self::debian_12`] with another image.
    ///
    /// # Errors
    /// As [`Self::debian_12`].
    pub fn of(image: impl FnOnce(&Programs) -> Result<TestImage>) -> Result<(Self, TestImage)> {
        let programs = Programs::find()?;
        let image = image(&programs)?;
        let bundle = crate::image::boot_bundle(&programs)?;
        let trusted = vec![image.public_key.clone()];
        let server = ServerOptions { image: Some(image.image.clone()), trusted, ..ServerOptions::default() };
        Ok((Self { programs, bundle, server, quiet: false }, image))
    }

    /// Writes `text` as `site.toml` into `dir`, for the server to start with; returns where it lies.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_site(&mut self, dir: &Path, text: &str) -> Result<PathBuf> {
        let path = dir.join("site.toml");
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        self.server.site = Some(path.clone());
        Ok(path)
    }
}

/// A namespace with a server in it, and the machines that stories add.
#[derive(Debug)]
pub struct Lab {
    shared: Arc<Shared>,
}

/// What the lab and its nodes hold together. The server goes before the network, the session last.
#[derive(Debug)]
struct Shared {
    server: Server,
    network: Arc<Network>,
    machines: AtomicU8,
    begun: Instant,
    quiet: bool,
    session: Session,
}

impl Lab {
    /// Makes the network and starts the server.
    ///
    /// # Errors
    /// Not root, or the server does not come up; the error quotes its log.
    pub async fn start(options: LabOptions) -> Result<Self> {
        let session = Session::begin()?;
        let network = Arc::new(Network::new(&session)?);
        let program = &options.programs.pxe_server;
        let server = Server::prepare(program, options.server, &options.bundle, &session, &network)?;
        server.start(&session, &network).await?;
        let (begun, machines) = (Instant::now(), AtomicU8::new(1));
        let shared = Shared { server, network, machines, begun, quiet: options.quiet, session };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Begins to describe a machine.
    #[must_use]
    pub fn node(&self, name: &str) -> NodeBuilder {
        let number = self.shared.machines.fetch_add(1, Ordering::Relaxed);
        let [a, b, c, d, e] = MAC_PREFIX;
        NodeBuilder::new(Arc::clone(&self.shared), name, [a, b, c, d, e, number])
    }

    /// Another machine on the nodes' Ethernet.
    ///
    /// # Errors
    /// Its namespace cannot be made.
    pub fn neighbour(&self, name: &str, address: Ipv4Addr) -> Result<Neighbour> {
        let network = self.shared.network.beside(&self.shared.session, name, address)?;
        Ok(Neighbour::new(name, network, Arc::clone(&self.shared)))
    }

    /// A router with `uplink` on the nodes' Ethernet and `inside` on a network behind it.
    ///
    /// # Errors
    /// Its namespace cannot be made.
    pub fn router(&self, name: &str, uplink: Ipv4Addr, inside: Ipv4Addr) -> Result<Neighbour> {
        let network = self.shared.network.behind_router(&self.shared.session, name, (uplink, inside))?;
        Ok(Neighbour::new(name, network, Arc::clone(&self.shared)))
    }

    /// The server.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.shared.server
    }

    /// The network.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.shared.network
    }

    /// Where consoles, disks and logs lie while the lab lives.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.shared.session.dir()
    }

    /// Starts the server again after [`Server::kill`].
    ///
    /// # Errors
    /// It does not come up.
    pub async fn start_server_again(&self) -> Result<()> {
        self.shared.server.start(&self.shared.session, &self.shared.network).await
    }

    /// Runs the server's command line in the namespace, as its admin would.
    ///
    /// # Errors
    /// The command fails; its words are the error.
    pub fn admin_says(&self, words: &[&str]) -> Result<String> {
        self.shared.note(&format!("admin: pxe-server {}", words.join(" ")));
        self.shared.server.command_line(&self.shared.network, words)
    }

    /// Approves nodes together, as an admin does.
    ///
    /// # Errors
    /// The server does not know one of them.
    pub async fn approve(&self, nodes: &[&Node]) -> Result<()> {
        for node in nodes {
            let name = node.name_at_server().await?;
            self.admin_says(&["approve", &name])?;
        }
        Ok(())
    }

    /// Runs a command on an installed node over ssh from inside the namespace; the node must show one of
    /// `host_keys`.
    ///
    /// # Errors
    /// Another host key, no connection, or an exit code that is not 0.
    pub async fn ssh(
        &self,
        key: &Path,
        address: Ipv4Addr,
        host_keys: &[String],
        line: &str,
    ) -> Result<String> {
        self.ssh_as("root", key, address, host_keys, line).await
    }

    /// As [`Self::ssh`] with another user.
    ///
    /// # Errors
    /// As [`Self::ssh`].
    pub async fn ssh_as(
        &self,
        user: &str,
        key: &Path,
        address: Ipv4Addr,
        host_keys: &[String],
        line: &str,
    ) -> Result<String> {
        let mut ssh = Command::from(self.shared.network.command("ssh"));
        ssh.args(self.ssh_options(key, address, host_keys)?);
        ssh.arg(format!("{user}@{address}")).arg(line).stdin(Stdio::null()).kill_on_drop(true);
        let output = ssh.output().await.context("running ssh")?;
        if !output.status.success() {
            bail!("ssh to {address}, `{line}`: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// What ssh needs to reach an address in the namespace, without anything of the user who runs this.
    ///
    /// # Errors
    /// The lab's directory cannot be written.
    pub fn ssh_options(&self, key: &Path, address: Ipv4Addr, host_keys: &[String]) -> Result<Vec<String>> {
        let known = self.dir().join(format!("known-{address}"));
        let lines: String = host_keys.iter().map(|key| format!("{address} {key}\n")).collect();
        std::fs::write(&known, lines)?;
        let private = private_copy(key, self.dir())?;
        let mut options = vec!["-i".to_owned(), private.display().to_string()];
        let known = format!("UserKnownHostsFile={}", known.display());
        for option in [known.as_str(), "StrictHostKeyChecking=yes", "BatchMode=yes", "ConnectTimeout=30"] {
            options.extend(["-o".to_owned(), option.to_owned()]);
        }
        Ok(options)
    }

    /// Says something on standard error with the time since the lab began.
    pub fn note(&self, text: &str) {
        self.shared.note(text);
    }
}

impl Shared {
    fn note(&self, text: &str) {
        if !self.quiet {
            eprintln!("  {:7.1} s  {text}", self.begun.elapsed().as_secs_f64());
        }
    }
}

/// ssh refuses a key that others can read; the cache may be shared.
fn private_copy(key: &Path, dir: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let copy = dir.join("ssh-key");
    if !copy.is_file() {
        std::fs::copy(key, &copy).with_context(|| format!("copying {}", key.display()))?;
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o600))?;
    }
    Ok(copy)
}

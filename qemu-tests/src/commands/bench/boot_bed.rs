//! A server that boots nodes, and a place from which as many nodes as wanted ask it, on one link.
//!
//! Never starts a virtual machine: the nodes are sockets. Each has an address of its own in [`NODES`], which the
//! load's namespace owns as a whole, so that none needs an entry in the kernel's neighbour table.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::future::Future;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use bed::{Bed, Mbit, Place, Shape};
use boot_bundle::{BundleManifest, FORMAT_VERSION, FileRef};
use nix::sched::{CloneFlags, setns};
use qemu_tests::command::run;
use qemu_tests::programs::Programs;

use super::memory::peak_kib;

/// The nodes' network; the load's namespace takes packets for all of it.
pub(super) const NODES: &str = "10.79.0.0/16";
/// Where relayed requests come from.
pub(super) const RELAY: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 1);
/// A server hashes its bundle and opens its store first.
const STARTS_MAX: Duration = Duration::from_secs(20);

/// A program that ends with its handle.
pub(super) struct Running {
    child: Child,
    name: String,
}

/// Namespaces, link and files.
pub(super) struct BootBed {
    bed: Bed,
}

impl BootBed {
    /// Server and load on one bridge, with links of this rate.
    pub(super) fn new(rate: Option<Mbit>) -> Result<Self> {
        let bed = Bed::new(Shape::new(1, rate))?;
        let booted = Self { bed };
        let load = booted.address(Place::Node(0)).to_string();
        booted.ip(Place::Node(0), &["route", "add", "local", NODES, "dev", "lo"])?;
        booted.ip(Place::Server, &["route", "add", NODES, "via", &load])?;
        let limit = "/proc/sys/net/core/rmem_max";
        ensure!(Path::new(limit).exists(), "{limit} is missing: this kernel has no network");
        Ok(booted)
    }

    /// A directory in memory.
    pub(super) fn dir(&self) -> &Path {
        self.bed.dir()
    }

    /// Address of a place.
    pub(super) fn address(&self, place: Place) -> Ipv4Addr {
        self.bed.address(place)
    }

    /// One address more for the server, so that several servers have the same port.
    pub(super) fn add_server_address(&self, last: u8) -> Result<Ipv4Addr> {
        let [a, b, c, _] = self.address(Place::Server).octets();
        let address = Ipv4Addr::new(a, b, c, last);
        self.ip(Place::Server, &["address", "add", &format!("{address}/24"), "dev", "eth0"])?;
        Ok(address)
    }

    /// `ip` inside a place.
    pub(super) fn ip(&self, place: Place, words: &[&str]) -> Result<()> {
        run(self.command(place, "ip").args(words))
    }

    /// A command inside a place.
    pub(super) fn command(&self, place: Place, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.bed.namespace(place).display())).arg(program);
        command
    }

    /// Starts a server; what it says goes to `NAME.log` in [`Self::dir`].
    pub(super) fn start(&self, name: &str, command: &mut Command) -> Result<Running> {
        let log = File::create(self.log(name)).context("making a log")?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("starting {name}"))?;
        Ok(Running { child, name: name.to_owned() })
    }

    /// The end of a server's log.
    pub(super) fn said(&self, name: &str) -> String {
        let text = fs::read_to_string(self.log(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(8)..).unwrap_or_default().join("\n")
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir().join(format!("{name}.log"))
    }

    /// Starts `pxe-server` with a bundle and an image that are right in all that it looks at, and waits for it.
    pub(super) fn start_ours(&self, programs: &Programs, address: Ipv4Addr, site: &str) -> Result<Running> {
        let (state, tree) = (self.dir().join("state"), self.dir().join("tree"));
        make_bundle(&state.join("bundles/default"))?;
        fs::create_dir_all(tree.join("etc"))?;
        fs::write(tree.join("etc/hostname"), "bench\n")?;
        let image = self.dir().join("bench.esir");
        run(Command::new(&programs.image_tools).arg("capture").arg(&tree).arg("-o").arg(&image))?;
        let site_file = self.dir().join("site.toml");
        fs::write(&site_file, site)?;
        let mut serve = self.command(Place::Server, &programs.pxe_server);
        serve
            .arg("serve")
            .arg("--state")
            .arg(&state)
            .arg("--image")
            .arg(&image)
            .arg("--site")
            .arg(&site_file);
        serve.args(["--approve-all", "--allow-unsigned", "--boot-files"]).arg(self.boot_files());
        serve.env("RUST_LOG", "warn");
        let mut running = self.start("ours", &mut serve)?;
        let until = Instant::now() + STARTS_MAX;
        let answers = async move || Ok(tokio::net::TcpStream::connect((address, 80)).await.is_ok());
        while !self.in_load(answers)? {
            if Instant::now() > until || !running.is_alive() {
                bail!("pxe-server does not answer: {}", self.said("ours"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(running)
    }

    /// Where all servers have their boot programs.
    pub(super) fn boot_files(&self) -> PathBuf {
        self.dir().join("boot")
    }

    /// Writes a boot program of so many bytes that no compression makes shorter.
    pub(super) fn boot_file(&self, name: &str, bytes: usize) -> Result<()> {
        fs::create_dir_all(self.boot_files())?;
        fs::write(self.boot_files().join(name), noise(name, bytes)).context("writing a boot program")
    }

    /// Runs `work` on one thread whose network is the load's.
    pub(super) fn in_load<T: Send, F: Future<Output = Result<T>>>(
        &self,
        work: impl FnOnce() -> F + Send,
    ) -> Result<T> {
        let path = self.bed.namespace(Place::Node(0));
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let namespace = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
                setns(&namespace, CloneFlags::CLONE_NEWNET).context("entering the load's namespace")?;
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                tokio::task::LocalSet::new().block_on(&runtime, work())
            });
            thread.join().map_err(|_| anyhow!("the load panicked"))?
        })
    }
}

impl Running {
    /// Whether it has not ended by itself.
    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Most memory that it has had, KiB.
    pub(super) fn peak_kib(&self) -> Option<u64> {
        peak_kib(self.child.id())
    }

    /// What it is called.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes of the kernel and initrd that nodes fetch: Debian's kernel, and an initrd with server NIC drivers.
pub(super) const KERNEL_BYTES: usize = 8 << 20;
pub(super) const INITRD_BYTES: usize = 5 << 20;

fn make_bundle(root: &Path) -> Result<()> {
    fs::create_dir_all(root)?;
    let write = |name: &str, bytes: &[u8]| -> Result<FileRef> {
        fs::write(root.join(name), bytes).with_context(|| format!("writing {name}"))?;
        Ok(FileRef::of(bytes))
    };
    let manifest = BundleManifest {
        version: FORMAT_VERSION,
        kernel_release: "6.1.0-bench".into(),
        architecture: "x86_64".into(),
        vmlinuz: write("vmlinuz", &noise("vmlinuz", KERNEL_BYTES))?,
        initrd: write("initrd.img", &noise("initrd.img", INITRD_BYTES))?,
        store: write("store.json", b"{}")?,
    };
    fs::write(root.join("bundle.json"), manifest.to_json()).context("writing the bundle's manifest")
}

/// The same for the same name.
pub(super) fn noise(name: &str, bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut noise);
    noise
}

//! The servers that are compared, each told to do the same: one network behind a relay, leases on a disk.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use bed::Place;
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use qemu_tests::programs::Programs;
use serde_json::json;

use crate::commands::bench::boot_bed::{BootBed, NODES, Running};

/// First and last address for nodes.
const POOL: [&str; 2] = ["10.79.1.0", "10.79.250.255"];
/// And how many those are.
pub(super) const POOL_ADDRESSES: u32 = 64_000;
const LEASE_S: u32 = 3600;

/// Who is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Server {
    Ours,
    Dnsmasq,
    Kea,
}

impl Server {
    /// Ours first.
    pub(super) const ALL: [Self; 3] = [Self::Ours, Self::Dnsmasq, Self::Kea];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Dnsmasq => "dnsmasq",
            Self::Kea => "kea",
        }
    }

    /// Starts it with no lease. It ends with what is returned.
    pub(super) fn start(self, bed: &BootBed, programs: &Programs, disk: &Disk) -> Result<Running> {
        disk.clear()?;
        match self {
            Self::Ours => ours(bed, programs),
            Self::Dnsmasq => dnsmasq(bed, disk),
            Self::Kea => kea(bed, disk),
        }
    }
}

/// Where leases are kept: not in memory, or syncing them would cost nothing.
pub(super) struct Disk {
    dir: PathBuf,
}

impl Disk {
    /// A directory of this run's own. Our server's state, which lies beside the bed's other files, leads there.
    pub(super) fn new(bed: &Path) -> Result<Self> {
        let dir = Path::new("/var/tmp").join(format!("esir-bench-dhcp-{}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        let disk = Self { dir };
        let state = bed.join("state");
        std::os::unix::fs::symlink(disk.dir.join("state"), &state).context("linking the state")?;
        Ok(disk)
    }

    /// For the report.
    pub(super) fn what(&self) -> &'static str {
        let in_memory = statfs(&self.dir).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC);
        if in_memory { "IN MEMORY: /var/tmp is no disk here" } else { "/var/tmp" }
    }

    fn clear(&self) -> Result<()> {
        fs::remove_dir_all(&self.dir).context("removing the last run's leases")?;
        fs::create_dir_all(self.dir.join("state")).context("making a place for leases")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn ours(bed: &BootBed, programs: &Programs) -> Result<Running> {
    let address = bed.address(Place::Server);
    let [first, last] = POOL;
    let site = format!(
        "[server]\ninterface = \"eth0\"\naddress = \"{address}\"\nadmin = \"127.0.0.1:8080\"\n\
         [dhcp]\nlease_s = {LEASE_S}\n[[dhcp.subnet]]\nnetwork = \"{NODES}\"\npool = \"{first}-{last}\"\n"
    );
    bed.start_ours(programs, address, &site)
}

fn dnsmasq(bed: &BootBed, disk: &Disk) -> Result<Running> {
    let [first, last] = POOL;
    let mut command = bed.command(Place::Server, "dnsmasq");
    command.args(["--no-daemon", "--conf-file=/dev/null", "--port=0", "--interface=eth0", "--user=root"]);
    // As quiet as ours, and with neither a ping nor a limit of its own in the way.
    command.args(["--pid-file=", "--quiet-dhcp", "--no-ping", "--dhcp-authoritative"]);
    command.arg(format!("--dhcp-lease-max={POOL_ADDRESSES}"));
    command.arg(format!("--dhcp-range={first},{last},255.255.0.0,{LEASE_S}s"));
    command.arg(format!("--dhcp-leasefile={}", disk.path("dnsmasq.leases").display()));
    bed.start("dnsmasq", &mut command)
}

fn kea(bed: &BootBed, disk: &Disk) -> Result<Running> {
    let address = bed.address(Place::Server);
    let [first, last] = POOL;
    let config = json!({ "Dhcp4": {
        "interfaces-config": { "interfaces": [format!("eth0/{address}")], "dhcp-socket-type": "udp" },
        "lease-database": {
            "type": "memfile", "persist": true, "name": disk.path("kea-leases.csv"), "lfc-interval": 0,
        },
        "valid-lifetime": LEASE_S,
        "subnet4": [{ "subnet": NODES, "pools": [{ "pool": format!("{first} - {last}") }] }],
        "loggers": [{
            "name": "kea-dhcp4", "severity": "ERROR", "output_options": [{ "output": "stdout" }],
        }],
    }});
    let path = disk.path("kea.json");
    fs::write(&path, config.to_string()).context("writing Kea's configuration")?;
    let mut command = bed.command(Place::Server, "kea-dhcp4");
    command.arg("-c").arg(&path);
    for place in ["KEA_PIDFILE_DIR", "KEA_LOCKFILE_DIR"] {
        command.env(place, &disk.dir);
    }
    bed.start("kea", &mut command)
}

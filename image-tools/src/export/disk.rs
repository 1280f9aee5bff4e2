//! An image -> a disk that a machine starts from, made by the code that nodes make theirs with.
//!
//! Never mounts anything where another process of this machine sees it, and never touches the firmware's own entries.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use clap::{Args, ValueEnum};
use disk_apply::{ClearedDisks, Mounted, RootFrom, make_file_systems};
use disk_layout::{Disk, Layout, Seeds, Selector, parse_bytes};
use image_format::Manifest;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use node_api::{BootOrder, FirmwareKind, NodeIdentity, is_host_label};
use serde::Deserialize;
use system_apply::{Origin, Personal, make_own};

use crate::extract::write_tree;
use crate::image_file::{ImageFile, read_companion, read_range};
use crate::mounts::LoopDevice;
use crate::pending::Pending;

/// Sectors of a file.
const SECTOR_BYTES: u32 = 512;
/// Folders of this machine that the new system's mounts and links would get into.
const HIDDEN: [&str; 2] = ["/mnt", "/dev/disk"];

/// What the disk is to be like.
#[derive(Debug, Args)]
#[command(next_help_heading = "A disk")]
pub(super) struct DiskArguments {
    /// How large the disk is.
    #[arg(long, value_name = "SIZE", default_value = "8GiB", value_parser = size)]
    size: u64,
    /// A TOML file whose `layout` table says what is on the disk, such as a site's; which disk that is does not matter
    /// [default: boot partitions for BIOS and UEFI, and a root].
    #[arg(long, value_name = "FILE")]
    layout: Option<PathBuf>,
    /// The host name of the machine that it is for [default: the name of the image].
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// A file of public keys that may log in as root.
    #[arg(long, value_name = "FILE")]
    authorized_keys: Option<PathBuf>,
    /// The firmware that must be able to start it; the other one can too where image and layout have what it needs.
    #[arg(long, value_enum, default_value_t = FirmwareChoice::Uefi)]
    firmware: FirmwareChoice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FirmwareChoice {
    Bios,
    Uefi,
}

impl From<FirmwareChoice> for FirmwareKind {
    fn from(choice: FirmwareChoice) -> Self {
        match choice {
            FirmwareChoice::Bios => Self::Bios,
            FirmwareChoice::Uefi => Self::Uefi,
        }
    }
}

/// A site file, or only its layout.
#[derive(Default, Deserialize)]
struct LayoutFile {
    #[serde(default)]
    layout: Layout,
}

fn size(text: &str) -> Result<u64, String> {
    let bytes = parse_bytes(text).ok_or("write it as `8GiB`")?;
    Ok(bytes / u64::from(SECTOR_BYTES) * u64::from(SECTOR_BYTES))
}

/// One disk to make, with everything read that lies where the new mounts may hide it.
struct Making<'a> {
    image: &'a ImageFile,
    manifest: &'a Manifest,
    manifest_bytes: Vec<u8>,
    layout: Layout,
    identity: NodeIdentity,
    wanted: &'a DiskArguments,
}

/// Makes the disk in a file that has its name only when it is complete.
pub(super) fn export(image: &ImageFile, output: &Path, wanted: &DiskArguments) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "a disk is made by mounting its file systems: run this as root"
    );
    let manifest = image.require_manifest()?;
    let making = Making {
        image,
        manifest,
        manifest_bytes: read_companion(&image.path, "manifest")?.unwrap_or_default(),
        layout: layout(wanted)?,
        identity: identity(manifest, wanted)?,
        wanted,
    };
    let mut pending = Pending::beside(output)?;
    pending.file().set_len(wanted.size).with_context(|| format!("creating {}", output.display()))?;
    let device = LoopDevice::of_disk(&pending.named(output)?)?;
    // A thread of its own, because the file is known by its name outside.
    let made = std::thread::scope(|scope| scope.spawn(|| making.on(&device)).join());
    drop(device);
    let changes = made.map_err(|_| anyhow!("the writer panicked"))??;
    pending.appear_as(output)?;
    eprintln!(
        "{}: a disk of {} for {}, {changes} files and programs made it that machine's own",
        output.display(),
        crate::text::bytes(wanted.size),
        making.identity.hostname
    );
    Ok(())
}

fn layout(wanted: &DiskArguments) -> Result<Layout> {
    let mut layout = match &wanted.layout {
        None => Layout::default(),
        Some(path) => {
            let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
            toml::from_str::<LayoutFile>(&text).with_context(|| path.display().to_string())?.layout
        }
    };
    ensure!(
        layout.disks.len() == 1,
        "the layout is for {} sets of disks, and a file is one disk",
        layout.disks.len()
    );
    ensure!(
        layout.raids.is_empty() && layout.luks.is_empty() && layout.volumes.is_empty(),
        "a disk in a file gets no arrays, containers or volumes: this machine would find them too"
    );
    layout.disks = vec![Selector::default()];
    Ok(layout)
}

fn identity(manifest: &Manifest, wanted: &DiskArguments) -> Result<NodeIdentity> {
    let name = wanted.hostname.as_ref().unwrap_or(&manifest.name);
    ensure!(is_host_label(name), "{name:?} is no host name; give one of a-z, 0-9 and - by --hostname");
    let keys = match &wanted.authorized_keys {
        None => String::new(),
        Some(path) => fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?,
    };
    let mut machine_id = [0; 16];
    getrandom::fill(&mut machine_id).context("random numbers for a machine id")?;
    Ok(NodeIdentity {
        hostname: name.clone(),
        machine_id: hex::encode(machine_id),
        authorized_keys: keys.lines().filter(|key| !key.trim().is_empty()).map(str::to_owned).collect(),
        domain: None,
        steps: Vec::new(),
        boot_order: BootOrder::Untouched,
    })
}

/// From here on this thread, and those that it starts, mount where nobody else sees it and make no links in this machine's
/// `/dev`.
fn hide() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("making a mount namespace")?;
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("making mounts private")?;
    for place in HIDDEN {
        fs::create_dir_all(place).with_context(|| format!("making {place}"))?;
        mount(Some("tmpfs"), place, Some("tmpfs"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("hiding {place}"))?;
    }
    Ok(())
}

impl Making<'_> {
    /// Makes everything on the device; how many files and programs made it a machine's own.
    fn on(&self, device: &LoopDevice) -> Result<usize> {
        hide()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.write(device))
    }

    async fn write(&self, device: &LoopDevice) -> Result<usize> {
        let Self { image, manifest, wanted, .. } = *self;
        let name = device.path().file_name().context("the loop device has no name")?;
        let disk = Disk {
            name: name.to_string_lossy().into_owned(),
            size_bytes: wanted.size,
            logical_sector_bytes: SECTOR_BYTES,
            physical_sector_bytes: SECTOR_BYTES,
            ..Disk::default()
        };
        let mut fresh = [0; 32];
        getrandom::fill(&mut fresh).context("random numbers for identities")?;
        let seeds = Seeds { image_id: *manifest.image_id.as_bytes(), fresh };
        let cleared = ClearedDisks::open(&self.layout, &[disk], &seeds)?;
        eprint!("{}", cleared.plan());
        let formatted = make_file_systems(cleared.partition()?, &[], RootFrom::of(manifest)).await?;
        let mounted = Mounted::mount(formatted)?;
        write_tree(image, mounted.root(), true)?;
        let own = make_own(&Personal {
            root: mounted.root(),
            esp: mounted.mount_esp()?.map(Path::to_owned),
            plan: mounted.plan(),
            disk_keys: &[],
            firmware: wanted.firmware.into(),
            identity: &self.identity,
            manifest: &self.manifest_bytes,
            table: &read_range(&image.file, image.header.toc_offset, image.header.toc_len)
                .context("reading the table of contents")?,
            origin: Origin {
                node: &self.identity.hostname,
                image: &manifest.name,
                image_id: &manifest.image_id.to_string(),
            },
        })
        .await?;
        mounted.unmount()?;
        Ok(own.changes.len())
    }
}

//! File systems by the distribution's own tools, with features that every boot loader and kernel of the field reads.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use disk_layout::{FileSystem, FsId, PartitionRole, Plan, PlannedFileSystem};
use image_format::{Manifest, Mode};
use node_api::DiskKey;

use super::cleared::Partitioned;
use super::mounts::{self, MountError};
use super::stack::{self, StackError};
use super::tool::{self, ToolError};

/// The kernel lets go of an unmounted file system within milliseconds, on a busy machine within a second.
const FREE_LIMIT: Duration = Duration::from_secs(10);
/// mke2fs knows fewer.
const FEATURES_MAX: usize = 64;

/// A file system that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// A tool failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// What it lies on could not be made.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// It could not be mounted for its subvolumes.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// It is not on the disk.
    #[error("flushing the new file system of /dev/{device}")]
    Flush {
        /// Name of the device, without `/dev/`.
        device: String,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
}

/// Disks with empty file systems. The only way to them is [`make_file_systems`].
#[derive(Debug)]
pub struct Formatted {
    pub(super) plan: Plan,
}

/// The tools that a plan needs, each once, as the boot bundle names them.
#[must_use]
pub fn tools_for(plan: &Plan) -> Vec<&'static str> {
    let mut tools = stack::tools(plan.layers());
    for one in plan.file_systems().iter().filter(|one| !one.kept) {
        tools.push(mkfs(one.fs));
        if !one.subvolumes.is_empty() {
            tools.push("btrfs");
        }
    }
    tools.sort_unstable();
    tools.dedup();
    tools
}

/// The kernel modules that making and mounting a plan needs, each once.
#[must_use]
pub fn modules_for(plan: &Plan) -> Vec<&'static str> {
    let mut modules = stack::modules(plan.layers());
    let mounted = plan.file_systems().iter().filter(|one| one.fs != FileSystem::Swap);
    modules.extend(mounted.map(|one| one.fs.word()));
    modules.sort_unstable();
    modules.dedup();
    modules
}

/// Where the root's file system comes from.
#[derive(Clone, Copy, Debug)]
pub enum RootFrom<'a> {
    /// It is made, for files. With the features of ext4 that the image's boot loader or kernel needs or cannot read, as
    /// `mke2fs -O` takes them.
    Files(&'a [String]),
    /// It is in the image, which is written over whatever the device has.
    Blocks,
}

impl<'a> RootFrom<'a> {
    /// What an image needs.
    #[must_use]
    pub fn of(image: &'a Manifest) -> Self {
        let of_root = &image.root_file_system;
        match image.mode {
            Mode::Partition => Self::Blocks,
            _ if of_root.kind == "ext4" => Self::Files(&of_root.features),
            _ => Self::Files(&[]),
        }
    }
}

/// Makes every layer and every file system of the plan, one after the other.
///
/// # Errors
/// A tool fails, or is not there.
pub async fn make_file_systems(
    partitioned: Partitioned,
    keys: &[DiskKey],
    root: RootFrom<'_>,
) -> Result<Formatted, FormatError> {
    stack::make(&partitioned, keys).await?;
    for one in partitioned.plan.file_systems() {
        let root_features = match root {
            RootFrom::Blocks if one.role == PartitionRole::Root => continue,
            RootFrom::Blocks => &[],
            RootFrom::Files(features) => features,
        };
        if one.kept || (partitioned.has_root && one.role == PartitionRole::Root) {
            tracing::info!("/dev/{}: {} is kept as it is", one.device, one.fs.word());
            continue;
        }
        // Where a boot loader reads it, its features are those of the image.
        let boots = matches!(one.role, PartitionRole::Root | PartitionRole::Boot);
        let features = if boots { root_features } else { &[] };
        for device in std::iter::once(&one.device).chain(&one.copies) {
            let place = Path::new("/dev").join(device);
            wait_until_free(&place).await;
            let arguments = arguments(one, features, device);
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            tool::run(mkfs(one.fs), &arguments, device, None).await?;
            if partitioned.has_root {
                // An older system may be touched only when nothing starts it any more.
                flush_device(&place)
                    .await
                    .map_err(|source| FormatError::Flush { device: device.clone(), source })?;
            }
            tracing::info!("/dev/{device}: {} {}", one.fs.word(), one.id);
        }
        if !one.subvolumes.is_empty() {
            make_subvolumes(one).await?;
        }
    }
    Ok(Formatted { plan: partitioned.plan })
}

async fn flush_device(device: &Path) -> std::io::Result<()> {
    let device = device.to_owned();
    let flushed = tokio::task::spawn_blocking(move || std::fs::File::open(device)?.sync_all()).await;
    flushed.unwrap_or_else(|stopped| Err(std::io::Error::other(stopped)))
}

async fn make_subvolumes(one: &PlannedFileSystem) -> Result<(), FormatError> {
    let place = mounts::mount_aside(&one.device, one.fs)?;
    for subvolume in &one.subvolumes {
        let path = place.join(&subvolume.name).display().to_string();
        tool::run("btrfs", &["subvolume", "create", &path], &one.device, None).await?;
    }
    Ok(mounts::unmount_aside()?)
}

/// Waits while something still holds the partition: the kernel lets go of a file system some time after it was
/// unmounted. If it never does, the tool says so in its own words.
async fn wait_until_free(device: &Path) {
    let deadline = tokio::time::Instant::now() + FREE_LIMIT;
    let busy = Some(nix::errno::Errno::EBUSY as i32);
    let exclusively = || std::fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_EXCL).open(device);
    while tokio::time::Instant::now() < deadline
        && exclusively().is_err_and(|error| error.raw_os_error() == busy)
    {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

const fn mkfs(fs: FileSystem) -> &'static str {
    match fs {
        FileSystem::Ext4 => "mke2fs",
        FileSystem::Xfs => "mkfs.xfs",
        FileSystem::Btrfs => "mkfs.btrfs",
        FileSystem::Vfat => "mkfs.fat",
        FileSystem::Swap => "mkswap",
    }
}

fn arguments(one: &PlannedFileSystem, features: &[String], device: &str) -> Vec<String> {
    let id = match one.id {
        // What is kept has an identity of its own from its first day on.
        FsId::Partition(guid) if one.fs == FileSystem::Vfat => format!("{:08x}", guid.as_fields().0.max(1)),
        FsId::Uuid(uuid) | FsId::Partition(uuid) => uuid.to_string(),
        FsId::Volume(volume) => format!("{volume:08x}"),
    };
    let label = one.role.word();
    let text = match one.fs {
        FileSystem::Ext4 => format!(
            "-F -q -t ext4 -O {} -U {id} -L {label} \
             -E lazy_itable_init=1,lazy_journal_init=1",
            ext4_features(features)
        ),
        // Large extent counters are unknown to GRUB before 2.12.
        FileSystem::Xfs => format!("-f -q -m uuid={id} -i nrext64=0 -L {label}"),
        FileSystem::Btrfs => format!("-f -q -U {id} -L {label}"),
        FileSystem::Vfat => format!("-F 32 -i {id} -n {}", label.to_ascii_uppercase()),
        FileSystem::Swap => format!("-U {id} -L {label}"),
    };
    let mut arguments: Vec<String> = text.split_ascii_whitespace().map(str::to_owned).collect();
    arguments.push(format!("/dev/{device}"));
    arguments
}

/// The features that every GRUB of the field reads, and what the image says of its own.
fn ext4_features(of_image: &[String]) -> String {
    // GRUB up to 2.06 cannot read these two, which newer mke2fs sets by itself.
    let mut features = vec!["^metadata_csum_seed", "^orphan_file"];
    for feature in of_image {
        let word = feature.strip_prefix('^').unwrap_or(feature);
        let plain = !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if plain && features.len() < FEATURES_MAX && !features.contains(&feature.as_str()) {
            features.push(feature);
        }
    }
    features.join(",")
}

#[cfg(test)]
mod tests {
    use disk_layout::{Disk, Layout, Seeds};

    use super::*;

    #[test]
    fn every_file_system_gets_its_identity() {
        let uuid = FsId::Uuid(uuid::Uuid::from_bytes([0x11; 16]));
        let line = |fs, id, role| {
            let one = PlannedFileSystem {
                device: "sda3".into(),
                copies: Vec::new(),
                role,
                fs,
                id,
                mount: None,
                options: None,
                subvolumes: Vec::new(),
                kept: false,
            };
            arguments(&one, &[], "sda3").join(" ")
        };
        let ext4 = line(FileSystem::Ext4, uuid, PartitionRole::Root);
        assert!(ext4.contains("-U 11111111-1111-1111-1111-111111111111"), "{ext4}");
        assert!(
            ext4.contains("-O ^metadata_csum_seed,^orphan_file") && ext4.ends_with(" /dev/sda3"),
            "{ext4}"
        );
        let vfat = line(FileSystem::Vfat, FsId::Volume(0x1a2b), PartitionRole::Esp);
        assert_eq!(vfat, "-F 32 -i 00001a2b -n ESP /dev/sda3");
        assert!(line(FileSystem::Xfs, uuid, PartitionRole::Data).contains("-m uuid=1111"));
    }

    #[test]
    fn features_of_the_image_are_added_and_nothing_else_gets_through() {
        let of_image = ["^orphan_file", "^metadata_csum", "casefold", "-U clear", ""].map(str::to_owned);
        assert_eq!(ext4_features(&of_image), "^metadata_csum_seed,^orphan_file,^metadata_csum,casefold");
    }

    #[test]
    fn tools_are_named_once_each() {
        let layout: Layout = serde_json::from_value(serde_json::json!({ "partition": [
            { "role": "esp", "size_mib": 300 }, { "role": "root" },
            { "role": "data", "size_mib": 10 }, { "role": "swap", "size_mib": 10 }
        ]}))
        .unwrap();
        let disk =
            Disk { name: "sda".into(), size_bytes: 8 << 30, logical_sector_bytes: 512, ..Disk::default() };
        let plan = Plan::make(&layout, &disk, &Seeds { image_id: [1; 32], fresh: [2; 32] }).unwrap();
        assert_eq!(tools_for(&plan), ["mke2fs", "mkfs.fat", "mkswap"]);
        assert_eq!(modules_for(&plan), ["ext4", "vfat"]);
    }
}

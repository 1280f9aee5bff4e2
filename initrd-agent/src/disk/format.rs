//! File systems by the distribution's own tools, with features that every boot loader and kernel of the field reads.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use disk_layout::{FileSystem, FsId, PartitionRole, Plan};
use tokio::process::Command;

use super::cleared::Partitioned;

/// mke2fs with lazy tables takes seconds; a disk that discards slowly takes minutes.
const TOOL_LIMIT: Duration = Duration::from_mins(10);
/// The kernel lets go of an unmounted file system within milliseconds, on a busy machine within a second.
const FREE_LIMIT: Duration = Duration::from_secs(10);
/// Where installed tools are.
const TOOL_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// mke2fs knows fewer.
const FEATURES_MAX: usize = 64;
/// The end of what a tool printed explains its failure.
const OUTPUT_CHARACTERS_MAX: usize = 2000;

/// A file system that could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FormatError {
    /// The tool did not start.
    #[error("starting {tool}; is it in the boot bundle?")]
    Start {
        tool: &'static str,
        #[source]
        source: std::io::Error,
    },
    /// The tool failed.
    #[error("{tool} on /dev/{device} ended with {status}: {output}")]
    Failed { tool: &'static str, device: String, status: std::process::ExitStatus, output: String },
    /// The tool hung.
    #[error("{tool} on /dev/{device} took longer than {limit_s} s; the disk is failing or very slow")]
    TooLong { tool: &'static str, device: String, limit_s: u64 },
}

/// A disk with empty file systems. The only way to one is [`make_file_systems`].
#[derive(Debug)]
pub(crate) struct Formatted {
    pub(super) partitioned: Partitioned,
}

/// The tools that a plan needs, each once, as the boot bundle names them.
pub(crate) fn tools_for(plan: &Plan) -> Vec<&'static str> {
    let mut tools: Vec<&'static str> =
        plan.partitions().iter().filter_map(|partition| partition.fs.map(|(fs, _)| tool(fs))).collect();
    tools.sort_unstable();
    tools.dedup();
    tools
}

/// The kernel modules that mounting a plan needs, each once.
pub(crate) fn modules_for(plan: &Plan) -> Vec<&'static str> {
    let mounted = plan.partitions().iter().filter_map(|partition| partition.fs.map(|(fs, _)| fs));
    let mut modules: Vec<&'static str> =
        mounted.filter(|fs| *fs != FileSystem::Swap).map(FileSystem::word).collect();
    modules.sort_unstable();
    modules.dedup();
    modules
}

/// Makes every file system of the plan, one after the other. `root_features` are those of ext4 that the image's
/// boot loader or kernel needs or cannot read, as `mke2fs -O` takes them.
pub(crate) async fn make_file_systems(
    partitioned: Partitioned,
    root_features: &[String],
) -> Result<Formatted, FormatError> {
    for partition in partitioned.plan().partitions() {
        let Some((fs, id)) = partition.fs else { continue };
        let device = partition.device_name(&partitioned.disk().name);
        let features = if partition.role == PartitionRole::Root { root_features } else { &[] };
        wait_until_free(&Path::new("/dev").join(&device)).await;
        run(tool(fs), &arguments(fs, id, partition.role, features, &device), &device).await?;
        tracing::info!("/dev/{device}: {} {id}", fs.word());
    }
    Ok(Formatted { partitioned })
}

/// Waits while something still holds the partition: the kernel lets go of a file system some time after it was
/// unmounted. If it never does, the tool says so in its own words.
async fn wait_until_free(device: &Path) {
    let deadline = tokio::time::Instant::now() + FREE_LIMIT;
    let busy = Some(nix::errno::Errno::EBUSY as i32);
    let exclusively = || std::fs::OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(device);
    while tokio::time::Instant::now() < deadline
        && exclusively().is_err_and(|error| error.raw_os_error() == busy)
    {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

const fn tool(fs: FileSystem) -> &'static str {
    match fs {
        FileSystem::Ext4 => "mke2fs",
        FileSystem::Xfs => "mkfs.xfs",
        FileSystem::Vfat => "mkfs.fat",
        FileSystem::Swap => "mkswap",
    }
}

fn arguments(
    fs: FileSystem,
    id: FsId,
    role: PartitionRole,
    features: &[String],
    device: &str,
) -> Vec<String> {
    let id = match id {
        FsId::Uuid(uuid) => uuid.to_string(),
        FsId::Volume(volume) => format!("{volume:08x}"),
    };
    let label = role.word();
    let features = ext4_features(features);
    let text = match fs {
        FileSystem::Ext4 => format!(
            "-F -q -t ext4 -O {features} -U {id} -L {label} \
             -E lazy_itable_init=1,lazy_journal_init=1"
        ),
        // Large extent counters are unknown to GRUB before 2.12.
        FileSystem::Xfs => format!("-f -q -m uuid={id} -i nrext64=0 -L {label}"),
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

async fn run(tool: &'static str, arguments: &[String], device: &str) -> Result<(), FormatError> {
    let child = Command::new(find(tool))
        .args(arguments)
        .env_clear()
        .env("PATH", TOOL_PATH)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| FormatError::Start { tool, source })?;
    let device = device.to_owned();
    let Ok(ended) = tokio::time::timeout(TOOL_LIMIT, child.wait_with_output()).await else {
        return Err(FormatError::TooLong { tool, device, limit_s: TOOL_LIMIT.as_secs() });
    };
    let ended = ended.map_err(|source| FormatError::Start { tool, source })?;
    if ended.status.success() {
        return Ok(());
    }
    let printed = [ended.stdout, ended.stderr].concat();
    let printed = String::from_utf8_lossy(&printed).trim().replace('\n', "; ");
    let skip = printed.chars().count().saturating_sub(OUTPUT_CHARACTERS_MAX);
    let output = printed.chars().skip(skip).collect();
    Err(FormatError::Failed { tool, device, status: ended.status, output })
}

/// The tool's path, or its bare name for the operating system to say that it is not there.
fn find(tool: &str) -> PathBuf {
    TOOL_PATH
        .split(':')
        .map(|folder| Path::new(folder).join(tool))
        .find(|path| path.exists())
        .unwrap_or_else(|| tool.into())
}

#[cfg(test)]
mod tests {
    use disk_layout::{Disk, Layout, Seeds};

    use super::*;

    #[test]
    fn every_file_system_gets_its_identity() {
        let uuid = FsId::Uuid(uuid::Uuid::from_bytes([0x11; 16]));
        let line = |fs, id, role| arguments(fs, id, role, &[], "sda3").join(" ");
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

//! A root file system that comes with the image, block by block: whether the layout takes it, and how it becomes the
//! system's root, as large as its device.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use disk_layout::{FileSystem, PartitionRole, Plan};

use super::format::Formatted;
use super::mounts::{MountError, Mounted};
use super::superblock::{uuid_of, xfs_inode_percent};
use crate::sys::grow;

/// Why the image's partition cannot be the root.
#[derive(Debug, thiserror::Error)]
pub enum GivenRootError {
    /// The layout wants something else. Nothing was written.
    #[error("the image holds a partition with {found}, and the layout's root is {wanted}; write `fs` there")]
    OtherKind {
        /// Of the image's partition.
        found: String,
        /// Of the layout's root.
        wanted: &'static str,
    },
    /// Nor was anything here.
    #[error(
        "the layout wants subvolumes of the root, which an image of a partition brings itself or not at all"
    )]
    Subvolumes,
    /// What was written is none.
    #[error("/dev/{device} holds no sound {kind} after the image was written")]
    Unsound {
        /// Name of the device, without `/dev/`.
        device: String,
        /// Kind of file system.
        kind: &'static str,
    },
    /// Its superblock.
    #[error("reading the superblock of /dev/{0}")]
    Superblock(String, #[source] io::Error),
    /// The file systems.
    #[error(transparent)]
    Mount(#[from] MountError),
}

/// Whether a root with a file system of this kind, as an image's manifest names it, fits a plan.
///
/// # Errors
/// It does not. Nothing was written.
pub fn check_given_root(plan: &Plan, kind: &str) -> Result<(), GivenRootError> {
    let Some(root) = plan.file_system(PartitionRole::Root) else { return Ok(()) };
    let fits = match root.fs {
        // The driver of ext4 mounts its ancestors too.
        FileSystem::Ext4 => matches!(kind, "ext2" | "ext3" | "ext4"),
        other => other.word() == kind,
    };
    match (fits, root.subvolumes.is_empty()) {
        (false, _) => {
            let found = if kind.is_empty() { "an unknown file system" } else { kind };
            Err(GivenRootError::OtherKind { found: found.to_owned(), wanted: root.fs.word() })
        }
        (true, false) => Err(GivenRootError::Subvolumes),
        (true, true) => Ok(()),
    }
}

impl Formatted {
    /// The device that the root's blocks are written to.
    #[must_use]
    pub fn root_device(&self) -> PathBuf {
        let root = self.plan.file_system(PartitionRole::Root);
        Path::new("/dev").join(root.map_or("", |root| root.device.as_str()))
    }

    /// Takes what was written to the root's device as the root, mounts everything, and lets the root grow.
    ///
    /// # Errors
    /// It is no file system of the planned kind, or cannot be mounted. That it does not grow is only said.
    pub fn mount_given(self) -> Result<Mounted, GivenRootError> {
        let root = self.plan.file_system(PartitionRole::Root).ok_or(MountError::NoRoot)?;
        let (name, fs) = (root.device.clone(), root.fs);
        let failed = |error| GivenRootError::Superblock(name.clone(), error);
        let device = File::open(self.root_device()).map_err(failed)?;
        let uuid = uuid_of(&device, fs).map_err(failed)?;
        let uuid = uuid.ok_or_else(|| GivenRootError::Unsound { device: name.clone(), kind: fs.word() })?;
        let mounted = Mounted::mount(Self { plan: self.plan.with_root(uuid) })?;
        match let_grow(mounted.root(), &device, fs) {
            Ok(bytes) => tracing::info!("/dev/{name}: {} {uuid} has {} MiB", fs.word(), bytes >> 20),
            Err(error) => tracing::warn!("/dev/{name} stays as small as in the image: {error}"),
        }
        Ok(mounted)
    }
}

/// Makes the file system of a mounted root as large as its device, and says how large that is in bytes.
fn let_grow(root: &Path, mut device: &File, fs: FileSystem) -> io::Result<u64> {
    let bytes = device.seek(SeekFrom::End(0))?;
    let root = File::open(root)?;
    let blocks = bytes / rustix::fs::fstatvfs(&root)?.f_frsize.max(1);
    match fs {
        FileSystem::Ext4 => grow::ext4(&root, blocks)?,
        FileSystem::Xfs => grow::xfs(&root, blocks, xfs_inode_percent(device)?)?,
        FileSystem::Btrfs => grow::btrfs(&root)?,
        FileSystem::Vfat | FileSystem::Swap => return Err(io::ErrorKind::Unsupported.into()),
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use disk_layout::{Disk, Layout, Seeds};

    use super::*;

    /// A plan of the default layout, or of one whose root is this.
    fn plan(root: Option<serde_json::Value>) -> Plan {
        let layout: Layout = match root {
            Some(root) => serde_json::from_value(serde_json::json!({ "partition": [root] })).unwrap(),
            None => Layout::default(),
        };
        let disk =
            Disk { name: "sda".into(), size_bytes: 8 << 30, logical_sector_bytes: 512, ..Disk::default() };
        Plan::make(&layout, &disk, &Seeds::default()).unwrap()
    }

    #[test]
    fn kinds_of_image_and_layout_have_to_agree() {
        let ext4 = plan(None);
        for kind in ["ext4", "ext3", "ext2"] {
            assert!(check_given_root(&ext4, kind).is_ok(), "{kind}");
        }
        let error = check_given_root(&ext4, "xfs").unwrap_err().to_string();
        assert!(error.contains("xfs") && error.contains("ext4"), "{error}");
        let xfs = serde_json::json!({ "role": "root", "fs": "xfs" });
        assert!(check_given_root(&plan(Some(xfs)), "xfs").is_ok());
        let subvolumes = serde_json::json!([{ "name": "@", "mount": "/" }]);
        let btrfs = serde_json::json!({ "role": "root", "fs": "btrfs", "subvolumes": subvolumes });
        let refused = check_given_root(&plan(Some(btrfs)), "btrfs");
        assert!(matches!(refused, Err(GivenRootError::Subvolumes)));
    }
}

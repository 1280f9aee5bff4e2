//! What an installed system has to know of its disks: fstab, crypttab, mdadm.conf.

use std::fmt::Write as _;

use uuid::Uuid;

use super::{FsId, Layer, Plan, PlannedFileSystem};
use crate::layout::{FileSystem, PartitionRole, Unlock};

/// Where installed systems keep keys of LUKS containers; systemd and Debian's initramfs look there.
const KEY_FOLDER: &str = "/etc/cryptsetup-keys.d";

impl Plan {
    /// Lines of `/etc/fstab`, root first, then by depth of the mount point, then swap; each ends in `\n`.
    #[must_use]
    pub fn fstab(&self) -> String {
        let mut entries: Vec<(usize, String)> = self.file_systems.iter().flat_map(fstab_lines).collect();
        entries.sort();
        entries.into_iter().map(|(_, line)| line).collect()
    }

    /// The LUKS containers that the installed system opens.
    pub fn crypttab(&self) -> impl Iterator<Item = CrypttabEntry<'_>> {
        self.layers.iter().filter_map(|layer| match layer {
            Layer::Luks { name, uuid, unlock, holds_root, .. } => Some(CrypttabEntry {
                name,
                uuid: *uuid,
                has_key_file: *unlock == Unlock::Keyfile,
                is_early: *holds_root,
            }),
            _ => None,
        })
    }

    /// `ARRAY` lines of `mdadm.conf`; empty without arrays.
    #[must_use]
    pub fn mdadm_arrays(&self) -> String {
        let mut text = String::new();
        for layer in &self.layers {
            let Layer::Raid { name, metadata, uuid, .. } = layer else { continue };
            let _ = writeln!(
                text,
                "ARRAY /dev/md/{name} metadata={} UUID={}",
                metadata.word(),
                mdadm_uuid(*uuid)
            );
        }
        text
    }

    /// Whether the installed system's initramfs has to assemble something before there is a root.
    #[must_use]
    pub fn is_stacked(&self) -> bool {
        !self.layers.is_empty()
    }
}

/// A container as `/etc/crypttab` has it.
#[derive(Clone, Copy, Debug)]
pub struct CrypttabEntry<'a> {
    /// Name of the opened device.
    pub name: &'a str,
    /// UUID of the container.
    pub uuid: Uuid,
    /// Opened by a file that the system keeps; else by a key that is typed.
    pub has_key_file: bool,
    /// Opened by the initramfs.
    pub is_early: bool,
}

impl CrypttabEntry<'_> {
    /// Its line (crypttab(5)) where the key file, if there is one, lies at `key_file`; ends in `\n`.
    #[must_use]
    pub fn line(&self, key_file: &str) -> String {
        let Self { name, uuid, has_key_file, is_early } = self;
        let key = if *has_key_file { key_file } else { "none" };
        // Debian's initramfs opens what has `initramfs`, whether or not it can tell by itself that the root is there.
        let early = if *is_early { ",initramfs" } else { "" };
        format!("{name} UUID={uuid} {key} luks,discard{early}\n")
    }
}

/// Where an installed system keeps the key of a container.
#[must_use]
pub fn key_path(name: &str) -> String {
    format!("{KEY_FOLDER}/{name}.key")
}

/// mdadm writes UUIDs as four words of 32 bits.
#[must_use]
pub fn mdadm_uuid(uuid: Uuid) -> String {
    let digits = uuid.simple().to_string();
    let words: Vec<&str> = (0..4).filter_map(|word| digits.get(word * 8..word * 8 + 8)).collect();
    words.join(":")
}

/// Sort key and line of everything that is mounted from one file system.
fn fstab_lines(one: &PlannedFileSystem) -> Vec<(usize, String)> {
    let source = match one.id {
        FsId::Partition(guid) => format!("PARTUUID={guid}"),
        id => format!("UUID={id}"),
    };
    if one.fs == FileSystem::Swap {
        let options = one.options.as_deref().unwrap_or("sw");
        return vec![(usize::MAX, format!("{source} none swap {options} 0 0\n"))];
    }
    let line = |mount: &str, subvolume: Option<&str>| {
        let depth = if mount == "/" { 0 } else { mount.matches('/').count() };
        let (usual, pass) = match (one.fs, mount) {
            (FileSystem::Ext4, "/") => ("errors=remount-ro", 1),
            (FileSystem::Ext4, _) => ("defaults", 2),
            // Either may be the one on the disk that fails, and a system runs without its ESP.
            (FileSystem::Vfat, _) if one.role == PartitionRole::Esp => ("umask=0077,nofail", 2),
            (FileSystem::Vfat, _) => ("umask=0077", 2),
            // Neither is checked at boot: fsck.xfs and fsck.btrfs do nothing.
            (FileSystem::Xfs | FileSystem::Btrfs | FileSystem::Swap, _) => ("defaults", 0),
        };
        let mut options = one.options.as_deref().unwrap_or(usual).to_owned();
        if let Some(name) = subvolume {
            let rest = if options == "defaults" { String::new() } else { format!(",{options}") };
            options = format!("subvol={name}{rest}");
        }
        (depth, format!("{source} {mount} {} {options} 0 {pass}\n", one.fs.word()))
    };
    let whole = one.mount.iter().map(|mount| line(mount, None));
    let parts = one.subvolumes.iter().map(|part| line(&part.mount, Some(&part.name)));
    whole.chain(parts).collect()
}

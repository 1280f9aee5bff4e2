//! What is mounted beneath a root.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// File systems whose files belong to the system: on disks of this machine.
const DISK_KINDS: [&str; 8] = ["ext2", "ext3", "ext4", "xfs", "btrfs", "vfat", "f2fs", "jfs"];

/// The file systems beneath a root.
#[derive(Debug, Default)]
pub(super) struct FileSystems {
    /// Where others of its disks are mounted, relative to the root; those above first.
    pub(super) kept: Vec<PathBuf>,
    /// Patterns for the contents of all others.
    pub(super) excluded: Vec<String>,
    /// The same for people.
    pub(super) left_out: Vec<String>,
}

/// Reads `/proc/self/mountinfo` and `/proc/swaps`.
pub(super) fn mounted(root: &Path) -> Result<FileSystems> {
    let root = root.canonicalize().with_context(|| format!("opening {}", root.display()))?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    Ok(parse(&root, &mounts, &swaps))
}

fn parse(root: &Path, mounts: &str, swaps: &str) -> FileSystems {
    let mut found = FileSystems::default();
    for line in mounts.lines() {
        let Some((place, kind)) = mount_line(line) else { continue };
        let Ok(beneath) = Path::new(&place).strip_prefix(root) else { continue };
        if beneath.as_os_str().is_empty() {
            continue;
        }
        if DISK_KINDS.contains(&kind) {
            if !found.kept.iter().any(|kept| kept == beneath) {
                found.kept.push(beneath.to_owned());
            }
        } else {
            let pattern = format!("{}/*", beneath.display());
            // What the kernel shows in /proc, /sys, /dev and /run goes without saying.
            let is_usual = ["proc", "sys", "dev", "run"].iter().any(|usual| beneath.starts_with(usual));
            if !is_usual && !found.excluded.contains(&pattern) {
                found.left_out.push(format!("/{} ({kind})", beneath.display()));
            }
            found.excluded.push(pattern);
        }
    }
    found.kept.sort_by_key(|place| place.components().count());
    for line in swaps.lines().skip(1) {
        let mut fields = line.split_whitespace();
        let (file, kind) = (fields.next().unwrap_or_default(), fields.next());
        if let (Ok(beneath), Some("file")) = (Path::new(file).strip_prefix(root), kind) {
            found.excluded.push(beneath.display().to_string());
            found.left_out.push(format!("/{} (swap)", beneath.display()));
        }
    }
    found
}

/// Mount point and kind of a line of mountinfo(5).
fn mount_line(line: &str) -> Option<(String, &str)> {
    let (before, after) = line.split_once(" - ")?;
    let place = before.split(' ').nth(4)?;
    let kind = after.split(' ').next()?;
    let place =
        place.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\");
    Some((place, kind))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::parse;

    #[test]
    fn only_file_systems_of_its_own_disks_are_taken() {
        let mounts = "21 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n\
            22 21 0:20 / /proc rw shared:5 - proc proc rw\n\
            23 21 254:15 / /boot/efi rw - vfat /dev/vda15 rw\n\
            24 21 254:16 / /boot rw - ext4 /dev/vda16 rw\n\
            25 21 0:50 / /home\\040nfs rw - nfs4 server:/home rw\n\
            26 21 7:0 / /snap/core/1 ro - squashfs /dev/loop0 ro\n";
        let swaps = "Filename Type Size Used Priority\n/swap.img file 100 0 -2\n/dev/vda2 partition 1 0 -3\n";
        let found = parse(Path::new("/"), mounts, swaps);
        assert_eq!(found.kept, [PathBuf::from("boot"), PathBuf::from("boot/efi")]);
        assert_eq!(found.excluded, ["proc/*", "home nfs/*", "snap/core/1/*", "swap.img"]);
        assert_eq!(found.left_out, ["/home nfs (nfs4)", "/snap/core/1 (squashfs)", "/swap.img (swap)"]);
        assert_eq!(parse(Path::new("/boot"), mounts, swaps).kept, [PathBuf::from("efi")]);
    }
}

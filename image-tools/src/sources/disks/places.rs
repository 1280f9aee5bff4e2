//! Which partition a system mounts where: by its fstab, else by what the partition is for.

use image_source::disk::FstabLine;

use super::{Candidate, is_mountable};

/// One file system beside the root.
#[derive(Debug)]
pub(super) struct Mount {
    /// With a leading `/`.
    pub(super) path: String,
    /// Its number among the candidates.
    pub(super) candidate: usize,
    /// The line that says so.
    pub(super) line: Option<FstabLine>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Places {
    /// Those above first.
    pub(super) mounts: Vec<Mount>,
    /// What fstab needs and the disk has not.
    pub(super) elsewhere: Vec<FstabLine>,
}

impl Places {
    /// Goes through fstab, then through what it does not mention. `is_directory` looks into the root.
    pub(super) fn find(
        candidates: &[Candidate],
        root: usize,
        lines: &[FstabLine],
        is_directory: impl Fn(&str) -> bool,
    ) -> Self {
        let mut this = Self { mounts: Vec::new(), elsewhere: Vec::new() };
        for line in lines {
            let path = line.place.trim_end_matches('/');
            let is_snapshots = path.ends_with("/.snapshots");
            if path.is_empty() || is_snapshots || this.has(path) || path.split('/').any(|name| name == "..") {
                continue;
            }
            match resolve(&line.what, candidates) {
                Some(number) if candidates.get(number).is_some_and(|one| can_be_read(one.identity.kind)) => {
                    let is_whole_root = number == root && line.option("subvol").is_none();
                    if !is_whole_root {
                        let (path, line) = (path.to_owned(), Some(line.clone()));
                        this.mounts.push(Mount { path, candidate: number, line });
                    }
                }
                _ if is_needed(line) => this.elsewhere.push(line.clone()),
                _ => {}
            }
        }
        for (number, candidate) in candidates.iter().enumerate() {
            let is_free = number != root && this.mounts.iter().all(|mount| mount.candidate != number);
            let path = match candidate {
                _ if !is_free || !can_be_read(candidate.identity.kind) => None,
                one if one.partition.is_extended_boot() => Some("/boot"),
                one if one.partition.is_esp() => {
                    Some(if is_directory("efi") && !is_directory("boot/efi") { "/efi" } else { "/boot/efi" })
                }
                _ => None,
            };
            if let Some(path) = path.filter(|path| !this.has(path)) {
                this.mounts.push(Mount { path: path.to_owned(), candidate: number, line: None });
            }
        }
        this.mounts.sort_by_key(|mount| mount.path.split('/').count());
        this
    }

    fn has(&self, path: &str) -> bool {
        self.mounts.iter().any(|mount| mount.path == path)
    }
}

fn can_be_read(kind: &str) -> bool {
    is_mountable(kind) || kind == "vfat"
}

/// Whether a system would miss it: something of a disk that has to be there.
fn is_needed(line: &FstabLine) -> bool {
    let optional = ["nofail", "noauto", "x-systemd.automount"];
    let from_disk = line.what.contains('=') || line.what.starts_with("/dev/");
    let is_removable = ["/dev/cdrom", "/dev/sr0", "/dev/fd0"].contains(&line.what.as_str());
    let is_excused = line.options.iter().any(|option| optional.contains(&option.as_str()));
    from_disk && !is_removable && !is_excused && line.kind != "swap"
}

/// The candidate that `UUID=...`, `/dev/disk/by-label/...` or `/dev/vda1` means.
fn resolve(what: &str, candidates: &[Candidate]) -> Option<usize> {
    let by_path = what.strip_prefix("/dev/disk/by-").and_then(|rest| rest.split_once('/'));
    let (key, value) = by_path.or_else(|| what.split_once('=')).unwrap_or(("", what));
    let is = |one: &Candidate| match key.to_ascii_uppercase().as_str() {
        "UUID" => one.identity.uuid.eq_ignore_ascii_case(value),
        "LABEL" => one.identity.label == value,
        "PARTUUID" => one.partition.id.eq_ignore_ascii_case(value),
        "PARTLABEL" => one.partition.name == value,
        "" => partition_number(value) == Some(one.partition.number),
        _ => false,
    };
    (!value.is_empty()).then(|| candidates.iter().position(is)).flatten()
}

/// `/dev/vda1`, `/dev/nvme0n1p15`: the number on the first disk.
fn partition_number(device: &str) -> Option<u32> {
    let name = device.strip_prefix("/dev/")?;
    let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (disk, number) = name.split_at_checked(name.len() - digits)?;
    let is_first = ["sda", "vda", "xvda", "hda", "nvme0n1p", "mmcblk0p"].contains(&disk);
    is_first.then(|| number.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use image_source::disk::{Identity, Partition, PartitionType, parse_fstab};

    use super::{Candidate, Places, partition_number};

    fn candidate(number: u32, kind: &'static str, uuid: &str, label: &str, guid: &str) -> Candidate {
        let kind_of_partition = PartitionType::Guid(guid.to_owned());
        Candidate {
            partition: Partition {
                number,
                start: u64::from(number) << 20,
                len: 1 << 20,
                kind: kind_of_partition,
                id: format!("part-{number}"),
                name: String::new(),
            },
            identity: Identity { kind, uuid: uuid.to_owned(), label: label.to_owned() },
        }
    }

    #[test]
    fn fstab_leads_and_types_fill_in() {
        let esp = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
        let candidates = [
            candidate(1, "ext4", "AA", "root", "x"),
            candidate(15, "vfat", "1234-ABCD", "UEFI", esp),
            candidate(16, "ext4", "BB", "BOOT", "x"),
            candidate(17, "btrfs", "CC", "", "x"),
        ];
        let check = |fstab: &str, expected: &[(&str, usize)], missing: &[&str]| {
            let places = Places::find(&candidates, 0, &parse_fstab(fstab.as_bytes()), |_| false);
            let mounts: Vec<_> = places.mounts.iter().map(|it| (it.path.as_str(), it.candidate)).collect();
            assert_eq!(mounts, expected, "{fstab}");
            let elsewhere: Vec<_> = places.elsewhere.iter().map(|line| line.place.as_str()).collect();
            assert_eq!(elsewhere, missing, "{fstab}");
        };
        check("LABEL=root / ext4\n", &[("/boot/efi", 1)], &[]);
        check(
            "LABEL=UEFI /boot/efi vfat umask=0077\nUUID=bb /boot ext4\nUUID=dd /data xfs\nUUID=ee /x xfs nofail\n",
            &[("/boot", 2), ("/boot/efi", 1)],
            &["/data"],
        );
        check(
            "/dev/vda1 / ext4\nPARTUUID=part-17 /home btrfs subvol=home\n/dev/cdrom /media iso9660\ntmpfs /tmp tmpfs\n",
            &[("/home", 3), ("/boot/efi", 1)],
            &[],
        );
        assert_eq!(partition_number("/dev/nvme0n1p15"), Some(15));
        assert_eq!(partition_number("/dev/sdb1"), None);
    }
}

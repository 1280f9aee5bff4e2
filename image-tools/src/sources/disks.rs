//! A disk in a file -> the tree that its own system would show, with its other file systems mounted where it says.
//!
//! ```text
//! qcow2, compressed --> copy --\
//! raw disk --------------------+--> partitions --> root --> its fstab --> everything in one tree
//! ```
//! ext2 to ext4, XFS and btrfs are read by this machine's kernel; FAT by us, since not every kernel knows it. The source
//! is never written to: where a journal has to be replayed, a copy of that partition is.

mod places;

use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use image_apply::open_file;
use image_format::{FileContent, Metadata, OwnerNames, SourceFileSystem};
use image_source::disk::{
    Fat, FstabLine, Identity, Partition, Qcow2, find_partitions, identify, is_qcow2, parse_fstab,
};
use image_source::{BlocksError, Member, MemberKind, Merge, find_file_system};

use super::{Place, SourceOptions, Sources, head, merge_tree};
use crate::capture::Walk;
use crate::contents::{DirectoryContents, read_range};
use crate::exclude::Excludes;
use crate::mounts::{Journal, LoopDevice};
use crate::owners::Accounts;
use crate::pending::Pending;
use crate::text;
use places::Places;

/// Subvolumes of btrfs in which distributions put their root, when it is not the default one.
const ROOT_SUBVOLUMES: [&str; 4] = ["root", "@", "@rootfs", "@/.snapshots/1/snapshot"];
/// Files of which a root file system has at least one.
const ROOT_SIGNS: [&str; 4] = ["etc/fstab", "etc/os-release", "usr/lib/os-release", "etc/passwd"];
/// More of an fstab is not read.
const FSTAB_BYTES_MAX: u64 = 1 << 20;
/// What the manifest can hold: file systems, and bytes of a label.
const RECORDED_MAX: usize = 6;
const LABEL_BYTES_MAX: usize = 64;
/// Bytes copied at once.
const COPY_BYTES: usize = 256 << 10;

/// A disk as a file without gaps in its meaning: raw.
pub(super) struct Disk {
    file: File,
    len: u64,
    access: Access,
    output: PathBuf,
}

/// How programs that take names find it.
enum Access {
    Source(PathBuf),
    /// A copy without a name has one as a device.
    Copy(LoopDevice),
}

/// A partition with something known in it.
pub(super) struct Candidate {
    pub(super) partition: Partition,
    pub(super) identity: Identity,
}

/// A mounted root, and from where.
struct Root {
    number: usize,
    device: LoopDevice,
    mount: OwnedFd,
    subvolume: Option<String>,
}

impl Disk {
    /// The disk in `file`; a qcow2 is copied out of its clusters.
    pub(super) fn open(path: &Path, file: File, output: &Path, bytes_max: u64) -> Result<Self> {
        let read = |offset: u64, bytes: &mut [u8]| file.read_exact_at(bytes, offset);
        let len = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0)).map_err(io::Error::from)?;
        let output = output.to_owned();
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).map_err(io::Error::from)?;
        if !is_qcow2(&head(&mut &file)?) {
            let path = path.canonicalize().with_context(|| format!("opening {}", path.display()))?;
            return Ok(Self { file, len, access: Access::Source(path), output });
        }
        let qcow2 = Qcow2::open(&read, len)?;
        if qcow2.snapshots() > 0 {
            println!("the disk has {} snapshots; its present state is taken", qcow2.snapshots());
        }
        let copy = Pending::beside(&output)?;
        copy.file().set_len(qcow2.size()).context("copying the disk")?;
        let mut left = bytes_max;
        qcow2.read_data(&read, &mut |offset, bytes| {
            left = left
                .checked_sub(bytes.len() as u64)
                .context("it holds more bytes than are accepted (--limit-gib)")?;
            write_data(copy.file(), bytes, offset)
        })?;
        Self::of_copy(copy, output)
    }

    /// The disk that a stream is.
    pub(super) fn copy_stream(stream: &mut dyn Read, output: &Path, bytes_max: u64) -> Result<Self> {
        let copy = Pending::beside(output)?;
        let mut buffer = vec![0; COPY_BYTES];
        let mut at = 0;
        loop {
            let count = stream.read(&mut buffer).context("reading it")?;
            let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
            write_data(copy.file(), bytes, at)?;
            at += count as u64;
        }
        copy.file().set_len(at).context("copying the disk")?;
        let disk = Self::of_copy(copy, output.to_owned())?;
        let mut start = [0; 4];
        disk.file.read_exact_at(&mut start, 0).context("reading it")?;
        if is_qcow2(&start) {
            return Self::open(Path::new("-"), disk.file, output, bytes_max);
        }
        Ok(disk)
    }

    fn of_copy(copy: Pending, output: PathBuf) -> Result<Self> {
        let file = copy.file().try_clone()?;
        let len = file.metadata()?.len();
        let device = copy.with_name(&output, |path| LoopDevice::attach(path, &(0..len), Journal::Replay))?;
        Ok(Self { file, len, access: Access::Copy(device), output })
    }

    /// A partition as a block device. One that was not unmounted cleanly is mended in a copy.
    fn attach(&self, candidate: &Candidate) -> Result<LoopDevice> {
        let partition = &candidate.partition;
        let range = partition.start..partition.start + partition.len;
        let read = |offset: u64, bytes: &mut [u8]| self.file.read_exact_at(bytes, partition.start + offset);
        let is_dirty = match find_file_system(&read, partition.len) {
            Err(BlocksError::Dirty(_)) => true,
            Err(error @ BlocksError::Read(_)) => return Err(error.into()),
            // The kernel knows better what it can mount.
            Err(BlocksError::Contradiction(_)) | Ok(_) => {
                candidate.identity.kind == "btrfs" && has_log_tree(&read)?
            }
        };
        match (&self.access, is_dirty) {
            (Access::Source(path), false) => LoopDevice::attach(path, &range, Journal::Leave),
            (Access::Copy(copy), is_dirty) => {
                let journal = if is_dirty { Journal::Replay } else { Journal::Leave };
                LoopDevice::attach(copy.path(), &range, journal)
            }
            (Access::Source(_), true) => {
                println!(
                    "{}: it was not unmounted cleanly; its journal is replayed in a copy",
                    shown(partition)
                );
                let copy = Pending::beside(&self.output)?;
                copy.file().set_len(partition.len)?;
                let mut at = 0;
                read_range(&self.file, range, &mut |bytes| {
                    write_data(copy.file(), bytes, at)?;
                    at += bytes.len() as u64;
                    Ok(())
                })?;
                copy.with_name(&self.output, |path| {
                    LoopDevice::attach(path, &(0..partition.len), Journal::Replay)
                })
            }
        }
    }

    /// What is in its partitions.
    fn candidates(&self) -> Result<(&'static str, Vec<Candidate>, Vec<Partition>)> {
        let read = |offset: u64, bytes: &mut [u8]| self.file.read_exact_at(bytes, offset);
        let table = find_partitions(&read, self.len)?;
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for partition in table.partitions {
            let read =
                |offset: u64, bytes: &mut [u8]| self.file.read_exact_at(bytes, partition.start + offset);
            match identify(&read, partition.len) {
                Some(identity) => known.push(Candidate { partition, identity }),
                None => unknown.push(partition),
            }
        }
        Ok((table.kind, known, unknown))
    }

    /// The partition whose file system is a root.
    fn find_root(&self, candidates: &[Candidate], wanted: Option<u32>) -> Result<Root> {
        let mut found: Vec<Root> = Vec::new();
        for (number, candidate) in candidates.iter().enumerate() {
            let is_wanted = wanted.is_none_or(|wanted| candidate.partition.number == wanted);
            if !is_wanted || !is_mountable(candidate.identity.kind) {
                continue;
            }
            let place = || shown(&candidate.partition);
            let device = self.attach(candidate).with_context(place)?;
            let mut subvolumes = vec![None];
            if candidate.identity.kind == "btrfs" {
                subvolumes.extend(ROOT_SUBVOLUMES.map(Some));
            }
            for subvolume in subvolumes {
                let mount = match device.mount(candidate.identity.kind, subvolume) {
                    Err(_) if subvolume.is_some() => continue,
                    mount => mount.with_context(place)?,
                };
                if ROOT_SIGNS.iter().any(|sign| open_file(mount.as_fd(), sign.as_bytes()).is_ok()) {
                    let subvolume = subvolume.map(str::to_owned);
                    found.push(Root { number, device, mount, subvolume });
                    break;
                }
            }
        }
        let list = || {
            let line = |one: &Candidate| format!("{} {}", shown(&one.partition), one.identity.kind);
            candidates.iter().map(line).collect::<Vec<_>>().join(", ")
        };
        if found.len() > 1 {
            let numbers: Vec<String> = found
                .iter()
                .filter_map(|root| candidates.get(root.number))
                .map(|one| shown(&one.partition))
                .collect();
            bail!(
                "there are root file systems in {}; choose one with --root-partition",
                numbers.join(" and ")
            );
        }
        found.pop().with_context(|| match candidates {
            [] => "no partition holds a file system that is known".to_owned(),
            _ => format!("no partition holds a root file system that can be read here: {}", list()),
        })
    }
}

impl Sources {
    /// A disk's tree.
    pub(super) fn read_disk(&mut self, disk: Disk, options: &SourceOptions) -> Result<Merge<Place>> {
        let (table, candidates, unknown) = disk.candidates()?;
        ensure!(
            !candidates.iter().all(|one| one.identity.kind == "swap"),
            "none of its partitions holds a file system that is known ({table})"
        );
        let root = disk.find_root(&candidates, options.root_partition)?;
        let lines = read_fstab(&root.mount)?;
        let accounts = Accounts::read(root.mount.as_fd())?;
        let mut merge = Merge::default();
        let places = Places::find(&candidates, root.number, &lines, |path| {
            rustix::fs::statat(&root.mount, path, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())
        });
        self.walk(&mut merge, &[], root.mount, &accounts)?;
        self.record("/", candidates.get(root.number), root.subvolume.as_deref());
        for place in &places.mounts {
            let Some(candidate) = candidates.get(place.candidate) else { continue };
            let doing = || format!("{}, which is {}", shown(&candidate.partition), place.path);
            let above = image_source::split_path(place.path.as_bytes())?;
            merge.clear_beneath(&above).with_context(doing)?;
            if candidate.identity.kind == "vfat" {
                self.read_fat(&mut merge, &above, &disk, candidate, place.line.as_ref())
                    .with_context(doing)?;
            } else {
                let subvolume = place.line.as_ref().and_then(|line| line.option("subvol"));
                let own = (place.candidate != root.number).then(|| disk.attach(candidate)).transpose();
                let device = own.with_context(doing)?;
                let device = device.as_ref().unwrap_or(&root.device);
                let mount = device.mount(candidate.identity.kind, subvolume).with_context(doing)?;
                self.walk(&mut merge, &above, mount, &accounts).with_context(doing)?;
            }
            self.record(&place.path, Some(candidate), None);
        }
        for (number, candidate) in candidates.iter().enumerate() {
            let is_used =
                number == root.number || places.mounts.iter().any(|place| place.candidate == number);
            if !is_used {
                println!("{}: {}, left out", shown(&candidate.partition), candidate.identity.kind);
            }
        }
        for partition in &unknown {
            println!("{}: nothing known in it, left out", shown(partition));
        }
        for line in places.elsewhere {
            println!("{}: fstab mounts {} there, which is not on this disk", line.place, line.what);
        }
        Ok(merge)
    }

    /// Adds all of a mounted file system beneath `above`.
    fn walk(
        &mut self,
        merge: &mut Merge<Place>,
        above: &[Vec<u8>],
        mount: OwnedFd,
        accounts: &Accounts,
    ) -> Result<()> {
        let mut excludes = Excludes::default();
        excludes.add("lost+found");
        excludes.add(".snapshots/*");
        let (tree, stamps) = Walk::new(&mount, &excludes, accounts).run()?;
        let number = self.directories.len();
        merge_tree(merge, above, &tree, |index| Place::Directory(number, index))?;
        self.directories.push((tree, DirectoryContents { root: mount, stamps }));
        Ok(())
    }

    fn read_fat(
        &mut self,
        merge: &mut Merge<Place>,
        above: &[Vec<u8>],
        disk: &Disk,
        candidate: &Candidate,
        line: Option<&FstabLine>,
    ) -> Result<()> {
        let start = candidate.partition.start;
        let read = |offset: u64, bytes: &mut [u8]| disk.file.read_exact_at(bytes, start + offset);
        let rights = Rights::of(line);
        for entry in Fat::open(&read, candidate.partition.len)?.entries()? {
            let place = Place::Spool(self.spool.used);
            for range in &entry.data {
                self.spool.copy(&disk.file, start + range.start..start + range.end)?;
            }
            let kind = if entry.is_directory {
                MemberKind::Directory
            } else {
                MemberKind::File(FileContent::plain(entry.size))
            };
            let mode = if entry.is_directory { rights.directory } else { rights.file };
            let metadata =
                Metadata { mode, uid: rights.uid, gid: rights.gid, mtime: entry.changed, flags: 0 };
            let names = above.iter().cloned().chain(entry.names).collect();
            let (owner_names, xattrs) = (OwnerNames::default(), Vec::new());
            merge.add(Member { names, metadata, owner_names, xattrs, kind, data_offset: 0 }, place)?;
        }
        Ok(())
    }

    /// Says where a partition went, and keeps what it was called.
    fn record(&mut self, path: &str, candidate: Option<&Candidate>, subvolume: Option<&str>) {
        let Some(Candidate { partition, identity }) = candidate else { return };
        let named =
            |key: &str, value: &str| if value.is_empty() { String::new() } else { format!(" {key}={value}") };
        let names = named("UUID", &identity.uuid) + &named("LABEL", &identity.label);
        let subvolume = subvolume.map_or_else(String::new, |subvolume| format!(", subvolume {subvolume}"));
        println!(
            "{}: {}{names}{subvolume} -> {}",
            shown(partition),
            identity.kind,
            text::path(path.as_bytes())
        );
        if self.file_systems.len() < RECORDED_MAX {
            let keep =
                |text: &str| (!text.is_empty() && text.len() <= LABEL_BYTES_MAX).then(|| text.to_owned());
            self.file_systems.push(SourceFileSystem {
                mount: path.to_owned(),
                kind: identity.kind.to_owned(),
                uuid: keep(&identity.uuid),
                label: keep(&identity.label),
            });
        }
    }
}

impl super::Spool {
    /// Appends bytes of another file.
    fn copy(&mut self, from: &File, range: Range<u64>) -> Result<()> {
        let mut file = self.file.file();
        let (used, left) = (&mut self.used, &mut self.left);
        read_range(from, range, &mut |bytes| {
            *left = left
                .checked_sub(bytes.len() as u64)
                .context("it holds more bytes than are accepted (--limit-gib)")?;
            *used += bytes.len() as u64;
            file.write_all(bytes).context("copying the disk's data")
        })
    }
}

/// Owners and modes of a FAT, which has none: as its fstab line says, else as Linux mounts it.
struct Rights {
    directory: u32,
    file: u32,
    uid: u32,
    gid: u32,
}

impl Rights {
    fn of(line: Option<&FstabLine>) -> Self {
        let option = |name| line.and_then(|line| line.option(name));
        let octal = |name| option(name).and_then(|value| u32::from_str_radix(value, 8).ok());
        let mask = |name| octal(name).or_else(|| octal("umask")).unwrap_or(0o022);
        let id = |name| option(name).and_then(|value| value.parse().ok()).unwrap_or(0);
        Self {
            directory: 0o777 & !mask("dmask"),
            file: 0o777 & !mask("fmask"),
            uid: id("uid"),
            gid: id("gid"),
        }
    }
}

/// Whether this kernel is asked to mount such a file system.
fn is_mountable(kind: &str) -> bool {
    ["ext2", "ext3", "ext4", "xfs", "btrfs"].contains(&kind)
}

/// Whether a btrfs has changes that only its log knows (`log_root` of its superblock).
fn has_log_tree(read: &image_source::ReadAt<'_>) -> Result<bool> {
    let mut log_root = [0; 8];
    read(0x1_0060, &mut log_root)?;
    Ok(log_root != [0; 8])
}

fn read_fstab(root: &OwnedFd) -> Result<Vec<FstabLine>> {
    let Ok(file) = open_file(root.as_fd(), b"etc/fstab").map(File::from) else { return Ok(Vec::new()) };
    let mut bytes = Vec::new();
    if file.metadata()?.is_file() {
        file.take(FSTAB_BYTES_MAX).read_to_end(&mut bytes).context("reading its /etc/fstab")?;
    }
    Ok(parse_fstab(&bytes))
}

fn shown(partition: &Partition) -> String {
    let name = if partition.name.is_empty() {
        String::new()
    } else {
        format!(" ({})", text::path(partition.name.as_bytes()))
    };
    match partition.number {
        0 => "the whole disk".to_owned(),
        number => format!("partition {number}{name}"),
    }
}

/// Writes what is not zero; the rest of a new file is holes.
fn write_data(file: &File, bytes: &[u8], at: u64) -> Result<()> {
    const UNIT: usize = 4096;
    let mut offset = at;
    for part in bytes.chunks(UNIT) {
        if part.iter().any(|&byte| byte != 0) {
            file.write_all_at(part, offset).context("copying the disk")?;
        }
        offset += part.len() as u64;
    }
    Ok(())
}

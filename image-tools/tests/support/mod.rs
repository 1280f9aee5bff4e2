//! Trees on disk, and what is seen of them by plain system calls: no line of the code under test is used to look.
#![allow(dead_code, reason = "each test program uses a part")]

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::fs::{AtFlags, CWD, IFlags, Mode, Timespec, Timestamps, XattrFlags};

/// Whether owners and devices can be made; says so if not.
pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: owners and devices need root");
    }
    root
}

/// Whether a program is installed; says so if not.
pub(crate) fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        println!("skipped: {program} is not installed");
    }
    found
}

/// Runs `image-tools`.
pub(crate) fn tool<S: AsRef<OsStr>>(arguments: &[S]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_image-tools")).args(arguments).output().unwrap()
}

/// Runs `image-tools`, which must succeed; its output.
pub(crate) fn succeed<S: AsRef<OsStr>>(arguments: &[S]) -> String {
    let output = tool(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `image-tools`, which must fail with exit code 1 and one sentence that holds `expected`.
pub(crate) fn fail<S: AsRef<OsStr>>(arguments: &[S], expected: &str) {
    let output = tool(arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(expected), "expected {expected:?} in {said:?}");
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
}

/// Runs another program, which must succeed.
pub(crate) fn run(program: &str, arguments: &[&OsStr]) -> Output {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    output
}

/// What is seen of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) kind: String,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: (i64, i64),
    pub(crate) size: u64,
    pub(crate) device: u64,
    pub(crate) target: Option<OsString>,
    pub(crate) contents: Option<Vec<u8>>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) flags: u32,
    /// The first path, in order, of the same inode.
    pub(crate) first_name: PathBuf,
    /// Whether far fewer blocks are allocated than its size needs.
    pub(crate) sparse: bool,
}

/// Everything beneath `root`, the root itself as the empty path.
pub(crate) fn look(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut all = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    let mut paths = vec![PathBuf::new()];
    while let Some(path) = paths.pop() {
        let full = root.join(&path);
        if std::fs::symlink_metadata(&full).unwrap().is_dir() {
            paths
                .extend(std::fs::read_dir(&full).unwrap().map(|entry| path.join(entry.unwrap().file_name())));
        }
        all.insert(path, full);
    }
    let look = |(path, full): (PathBuf, PathBuf)| {
        let metadata = std::fs::symlink_metadata(&full).unwrap();
        let first_name =
            inodes.entry((metadata.dev(), metadata.ino())).or_insert_with(|| path.clone()).clone();
        (path, look_at(&full, &metadata, first_name))
    };
    all.into_iter().map(look).collect()
}

fn look_at(path: &Path, metadata: &std::fs::Metadata, first_name: PathBuf) -> Seen {
    let file_type = metadata.file_type();
    let open = || std::fs::File::open(path).unwrap();
    let is_opened = file_type.is_file() || file_type.is_dir();
    let kept = IFlags::IMMUTABLE
        | IFlags::APPEND
        | IFlags::NODUMP
        | IFlags::NOATIME
        | IFlags::SYNC
        | IFlags::DIRSYNC;
    Seen {
        kind: format!("{file_type:?}"),
        mode: if file_type.is_symlink() { 0 } else { metadata.mode() & 0o7777 },
        owner: (metadata.uid(), metadata.gid()),
        mtime: (metadata.mtime(), metadata.mtime_nsec()),
        size: if file_type.is_dir() { 0 } else { metadata.size() },
        device: if file_type.is_char_device() || file_type.is_block_device() { metadata.rdev() } else { 0 },
        target: file_type.is_symlink().then(|| std::fs::read_link(path).unwrap().into_os_string()),
        contents: file_type.is_file().then(|| std::fs::read(path).unwrap()),
        xattrs: xattrs(path),
        flags: if is_opened {
            rustix::fs::ioctl_getflags(open()).map_or(0, |flags| (flags & kept).bits())
        } else {
            0
        },
        first_name,
        sparse: file_type.is_file() && metadata.blocks() * 512 + (1 << 20) < metadata.size(),
    }
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0; 65536];
    let len = rustix::fs::llistxattr(path, list.as_mut_slice()).unwrap();
    // XFS lists its ACLs under two names each.
    let names = list[..len].split(|&byte| byte == 0);
    let names = names.filter(|name| !name.is_empty() && !name.starts_with(b"trusted.SGI_ACL_"));
    names
        .map(|name| {
            let mut value = vec![0; 65536];
            let len = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).unwrap();
            value.truncate(len);
            (name.to_vec(), value)
        })
        .collect()
}

/// Compares two trees and names the first path that differs, without printing contents.
pub(crate) fn assert_equal(found: &BTreeMap<PathBuf, Seen>, expected: &BTreeMap<PathBuf, Seen>) {
    let names = |tree: &BTreeMap<PathBuf, Seen>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected));
    for (path, expected) in expected {
        let found = &found[path];
        assert!(found.contents == expected.contents, "contents of {path:?}");
        let strip = |seen: &Seen| Seen { contents: None, ..seen.clone() };
        assert_eq!(strip(found), strip(expected), "{path:?}");
    }
}

/// Which of the harder properties a tree is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extras {
    /// All.
    All,
    /// As ext4, XFS and btrfs all keep them.
    OnAnyFileSystem,
    /// Those that GNU tar can restore: no sockets, no file flags.
    ForTar,
}

/// A tree with everything that a root file system can have. Needs root.
pub(crate) fn make_tree(root: &Path, extras: Extras) {
    let path = |name: &[u8]| root.join(OsStr::from_bytes(name));
    for directory in ["etc", "bin", "dev", "proc", "srv/a/b", "big"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    std::fs::write(path(b"etc/passwd"), "root:x:0:0\n").unwrap();
    std::fs::write(path(b"etc/empty"), "").unwrap();
    std::fs::write(path(b"srv/a/not-utf8-\xff\xfe name\n"), "x").unwrap();
    std::fs::write(path(&[b"srv/", [b'n'; 255].as_slice()].concat()), "long name").unwrap();
    let deep = ["a-directory-with-a-rather-long-name"; 12].join("/");
    std::fs::create_dir_all(root.join("srv").join(&deep)).unwrap();
    std::fs::write(root.join("srv").join(&deep).join("deep"), "deep").unwrap();
    std::fs::write(path(b"bin/tool"), vec![7; 100_000]).unwrap();
    std::fs::hard_link(path(b"bin/tool"), path(b"bin/a-first-name")).unwrap();
    std::fs::hard_link(path(b"bin/tool"), path(b"srv/other-name")).unwrap();
    std::os::unix::fs::symlink("../bin/tool", path(b"etc/link")).unwrap();
    std::os::unix::fs::symlink("/no/where/".repeat(30), path(b"etc/long-link")).unwrap();
    std::fs::hard_link(path(b"etc/link"), path(b"etc/link-again")).unwrap();
    random_file(&path(b"big/random"), 9 << 20);
    sparse_file(&path(b"big/sparse"), 40 << 20, &[(1 << 20, 100_000), (20 << 20, 4096)]);
    sparse_file(&path(b"big/only-a-hole"), 3 << 20, &[]);
    sparse_file(&path(b"big/ends-with-data"), (8 << 20) + 5, &[(8 << 20, 5)]);
    // XFS has 18 bits for a minor number.
    let disk = if extras == Extras::OnAnyFileSystem { (259, 200_000) } else { (259, 1_000_000) };
    for (name, kind, device) in [
        (&b"dev/null"[..], rustix::fs::FileType::CharacterDevice, (1, 3)),
        (b"dev/disk", rustix::fs::FileType::BlockDevice, disk),
        (b"dev/pipe", rustix::fs::FileType::Fifo, (0, 0)),
    ] {
        let device = rustix::fs::makedev(device.0, device.1);
        rustix::fs::mknodat(CWD, path(name), kind, Mode::from_raw_mode(0o620), device).unwrap();
    }
    if extras != Extras::ForTar {
        let socket = rustix::fs::FileType::Socket;
        rustix::fs::mknodat(CWD, path(b"dev/socket"), socket, Mode::from_raw_mode(0o600), 0).unwrap();
    }
    set_attributes(root);
    set_times(root);
    if extras != Extras::ForTar {
        // XFS has none for the other.
        let of_directories = if extras == Extras::All { IFlags::DIRSYNC } else { IFlags::SYNC };
        set_flags(&path(b"etc/passwd"), IFlags::IMMUTABLE);
        set_flags(&path(b"etc/empty"), IFlags::APPEND | IFlags::NODUMP);
        set_flags(&path(b"srv/a/b"), IFlags::NOATIME | of_directories);
    }
}

/// Owners, modes, attributes, capabilities, ACLs.
fn set_attributes(root: &Path) {
    let chown =
        |name: &str, uid, gid| std::os::unix::fs::lchown(root.join(name), Some(uid), Some(gid)).unwrap();
    chown("etc/passwd", 4_000_000_000, 3_999_999_999);
    chown("etc/link", 1000, 1001);
    chown("dev/pipe", 5, 6);
    chown("srv/a", 1000, 1000);
    let chmod = |name: &str, mode| {
        rustix::fs::chmodat(CWD, root.join(name), Mode::from_raw_mode(mode), AtFlags::empty()).unwrap();
    };
    chmod("bin/tool", 0o4751);
    chmod("srv", 0o3775);
    chmod("etc/empty", 0);
    chmod("", 0o711);
    let set = |name: &str, key: &str, value: &[u8]| {
        rustix::fs::lsetxattr(root.join(name), key, value, XattrFlags::empty()).unwrap();
    };
    // VFS_CAP_REVISION_2, effective, CAP_NET_RAW permitted: what ping has (linux/capability.h).
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set("bin/tool", "security.capability", &capability);
    set("bin/tool", "user.comment", b"a = b\n\0\xff");
    set("etc", "trusted.overlay.opaque", b"y");
    set("etc/link", "trusted.on-a-link", b"1");
    set("etc/empty", "user.empty", b"");
    // user::rwx, user:1000:rw-, group::r-x, mask::rwx, other::---
    let acl = "02000000 01000700ffffffff 02000600e8030000 04000500ffffffff 10000700ffffffff 20000000ffffffff";
    let acl = hex::decode(acl.replace(' ', "")).unwrap();
    set("big/random", "system.posix_acl_access", &acl);
    set("srv/a/b", "system.posix_acl_default", &acl);
}

/// Times with nanoseconds, before 1970 and far in the future; directories after what is in them.
fn set_times(root: &Path) {
    let mut paths: Vec<PathBuf> = look(root).into_keys().collect();
    paths.reverse();
    for (index, path) in paths.iter().enumerate() {
        let seconds = match index % 4 {
            0 => -5 - i64::try_from(index).unwrap(),
            1 => 4_000_000_000,
            _ => 1_700_000_000 + i64::try_from(index).unwrap(),
        };
        let nanoseconds = if index % 3 == 0 { 0 } else { 123_456_789 };
        let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        let times = Timestamps { last_access: time, last_modification: time };
        let full = if path.as_os_str().is_empty() { root.to_owned() } else { root.join(path) };
        rustix::fs::utimensat(CWD, full, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// Sets file flags, or clears all that hinder removal.
pub(crate) fn set_flags(path: &Path, flags: IFlags) {
    let file = std::fs::File::open(path).unwrap();
    let others = rustix::fs::ioctl_getflags(&file).unwrap().difference(IFlags::IMMUTABLE | IFlags::APPEND);
    rustix::fs::ioctl_setflags(&file, others | flags).unwrap();
}

/// Lets a tree of [`make_tree`] be removed again.
pub(crate) fn release(root: &Path) {
    for name in ["etc/passwd", "etc/empty"] {
        if root.join(name).exists() {
            set_flags(&root.join(name), IFlags::empty());
        }
    }
}

fn sparse_file(path: &Path, size: u64, runs: &[(u64, usize)]) {
    let file = std::fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    for &(offset, len) in runs {
        file.write_all_at(&vec![0xab; len], offset).unwrap();
    }
    file.sync_all().unwrap();
}

/// Does not compress.
pub(crate) fn random_file(path: &Path, len: usize) {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    std::fs::write(path, bytes).unwrap();
}

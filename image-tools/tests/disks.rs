//! Cloud images become images: partitions found, file systems merged, qcow2 read as QEMU reads it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use support::{Extras, Seen, assert_equal, fail, has, is_root, look, make_tree, release, run, succeed};

/// Partitions of the test disk: number, first MiB, MiB.
const BOOT: (u32, u64, u64) = (16, 1, 40);
const ESP: (u32, u64, u64) = (15, 41, 40);
const ROOT: (u32, u64, u64) = (1, 81, 400);
const DISK_MIB: u64 = 490;

/// Of each kind its own: mkfs.btrfs refuses one that any block device of this machine has, and other tests have theirs.
fn root_uuid(kind: &str) -> &'static str {
    match kind {
        "xfs" => "6c0f3b2e-1f0c-4a51-9a2e-0123456789ac",
        "btrfs" => "6c0f3b2e-1f0c-4a51-9a2e-0123456789ad",
        _ => "6c0f3b2e-1f0c-4a51-9a2e-0123456789ab",
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn call(program: &str, arguments: &[&str]) {
    run(program, &arguments.iter().map(OsStr::new).collect::<Vec<_>>());
}

struct Disk {
    directory: tempfile::TempDir,
    /// What the image should hold.
    expected: BTreeMap<PathBuf, Seen>,
}

impl Disk {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Root by `mkfs`, /boot of ext4, an ESP; a GPT as cloud images have it.
    fn make(kind: &str) -> Option<Self> {
        let programs = ["sgdisk", "qemu-img", "mcopy", "rsync"];
        if !is_root() || !programs.into_iter().all(has) {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let (source, disk) = (path("source"), path("disk.raw"));
        make_tree(&source, Extras::All);
        if kind == "xfs" {
            // It has 18 bits for a minor number.
            std::fs::remove_file(source.join("dev/disk")).unwrap();
        }
        std::fs::create_dir_all(source.join("boot/efi")).unwrap();
        let fstab = format!(
            "UUID={} / {kind} defaults 0 1\nLABEL=BOOT /boot ext4 defaults 0 2\nLABEL=UEFI /boot/efi vfat umask=0077 0 1\n",
            root_uuid(kind)
        );
        std::fs::write(source.join("etc/fstab"), fstab).unwrap();
        std::fs::create_dir_all(path("boot/grub")).unwrap();
        std::fs::create_dir_all(path("boot/efi")).unwrap();
        std::fs::write(path("boot/vmlinuz-6.1.0-1-amd64"), vec![3; 3 << 20]).unwrap();
        std::fs::write(path("boot/grub/grub.cfg"), "linux /vmlinuz root=LABEL=x\n").unwrap();
        std::fs::create_dir_all(path("esp/EFI/BOOT")).unwrap();
        std::fs::create_dir_all(path("esp/EFI/a directory with a long name")).unwrap();
        std::fs::write(path("esp/EFI/BOOT/BOOTX64.EFI"), vec![5; 1_234_567]).unwrap();
        std::fs::write(path("esp/EFI/a directory with a long name/grüb lower.cfg"), "x").unwrap();
        std::fs::write(path("esp/EFI/empty"), "").unwrap();

        std::fs::File::create(&disk).unwrap().set_len(DISK_MIB << 20).unwrap();
        let mut arguments = vec!["-a".to_owned(), "1".to_owned()];
        for ((number, start, len), guid) in [(BOOT, "8300"), (ESP, "EF00"), (ROOT, "8300")] {
            let (first, last) = (start * 2048, (start + len) * 2048 - 1);
            arguments.extend([format!("-n{number}:{first}:{last}"), format!("-t{number}:{guid}")]);
        }
        arguments.push(text(&disk).to_owned());
        call("sgdisk", &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        make_ext4(&disk, BOOT, "BOOT", &path("boot"));
        make_esp(&disk, ESP, &path("esp"));
        // What the root's file system has taken: XFS knows fewer file flags.
        let expected = fill(&disk, ROOT, kind, &source);
        release(&source);
        Some(Self { directory, expected })
    }

    fn import(&self, source: &str, more: &[&str]) -> (BTreeMap<PathBuf, Seen>, String) {
        let (image, out) = (self.path("new.esir"), self.path("out"));
        let said = succeed(&[&["import", source, "-o", text(&image), "--level", "1"], more].concat());
        succeed(&["verify", text(&image)]);
        succeed(&["extract", text(&image), "-C", text(&out)]);
        let seen = look(&out);
        release(&out);
        std::fs::remove_dir_all(&out).unwrap();
        (seen, said)
    }

    /// The tree as it should be, without the two file systems that are mounted in it.
    fn check(&self, seen: &BTreeMap<PathBuf, Seen>) {
        let own = |tree: &BTreeMap<PathBuf, Seen>| {
            let tree = tree.iter().filter(|(path, _)| !path.starts_with("boot"));
            tree.map(|(path, seen)| (path.clone(), seen.clone())).collect::<BTreeMap<_, _>>()
        };
        assert_equal(&own(seen), &own(&self.expected));
        let boot: Vec<&str> =
            seen.keys().filter(|path| path.starts_with("boot")).map(|path| path.to_str().unwrap()).collect();
        assert_eq!(
            boot,
            [
                "boot",
                "boot/efi",
                "boot/efi/EFI",
                "boot/efi/EFI/BOOT",
                "boot/efi/EFI/BOOT/BOOTX64.EFI",
                "boot/efi/EFI/a directory with a long name",
                "boot/efi/EFI/a directory with a long name/grüb lower.cfg",
                "boot/efi/EFI/empty",
                "boot/grub",
                "boot/grub/grub.cfg",
                "boot/vmlinuz-6.1.0-1-amd64",
            ]
        );
        let at = |path: &str| &seen[Path::new(path)];
        assert_eq!(at("boot/vmlinuz-6.1.0-1-amd64").contents, Some(vec![3; 3 << 20]));
        assert_eq!(at("boot/efi/EFI/BOOT/BOOTX64.EFI").contents, Some(vec![5; 1_234_567]));
        assert_eq!(at("boot/efi/EFI/BOOT/BOOTX64.EFI").mode, 0o700);
    }
}

/// By mke2fs from a directory, then put into its place.
fn make_ext4(disk: &Path, (_, start, len): (u32, u64, u64), label: &str, from: &Path) {
    let part = disk.with_extension("part");
    let size = format!("{len}M");
    call("mkfs.ext4", &["-q", "-F", "-L", label, "-d", text(from), text(&part), &size]);
    put(disk, start, &part);
}

fn make_esp(disk: &Path, (_, start, len): (u32, u64, u64), from: &Path) {
    let part = disk.with_extension("part");
    std::fs::File::create(&part).unwrap().set_len(len << 20).unwrap();
    call("mkfs.vfat", &["-F", "32", "-n", "UEFI", text(&part)]);
    call("mcopy", &["-s", "-i", text(&part), text(&from.join("EFI")), "::"]);
    put(disk, start, &part);
}

fn put(disk: &Path, start: u64, part: &Path) {
    let (from, to) = (format!("if={}", text(part)), format!("of={}", text(disk)));
    call("dd", &[&from, &to, "bs=1M", &format!("seek={start}"), "conv=notrunc,sparse", "status=none"]);
    std::fs::remove_file(part).unwrap();
}

/// Unmounts whatever happens in between.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// By mkfs, mount and rsync; what is then seen in it.
fn fill(disk: &Path, (_, start, len): (u32, u64, u64), kind: &str, from: &Path) -> BTreeMap<PathBuf, Seen> {
    let part = disk.with_extension("part");
    std::fs::File::create(&part).unwrap().set_len(len << 20).unwrap();
    let make = format!("mkfs.{kind}");
    match kind {
        "xfs" => call(&make, &["-q", "-m", &format!("uuid={}", root_uuid(kind)), text(&part)]),
        _ => call(&make, &["-q", "-U", root_uuid(kind), text(&part)]),
    }
    let place = disk.with_extension("mnt");
    std::fs::create_dir_all(&place).unwrap();
    call("mount", &["-o", "loop", text(&part), text(&place)]);
    let mounted = Mounted(place.clone());
    let root = if kind == "btrfs" {
        call("btrfs", &["-q", "subvolume", "create", text(&place.join("root"))]);
        place.join("root")
    } else {
        place.clone()
    };
    call("rsync", &["-aHAXS", "--numeric-ids", &format!("{}/", text(from)), &format!("{}/", text(&root))]);
    // rsync keeps no file flags.
    for (name, seen) in look(from) {
        if seen.flags != 0 {
            set_flags(&root.join(name), rustix::fs::IFlags::from_bits_retain(seen.flags));
        }
    }
    let mut seen = look(&root);
    // Of the file system, not of the system in it.
    seen.remove(Path::new("lost+found"));
    drop(mounted);
    put(disk, start, &part);
    seen
}

/// One by one, as far as this file system knows them.
fn set_flags(path: &Path, flags: rustix::fs::IFlags) {
    let file = std::fs::File::open(path).unwrap();
    for flag in flags.iter() {
        let others = rustix::fs::ioctl_getflags(&file).unwrap();
        let _ = rustix::fs::ioctl_setflags(&file, others | flag);
    }
}

#[test]
fn a_cloud_image_with_boot_and_esp_becomes_one_tree_raw_and_as_qcow2() {
    let Some(disk) = Disk::make("ext4") else { return };
    let raw = disk.path("disk.raw");
    let before = blake3::hash(&std::fs::read(&raw).unwrap());
    let (seen, said) = disk.import(text(&raw), &[]);
    disk.check(&seen);
    assert!(said.contains(&format!("partition 1: ext4 UUID={} -> /\n", root_uuid("ext4"))), "{said}");
    assert!(said.contains("LABEL=BOOT -> /boot\n"), "{said}");
    assert!(said.contains("LABEL=UEFI -> /boot/efi\n"), "{said}");
    assert_eq!(before, blake3::hash(&std::fs::read(&raw).unwrap()), "the source is never written to");
    let info: serde_json::Value =
        serde_json::from_str(&succeed(&["inspect", "--json", text(&disk.path("new.esir"))])).unwrap();
    assert_eq!(info["manifest"]["source_file_systems"][0]["uuid"], root_uuid("ext4"));
    for (name, options) in [
        ("plain", &["-o", "cluster_size=64k"][..]),
        ("deflate", &["-c"]),
        ("zstd", &["-c", "-o", "compression_type=zstd,cluster_size=128k"]),
        ("old", &["-o", "compat=0.10,cluster_size=512"]),
        ("extended", &["-o", "extended_l2=on"]),
    ] {
        let qcow2 = disk.path(name);
        call(
            "qemu-img",
            &[&["convert", "-f", "raw", "-O", "qcow2"], options, &[text(&raw), text(&qcow2)]].concat(),
        );
        let (seen, _) = disk.import(text(&qcow2), &[]);
        disk.check(&seen);
        std::fs::remove_file(&qcow2).unwrap();
    }
    call("zstd", &["-q", "-1", text(&raw)]);
    let (seen, _) = disk.import(text(&disk.path("disk.raw.zst")), &[]);
    disk.check(&seen);
}

#[test]
fn roots_of_xfs_and_in_a_subvolume_of_btrfs() {
    for kind in ["xfs", "btrfs"] {
        let Some(disk) = Disk::make(kind) else { return };
        let (seen, said) = disk.import(text(&disk.path("disk.raw")), &[]);
        disk.check(&seen);
        assert!(said.contains(&format!(": {kind} UUID={}", root_uuid(kind))), "{said}");
        let info = succeed(&["inspect", "--json", text(&disk.path("new.esir"))]);
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        assert_eq!(info["manifest"]["root_file_system"]["kind"], kind);
    }
}

#[test]
fn disks_that_cannot_be_read_are_refused_with_a_remedy() {
    if !is_root() || !has("qemu-img") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let out = path("x.esir");
    let refused =
        |name: &str, expected: &str| fail(&["import", text(&path(name)), "-o", text(&out)], expected);
    call("qemu-img", &["create", "-q", "-f", "qcow2", text(&path("base")), "10M"]);
    call(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", text(&path("base")), text(&path("child"))],
    );
    refused("child", "backing file; put both together first: qemu-img convert");
    refused("base", "holds a file system that is known");
    call("qemu-img", &["create", "-q", "-f", "vmdk", text(&path("disk.vmdk")), "10M"]);
    refused("disk.vmdk", "of the kind VMDK; make it a qcow2 first");
    let bytes = std::fs::read(path("base")).unwrap();
    std::fs::write(path("cut"), &bytes[..80]).unwrap();
    refused("cut", "the file is cut off");
    std::fs::write(path("encrypted"), [&bytes[..32], &[0, 0, 0, 2], &bytes[36..]].concat()).unwrap();
    refused("encrypted", "it is encrypted");
    assert!(!out.exists());
}

#[test]
fn a_disk_that_was_not_unmounted_is_mended_in_a_copy() {
    if !is_root()
        || !["mkfs.ext4", "mkfs.xfs"].into_iter().all(|program| Path::new("/sbin").join(program).exists())
    {
        return;
    }
    for (kind, mib) in [("ext4", 64), ("xfs", 320)] {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let (disk, copy, place, image) = (path("disk"), path("copy"), path("mnt"), path("x.esir"));
        std::fs::File::create(&disk).unwrap().set_len(mib << 20).unwrap();
        call(&format!("mkfs.{kind}"), &["-q", text(&disk)]);
        std::fs::create_dir(&place).unwrap();
        call("mount", &["-o", "loop", text(&disk), text(&place)]);
        let mounted = Mounted(place.clone());
        std::fs::create_dir(place.join("etc")).unwrap();
        for (name, contents) in [("etc/os-release", b"NAME=x".as_slice()), ("data", &[9; 3_000_000])] {
            std::fs::write(place.join(name), contents).unwrap();
            std::fs::File::open(place.join(name)).unwrap().sync_all().unwrap();
        }
        std::fs::copy(&disk, &copy).unwrap();
        drop(mounted);
        let hash = || blake3::hash(&std::fs::read(&copy).unwrap());
        let before = hash();
        let said = succeed(&["import", text(&copy), "-o", text(&image), "--level", "1"]);
        assert!(said.contains("its journal is replayed in a copy"), "{said}");
        assert_eq!(hash(), before, "the source is never written to");
        let data = support::tool(&["cat", text(&image), "/data"]).stdout;
        assert!(data == vec![9; 3_000_000], "{kind}");
    }
}

//! A partition through an image and back, compared by what e2fsprogs, xfsprogs, the kernel and rsync see.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{fail, has, is_root, random_file, run, succeed};

/// What somebody deleted.
const SECRET: &[u8] = b"a secret that was deleted";

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap() };
        let tree = PathBuf::from(place.path("tree"));
        std::fs::create_dir_all(tree.join("etc")).unwrap();
        std::fs::write(tree.join("etc/hostname"), "golden\n").unwrap();
        std::fs::hard_link(tree.join("etc/hostname"), tree.join("name")).unwrap();
        random_file(&tree.join("random"), 5 << 20);
        std::fs::write(tree.join("zeros"), vec![0; 3 << 20]).unwrap();
        place
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    /// A partition of 48 MiB with the tree in it and something deleted in its free blocks.
    fn partition(&self, options: &[&str]) -> String {
        let (file, tree) = (self.path("sda2"), self.path("tree"));
        let _ = std::fs::remove_file(&file);
        let arguments = [options, &["-q", "-F", "-d", &tree, &file, "48M"]].concat();
        run("mke2fs", &arguments.iter().map(OsStr::new).collect::<Vec<_>>());
        write_secrets(&file);
        file
    }

    /// The same of 320 MiB, the least that mkfs.xfs makes, and with other files.
    fn xfs(&self, options: &[&str]) -> String {
        let (file, list) = (self.path("sda2"), self.path("list"));
        let (tree, _) = (self.path("tree"), std::fs::remove_file(&file));
        let text = format!(
            "none\n0 0\nd--755 0 0\nrandom ---644 0 0 {tree}/random\nzeros ---644 0 0 {tree}/zeros\n$\n"
        );
        std::fs::write(&list, text).unwrap();
        std::fs::File::create(&file).unwrap().set_len(320 << 20).unwrap();
        let arguments = [options, &["-q", "-f", "-p", &list, &file]].concat();
        run("mkfs.xfs", &arguments.iter().map(OsStr::new).collect::<Vec<_>>());
        write_secrets(&file);
        file
    }

    fn image(&self, partition: &str, name: &str, more: &[&str]) -> String {
        let image = self.path(name);
        succeed(&[&["capture", "--partition", partition, "-o", &image, "--level", "1"], more].concat());
        image
    }
}

fn write_secrets(partition: &str) {
    let opened = std::fs::File::options().write(true).open(partition).unwrap();
    let free = free_bytes(partition).0;
    for at in free.iter().flat_map(|range| [range.start, range.end - 512]) {
        opened.write_all_at(SECRET, at).unwrap();
    }
    assert!(!free.is_empty());
}

/// What dumpe2fs or xfs_db calls free; and runs of which that is not sure.
fn free_bytes(partition: &str) -> (Vec<Range<u64>>, Vec<Range<u64>>) {
    let mut magic = [0; 4];
    std::fs::File::open(partition).unwrap().read_exact_at(&mut magic, 0).unwrap();
    if &magic == b"XFSB" { free_bytes_of_xfs(partition) } else { (free_bytes_of_ext(partition), Vec::new()) }
}

fn free_bytes_of_ext(partition: &str) -> Vec<Range<u64>> {
    let text = String::from_utf8(run("dumpe2fs", &[OsStr::new(partition)]).stdout).unwrap();
    let block_line = text.lines().find_map(|line| line.strip_prefix("Block size:")).unwrap();
    let block: u64 = block_line.trim().parse().unwrap();
    let lists = text.lines().filter_map(|line| line.strip_prefix("  Free blocks: "));
    let runs = lists.flat_map(|list| list.split(", ")).filter(|run| !run.is_empty());
    runs.map(|run| {
        let (first, last) = run.split_once('-').unwrap_or((run, run));
        let number = |text: &str| text.trim().parse::<u64>().unwrap();
        number(first) * block..(number(last) + 1) * block
    })
    .collect()
}

fn free_bytes_of_xfs(partition: &str) -> (Vec<Range<u64>>, Vec<Range<u64>>) {
    let ask = |commands: &[&str]| {
        let words = commands.iter().flat_map(|command| ["-c", command]);
        let arguments: Vec<&OsStr> =
            ["-r"].into_iter().chain(words).chain([partition]).map(OsStr::new).collect();
        String::from_utf8(run("xfs_db", &arguments).stdout).unwrap()
    };
    let numbers: Vec<u64> = ask(&["sb 0", "p blocksize agblocks"])
        .lines()
        .filter_map(|line| line.split_once(" = ").map(|(_, number)| number.parse().unwrap()))
        .collect();
    let &[block, group_blocks] = numbers.as_slice() else { panic!("{numbers:?}") };
    let text = ask(&["freesp -d"]);
    let rows = text.lines().skip(1).map_while(|line| {
        let cells: Vec<u64> = line.split_whitespace().filter_map(|cell| cell.parse().ok()).collect();
        if let [group, at, count] = cells[..] { Some((group * group_blocks + at, count)) } else { None }
    });
    // It lists the blocks that a group keeps in reserve for its trees too, one by one.
    let (sure, unsure): (Vec<_>, Vec<_>) = rows.partition(|(_, count)| *count > 1);
    let bytes = |runs: Vec<(u64, u64)>| {
        runs.into_iter().map(|(at, count)| at * block..(at + count) * block).collect::<Vec<_>>()
    };
    (bytes(sure), bytes(unsure))
}

/// Equal where the file system uses it, zero where it does not.
fn assert_same_but_free(original: &str, restored: &str) {
    let (mut wanted, mut found) = (std::fs::read(original).unwrap(), std::fs::read(restored).unwrap());
    assert_eq!(wanted.len(), found.len());
    let index =
        |range: Range<u64>| usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
    let (free, unsure) = free_bytes(original);
    for range in free {
        wanted[index(range)].fill(0);
    }
    for range in unsure {
        wanted[index(range.clone())].fill(0);
        found[index(range)].fill(0);
    }
    let first = wanted.iter().zip(&found).position(|(wanted, found)| wanted != found);
    assert_eq!(first, None, "first difference");
}

fn has_all(programs: &[&str]) -> bool {
    programs.iter().all(|program| has(program))
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

#[test]
fn every_kind_of_ext_comes_back_without_what_was_deleted() {
    let place = Place::new();
    let kinds: [(&str, &[&str]); 8] = [
        ("ext4", &["-t", "ext4"]),
        ("ext4", &["-t", "ext4", "-b", "1024", "-g", "1024"]),
        ("ext4", &["-t", "ext4", "-b", "2048", "-O", "^64bit,^flex_bg"]),
        ("ext4", &["-t", "ext4", "-O", "bigalloc", "-C", "65536"]),
        ("ext4", &["-t", "ext4", "-b", "1024", "-g", "1024", "-O", "sparse_super2,^resize_inode"]),
        (
            "ext4",
            &["-t", "ext4", "-b", "1024", "-g", "1024", "-O", "^sparse_super,^resize_inode,^metadata_csum"],
        ),
        ("ext3", &["-t", "ext3"]),
        ("ext2", &["-t", "ext2", "-b", "1024", "-I", "128", "-g", "2048"]),
    ];
    for (number, (kind, options)) in kinds.into_iter().enumerate() {
        println!("{options:?}");
        let partition = place.partition(options);
        let (name, restored) = (format!("{number}.esir"), place.path("restored"));
        let image = place.image(&partition, &name, &[]);
        assert!(contains(&std::fs::read(&partition).unwrap(), SECRET));
        succeed(&["verify", &image]);
        succeed(&["extract", &image, "--partition", &restored, "--overwrite"]);
        assert_same_but_free(&partition, &restored);
        run("e2fsck", &["-fn", &restored].map(OsStr::new));
        let info: serde_json::Value = serde_json::from_str(&succeed(&["inspect", &image, "--json"])).unwrap();
        assert_eq!(info["manifest"]["mode"], "partition");
        assert_eq!(info["manifest"]["root_file_system"]["kind"], kind);
        assert!(
            info["manifest"]["content_bytes"].as_u64().unwrap() < 16 << 20,
            "zeros and free blocks are no data"
        );
    }
}

#[test]
fn every_kind_of_xfs_comes_back_without_what_was_deleted() {
    if !has("xfs_db") {
        return;
    }
    let place = Place::new();
    let kinds: [&[&str]; 4] = [
        &[],
        &["-b", "size=1024", "-i", "nrext64=0"],
        &["-m", "crc=0"],
        &["-s", "size=4096", "-d", "agcount=7", "-l", "su=256k"],
    ];
    for (number, options) in kinds.into_iter().enumerate() {
        println!("{options:?}");
        let partition = place.xfs(options);
        let restored = place.path("restored");
        let image = place.image(&partition, &format!("{number}.esir"), &[]);
        assert!(contains(&std::fs::read(&partition).unwrap(), SECRET));
        succeed(&["extract", &image, "--partition", &restored, "--overwrite"]);
        assert_same_but_free(&partition, &restored);
        run("xfs_repair", &["-nf", &restored].map(OsStr::new));
        let info: serde_json::Value = serde_json::from_str(&succeed(&["inspect", &image, "--json"])).unwrap();
        assert_eq!(info["manifest"]["root_file_system"]["kind"], "xfs");
        assert!(info["manifest"]["content_bytes"].as_u64().unwrap() < 16 << 20);
    }
    let (partition, out) = (place.xfs(&[]), place.path("x.esir"));
    let bytes = std::fs::read(&partition).unwrap();
    let with = |at: u64, new: &[u8], expected: &str| {
        std::fs::write(&partition, &bytes).unwrap();
        std::fs::File::options().write(true).open(&partition).unwrap().write_all_at(new, at).unwrap();
        fail(&["capture", "--partition", &partition, "-o", &out], expected);
    };
    let block = |at: usize| u64::from(u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()));
    with(8, &[0xff; 8], "larger than what it lies in");
    with(84, &[0; 4], "allocation groups of an impossible size");
    with(512, b"XXXX", "not what the superblock says");
    with(512 + 52, &[0xff; 4], "counts other free blocks than it lists");
    // The tree of free space of the first group.
    let root = block(512 + 16) * 4096;
    with(root, b"XXXX", "its tree of free space is damaged");
    with(root + 12, &[0, 0, 0, 0], "its tree of free space is damaged");
    with(root + 56 + 4, &[0xff; 4], "free space overlaps");
    // The log, whose first record is the unmount.
    let log = (block(48 + 4) >> bytes[124]) * block(84) + (block(48 + 4) & ((1 << bytes[124]) - 1));
    with(log * 4096, &[0; 4], "was not unmounted cleanly");
    with(log * 4096 + 512 + 9, &[0], "was not unmounted cleanly");
}

#[test]
fn a_partition_is_packed_in_parallel_and_the_same_with_any_number_of_threads() {
    let place = Place::new();
    random_file(Path::new(&place.path("tree/large")), 28 << 20);
    let partition = place.partition(&["-t", "ext4"]);
    let one = place.image(&partition, "a.esir", &["--name", "same", "--run-mib", "4", "--threads", "1"]);
    let five = place.image(&partition, "b.esir", &["--name", "same", "--run-mib", "4", "--threads", "5"]);
    assert!(std::fs::read(&one).unwrap() == std::fs::read(&five).unwrap());
    succeed(&["verify", &five]);
    let restored = place.path("restored");
    succeed(&["extract", &five, "--partition", &restored]);
    assert_same_but_free(&partition, &restored);
    // It is a tar archive like any other.
    let directory = place.path("tar");
    std::fs::create_dir(&directory).unwrap();
    run("tar", &["--zstd", "-xf", &five, "-C", &directory].map(OsStr::new));
    assert_same_but_free(&partition, &format!("{directory}/partition.raw"));
}

#[test]
fn an_unknown_file_system_comes_back_bit_by_bit() {
    let place = Place::new();
    let (partition, restored) = (place.path("sda3"), place.path("restored"));
    random_file(Path::new(&partition), 3 << 20);
    let file = std::fs::File::options().write(true).open(&partition).unwrap();
    file.set_len((9 << 20) + 512).unwrap();
    file.write_all_at(b"end", (9 << 20) + 509).unwrap();
    let image = place.image(&partition, "x.esir", &[]);
    succeed(&["extract", &image, "--partition", &restored]);
    assert!(std::fs::read(&partition).unwrap() == std::fs::read(&restored).unwrap());
}

#[test]
fn what_cannot_be_captured_or_restored_is_refused_and_leaves_nothing() {
    let place = Place::new();
    let (partition, out) = (place.partition(&["-t", "ext4"]), place.path("x.esir"));
    let capture = |expected: &str| fail(&["capture", "--partition", &partition, "-o", &out], expected);
    let bytes = std::fs::read(&partition).unwrap();
    let with = |at: u64, new: &[u8]| {
        std::fs::write(&partition, &bytes).unwrap();
        std::fs::File::options().write(true).open(&partition).unwrap().write_all_at(new, at).unwrap();
    };
    with(1024 + 0x60, &(u32::from_le_bytes(bytes[1120..1124].try_into().unwrap()) | 4).to_le_bytes());
    capture("was not unmounted cleanly");
    with(1024 + 0x3A, &[0]);
    capture("was not unmounted cleanly");
    with(1024 + 0x4, &[0xff; 4]);
    capture("larger than what it lies in");
    with(1024 + 0x20, &[0; 4]);
    capture("contradicts itself");
    // The first group descriptor, behind boot sector and superblock of 1 KiB each.
    with(2048, &[0xff; 4]);
    capture("a group's records lie outside");
    fail(&["capture", "--partition", &place.path("tree"), "-o", &out], "neither a block device nor a file");
    assert!(!Path::new(&out).exists());

    std::fs::write(&partition, &bytes).unwrap();
    let image = place.image(&partition, "x.esir", &[]);
    fail(&["extract", &image, "--partition", &partition], "is there already; replace it with --overwrite");
    let files = place.path("files.esir");
    succeed(&["capture", &place.path("tree"), "-o", &files, "--level", "1"]);
    fail(&["extract", &files, "--partition", &place.path("new")], "an image of files, not of a partition");
    assert!(!Path::new(&place.path("new")).exists());
}

/// A loop device; goes with the value.
struct Loop(String);

impl Loop {
    fn new(file: &str) -> Option<Self> {
        let output = Command::new("losetup").args(["--find", "--show", file]).output().ok()?;
        let device = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        if device.is_empty() {
            println!("skipped: no loop device: {}", String::from_utf8_lossy(&output.stderr));
        }
        (!device.is_empty()).then_some(Self(device))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

struct Mount(String);

impl Mount {
    fn new(device: &str, at: String, options: &str) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        run("mount", &["-o", options, device, &at].map(OsStr::new));
        Self(at)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_lived_in_device_comes_back_on_a_larger_one_that_was_full_of_something_else() {
    if !is_root() || !has_all(&["rsync", "losetup"]) {
        return;
    }
    let place = Place::new();
    let partition = place.partition(&["-t", "ext4"]);
    comes_back_on_a_device(&place, &partition, "ro,noload", &["e2fsck", "-fn"]);
}

#[test]
fn a_lived_in_xfs_comes_back_too() {
    if !is_root() || !has_all(&["rsync", "losetup", "xfs_db"]) {
        return;
    }
    let place = Place::new();
    // A small log goes round.
    let partition = place.xfs(&["-m", "rmapbt=0"]);
    comes_back_on_a_device(&place, &partition, "ro,norecovery,nouuid", &["xfs_repair", "-n"]);
}

fn comes_back_on_a_device(place: &Place, partition: &str, read_only: &str, check: &[&str]) {
    let other = place.path("other");
    let size = std::fs::metadata(partition).unwrap().len();
    std::fs::write(&other, vec![0xff; usize::try_from(size + (2 << 20) + 4096).unwrap()]).unwrap();
    let Some(device) = Loop::new(partition) else { return };
    {
        let mounted = Mount::new(&device.0, place.path("mounted"), "rw");
        let tree = Path::new(&mounted.0);
        for number in 0..200 {
            random_file(&tree.join(format!("file-{number}")), 20_000 + number * 100);
        }
        for number in (0..200).step_by(3) {
            std::fs::remove_file(tree.join(format!("file-{number}"))).unwrap();
        }
        let sparse = std::fs::File::create(tree.join("sparse")).unwrap();
        sparse.write_all_at(b"x", 100 << 20).unwrap();
        std::os::unix::fs::symlink("etc/hostname", tree.join("link")).unwrap();
        run("setfattr", &["-n", "user.colour", "-v", "blue", &format!("{}/name", mounted.0)].map(OsStr::new));
        fail(
            &["capture", "--partition", &device.0, "-o", &place.path("busy.esir")],
            "is in use: unmount it first",
        );
    }
    let image = place.image(&device.0, "x.esir", &[]);
    assert!(!contains(&run("zstd", &["-dcq", &image].map(OsStr::new)).stdout, SECRET));

    let Some(target) = Loop::new(&other) else { return };
    fail(&["extract", &image, "--partition", &target.0], "is a device: everything on it would go");
    succeed(&["extract", &image, "--partition", &target.0, "--overwrite"]);
    let arguments: Vec<&OsStr> =
        check[1..].iter().copied().chain([target.0.as_str()]).map(OsStr::new).collect();
    run(check[0], &arguments);
    {
        let before = Mount::new(&device.0, place.path("before"), read_only);
        let after = Mount::new(&target.0, place.path("after"), read_only);
        let (before, after) = (format!("{}/", before.0), format!("{}/", after.0));
        let arguments = ["-nacHAXS", "--itemize-changes", "--delete", &before, &after];
        let listed = String::from_utf8(run("rsync", &arguments.map(OsStr::new)).stdout).unwrap();
        assert_eq!(listed, "");
    }
    let bytes = std::fs::read(&other).unwrap();
    assert!(
        bytes[usize::try_from(size).unwrap()..].iter().all(|&byte| byte == 0),
        "behind it nothing is left"
    );

    let small = place.path("small");
    std::fs::write(&small, vec![0xff; 1 << 20]).unwrap();
    let Some(small_device) = Loop::new(&small) else { return };
    fail(&["extract", &image, "--partition", &small_device.0, "--overwrite"], "and the image needs");
    assert!(std::fs::read(&small).unwrap().iter().all(|&byte| byte == 0xff));
}

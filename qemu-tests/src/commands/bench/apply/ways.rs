//! Ours and the others: what each reads, how it is called, what it took.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use qemu_tests::command;
use qemu_tests::image::TestImage;
use qemu_tests::programs::Programs;

use super::super::device::{LoopDevice, sync};
use super::super::memory::peak_kib;

/// Level of the others' archives, as of ours.
const LEVEL: &str = "9";
/// A peak is looked at so often; the kernel keeps it, so only growth in the last moment can be missed.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A way from compressed bytes to a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Ours,
    Tar,
    Unsquashfs,
    Partclone,
}

/// What one run took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    /// Until everything was on the disk.
    pub(super) seconds: f64,
    /// Most memory of its programs at once, the sum of their peaks.
    pub(super) peak_mib: Option<u64>,
}

/// The others' forms of the same tree.
pub(super) struct Sources {
    squashfs: PathBuf,
    partclone: PathBuf,
}

impl Way {
    pub(super) const ALL: [Self; 4] = [Self::Ours, Self::Tar, Self::Unsquashfs, Self::Partclone];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ours => "image-tools extract",
            Self::Tar => "zstd -dc | tar -x",
            Self::Unsquashfs => "unsquashfs",
            Self::Partclone => "zstd -dc | partclone",
        }
    }
}

impl Sources {
    pub(super) fn make(image: &TestImage, device: &LoopDevice, ways: &[Way]) -> Result<Self> {
        let sources =
            Self { squashfs: device.dir().join("squashfs"), partclone: device.dir().join("partclone.zst") };
        if ways.contains(&Way::Unsquashfs) {
            eprintln!("making a squashfs of the tree");
            let mut make = Command::new("mksquashfs");
            make.arg(&image.tree).arg(&sources.squashfs);
            command::run(make.args([
                "-comp",
                "zstd",
                "-Xcompression-level",
                LEVEL,
                "-no-progress",
                "-quiet",
            ]))?;
        }
        if ways.contains(&Way::Partclone) {
            eprintln!("making a partclone image of the tree");
            let mounted = device.make_file_system()?;
            let from = format!("{}/.", image.tree.display());
            command::run(Command::new("cp").args(["-a", &from]).arg(mounted.path()))?;
            drop(mounted);
            let mut save = Command::new("partclone.ext4");
            let mut save = save.args(["-c", "-L", "/dev/null", "-s"]).arg(device.path()).args(["-o", "-"]);
            save = save.stdout(Stdio::piped()).stderr(Stdio::null());
            let mut zstd = Command::new("zstd");
            zstd.args(["-q", "-T0", "-f", &format!("-{LEVEL}"), "-o"]).arg(&sources.partclone);
            wait(pipe(save, &mut zstd)?)?;
        }
        Ok(sources)
    }
}

/// One run: a new file system, the source read once, then the clock.
pub(super) fn run(
    way: Way,
    programs: &Programs,
    image: &TestImage,
    sources: &Sources,
    device: &LoopDevice,
) -> Result<Measured> {
    let source = match way {
        Way::Ours | Way::Tar => &image.image,
        Way::Unsquashfs => &sources.squashfs,
        Way::Partclone => &sources.partclone,
    };
    drop(fs::read(source).with_context(|| format!("reading {}", source.display()))?);
    let mounted = device.make_file_system()?;
    let place = mounted.path().to_owned();
    if way == Way::Partclone {
        drop(mounted);
        let begun = Instant::now();
        let mut restore = Command::new("partclone.ext4");
        restore.args(["-r", "-L", "/dev/null", "-s", "-", "-o"]).arg(device.path());
        let peak_mib = wait(unpack(source, restore.stdout(Stdio::null()).stderr(Stdio::null()))?)?;
        device.sync()?;
        let seconds = begun.elapsed().as_secs_f64();
        check(way, device.mount()?.path())?;
        return Ok(Measured { seconds, peak_mib });
    }
    let begun = Instant::now();
    let peak_mib = wait(start(way, programs, source, &place)?)?;
    sync(&place)?;
    let seconds = begun.elapsed().as_secs_f64();
    check(way, &place)?;
    Ok(Measured { seconds, peak_mib })
}

fn start(way: Way, programs: &Programs, source: &Path, place: &Path) -> Result<Vec<Child>> {
    match way {
        Way::Ours => {
            let mut extract = Command::new(&programs.image_tools);
            extract.args(["extract", "--no-read-back"]).arg(source).arg("-C").arg(place);
            Ok(vec![extract.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?])
        }
        Way::Tar | Way::Partclone => {
            let mut tar = Command::new("tar");
            unpack(source, tar.args(["-x", "-p", "--numeric-owner", "-f", "-", "-C"]).arg(place))
        }
        Way::Unsquashfs => {
            let mut unsquashfs = Command::new("unsquashfs");
            unsquashfs.args(["-f", "-no-progress", "-quiet", "-d"]).arg(place).arg(source);
            Ok(vec![unsquashfs.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?])
        }
    }
}

/// `zstd -dc SOURCE | COMMAND`.
fn unpack(source: &Path, command: &mut Command) -> Result<Vec<Child>> {
    let mut zstd = Command::new("zstd");
    pipe(zstd.arg("-dcq").arg(source).stdout(Stdio::piped()), command)
}

fn pipe(first: &mut Command, second: &mut Command) -> Result<Vec<Child>> {
    let mut one = first.stdin(Stdio::null()).spawn().with_context(|| format!("running {first:?}"))?;
    let between = one.stdout.take().context("a pipe")?;
    let two = second.stdin(between).spawn().with_context(|| format!("running {second:?}"))?;
    Ok(vec![one, two])
}

/// Waits for all of them; the sum of their peaks of memory.
fn wait(mut children: Vec<Child>) -> Result<Option<u64>> {
    let mut peaks: Vec<Option<u64>> = vec![None; children.len()];
    loop {
        let mut running = false;
        for (child, peak) in children.iter_mut().zip(&mut peaks) {
            *peak = (*peak).max(peak_kib(child.id()));
            match child.try_wait()? {
                None => running = true,
                Some(status) if !status.success() => bail!("it ended with {status}"),
                Some(_) => {}
            }
        }
        if !running {
            let kib: Option<u64> = peaks.into_iter().sum();
            return Ok(kib.map(|kib| kib.div_ceil(1024)));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// That a run made a system at all; that ours is right is what its tests and its read-back show.
fn check(way: Way, place: &Path) -> Result<()> {
    let name = place.join("etc/os-release");
    if fs::symlink_metadata(&name).is_err() {
        bail!("{} made no {}", way.name(), name.display());
    }
    Ok(())
}

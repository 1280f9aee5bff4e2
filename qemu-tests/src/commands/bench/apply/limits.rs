//! What no program can beat here: decompressing alone, and the same files from memory.

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes, OpenOptions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow};
use image_format::{EntryKind, Extent, FrameEntry, Toc, decompress_frame};
use qemu_tests::image::{TestImage, read_manifest};

use super::super::device::sync;
use super::ways::Measured;

/// An image in memory, compressed and not.
pub(super) struct Limits {
    toc: Toc,
    frames: Vec<Frame>,
}

struct Frame {
    entry: FrameEntry,
    compressed: Vec<u8>,
    raw: Vec<u8>,
    extents: Vec<Extent>,
}

impl Limits {
    pub(super) fn load(image: &TestImage) -> Result<Self> {
        let manifest = read_manifest(&image.image)?;
        let file = File::open(&image.image)?;
        let read = |range: std::ops::Range<u64>| -> Result<Vec<u8>> {
            let mut bytes = vec![0; usize::try_from(range.end - range.start)?];
            file.read_exact_at(&mut bytes, range.start)?;
            Ok(bytes)
        };
        let toc = Toc::from_compressed(&read(manifest.toc_range())?, &manifest)?;
        let mut frames = Vec::new();
        for index in toc.frame_indices() {
            let entry = *toc.frame(index).context("a frame of its own table")?;
            let compressed = read(entry.range())?;
            let mut raw = Vec::new();
            decompress_frame(&entry, &compressed, &mut raw)?;
            frames.push(Frame { entry, compressed, raw, extents: toc.frame_extents(index).to_vec() });
        }
        Ok(Self { toc, frames })
    }

    /// Bytes of data in files.
    pub(super) fn content_bytes(&self) -> u64 {
        self.frames.iter().flat_map(|frame| &frame.extents).map(|extent| u64::from(extent.len)).sum()
    }

    /// All frames checked and decompressed by all processors, into memory that is used again.
    pub(super) fn decompress(&self) -> Result<Measured> {
        let begun = Instant::now();
        self.on_all_processors(&|frame, buffer| {
            decompress_frame(&frame.entry, &frame.compressed, buffer).map_err(Into::into)
        })?;
        Ok(Measured { seconds: begun.elapsed().as_secs_f64(), peak_mib: None })
    }

    /// The same tree with owners, modes and times of its files, from memory by as many threads, and synced.
    pub(super) fn write(&self, root: &Path) -> Result<Measured> {
        let paths: BTreeMap<u32, PathBuf> = self
            .toc
            .entries()
            .map(|(index, _)| (index.get(), root.join(std::ffi::OsStr::from_bytes(&self.toc.path(index)))))
            .collect();
        let begun = Instant::now();
        self.make_names(&paths)?;
        self.on_all_processors(&|frame, _| {
            for of_one_file in frame.extents.chunk_by(|a, b| a.entry == b.entry) {
                self.write_file(&paths, frame, of_one_file)?;
            }
            Ok(())
        })?;
        sync(root)?;
        Ok(Measured { seconds: begun.elapsed().as_secs_f64(), peak_mib: None })
    }

    fn make_names(&self, paths: &BTreeMap<u32, PathBuf>) -> Result<()> {
        for (index, entry) in self.toc.entries().skip(1) {
            let path = paths.get(&index.get()).context("a path")?;
            match entry.kind {
                EntryKind::Directory => fs::create_dir(path)?,
                EntryKind::Symlink => {
                    let target = std::ffi::OsStr::from_bytes(self.toc.link_target(entry));
                    std::os::unix::fs::symlink(target, path)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn write_file(&self, paths: &BTreeMap<u32, PathBuf>, frame: &Frame, extents: &[Extent]) -> Result<()> {
        let Some(first) = extents.first() else { return Ok(()) };
        let path = paths.get(&first.entry.get()).context("a path")?;
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        for extent in extents {
            let from = usize::try_from(extent.frame_offset)?;
            let data = frame.raw.get(from..from + usize::try_from(extent.len)?).context("data")?;
            file.write_all_at(data, extent.file_offset)?;
        }
        let metadata = self.toc.entry(first.entry).context("an entry")?.metadata;
        std::os::unix::fs::fchown(&file, Some(metadata.uid), Some(metadata.gid))?;
        file.set_permissions(fs::Permissions::from_mode(metadata.mode))?;
        let since = Duration::new(metadata.mtime.seconds.try_into()?, metadata.mtime.nanoseconds);
        Ok(file.set_times(FileTimes::new().set_modified(UNIX_EPOCH + since))?)
    }

    fn on_all_processors(&self, each: &(dyn Fn(&Frame, &mut Vec<u8>) -> Result<()> + Sync)) -> Result<()> {
        let next = AtomicUsize::new(0);
        let work = || -> Result<()> {
            let mut buffer = Vec::new();
            while let Some(frame) = self.frames.get(next.fetch_add(1, Ordering::Relaxed)) {
                each(frame, &mut buffer)?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            handles.into_iter().try_for_each(|handle| {
                handle.join().map_err(|_| anyhow!("a thread ended abnormally")).and_then(|result| result)
            })
        })
    }
}

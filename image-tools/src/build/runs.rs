//! Packs the tar stream of a tree: cut into a few runs at fixed places, each packed by one thread at a time.
//!
//! Where the cuts are follows from the tree alone, so the image is the same with any number of threads. Every run
//! begins a container, which costs half a container on average; so runs are long.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, anyhow};
use image_format::{
    END_OF_ARCHIVE, FileContent, Hash, Node, NodeKind, PackedFrame, Packer, TarLayout, Tree, data_padding,
    hard_link_target, tar_header,
};
use indicatif::ProgressBar;

use crate::contents::Contents;
use crate::pending::Pending;
use crate::progress;

/// What is packed and how.
pub(super) struct Job<'a> {
    pub(super) tree: &'a Tree,
    pub(super) layout: &'a TarLayout,
    pub(super) contents: &'a dyn Contents,
    pub(super) level: i32,
    pub(super) threads: usize,
    /// Bytes of tar stream per run, about.
    pub(super) run_bytes: u64,
}

/// Where the first run goes, and beside what the others are made.
struct Place<'a> {
    image: &'a Pending,
    /// Offset of the first data in the image.
    space: u64,
    output: &'a Path,
}

/// One packed run.
pub(super) struct Run {
    /// `None` for the first, which lies in the image's own file.
    pub(super) file: Option<Pending>,
    /// Offset behind the last frame.
    pub(super) end: u64,
    pub(super) frames: Vec<PackedFrame>,
    /// Content hashes by node index.
    pub(super) hashes: Vec<(usize, Hash)>,
}

impl Job<'_> {
    /// Packs all runs; the first one into `image` from `space` on, the others into files of their own.
    pub(super) fn pack_all(&self, space: u64, image: &Pending, output: &Path) -> Result<Vec<Run>> {
        let ranges = self.cuts();
        let bar = progress::bytes("compressing", self.layout.stream_bytes());
        let place = Place { image, space, output };
        let next = AtomicUsize::new(0);
        let done: Mutex<Vec<(usize, Result<Run>)>> = Mutex::default();
        std::thread::scope(|scope| {
            for _ in 0..self.threads.min(ranges.len()) {
                scope.spawn(|| {
                    while let Some((number, range)) = take(&next, &ranges) {
                        let run = self.pack_run(number, range, &place, &bar);
                        let failed = run.is_err();
                        if let Ok(mut done) = done.lock() {
                            done.push((number, run));
                        }
                        if failed {
                            // Nobody begins another run for an image that will not be.
                            next.store(ranges.len(), Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        bar.finish_and_clear();
        let mut done = done.into_inner().map_err(|_| anyhow!("a packing thread ended abnormally"))?;
        done.sort_by_key(|(number, _)| *number);
        done.into_iter().map(|(_, run)| run).collect()
    }

    /// Ranges of node indices, each of about `run_bytes` of stream. From three quarters on there are two, so
    /// that a second processor has something to do.
    fn cuts(&self) -> Vec<Range<usize>> {
        let nodes = self.tree.nodes().len();
        let stream = self.layout.stream_bytes();
        let least = if stream >= self.run_bytes / 4 * 3 { 2 } else { 1 };
        let runs = ((stream + self.run_bytes / 2) / self.run_bytes).max(least);
        let mut cuts = vec![0];
        for run in 1..runs {
            let wanted = stream / runs * run;
            let cut =
                (0..nodes).collect::<Vec<_>>().partition_point(|&index| self.layout.start(index) < wanted);
            cuts.push(cut);
        }
        cuts.push(nodes);
        cuts.dedup();
        cuts.windows(2)
            .filter_map(|pair| if let [from, to] = pair { Some(*from..*to) } else { None })
            .collect()
    }

    fn pack_run(
        &self,
        number: usize,
        range: Range<usize>,
        place: &Place<'_>,
        bar: &ProgressBar,
    ) -> Result<Run> {
        let own = if number == 0 { None } else { Some(Pending::beside(place.output)?) };
        let start = if number == 0 { place.space } else { 0 };
        let file = own.as_ref().unwrap_or(place.image).file();
        let mut packer = Packer::new(WriteAt { file, at: start }, self.level, start)?;
        let mut hashes = Vec::new();
        let is_last = range.end == self.tree.nodes().len();
        for index in range {
            let Some(node) = self.tree.nodes().get(index) else { break };
            let header = tar_header(node, hard_link_target(self.tree, node))?;
            packer.push(&header)?;
            bar.inc(header.len() as u64);
            if let NodeKind::File(content) = &node.kind
                && let Some(hash) = self.push_data(&mut packer, index, node, content, bar)?
            {
                hashes.push((index, hash));
            }
        }
        if is_last {
            packer.push(&END_OF_ARCHIVE)?;
        }
        let (frames, _, end) = packer.finish()?;
        Ok(Run { file: own, end, frames, hashes })
    }

    fn push_data(
        &self,
        packer: &mut Packer<WriteAt<'_>>,
        index: usize,
        node: &Node,
        content: &FileContent,
        bar: &ProgressBar,
    ) -> Result<Option<Hash>> {
        if content.extents.is_empty() {
            return Ok(None);
        }
        let mut hasher = blake3::Hasher::new();
        self.contents.read(index, node, content, &mut |bytes| {
            hasher.update(bytes);
            bar.inc(bytes.len() as u64);
            Ok(packer.push(bytes)?)
        })?;
        let padding = usize::try_from(data_padding(hasher.count())).unwrap_or(0);
        packer.push(END_OF_ARCHIVE.get(..padding).unwrap_or_default())?;
        Ok(Some(hasher.finalize().into()))
    }
}

fn take(next: &AtomicUsize, ranges: &[Range<usize>]) -> Option<(usize, Range<usize>)> {
    let number = next.fetch_add(1, Ordering::Relaxed);
    ranges.get(number).map(|range| (number, range.clone()))
}

/// Writes from a place in a file on; several may write to one file.
struct WriteAt<'a> {
    file: &'a File,
    at: u64,
}

impl Write for WriteAt<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write_at(bytes, self.at)?;
        self.at += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

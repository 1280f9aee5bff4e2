//! Packs the tar stream of a tree: cut into a few runs at fixed places, each packed by one thread at a time.
//!
//! Where the cuts are follows from the tree alone, so the image is the same with any number of threads. Every run
//! begins a container, which costs half a container on average; so runs are long. A cut lies between two entries or
//! within the data of a large file, whose hash then comes from a second reading.

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

/// Data of files that are smaller is never cut: hashing it apart would cost more than uneven runs.
const CUT_DATA_BYTES_MIN: u64 = 16 << 20;

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

/// A place in the tar stream: before a node's header, or within its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    node: usize,
    /// Bytes of the node's data before it.
    data: u64,
}

/// What lies between two cuts.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: Cut,
    to: Cut,
}

/// One packed run.
pub(super) struct Run {
    /// `None` for the first, which lies in the image's own file, and for one without frames.
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
        let spans = self.spans();
        let mut cut_files: Vec<usize> =
            spans.iter().filter(|span| span.from.data > 0).map(|span| span.from.node).collect();
        cut_files.dedup();
        let bar = progress::bytes("compressing", self.layout.stream_bytes());
        let place = Place { image, space, output };
        let next = AtomicUsize::new(0);
        let done: Mutex<Vec<(usize, Result<Run>)>> = Mutex::default();
        let work = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let run = match (spans.get(number), cut_files.get(number.wrapping_sub(spans.len()))) {
                    (Some(span), _) => self.pack_run(number, *span, &place, &bar),
                    (None, Some(&node)) => self.hash_apart(node),
                    (None, None) => return,
                };
                if run.is_err() {
                    // Nobody begins another run for an image that will not be.
                    next.store(usize::MAX / 2, Ordering::Relaxed);
                }
                if let Ok(mut done) = done.lock() {
                    done.push((number, run));
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.threads.min(spans.len()) {
                scope.spawn(work);
            }
        });
        bar.finish_and_clear();
        let mut done = done.into_inner().map_err(|_| anyhow!("a packing thread ended abnormally"))?;
        done.sort_by_key(|(number, _)| *number);
        done.into_iter().map(|(_, run)| run).collect()
    }

    /// The runs, each of about `run_bytes` of stream. From three quarters on there are two, so that a second
    /// processor has something to do.
    fn spans(&self) -> Vec<Span> {
        let stream = self.layout.stream_bytes();
        let least = if stream >= self.run_bytes / 4 * 3 { 2 } else { 1 };
        let runs = ((stream + self.run_bytes / 2) / self.run_bytes).max(least);
        let last = Cut { node: self.tree.nodes().len(), data: 0 };
        let mut cuts: Vec<Cut> = (0..runs).map(|run| self.cut(stream / runs * run)).chain([last]).collect();
        cuts.dedup();
        cuts.windows(2)
            .filter_map(|pair| if let [from, to] = *pair { Some(Span { from, to }) } else { None })
            .collect()
    }

    /// The possible cut at or before `wanted` bytes of stream.
    fn cut(&self, wanted: u64) -> Cut {
        let (mut low, mut high) = (0, self.tree.nodes().len().saturating_sub(1));
        // The last node that begins at or before it.
        while low < high {
            let middle = (low + high).div_ceil(2);
            if self.layout.start(middle) <= wanted { low = middle } else { high = middle - 1 }
        }
        let data_bytes = match self.tree.nodes().get(low).map(|node| &node.kind) {
            Some(NodeKind::File(content)) => content.data_bytes(),
            _ => 0,
        };
        match wanted.checked_sub(self.layout.data_offset(low)) {
            Some(_) | None if data_bytes < CUT_DATA_BYTES_MIN => Cut { node: low, data: 0 },
            Some(data) if data < data_bytes => Cut { node: low, data },
            Some(_) => Cut { node: low + 1, data: 0 },
            None => Cut { node: low, data: 0 },
        }
    }

    fn pack_run(&self, number: usize, span: Span, place: &Place<'_>, bar: &ProgressBar) -> Result<Run> {
        let own = if number == 0 { None } else { Some(Pending::beside(place.output)?) };
        let start = if number == 0 { place.space } else { 0 };
        let file = own.as_ref().unwrap_or(place.image).file();
        let mut packer = Packer::new(WriteAt { file, at: start }, self.level, start)?;
        let mut hashes = Vec::new();
        for (index, node) in self.tree.nodes().iter().enumerate().skip(span.from.node) {
            let from = if index == span.from.node { span.from.data } else { 0 };
            let until = if index == span.to.node { Some(span.to.data) } else { None };
            if index > span.to.node || until == Some(0) {
                break;
            }
            if from == 0 {
                let header = tar_header(node, hard_link_target(self.tree, node))?;
                packer.push(&header)?;
                bar.inc(header.len() as u64);
            }
            if let NodeKind::File(content) = &node.kind {
                let part = from..until.unwrap_or_else(|| content.data_bytes());
                let hash = self.push_data(&mut packer, (index, node, content), part, bar)?;
                hashes.extend(hash.map(|hash| (index, hash)));
            }
        }
        if span.to.node == self.tree.nodes().len() {
            packer.push(&END_OF_ARCHIVE)?;
        }
        let (frames, _, end) = packer.finish()?;
        Ok(Run { file: own, end, frames, hashes })
    }

    /// Pushes a part of a file's data; the hash, if that is all of it.
    fn push_data(
        &self,
        packer: &mut Packer<WriteAt<'_>>,
        (index, node, content): (usize, &Node, &FileContent),
        part: Range<u64>,
        bar: &ProgressBar,
    ) -> Result<Option<Hash>> {
        let all = 0..content.data_bytes();
        if all.is_empty() {
            return Ok(None);
        }
        let mut hasher = blake3::Hasher::new();
        self.contents.read_part(index, node, content, part.clone(), &mut |bytes| {
            if part == all {
                hasher.update(bytes);
            }
            bar.inc(bytes.len() as u64);
            Ok(packer.push(bytes)?)
        })?;
        if part.end == all.end {
            let padding = usize::try_from(data_padding(all.end)).unwrap_or(0);
            packer.push(END_OF_ARCHIVE.get(..padding).unwrap_or_default())?;
        }
        Ok((part == all).then(|| hasher.finalize().into()))
    }

    /// The hash of a file whose data is packed in several runs: a run without frames.
    fn hash_apart(&self, index: usize) -> Result<Run> {
        let mut hasher = blake3::Hasher::new();
        if let Some(node) = self.tree.nodes().get(index)
            && let NodeKind::File(content) = &node.kind
        {
            self.contents.read(index, node, content, &mut |bytes| {
                hasher.update(bytes);
                Ok(())
            })?;
        }
        Ok(Run { file: None, end: 0, frames: Vec::new(), hashes: vec![(index, hasher.finalize().into())] })
    }
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

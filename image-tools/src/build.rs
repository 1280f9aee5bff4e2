//! A tree and its files' data -> an image and its companions: the part that capture and import share.
//!
//! ```text
//! tree --> layout --> runs of the tar stream, packed in parallel --> one file
//!     \-> draft table of contents --> how much room it needs in front --^
//! ```

mod outputs;
mod runs;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use image_format::{
    CONTAINER_BYTES, Delta, FileSystem, Hash, Mode, NodeKind, PackedFrame, SourceFileSystem, TOC_LEVEL,
    TarLayout, Tree, encode_front, encode_toc, plan_toc_space,
};

pub(crate) use outputs::hash_pieces;

use crate::contents::Contents;
use crate::facts::{self, Facts};
use crate::keys;
use crate::pending::Pending;

/// How often the room in front is corrected. Once is enough, because the second time its need is known.
const FRONT_TRIES: u32 = 3;

/// What capture and import have in common.
#[derive(Debug, Args)]
pub(crate) struct BuildOptions {
    /// The image to make: `NAME.esir`. Its companions get the same name and one more suffix.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Name of the image for people [default: the file's name without `.esir`].
    #[arg(long)]
    name: Option<String>,
    /// zstd level of the data: 3 is quick, 9 is 13 % smaller, 19 is for slow links.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(i32).range(1..=22))]
    level: i32,
    /// Threads that compress [default: one per processor]. The image is the same with any number.
    #[arg(long)]
    threads: Option<usize>,
    /// MiB that one thread packs in a row. Fewer employ more processors, but each run costs 2 MiB of size on average.
    #[arg(long, value_name = "MIB", default_value_t = 512, value_parser = clap::value_parser!(u64).range(1..1 << 20))]
    run_mib: u64,
    /// Sign with this minisign secret key.
    #[arg(long, value_name = "KEY")]
    sign: Option<PathBuf>,
}

/// The packed data behind its room in front, and what was learnt on the way.
struct Packed {
    file: Pending,
    end: u64,
    frames: Vec<PackedFrame>,
    hashes: Vec<Option<Hash>>,
}

/// What the manifest says beside what follows from the file.
struct Subject {
    mode: Mode,
    delta: Option<Delta>,
    facts: Facts,
    file_system: FileSystem,
    source: Vec<SourceFileSystem>,
}

/// Makes the image of a root directory and all its companions, or nothing.
pub(crate) fn build(tree: &Tree, contents: &dyn Contents, options: &BuildOptions) -> Result<()> {
    build_subject(tree, contents, options, Subject::root(tree, contents, None)?)
}

/// As [`build`], of files that lay in these file systems of a disk, the root's first.
pub(crate) fn build_from_disk(
    tree: &Tree,
    contents: &dyn Contents,
    options: &BuildOptions,
    source: Vec<SourceFileSystem>,
) -> Result<()> {
    let mut subject = Subject::root(tree, contents, None)?;
    if let Some(root) = source.first()
        && !root.kind.starts_with("ext")
    {
        subject.file_system = FileSystem { kind: root.kind.clone(), features: Vec::new() };
    }
    subject.source = source;
    build_subject(tree, contents, options, subject)
}

/// As [`build`], for the tree of a delta image.
pub(crate) fn build_delta(
    tree: &Tree,
    contents: &dyn Contents,
    options: &BuildOptions,
    delta: Delta,
) -> Result<()> {
    build_subject(tree, contents, options, Subject::root(tree, contents, Some(delta))?)
}

/// As [`build`], of a partition with a file system of this kind: `tree` has it as its one file.
pub(crate) fn build_partition(
    tree: &Tree,
    contents: &dyn Contents,
    options: &BuildOptions,
    kind: &str,
) -> Result<()> {
    let file_system = FileSystem { kind: kind.to_owned(), features: Vec::new() };
    let (facts, source) = (Facts::default(), Vec::new());
    let subject = Subject { mode: Mode::Partition, delta: None, facts, file_system, source };
    build_subject(tree, contents, options, subject)
}

impl Subject {
    fn root(tree: &Tree, contents: &dyn Contents, delta: Option<Delta>) -> Result<Self> {
        // QUIRK(GRUB <= 2.06, e2fsck < 1.47): cannot read what mke2fs >= 1.47 turns on by default.
        let features = vec!["^metadata_csum_seed".to_owned(), "^orphan_file".to_owned()];
        Ok(Self {
            mode: if delta.is_some() { Mode::Delta } else { Mode::Files },
            delta,
            facts: facts::find(tree, contents)?,
            file_system: FileSystem { kind: "ext4".to_owned(), features },
            source: Vec::new(),
        })
    }
}

fn build_subject(
    tree: &Tree,
    contents: &dyn Contents,
    options: &BuildOptions,
    subject: Subject,
) -> Result<()> {
    let name = image_name(options)?;
    let key = options.sign.as_deref().map(keys::read_secret_key).transpose()?;
    let layout = TarLayout::new(tree)?;
    let job = runs::Job {
        tree,
        layout: &layout,
        contents,
        level: options.level,
        threads: threads(options),
        run_bytes: options.run_mib << 20,
    };
    let files_with_data = tree
        .nodes()
        .iter()
        .filter(|node| matches!(&node.kind, NodeKind::File(content) if !content.extents.is_empty()))
        .count();
    let draft = compress_toc(&encode_toc(tree, &layout, &[], &[], CONTAINER_BYTES))?;
    let mut space = plan_toc_space(draft.len() as u64, files_with_data as u64, layout.stream_bytes());
    for _ in 0..FRONT_TRIES {
        let packed = pack(&job, space, &options.output)?;
        let toc = encode_toc(tree, &layout, &packed.hashes, &packed.frames, CONTAINER_BYTES);
        let compressed = compress_toc(&toc)?;
        if let Some(front) = encode_front(&toc, &compressed, space) {
            packed.file.file().write_all_at(&front, 0).context("writing the image")?;
            let image = outputs::Image { tree, name, subject, toc: &toc, toc_len: compressed.len() as u64 };
            return outputs::finish(&image, packed.file, packed.end, &options.output, key.as_ref());
        }
        // Never seen: hashes or frames took more than planned. The data has to begin further behind.
        space = plan_toc_space(compressed.len() as u64, 0, layout.stream_bytes());
    }
    bail!("the table of contents does not fit in front of the data; please report this")
}

fn image_name(options: &BuildOptions) -> Result<String> {
    let file = options.output.file_name().and_then(|name| name.to_str());
    let stem = file.and_then(|name| name.strip_suffix(".esir")).filter(|stem| !stem.is_empty());
    let stem =
        stem.ok_or_else(|| anyhow!("the output {} must be called NAME.esir", options.output.display()))?;
    let name = options.name.as_deref().unwrap_or(stem);
    let good = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || "._-+".contains(c));
    for name in [stem, name] {
        let fits = !name.is_empty() && name.len() <= 200 && !name.starts_with('.') && good(name);
        ensure!(fits, "the name {name:?} of an image must be of letters, digits, `.`, `_`, `-` and `+`");
    }
    Ok(name.to_owned())
}

fn threads(options: &BuildOptions) -> usize {
    let available = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    options.threads.unwrap_or_else(available).max(1)
}

fn compress_toc(toc: &[u8]) -> Result<Vec<u8>> {
    zstd::bulk::compress(toc, TOC_LEVEL).context("compressing the table of contents")
}

/// Packs the whole stream behind `space` bytes.
fn pack(job: &runs::Job<'_>, space: u64, output: &std::path::Path) -> Result<Packed> {
    let file = Pending::beside(output)?;
    let runs = job.pack_all(space, &file, output)?;
    let mut packed =
        Packed { file, end: space, frames: Vec::new(), hashes: vec![None; job.tree.nodes().len()] };
    for (number, run) in runs.into_iter().enumerate() {
        for (index, hash) in run.hashes {
            if let Some(slot) = packed.hashes.get_mut(index) {
                *slot = Some(hash);
            }
        }
        if run.frames.is_empty() {
            continue;
        }
        // The first run lies in its place already; the others begin at a container of their own.
        let base = if number == 0 { 0 } else { image_format::next_container(packed.end) };
        if number > 0 {
            let pad = image_format::pad_frame(base - packed.end).unwrap_or_default();
            packed.file.file().write_all_at(&pad, packed.end)?;
            copy(
                run.file.as_ref().map_or(packed.file.file(), Pending::file),
                packed.file.file(),
                base,
                run.end,
            )?;
        }
        packed
            .frames
            .extend(run.frames.iter().map(|frame| PackedFrame { offset: base + frame.offset, ..*frame }));
        packed.end = base + run.end;
    }
    Ok(packed)
}

/// `len` bytes from the beginning of `from` to `at` of `to`, by the kernel.
fn copy(from: &File, to: &File, at: u64, len: u64) -> Result<()> {
    let (mut read, mut write) = (0, at);
    while read < len {
        let left = usize::try_from(len - read).unwrap_or(usize::MAX);
        let count = rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut write), left)
            .map_err(io::Error::from)
            .context("putting the image together")?;
        ensure!(count > 0, "putting the image together: a temporary file ended early");
    }
    Ok(())
}

//! Proves an image: signature -> manifest -> pieces and table of contents -> frames -> the tar stream in them.

use std::io::{self, Read};
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use image_format::{EntryIndex, EntryKind, Hash, Node, NodeKind, Toc, decompress_frame};
use image_source::{Member, MemberKind, TarReader};
use indicatif::ProgressBar;
use swarm::Metainfo;

use crate::build::hash_pieces;
use crate::image_file::{ImageFile, read_range, require_companion};
use crate::progress;
use crate::text;

/// Which image, and whom to believe.
#[derive(Debug, Args)]
pub(crate) struct VerifyArguments {
    /// The image; its companions lie beside it.
    image: PathBuf,
    /// A minisign public key that may have signed it. May be repeated. Without one, the signature is not looked at.
    #[arg(long, value_name = "PUB")]
    trust: Vec<PathBuf>,
}

/// Checks everything.
pub(crate) fn run(arguments: &VerifyArguments) -> Result<()> {
    let image = ImageFile::open(&arguments.image, &arguments.trust)?;
    check_pieces(&image)?;
    check_gaps(&image)?;
    let members = check_stream(&image)?;
    let signature = match image.signer {
        Some(key) => format!("signed by trusted key {key}"),
        None => "signature not checked, because no --trust was given".to_owned(),
    };
    println!(
        "{}: good: {} frames, {members} entries, image {}, {signature}",
        arguments.image.display(),
        image.toc.frames().len(),
        image.toc.image_id(),
    );
    Ok(())
}

/// Every piece against the list, the list against the manifest, and both against the metainfo.
fn check_pieces(image: &ImageFile) -> Result<()> {
    let manifest = image.require_manifest()?;
    let list = require_companion(&image.path, "pieces")?;
    ensure!(
        Hash::of(&list) == manifest.pieces_hash && list.len() / 32 == manifest.piece_count as usize,
        "the list of piece hashes is not the one that the manifest names"
    );
    let metainfo =
        Metainfo::parse(&require_companion(&image.path, "torrent")?).context("reading the metainfo")?;
    ensure!(
        metainfo.info_hash.0 == manifest.info_hash,
        "the metainfo is not the one that the manifest names"
    );
    let found = hash_pieces(&image.file, image.len, manifest.piece_size)?;
    for (index, (found, expected)) in found.blake3.chunks(32).zip(list.chunks(32)).enumerate() {
        ensure!(found == expected, "piece {index} of the image is damaged");
    }
    ensure!(
        metainfo.pieces == found.sha1 && metainfo.length == image.len,
        "the metainfo does not describe this image: its piece hashes differ"
    );
    Ok(())
}

/// What is not a frame must be skippable for zstd, or the file is no valid `.tar.zst`.
fn check_gaps(image: &ImageFile) -> Result<()> {
    let mut end = image.header.toc_offset + image.header.toc_len;
    for frame in image.toc.frames() {
        let gap = frame.offset.checked_sub(end).context("a frame lies over the table of contents")?;
        let bytes = read_range(&image.file, end, gap)?;
        let mut rest = bytes.as_slice();
        while let [magic @ 0x50..=0x5f, 0x2a, 0x4d, 0x18, a, b, c, d, tail @ ..] = rest {
            let _ = magic;
            let len = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
            rest = tail.get(len..).context("a pad is longer than the room it has")?;
        }
        ensure!(
            rest.is_empty(),
            "there is something between frames, at byte {}, that is neither frame nor pad",
            end
        );
        end = frame.range().end;
    }
    ensure!(end == image.len, "there are {} bytes behind the last frame", image.len.saturating_sub(end));
    Ok(())
}

/// Reads the tar stream as any tar would and compares it member by member. Returns how many there are.
fn check_stream(image: &ImageFile) -> Result<usize> {
    let total = image.toc.frames().iter().map(|frame| u64::from(frame.raw_len)).sum();
    let bar = progress::bytes("comparing", total);
    let stream = FrameStream { image, next: 0, raw: Vec::new(), used: 0, bar: bar.clone() };
    let mut reader = TarReader::new(stream);
    for (index, entry) in image.toc.entries() {
        if entry.kind == EntryKind::Socket {
            continue;
        }
        let path = image.toc.path(index);
        let shown = || format!("/{}", text::path(&path));
        let member =
            reader.next_member()?.with_context(|| format!("{} is not in the tar stream", shown()))?;
        compare(&image.toc, index, &member)
            .with_context(|| format!("{} differs in the tar stream", shown()))?;
        let mut hasher = blake3::Hasher::new();
        reader.read_data(&mut |bytes| {
            hasher.update(bytes);
            anyhow::Ok(())
        })?;
        if let EntryKind::File { hash: Some(hash), .. } = entry.kind {
            ensure!(
                Hash::from(hasher.finalize()) == hash,
                "{}: its contents do not have their hash",
                shown()
            );
        }
    }
    if let Some(member) = reader.next_member()? {
        bail!(
            "the tar stream has {}, which the table of contents lacks",
            text::path(&member.names.join(&b'/'))
        );
    }
    bar.finish_and_clear();
    Ok(image.toc.entries().len())
}

fn compare(toc: &Toc, index: EntryIndex, member: &Member) -> Result<()> {
    let node: Node = toc.node(index).context("it is not there")?;
    ensure!(
        member.names.join(&b'/') == node.path,
        "another name: /{}",
        text::path(&member.names.join(&b'/'))
    );
    let kind = match node.kind {
        NodeKind::HardLink { to } => {
            let target = hard_link_path(toc, index).with_context(|| format!("no entry {to}"))?;
            let names = target.split(|&byte| byte == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>();
            ensure!(member.kind == MemberKind::HardLink { target: names }, "another link");
            return Ok(());
        }
        NodeKind::Directory => MemberKind::Directory,
        NodeKind::File(content) => MemberKind::File(content),
        NodeKind::Symlink { target } => MemberKind::Symlink { target },
        NodeKind::CharDevice { major, minor } => MemberKind::CharDevice { major, minor },
        NodeKind::BlockDevice { major, minor } => MemberKind::BlockDevice { major, minor },
        NodeKind::Fifo => MemberKind::Fifo,
        NodeKind::Socket => bail!("a socket"),
    };
    ensure!(member.kind == kind, "another kind, shape or target: {:?}, not {kind:?}", member.kind);
    ensure!(member.metadata == node.metadata, "{:?}, not {:?}", member.metadata, node.metadata);
    ensure!(member.owner_names == node.names, "other names of owner or group");
    ensure!(member.xattrs == node.xattrs, "other extended attributes");
    let entry = toc.entry(index).context("it is not there")?;
    if let Some(first) = toc.extents(entry).first() {
        let frame = toc.frame(first.frame).context("its frame is not there")?;
        let offset = frame.raw_offset + u64::from(first.frame_offset);
        ensure!(offset == member.data_offset, "its data lies elsewhere in the stream");
    }
    Ok(())
}

fn hard_link_path(toc: &Toc, index: EntryIndex) -> Option<Vec<u8>> {
    match toc.entry(index)?.kind {
        EntryKind::HardLink { to } => Some(toc.path(to)),
        _ => None,
    }
}

/// The frames' contents one after the other, each checked.
struct FrameStream<'a> {
    image: &'a ImageFile,
    next: usize,
    raw: Vec<u8>,
    used: usize,
    bar: ProgressBar,
}

impl Read for FrameStream<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.used == self.raw.len() {
            let Some(frame) = self.image.toc.frames().get(self.next) else { return Ok(0) };
            let compressed = self.image.read_frame(frame).map_err(io::Error::other)?;
            let damaged = |error| io::Error::other(format!("frame {} is damaged: {error}", self.next));
            decompress_frame(frame, &compressed, &mut self.raw).map_err(damaged)?;
            self.used = 0;
            self.next += 1;
            self.bar.inc(self.raw.len() as u64);
        }
        let rest = self.raw.get(self.used..).unwrap_or_default();
        let len = rest.len().min(out.len());
        if let (Some(to), Some(from)) = (out.get_mut(..len), rest.get(..len)) {
            to.copy_from_slice(from);
        }
        self.used += len;
        Ok(len)
    }
}

//! From a finished image file to its companions: piece hashes, metainfo, manifest, signature.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use image_format::{
    CONTAINER_BYTES, FileContent, HEADER_FRAME_BYTES, Hash, Manifest, NodeKind, TOC_FRAME_HEADER_BYTES,
    TocLocation, Tree, piece_size_for,
};
use minisign::SecretKey;
use sha1::{Digest, Sha1};
use swarm::Metainfo;

use super::Subject;
use crate::keys;
use crate::pending::{Pending, companion};
use crate::processors::with_buffers;
use crate::progress;
use crate::text;

/// An image whose file is written.
pub(super) struct Image<'a> {
    pub(super) tree: &'a Tree,
    pub(super) name: String,
    pub(super) subject: Subject,
    pub(super) toc: &'a [u8],
    pub(super) toc_len: u64,
}

/// Both hashes of every piece, in order.
pub(crate) struct Pieces {
    pub(crate) sha1: Vec<[u8; 20]>,
    /// One after the other, 32 bytes each.
    pub(crate) blake3: Vec<u8>,
}

/// Makes the companions of the image in `file`, which is `len` bytes long, and lets all of them appear.
pub(super) fn finish(
    image: &Image<'_>,
    file: Pending,
    len: u64,
    output: &Path,
    key: Option<&SecretKey>,
) -> Result<()> {
    let piece_size = piece_size_for(len);
    let pieces = hash_pieces(file.file(), len, piece_size)?;
    let file_name = output.file_name().and_then(|name| name.to_str()).context("the output has no name")?;
    let piece_length = u32::try_from(piece_size)?;
    let torrent = Metainfo::encode_single_file(file_name, len, piece_length, &pieces.sha1, None)?;
    let manifest = manifest(image, len, piece_size, &pieces, Metainfo::parse(&torrent)?.info_hash.0);
    let manifest_bytes = manifest.to_bytes()?;
    let signature = key.map(|key| keys::sign_manifest(&manifest_bytes, &manifest, key)).transpose()?;

    // The manifest appears last: whoever finds it finds everything that it names.
    let signature_path = companion(output, "manifest.minisig");
    let manifest_path = companion(output, "manifest");
    for stale in [&manifest_path, &signature_path] {
        remove_if_there(stale)?;
    }
    file.appear_as(output)?;
    crate::pending::write_whole(&companion(output, "pieces"), &pieces.blake3)?;
    crate::pending::write_whole(&companion(output, "torrent"), &torrent)?;
    if let Some(signature) = &signature {
        crate::pending::write_whole(&signature_path, signature.as_bytes())?;
    }
    crate::pending::write_whole(&manifest_path, &manifest_bytes)?;
    println!(
        "{}: {} in {} pieces, {} entries with {} of data, image {}{}",
        output.display(),
        text::bytes(len),
        manifest.piece_count,
        manifest.entries,
        text::bytes(manifest.content_bytes),
        manifest.image_id,
        if signature.is_some() { ", signed" } else { ", not signed" },
    );
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing the old {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn manifest(image: &Image<'_>, len: u64, piece_size: u64, pieces: &Pieces, info_hash: [u8; 20]) -> Manifest {
    let facts = &image.subject.facts;
    let data_bytes =
        |kind: &NodeKind| if let NodeKind::File(file) = kind { FileContent::data_bytes(file) } else { 0 };
    Manifest {
        format: Manifest::format_name(),
        version: Manifest::format_version(),
        mode: image.subject.mode,
        delta: image.subject.delta,
        name: image.name.clone(),
        image_id: Hash::of(image.toc),
        file_size: len,
        piece_size,
        piece_count: u32::try_from(pieces.sha1.len()).unwrap_or(u32::MAX),
        pieces_hash: Hash::of(&pieces.blake3),
        info_hash,
        toc: TocLocation {
            offset: HEADER_FRAME_BYTES + TOC_FRAME_HEADER_BYTES,
            len: image.toc_len,
            raw_len: image.toc.len() as u64,
        },
        container_bytes: CONTAINER_BYTES,
        entries: image.tree.nodes().len() as u64,
        content_bytes: image.tree.nodes().iter().map(|node| data_bytes(&node.kind)).sum(),
        architecture: facts.architecture.clone(),
        distribution: facts.distribution.clone(),
        kernel: facts.kernel.clone(),
        boot: facts.boot,
        root_file_system: image.subject.file_system.clone(),
        source_file_systems: image.subject.source.clone(),
    }
}

/// Hashes every piece twice: SHA-1 for the metainfo (BEP 3), BLAKE3 for the manifest.
pub(crate) fn hash_pieces(file: &File, len: u64, piece_size: u64) -> Result<Pieces> {
    let count = u32::try_from(len.div_ceil(piece_size)).context("the image has too many pieces")?;
    let bar = progress::bytes("hashing", len);
    let pieces: Vec<u32> = (0..count).collect();
    let done = with_buffers(&pieces, |&index, piece| {
        let start = u64::from(index) * piece_size;
        piece.resize(usize::try_from(piece_size.min(len - start))?, 0);
        file.read_exact_at(piece, start).context("reading the image back")?;
        bar.inc(piece.len() as u64);
        let sha1: [u8; 20] = Sha1::digest(&*piece).into();
        Ok((sha1, Hash::of(piece)))
    })?;
    bar.finish_and_clear();
    let blake3 = done.iter().flat_map(|(_, hash)| *hash.as_bytes()).collect();
    Ok(Pieces { sha1: done.into_iter().map(|(sha1, _)| sha1).collect(), blake3 })
}

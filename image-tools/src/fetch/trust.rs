//! The signed manifest of an image that is fetched: with it, trust rests on a key and BLAKE3, not on the torrent.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use image_format::{Hash, MANIFEST_BYTES_MAX, Manifest, parse_manifest, verify_signature};
use swarm::METAINFO_BYTES_MAX;
use swarm_net::Metainfo;

use super::source::{Membership, Origin, Source, beside};
use crate::keys;
use crate::pending::{companion, write_whole};

/// A minisign signature file is four short lines.
const SIGNATURE_BYTES_MAX: usize = 4096;
/// BLAKE3-256 of one piece.
const HASH_BYTES: usize = 32;

/// What lies beside an image, checked against a trusted key and the torrent.
pub(super) struct Companions {
    manifest: Vec<u8>,
    signature: Vec<u8>,
    pieces: Vec<u8>,
    torrent: Vec<u8>,
}

impl Companions {
    /// Reads them from where the torrent came from; one of the `trusted` key files must have signed.
    pub(super) async fn read(
        origin: &Origin,
        member: &Membership,
        source: &Source,
        trusted: &[PathBuf],
    ) -> Result<Self> {
        let keys = trusted.iter().map(|path| keys::read_public_key(path)).collect::<Result<Vec<_>>>()?;
        let read = async |suffix, bytes_max| beside(origin, member, suffix, bytes_max).await;
        let manifest = read("manifest", MANIFEST_BYTES_MAX).await.context("nothing proves the image")?;
        let signature =
            read("manifest.minisig", SIGNATURE_BYTES_MAX).await.context("nothing proves the image")?;
        verify_signature(&manifest, &String::from_utf8_lossy(&signature), &keys)
            .context("the image cannot be trusted")?;
        let parsed = parse_manifest(&manifest).context("reading the manifest")?;
        check_torrent(&parsed, &source.metainfo)?;
        let pieces = read("pieces", source.metainfo.pieces.len() * HASH_BYTES).await?;
        ensure!(
            Hash::of(&pieces) == parsed.pieces_hash
                && pieces.len() == source.metainfo.pieces.len() * HASH_BYTES,
            "the list of piece hashes is not the one that the manifest names"
        );
        ensure!(source.torrent.len() <= METAINFO_BYTES_MAX, "the torrent is too long");
        let torrent = Metainfo::with_sources(&source.torrent, None, &[])?;
        Ok(Self { manifest, signature, pieces, torrent })
    }

    /// BLAKE3-256 of each piece.
    pub(super) fn piece_hashes(&self) -> Vec<[u8; HASH_BYTES]> {
        self.pieces.as_chunks::<HASH_BYTES>().0.to_vec()
    }

    /// Writes them beside the image, the manifest last: whoever finds it finds everything that it names.
    pub(super) fn write(&self, image: &Path) -> Result<()> {
        write_whole(&companion(image, "pieces"), &self.pieces)?;
        write_whole(&companion(image, "torrent"), &self.torrent)?;
        write_whole(&companion(image, "manifest.minisig"), &self.signature)?;
        write_whole(&companion(image, "manifest"), &self.manifest)
    }
}

fn check_torrent(manifest: &Manifest, metainfo: &Metainfo) -> Result<()> {
    ensure!(
        manifest.info_hash == metainfo.info_hash.0
            && manifest.file_size == metainfo.length
            && manifest.piece_size == u64::from(metainfo.piece_length),
        "the torrent is not the one that the signed manifest names"
    );
    Ok(())
}

//! What proves an image before its first byte is asked for: signature, manifest, metainfo, list of piece hashes.
//!
//! Never reads the network or a disk.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use image_format::{Hash, Manifest, ManifestError, Mode, SignatureError, parse_manifest, verify_signature};
use node_api::{ImageTask, Recovery, SwarmTask};
use swarm::{Metainfo, MetainfoError};

use crate::failure::StageError;

const HASH_BYTES: usize = 32;

/// An image that can be fetched: proved piece by piece, with those who share it.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) image: SignedImage,
    /// BLAKE3 of each piece.
    pub(crate) piece_hashes: Vec<[u8; HASH_BYTES]>,
    pub(crate) swarm: SwarmTask,
}

/// An image whose manifest is signed, with metainfo that says the same: by a key of this site, or, for a delta image, as
/// a part of the task.
#[derive(Clone, Debug)]
pub(crate) struct SignedImage {
    pub(crate) manifest: Manifest,
    /// As signed, for the installed system's own record.
    pub(crate) manifest_bytes: Vec<u8>,
    pub(crate) metainfo: Metainfo,
}

/// Why an image is refused. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    /// The task's own encoding.
    #[error("the task's {0} is not base64; agent and server are of different versions")]
    Encoding(&'static str),
    /// No signature where one is needed.
    #[error(
        "image {0} has no signature and this site does not allow that; sign it with `image-tools sign`, nothing was written"
    )]
    Unsigned(String),
    /// A signature that proves nothing.
    #[error("image {image} is refused, nothing was written")]
    Signature {
        image: String,
        #[source]
        source: SignatureError,
    },
    /// A manifest that is signed and yet unusable.
    #[error("image {image} is refused, nothing was written")]
    Manifest {
        image: String,
        #[source]
        source: ManifestError,
    },
    /// What leads nowhere alone.
    #[error("image {0} is a delta image, which only makes an older system a newer one; nothing was written")]
    Delta(String),
    /// The metainfo.
    #[error("the metainfo of image {image} cannot be read")]
    Metainfo {
        image: String,
        #[source]
        source: MetainfoError,
    },
    /// A delta image that leads elsewhere.
    #[error("the delta image {0} does not lead to the task's image")]
    LeadsElsewhere(String),
    /// Metainfo and manifest differ.
    #[error("metainfo and signed manifest of image {image} differ in {what}; nothing was written")]
    Differs { image: String, what: &'static str },
    /// The list of piece hashes.
    #[error("the list of piece hashes of image {0} is not the one that its signed manifest names")]
    PieceList(String),
}

impl StageError for ImageError {
    fn code(&self) -> &'static str {
        match self {
            Self::Unsigned(_) | Self::Signature { .. } => "image-signature",
            Self::Manifest { .. } | Self::Delta(_) | Self::LeadsElsewhere(_) | Self::Encoding(_) => {
                "image-manifest"
            }
            Self::Metainfo { .. } | Self::Differs { .. } => "image-metainfo",
            Self::PieceList(_) => "image-pieces",
        }
    }

    fn recovery(&self) -> Recovery {
        Recovery::Wait
    }
}

/// Checks the signature first and everything else only if it is good.
pub(crate) fn check(task: &ImageTask, trusted: &[String]) -> Result<SignedImage, ImageError> {
    let image = || task.name.clone();
    let manifest_bytes =
        BASE64.decode(&task.manifest_base64).map_err(|_| ImageError::Encoding("manifest"))?;
    match &task.signature {
        Some(signature) => {
            let key = verify_signature(&manifest_bytes, signature, trusted)
                .map_err(|source| ImageError::Signature { image: image(), source })?;
            tracing::info!("image {} is signed by key {key}", task.name);
        }
        None if task.allow_unsigned => {
            tracing::warn!("image {} is not signed; this site allows it", task.name)
        }
        None => return Err(ImageError::Unsigned(image())),
    }
    let read = with_metainfo(task, manifest_bytes)?;
    if read.manifest.mode == Mode::Delta {
        return Err(ImageError::Delta(image()));
    }
    Ok(read)
}

/// Checks a delta image, which needs no signature: all that comes of it is compared with `full`, the image that it leads
/// to.
pub(crate) fn check_delta(task: &ImageTask, full: &Manifest) -> Result<SignedImage, ImageError> {
    let manifest_bytes =
        BASE64.decode(&task.manifest_base64).map_err(|_| ImageError::Encoding("manifest"))?;
    let read = with_metainfo(task, manifest_bytes)?;
    match read.manifest.delta {
        Some(delta) if delta.image == full.image_id => Ok(read),
        _ => Err(ImageError::LeadsElsewhere(task.name.clone())),
    }
}

fn with_metainfo(task: &ImageTask, manifest_bytes: Vec<u8>) -> Result<SignedImage, ImageError> {
    let image = || task.name.clone();
    let manifest =
        parse_manifest(&manifest_bytes).map_err(|source| ImageError::Manifest { image: image(), source })?;
    let metainfo = BASE64.decode(&task.metainfo_base64).map_err(|_| ImageError::Encoding("metainfo"))?;
    let metainfo =
        Metainfo::parse(&metainfo).map_err(|source| ImageError::Metainfo { image: image(), source })?;
    match difference(&manifest, &metainfo) {
        Some(what) => Err(ImageError::Differs { image: image(), what }),
        None => Ok(SignedImage { manifest, manifest_bytes, metainfo }),
    }
}

/// SHA-1 is only a name here: all sizes must agree with what is signed, and every piece is proved by BLAKE3.
fn difference(manifest: &Manifest, metainfo: &Metainfo) -> Option<&'static str> {
    [
        (metainfo.info_hash.0 == manifest.info_hash, "the info-hash"),
        (metainfo.length == manifest.file_size, "the length"),
        (u64::from(metainfo.piece_length) == manifest.piece_size, "the piece length"),
        (u32::try_from(metainfo.pieces.len()) == Ok(manifest.piece_count), "the number of pieces"),
    ]
    .into_iter()
    .find_map(|(same, what)| (!same).then_some(what))
}

/// The piece hashes, if they are the list that the signed manifest names.
pub(crate) fn check_piece_list(
    image: &SignedImage,
    bytes: &[u8],
) -> Result<Vec<[u8; HASH_BYTES]>, ImageError> {
    let manifest = &image.manifest;
    let (hashes, rest) = bytes.as_chunks::<HASH_BYTES>();
    let complete = rest.is_empty() && u32::try_from(hashes.len()) == Ok(manifest.piece_count);
    if !complete || Hash::of(bytes) != manifest.pieces_hash {
        return Err(ImageError::PieceList(manifest.name.clone()));
    }
    Ok(hashes.to_vec())
}

#[cfg(test)]
mod tests;

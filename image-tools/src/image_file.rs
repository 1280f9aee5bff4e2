//! An image file and what lies beside it, opened for reading.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use image_format::{
    FrameEntry, FrameIndex, HEADER_FRAME_BYTES, Header, KeyId, Manifest, Toc, TocLimits, decompress_frame,
    parse_manifest, verify_signature,
};

use crate::keys;
use crate::pending::companion;

/// A companion is never larger than this: 64 bytes for each of a million pieces.
const COMPANION_BYTES_MAX: u64 = 64 << 20;

/// An open image. Its table of contents is checked, and fits the manifest if there is one.
#[derive(Debug)]
pub(crate) struct ImageFile {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    pub(crate) len: u64,
    pub(crate) header: Header,
    pub(crate) toc: Arc<Toc>,
    pub(crate) manifest: Option<Manifest>,
    /// Whose signature was checked.
    pub(crate) signer: Option<KeyId>,
}

impl ImageFile {
    /// Opens `path`. With `trust` not empty, one of these public keys must have signed its manifest.
    pub(crate) fn open(path: &Path, trust: &[PathBuf]) -> Result<Self> {
        let shown = path.display();
        let file = File::open(path).with_context(|| format!("opening {shown}"))?;
        let len = file.metadata().with_context(|| format!("opening {shown}"))?.len();
        let header = read_header(&file).with_context(|| shown.to_string())?;
        let manifest_bytes = read_companion(path, "manifest")?;
        let manifest = match &manifest_bytes {
            Some(bytes) => Some(
                parse_manifest(bytes).with_context(|| companion(path, "manifest").display().to_string())?,
            ),
            None => None,
        };
        let signer = match (&manifest_bytes, trust) {
            (_, []) => None,
            (None, _) => bail!("{shown} has no manifest beside it, so nothing is signed"),
            (Some(bytes), trust) => Some(check_signature(path, bytes, trust)?),
        };
        if let Some(manifest) = &manifest {
            ensure!(
                manifest.image_id == header.image_id && manifest.file_size == len,
                "{shown} and its manifest are of two different images"
            );
            ensure!(
                manifest.toc_range() == (header.toc_offset..header.toc_offset.saturating_add(header.toc_len))
                    && manifest.toc.raw_len == header.toc_raw_len,
                "{shown}: the header and the manifest name different places for the table of contents"
            );
        }
        let toc = read_toc(&file, len, &header).with_context(|| shown.to_string())?;
        Ok(Self { path: path.to_owned(), file, len, header, toc: Arc::new(toc), manifest, signer })
    }

    /// A frame's compressed bytes, not yet checked.
    pub(crate) fn read_frame(&self, frame: &FrameEntry) -> Result<Vec<u8>> {
        read_range(&self.file, frame.offset, u64::from(frame.len))
            .with_context(|| format!("reading {}", self.path.display()))
    }

    /// A frame's contents, checked against the table of contents, in place of what `raw` had.
    pub(crate) fn read_checked(&self, index: FrameIndex, raw: &mut Vec<u8>) -> Result<()> {
        let frame = self.toc.frame(index).context("a frame is not there")?;
        decompress_frame(frame, &self.read_frame(frame)?, raw).with_context(|| {
            format!("{}: frame {} at byte {}", self.path.display(), index.get(), frame.offset)
        })
    }

    /// The manifest, which this command needs.
    pub(crate) fn require_manifest(&self) -> Result<&Manifest> {
        let missing = || {
            format!("{} is missing, so nothing proves the image", companion(&self.path, "manifest").display())
        };
        self.manifest.as_ref().with_context(missing)
    }
}

fn read_header(file: &File) -> Result<Header> {
    let bytes = match read_range(file, 0, HEADER_FRAME_BYTES) {
        Err(error) if is_end(&error) => bail!("this is not an ESIR image: the file is too short"),
        bytes => bytes.context("reading it")?,
    };
    Ok(Header::parse(&bytes)?)
}

fn is_end(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof)
}

fn read_toc(file: &File, len: u64, header: &Header) -> Result<Toc> {
    let inside = header.toc_offset.checked_add(header.toc_len).is_some_and(|end| end <= len);
    ensure!(inside, "the table of contents lies outside the file: it is cut off, or no image");
    let compressed =
        read_range(file, header.toc_offset, header.toc_len).context("reading the table of contents")?;
    let limits = TocLimits { image_bytes: len, ..TocLimits::default() };
    Ok(Toc::from_compressed_parts(&compressed, header.toc_raw_len, &header.image_id, &limits)?)
}

/// Bytes of a file that are known to be within it.
pub(crate) fn read_range(file: &File, offset: u64, len: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(len)?];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// The file with one more suffix, if it is there.
pub(crate) fn read_companion(image: &Path, suffix: &str) -> Result<Option<Vec<u8>>> {
    let path = companion(image, suffix);
    match std::fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        Ok(metadata) if metadata.len() > COMPANION_BYTES_MAX => bail!("{} is too long", path.display()),
        Ok(_) => {}
    }
    std::fs::read(&path).map(Some).with_context(|| format!("reading {}", path.display()))
}

/// As [`read_companion`], but it must be there.
pub(crate) fn require_companion(image: &Path, suffix: &str) -> Result<Vec<u8>> {
    read_companion(image, suffix)?
        .with_context(|| format!("{} is missing", companion(image, suffix).display()))
}

fn check_signature(image: &Path, manifest: &[u8], trust: &[PathBuf]) -> Result<KeyId> {
    let Some(signature) = read_companion(image, "manifest.minisig")? else {
        bail!("{} is not signed; sign it with `image-tools sign`", image.display())
    };
    let keys = trust.iter().map(|path| keys::read_public_key(path)).collect::<Result<Vec<_>>>()?;
    let signature = String::from_utf8_lossy(&signature);
    verify_signature(manifest, &signature, &keys).with_context(|| image.display().to_string())
}

//! Container images: an OCI image layout (image-spec 1.1) or a docker-archive (`docker save`) -> the layers to unpack.
//!
//! ```text
//! index.json -> (index ->)* manifest -> config, layers      OCI image layout
//! manifest.json -> config, layers                            docker-archive
//! ```
//! Every digest on the way is checked, the layers' while they are read.

mod documents;

use std::cell::RefCell;
use std::io::{self, Read};
use std::rc::Rc;

use crate::error::{At, Result, SourceError, malformed, unsupported};
use crate::unpack::{Hashed, Seen, drain, unpack};

use documents::{Config, Descriptor, DockerManifest, Index, Manifest};
pub use documents::{Digest, Platform};

/// Bytes of an index, manifest or config; registries accept 4 MiB.
const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
/// Indices within indices.
const INDEX_DEPTH_MAX: u32 = 4;
/// Layers of one image. Docker makes at most 127.
const LAYERS_MAX: usize = 1000;
/// zstd windows of layers: 128 MiB, what `zstd -19 --long` makes.
const WINDOW_LOG_MAX: u32 = 27;

/// Where the files of a layout or archive come from: a directory or a tar.
pub trait Blobs {
    /// Opens the regular file at `path`, with its length; `None` if it is not there.
    ///
    /// # Errors
    /// As reading it says.
    fn open(&self, path: &str) -> io::Result<Option<(u64, Box<dyn Read + '_>)>>;
}

/// Which image of several.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its name or tag (`org.opencontainers.image.ref.name`, `RepoTags`), if there are several.
    pub reference: Option<String>,
    /// For which machines.
    pub platform: Platform,
}

/// One layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its file.
    path: String,
    /// Length and digest of that file; a docker-archive gives none.
    blob: Option<(u64, Digest)>,
    /// Digest of the tar in it.
    diff_id: Digest,
}

/// An image that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerImage {
    /// From the lowest up.
    pub layers: Vec<Layer>,
    /// Of the config.
    pub platform: Platform,
}

/// Finds the image, or says what there is to choose from.
///
/// # Errors
/// Neither layout nor archive, no such image, a digest that does not fit, absurd counts.
pub fn find(blobs: &dyn Blobs, wanted: &Wanted) -> Result<ContainerImage> {
    if let Some(index) = document(blobs, "index.json")? {
        let index: Index = documents::parse(&index).at(|| "index.json".to_owned())?;
        return find_in_layout(blobs, index, wanted);
    }
    if let Some(list) = document(blobs, "manifest.json")? {
        let list: Vec<DockerManifest> = documents::parse(&list).at(|| "manifest.json".to_owned())?;
        return find_in_archive(blobs, &list, wanted);
    }
    Err(unsupported("it has neither index.json (OCI image layout) nor manifest.json (docker-archive)"))
}

fn find_in_layout(blobs: &dyn Blobs, mut index: Index, wanted: &Wanted) -> Result<ContainerImage> {
    let mut reference = wanted.reference.as_deref();
    for _ in 0..INDEX_DEPTH_MAX {
        let chosen = index.choose(reference, &wanted.platform)?.clone();
        // Only the outermost index has names.
        reference = None;
        let bytes = described(blobs, &chosen).at(|| chosen.digest.to_string())?;
        if chosen.is_index() {
            index = documents::parse(&bytes).at(|| chosen.digest.to_string())?;
            continue;
        }
        let manifest: Manifest = documents::parse(&bytes).at(|| chosen.digest.to_string())?;
        let config = described(blobs, &manifest.config).at(|| manifest.config.digest.to_string())?;
        let config: Config = documents::parse(&config).at(|| manifest.config.digest.to_string())?;
        let blob = |descriptor: &Descriptor| {
            let blob = Some((descriptor.size, descriptor.digest.clone()));
            (descriptor.digest.path(), blob)
        };
        manifest.refuse_encrypted()?;
        return assemble(manifest.layers.iter().map(blob).collect(), config, wanted);
    }
    Err(SourceError::TooMany { what: "indices within indices", limit: u64::from(INDEX_DEPTH_MAX) })
}

fn find_in_archive(blobs: &dyn Blobs, list: &[DockerManifest], wanted: &Wanted) -> Result<ContainerImage> {
    let manifest = documents::choose_docker(list, wanted.reference.as_deref())?;
    let bytes = document(blobs, &manifest.config)?
        .ok_or_else(|| malformed(format!("the config {} is missing", manifest.config)))?;
    // The config is named after its digest, which alone binds it.
    if let Some(digest) = Digest::of_file_name(&manifest.config) {
        digest.check(&bytes).at(|| manifest.config.clone())?;
    }
    let config: Config = documents::parse(&bytes).at(|| manifest.config.clone())?;
    assemble(manifest.layers.iter().map(|path| (path.clone(), None)).collect(), config, wanted)
}

/// Layers by their files, and what the config says of them.
fn assemble(
    files: Vec<(String, Option<(u64, Digest)>)>,
    config: Config,
    wanted: &Wanted,
) -> Result<ContainerImage> {
    if files.len() > LAYERS_MAX {
        return Err(SourceError::TooMany { what: "layers", limit: LAYERS_MAX as u64 });
    }
    if files.len() != config.rootfs.diff_ids.len() {
        let (files, ids) = (files.len(), config.rootfs.diff_ids.len());
        return Err(malformed(format!("the manifest names {files} layers, the config {ids}")));
    }
    let platform = config.platform();
    if !platform.serves(&wanted.platform) {
        return Err(unsupported(format!("the image is for {platform}, not for {}", wanted.platform)));
    }
    let layers = files
        .into_iter()
        .zip(config.rootfs.diff_ids)
        .map(|((path, blob), diff_id)| Layer { path, blob, diff_id })
        .collect();
    Ok(ContainerImage { layers, platform })
}

/// A small file; `None` if it is not there.
fn document(blobs: &dyn Blobs, path: &str) -> Result<Option<Vec<u8>>> {
    let Some((len, reader)) = blobs.open(path)? else { return Ok(None) };
    if len > DOCUMENT_BYTES_MAX {
        return Err(SourceError::TooMany { what: "bytes in a document", limit: DOCUMENT_BYTES_MAX })
            .at(|| path.to_owned());
    }
    let mut bytes = Vec::new();
    reader.take(DOCUMENT_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// The small file that a descriptor names, checked.
fn described(blobs: &dyn Blobs, descriptor: &Descriptor) -> Result<Vec<u8>> {
    let bytes =
        document(blobs, &descriptor.digest.path())?.ok_or_else(|| malformed("the blob is missing"))?;
    if bytes.len() as u64 != descriptor.size {
        return Err(malformed(format!("it is {} bytes long, not {}", bytes.len(), descriptor.size)));
    }
    descriptor.digest.check(&bytes)?;
    Ok(bytes)
}

/// The tar of one layer while it is read.
pub struct LayerStream<'a> {
    tar: Box<dyn Read + 'a>,
    raw: Rc<RefCell<Seen>>,
    unpacked: Rc<RefCell<Seen>>,
    layer: &'a Layer,
}

impl Layer {
    /// Its digest, for messages.
    #[must_use]
    pub fn name(&self) -> String {
        self.blob.as_ref().map_or_else(|| self.path.clone(), |(_, digest)| digest.to_string())
    }

    /// Opens it; `bytes_max` bounds what it unpacks to.
    ///
    /// # Errors
    /// The blob is missing or has another length than its descriptor says.
    pub fn open<'a>(&'a self, blobs: &'a dyn Blobs, bytes_max: u64) -> Result<LayerStream<'a>> {
        let (len, reader) =
            blobs.open(&self.path)?.ok_or_else(|| malformed(format!("its file {} is missing", self.path)))?;
        if let Some((size, _)) = &self.blob
            && *size != len
        {
            return Err(malformed(format!("it is {len} bytes long, not {size}")));
        }
        let digest = self.blob.as_ref().map_or(&self.diff_id, |(_, digest)| digest);
        let raw = Seen::with(digest.hasher());
        let unpacked = Seen::with(self.diff_id.hasher());
        let (_, stream) = unpack(Hashed { inner: reader, seen: Rc::clone(&raw) }, WINDOW_LOG_MAX, bytes_max)?;
        let tar = Box::new(Hashed { inner: stream, seen: Rc::clone(&unpacked) });
        Ok(LayerStream { tar, raw, unpacked, layer: self })
    }
}

impl Read for LayerStream<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.tar.read(out)
    }
}

impl LayerStream<'_> {
    /// Bytes of tar so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.unpacked.borrow().bytes
    }

    /// Reads what is left and checks both digests. Only then is the layer what it claims to be.
    ///
    /// # Errors
    /// A digest that does not fit.
    pub fn finish(mut self) -> Result<u64> {
        drain(&mut self.tar)?;
        // A decoder may stop before the end of its input.
        let (raw, unpacked) = (self.raw.borrow(), self.unpacked.borrow());
        if let Some((size, digest)) = &self.layer.blob {
            if raw.bytes != *size {
                return Err(malformed("there is something behind its end"));
            }
            digest.compare(&raw.hasher.hex())?;
        }
        self.layer.diff_id.compare(&unpacked.hasher.hex()).at(|| "unpacked".to_owned())?;
        Ok(unpacked.bytes)
    }
}

#[cfg(test)]
mod tests;

//! Images that this server deploys: four companions of each file, checked at start.
//!
//! Never serves a piece that is not the one its signed manifest names.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail};
use image_format::{MANIFEST_BYTES_MAX, Manifest, parse_manifest, verify_signature};
use serde::{Deserialize, Serialize};
use site_file::Untrusted;
use store::{Expect, Store, Write};
use swarm::Metainfo;

/// A metainfo has 20 bytes for each piece; the swarm takes no more pieces than this leaves room for.
const METAINFO_BYTES_MAX: u64 = 8 << 20;
/// A minisign signature file is four short lines.
const SIGNATURE_BYTES_MAX: u64 = 4096;
/// BLAKE3-256 of one piece.
const HASH_BYTES: usize = 32;

/// One image, checked.
#[derive(Debug)]
pub(crate) struct Image {
    /// Image id, hex.
    pub(crate) id: String,
    /// Its place among this server's images, from 0.
    pub(crate) number: u16,
    /// For people.
    pub(crate) name: String,
    /// `X.esir`.
    pub(crate) path: PathBuf,
    /// `X.esir.pieces`.
    pub(crate) pieces_path: PathBuf,
    /// What the manifest says.
    pub(crate) manifest: Manifest,
    /// Its bytes, as signed.
    pub(crate) manifest_bytes: Vec<u8>,
    /// Text of the minisign file; `None` for an image that is let through unsigned.
    pub(crate) signature: Option<String>,
    /// Whether that is a trusted key's signature.
    pub(crate) is_trusted: bool,
    /// `X.esir.torrent`.
    pub(crate) metainfo_bytes: Vec<u8>,
    /// The same, parsed.
    pub(crate) metainfo: Metainfo,
    /// BLAKE3-256 of each piece.
    pub(crate) piece_hashes: Vec<[u8; HASH_BYTES]>,
}

/// An image as the admin API shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ImageView {
    /// Image id, hex.
    pub(crate) id: String,
    /// For people.
    pub(crate) name: String,
    /// Whether nodes get it unless told otherwise.
    pub(crate) is_default: bool,
    /// Whether a trusted key signed it.
    pub(crate) signed: bool,
    /// Of the file.
    pub(crate) size_bytes: u64,
    /// `x86_64`.
    pub(crate) architecture: Option<String>,
    /// `Debian GNU/Linux 12 (bookworm)`.
    pub(crate) distribution: Option<String>,
    /// `6.1.0-50-amd64`.
    pub(crate) kernel: Option<String>,
    /// Boots by PC BIOS.
    pub(crate) bios: bool,
    /// Boots by UEFI.
    pub(crate) uefi: bool,
}

/// Every image of this server; at least one.
#[derive(Debug)]
pub(crate) struct Images {
    first: Arc<Image>,
    more: Vec<Arc<Image>>,
}

/// What an image must satisfy.
pub(crate) struct ImageRules<'a> {
    /// Minisign public keys.
    pub(crate) trusted: &'a [String],
    /// What to do with an image that none of them signed.
    pub(crate) untrusted: Untrusted,
}

/// That the pieces of a file were read and found right, stored under `image/ID`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Checked {
    path: PathBuf,
    inode: u64,
    size: u64,
    modified_ns: i128,
}

impl Images {
    /// Opens and checks images; the first is the default. Pieces are read again only if the file has changed.
    pub(crate) fn open(paths: &[PathBuf], rules: &ImageRules<'_>, store: &Store) -> Result<Self> {
        let mut images = Vec::new();
        for (number, path) in (0_u16..).zip(paths) {
            let image = Image::open(number, path, Some(rules))?;
            image.check_data(store)?;
            images.push(Arc::new(image));
        }
        let mut images = images.into_iter();
        let first = images.next().context("no image is named; give --image X.esir")?;
        Ok(Self { first, more: images.collect() })
    }

    /// The number of the first delta image.
    pub(crate) fn next_number(&self) -> u16 {
        u16::try_from(self.all().count()).unwrap_or(u16::MAX)
    }

    /// What nodes get unless told otherwise.
    pub(crate) fn default_image(&self) -> Arc<Image> {
        Arc::clone(&self.first)
    }

    /// The image of this id.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<Image>> {
        self.all().find(|image| image.id == id).map(Arc::clone)
    }

    /// Every image, the default first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Image>> {
        std::iter::once(&self.first).chain(&self.more)
    }

    /// For the admin API.
    pub(crate) fn views(&self) -> Vec<ImageView> {
        let view = |image: &Arc<Image>| ImageView {
            id: image.id.clone(),
            name: image.name.clone(),
            is_default: image.id == self.first.id,
            signed: image.is_trusted,
            size_bytes: image.manifest.file_size,
            architecture: image.manifest.architecture.clone(),
            distribution: image.manifest.distribution.clone(),
            kernel: image.manifest.kernel.clone(),
            bios: image.manifest.boot.bios,
            uefi: image.manifest.boot.uefi,
        };
        self.all().map(view).collect()
    }
}

impl Image {
    /// Opens `X.esir` with its companions and checks everything but the data itself; without rules, no signature either.
    fn open(number: u16, path: &Path, rules: Option<&ImageRules<'_>>) -> Result<Self> {
        let size = match fs::metadata(path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!("there is no image {0}; make one with: image-tools capture DIR -o {0}", path.display())
            }
            Err(error) => return Err(error).with_context(|| format!("opening the image {}", path.display())),
        };
        let name = || format!("opening the image {}", path.display());
        let manifest_bytes = read_companion(path, "manifest", MANIFEST_BYTES_MAX as u64)?;
        let signed = rules.map(|rules| check_signature(path, &manifest_bytes, rules)).transpose()?;
        let (signature, is_trusted) = signed.unwrap_or_default();
        let manifest = parse_manifest(&manifest_bytes).with_context(name)?;
        if size != manifest.file_size {
            bail!(
                "{} has {size} bytes, its manifest says {}; copy the image again",
                path.display(),
                manifest.file_size
            );
        }
        let pieces_max = u64::from(manifest.piece_count) * HASH_BYTES as u64;
        let pieces = read_companion(path, "pieces", pieces_max)?;
        if blake3::hash(&pieces).to_hex().as_str() != manifest.pieces_hash.to_string() {
            bail!(
                "{0}.pieces is not the list that {0}.manifest names; copy the image with its companions again",
                path.display()
            );
        }
        let metainfo_bytes = read_companion(path, "torrent", METAINFO_BYTES_MAX)?;
        let metainfo = Metainfo::parse(&metainfo_bytes).with_context(name)?;
        let same = metainfo.info_hash.0 == manifest.info_hash
            && metainfo.length == manifest.file_size
            && u64::from(metainfo.piece_length) == manifest.piece_size;
        if !same {
            bail!(
                "{0}.torrent is not the one that {0}.manifest names; copy the image with its companions again",
                path.display()
            );
        }
        Ok(Self {
            id: manifest.image_id.to_string(),
            number,
            name: manifest.name.clone(),
            path: path.to_owned(),
            pieces_path: companion(path, "pieces"),
            manifest,
            manifest_bytes,
            signature,
            is_trusted,
            metainfo_bytes,
            metainfo,
            piece_hashes: pieces.as_chunks::<HASH_BYTES>().0.to_vec(),
        })
    }

    /// Opens a delta image that this server made. It needs no signature, because nodes believe nothing that it brings.
    pub(crate) fn open_delta(number: u16, path: &Path, store: &Store) -> Result<Self> {
        let image = Self::open(number, path, None)?;
        image.check_data(store)?;
        Ok(image)
    }

    /// Reads every piece once, unless this very file was found right before.
    fn check_data(&self, store: &Store) -> Result<()> {
        let reading = || format!("reading {}", self.path.display());
        let metadata = fs::metadata(&self.path).with_context(reading)?;
        let now = Checked {
            path: fs::canonicalize(&self.path).with_context(reading)?,
            inode: metadata.ino(),
            size: metadata.len(),
            modified_ns: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
        };
        let key = format!("image/{}", self.id);
        let before = store.get(&key)?.and_then(|found| serde_json::from_slice::<Checked>(&found.value).ok());
        if before.as_ref() == Some(&now) {
            return Ok(());
        }
        tracing::info!(image = self.name, bytes = metadata.len(), "checking the image's pieces");
        let file = File::open(&self.path).with_context(reading)?;
        if let Some(piece) = self.first_wrong_piece(&file).with_context(reading)? {
            bail!("piece {piece} of {} is damaged; copy the image again", self.path.display());
        }
        store.commit(&[Write::put(key, Expect::Anything, serde_json::to_vec(&now)?)])?;
        Ok(())
    }

    /// Reads with all processors; the lowest number of a wrong piece that was met.
    fn first_wrong_piece(&self, file: &File) -> io::Result<Option<u32>> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let next = AtomicU32::new(0);
        let work = || -> io::Result<Option<u32>> {
            let mut bytes = vec![0; usize::try_from(self.manifest.piece_size).map_err(io::Error::other)?];
            loop {
                let piece = next.fetch_add(1, Ordering::Relaxed);
                let Some(expected) = self.piece_hashes.get(piece as usize) else { return Ok(None) };
                let begin = u64::from(piece) * self.manifest.piece_size;
                let length = self.manifest.piece_size.min(self.manifest.file_size.saturating_sub(begin));
                let part = usize::try_from(length).ok().and_then(|length| bytes.get_mut(..length));
                let part = part.ok_or(io::ErrorKind::InvalidData)?;
                file.read_exact_at(part, begin)?;
                if blake3::hash(part).as_bytes() != expected {
                    return Ok(Some(piece));
                }
            }
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let mut wrong = None;
            for worker in workers {
                let found = worker.join().map_err(|_| io::Error::other("a checking thread ended"))??;
                wrong = found.into_iter().chain(wrong).min();
            }
            Ok(wrong)
        })
    }
}

fn check_signature(path: &Path, manifest: &[u8], rules: &ImageRules<'_>) -> Result<(Option<String>, bool)> {
    let file = companion(path, "manifest.minisig");
    let text = match fs::metadata(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        _ => Some(
            String::from_utf8(read_companion(path, "manifest.minisig", SIGNATURE_BYTES_MAX)?)
                .unwrap_or_default(),
        ),
    };
    let problem = match &text {
        None => "it is not signed".to_owned(),
        Some(text) => match verify_signature(manifest, text, rules.trusted) {
            Ok(_) => return Ok((Some(text.clone()), true)),
            Err(error) => error.to_string(),
        },
    };
    match rules.untrusted {
        Untrusted::Refuse => bail!(
            "{0} cannot be deployed: {problem}. Sign it with `image-tools sign {0}` and trust the key by --trust \
             KEY.pub, or start with --allow-unsigned",
            path.display()
        ),
        Untrusted::Allow => {
            tracing::warn!("{} is let through without a trusted signature: {problem}", path.display());
            Ok((None, false))
        }
        Untrusted::LeaveToNodes => {
            tracing::warn!("{} is offered although nodes will refuse it: {problem}", path.display());
            Ok((text, false))
        }
    }
}

fn companion(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

fn read_companion(path: &Path, suffix: &str, bytes_max: u64) -> Result<Vec<u8>> {
    let file = companion(path, suffix);
    let opened = match File::open(&file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("{} has no {} beside it; copy all companions of the image", path.display(), file.display())
        }
        Err(error) => return Err(error).with_context(|| format!("opening {}", file.display())),
    };
    let mut bytes = Vec::new();
    let read = opened.take(bytes_max + 1).read_to_end(&mut bytes);
    let read = read.with_context(|| format!("reading {}", file.display()))?;
    if read as u64 > bytes_max {
        bail!("{} has more than {bytes_max} bytes and belongs to no image", file.display());
    }
    Ok(bytes)
}

//! What is offered: a file that was read and hashed, and its torrent.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use image_format::piece_size_for;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use swarm::{BLOCK_BYTES, Geometry, METAINFO_BYTES_MAX};
use swarm_net::{Metainfo, piece_hashes, verified_pieces};

/// Largest length of a piece that is offered: longer ones only make the swarm slower.
const PIECE_BYTES_MAX: u32 = 16 << 20;

/// What an image has beside it, and whoever fetches the image wants too.
const COMPANIONS: [&str; 3] = ["manifest", "manifest.minisig", "pieces"];

/// A file whose every piece has the hash that its torrent names.
pub(super) struct Offer {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) metainfo: Metainfo,
    /// The torrent without tracker and web seed.
    pub(super) torrent: Vec<u8>,
}

impl Offer {
    /// Opens and hashes `path`. An image keeps the torrent that lies beside it, so that nodes and this seed are
    /// one swarm.
    pub(super) fn open(path: &Path, piece_bytes: Option<u32>) -> Result<Self> {
        let opening = || format!("opening {}", path.display());
        let file = File::open(path).with_context(opening)?;
        let metadata = file.metadata().with_context(opening)?;
        ensure!(metadata.is_file(), "{} is not a file; a swarm exchanges one file", path.display());
        ensure!(metadata.len() > 0, "{} is empty; there is nothing to seed", path.display());
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.with_context(|| format!("{} has no name in UTF-8; rename it", path.display()))?;
        let torrent = match read_image_torrent(path)? {
            Some(torrent) => {
                ensure!(
                    piece_bytes.is_none(),
                    "{}.torrent fixes the length of a piece; leave --piece-bytes out",
                    path.display()
                );
                check_image(path, &file, metadata.len(), &torrent)?;
                torrent
            }
            None => make_torrent(&file, name, metadata.len(), piece_bytes)
                .with_context(|| format!("making the torrent of {}", path.display()))?,
        };
        let metainfo = Metainfo::parse(&torrent)?;
        Ok(Self { path: path.to_owned(), file, metainfo, torrent })
    }

    /// Files beside it that are offered too, with the end of their name.
    pub(super) fn companions(&self) -> impl Iterator<Item = (&'static str, PathBuf)> + '_ {
        let beside = |suffix| (suffix, companion(&self.path, suffix));
        COMPANIONS.into_iter().map(beside).filter(|(_, path)| path.is_file())
    }
}

fn companion(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".");
    name.push(suffix);
    name.into()
}

/// `X.esir.torrent`, if there is one.
fn read_image_torrent(path: &Path) -> Result<Option<Vec<u8>>> {
    if path.extension().is_none_or(|extension| extension != "esir") {
        return Ok(None);
    }
    let torrent = companion(path, "torrent");
    let reading = || format!("reading {}", torrent.display());
    let file = match File::open(&torrent) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(reading),
    };
    let mut bytes = Vec::new();
    file.take(METAINFO_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).with_context(reading)?;
    Metainfo::parse(&bytes).with_context(reading)?;
    Ok(Some(bytes))
}

fn check_image(path: &Path, file: &File, length: u64, torrent: &[u8]) -> Result<()> {
    let metainfo = Metainfo::parse(torrent)?;
    ensure!(
        metainfo.length == length,
        "{} has {length} bytes, its torrent says {}; copy the image again",
        path.display(),
        metainfo.length
    );
    let bar = progress("checking", length);
    let good = verified_pieces(file, &metainfo, &|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let good = good.with_context(|| format!("reading {}", path.display()))?;
    if let Some(bad) = (0..good.pieces()).find(|piece| !good.contains(*piece)) {
        bail!("piece {bad} of {} is damaged; copy the image again", path.display());
    }
    Ok(())
}

fn make_torrent(file: &File, name: &str, length: u64, piece_bytes: Option<u32>) -> Result<Vec<u8>> {
    let piece_bytes = match piece_bytes {
        Some(bytes) => checked_piece_bytes(bytes)?,
        None => u32::try_from(piece_size_for(length))?,
    };
    let geometry = Geometry::new(length, piece_bytes)?;
    let bar = progress("hashing", length);
    let hashes = piece_hashes(file, geometry, &|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let hashes: Option<Vec<[u8; 20]>> = hashes.context("reading it")?.into_iter().collect();
    let hashes = hashes.context("it became shorter while it was read")?;
    Ok(Metainfo::encode_single_file(name, length, piece_bytes, &hashes, None)?)
}

fn checked_piece_bytes(bytes: u32) -> Result<u32> {
    ensure!(
        bytes.is_power_of_two() && (BLOCK_BYTES..=PIECE_BYTES_MAX).contains(&bytes),
        "--piece-bytes {bytes} is not a power of two from {BLOCK_BYTES} to {PIECE_BYTES_MAX}"
    );
    Ok(bytes)
}

/// For a person who looks at it; hidden otherwise.
fn progress(title: &'static str, total: u64) -> ProgressBar {
    let seen = io::stderr().is_terminal();
    let target = if seen { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(total), target).with_message(title);
    let template = "{msg:12} {wide_bar} {bytes:>10} of {total_bytes:<10} {bytes_per_sec:>12} {eta:>4}";
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

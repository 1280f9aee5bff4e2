//! The older system on the disk becomes the new one: a delta image is fetched beside it, and the new tree is put together
//! from both.
//!
//! ```text
//!  older system, put aside --+
//!                            +--> new tree <-- frames of the full image, for what somebody changed or removed
//!  delta image, fetched -----+
//! ```
//! Never takes a file that it has not hashed; `verify` reads all of it again. Whatever fails here leaves a disk that does
//! not boot and that the next try makes anew, because the record of the older system is put aside too.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use image_apply::{Applier, RedeployError, Redeployment, Reused};
use image_format::{DELTA_TABLE, FrameIndex, Manifest, Toc};

use super::super::Done;
use super::super::await_task::Accepted;
use super::super::join::Joined;
use super::{FetchError, Fetched, Place};
use crate::api::{ImageRanges, Session};
use crate::console::chain;
use crate::failure::BackOff;
use crate::report::Reporter;

/// Beyond this part of the full image the server would send too much to each node by itself (percent).
const MISSING_PERCENT_MAX: u64 = 25;
/// A few frames are always worth it, however small the image is.
const MISSING_BYTES_FREE: u64 = 16 << 20;
/// A server that restarts is back within this many tries (about a minute).
const RANGE_TRIES_MAX: u32 = 8;
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_LIMIT: Duration = Duration::from_secs(15);

/// Why the older system could not become the new one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReuseError {
    /// The task has none, which only a bug asks for.
    #[error("the task has no delta image")]
    NoDelta,
    /// The delta image.
    #[error("fetching the delta image")]
    Delta(#[source] Box<FetchError>),
    /// Its files.
    #[error("reading what the delta image brought")]
    Read(#[source] io::Error),
    /// The new tree.
    #[error(transparent)]
    Redeploy(#[from] RedeployError),
    /// The older system is not what its record says.
    #[error(
        "the older system lacks contents that take {missing_mib} MiB of the image's {image_mib} MiB, which is too much \
         to fetch from the server alone"
    )]
    TooMuch { missing_mib: u64, image_mib: u64 },
    /// What it lacks.
    #[error("fetching frame {frame} of the image from the server")]
    Range {
        frame: u32,
        #[source]
        source: io::Error,
    },
}

/// An older system that was put aside, with its table of contents.
pub(crate) struct Aside {
    pub(crate) redeployment: Redeployment,
    pub(crate) table: Toc,
}

/// The new tree, lacking what neither source had.
struct Assembled {
    redeployment: Redeployment,
    applier: Applier,
    toc: Arc<Toc>,
    table: Vec<u8>,
    reused: Reused,
}

/// Fetches the delta image and makes the new system from it and the older one.
pub(crate) async fn run_beside(
    joined: Joined,
    aside: Aside,
    accepted: &Accepted,
    session: &Session,
    reporter: &Reporter,
) -> Result<Done<Fetched>, FetchError> {
    let delta = accepted.delta.as_ref().ok_or(ReuseError::NoDelta)?;
    let place = Place::Tree(aside.redeployment.delta_directory());
    let fetched = super::run(joined, place, delta, session, reporter).await;
    let fetched = fetched.map_err(|error| ReuseError::Delta(Box::new(error)))?.value;
    let manifest = &accepted.full.image.manifest;
    let ranges = ImageRanges::new(session.clone(), manifest.image_id.to_string());
    let ended =
        finish(aside, manifest, &fetched.toc, async |range| fetch_range(&ranges, range).await).await?;
    let Reassembled { toc, table, reused, missing_bytes } = ended;
    let Fetched { peer, mut traffic, .. } = fetched;
    traffic.from_server_bytes += missing_bytes;
    let detail = format!(
        "{} MiB of a delta image and {} MiB of the image fetched, {} files with {} MiB kept or brought, {} entries",
        delta.image.manifest.file_size >> 20,
        missing_bytes >> 20,
        reused.files,
        reused.bytes >> 20,
        toc.entries().len()
    );
    Ok(Done { value: Fetched { peer, toc, table, traffic, beside_bytes: missing_bytes }, detail })
}

/// The new tree, complete.
struct Reassembled {
    toc: Arc<Toc>,
    table: Vec<u8>,
    reused: Reused,
    /// What neither source had, compressed.
    missing_bytes: u64,
}

/// Makes the tree of `image` from the older system and the delta image beside it, whose table is `delta`. `fetch` gives
/// ranges of the full image.
async fn finish(
    aside: Aside,
    image: &Manifest,
    delta: &Arc<Toc>,
    fetch: impl AsyncFn(Range<u64>) -> io::Result<Vec<u8>>,
) -> Result<Reassembled, FetchError> {
    let (manifest, delta) = (image.clone(), Arc::clone(delta));
    let assembled = tokio::task::spawn_blocking(move || assemble(aside, &manifest, &delta)).await??;
    let Assembled { redeployment, applier, toc, table, reused } = assembled;
    let missing_bytes = write_missing(&applier, &toc, image, fetch).await?;
    let ended = tokio::task::spawn_blocking(move || {
        // The root directory gets its time last, so everything that is not the new system's goes before.
        redeployment.remove()?;
        applier.finish().map_err(RedeployError::Apply)
    });
    ended.await?.map_err(ReuseError::Redeploy)?;
    Ok(Reassembled { toc, table, reused, missing_bytes })
}

fn assemble(aside: Aside, manifest: &Manifest, delta: &Toc) -> Result<Assembled, ReuseError> {
    let Aside { redeployment, table: old } = aside;
    // Compared with the signed manifest by `Redeployment::assemble`.
    let table = std::fs::read(redeployment.delta_directory().join(DELTA_TABLE)).map_err(ReuseError::Read)?;
    let (applier, toc, reused) = redeployment.assemble(manifest, delta, Some(&old))?;
    Ok(Assembled { redeployment, applier, toc, table, reused })
}

/// Writes what neither source had from frames of the full image, and returns their bytes.
async fn write_missing(
    applier: &Applier,
    toc: &Toc,
    image: &Manifest,
    fetch: impl AsyncFn(Range<u64>) -> io::Result<Vec<u8>>,
) -> Result<u64, ReuseError> {
    let missing = applier.unwritten();
    let ranges: Vec<(FrameIndex, Range<u64>)> =
        missing.into_iter().filter_map(|index| Some((index, toc.frame(index)?.range()))).collect();
    let bytes = ranges.iter().map(|(_, range)| range.end - range.start).sum();
    if bytes > MISSING_BYTES_FREE.max(image.file_size / 100 * MISSING_PERCENT_MAX) {
        return Err(ReuseError::TooMuch { missing_mib: bytes >> 20, image_mib: image.file_size >> 20 });
    }
    if !ranges.is_empty() {
        tracing::info!(
            "the older system lacks what {} frames of the image hold, {bytes} bytes",
            ranges.len()
        );
    }
    for (index, range) in ranges {
        let failed = |source| ReuseError::Range { frame: index.get(), source };
        let compressed = fetch(range).await.map_err(failed)?;
        let written = tokio::task::block_in_place(|| applier.write_frame(index, &compressed));
        written.map_err(RedeployError::Apply)?;
    }
    Ok(bytes)
}

/// A range of the full image, from a server that may be starting again.
async fn fetch_range(ranges: &ImageRanges, range: Range<u64>) -> io::Result<Vec<u8>> {
    let mut back_off = BackOff::new(PAUSE_FIRST, PAUSE_LIMIT);
    for _ in 1..RANGE_TRIES_MAX {
        match ranges.read(range.start, range.end - range.start).await {
            Ok(bytes) => return Ok(bytes),
            Err(error) => tracing::warn!("bytes {range:?} of the image: {}; trying again", chain(&error)),
        }
        tokio::time::sleep(back_off.pause()).await;
    }
    ranges.read(range.start, range.end - range.start).await
}

#[cfg(test)]
mod tests;

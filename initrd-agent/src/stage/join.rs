//! `join`: this node becomes a peer of the image's swarm, at once when its memory holds the image.

use std::sync::Arc;

use disk_apply::OlderSystem;
use node_api::Recovery;
use swarm_net::StartError;

use super::await_task::Accepted;
use super::{Done, prepare};
use crate::api::Session;
use crate::failure::StageError;
use crate::hardware::{Hardware, ObjectSource};
use crate::image::Offer;
use crate::peer::SwarmPeer;
use crate::pieces::{PieceCache, available_memory, fits_in_memory};

/// A peer, or the knowledge that it needs the new disk first.
pub(crate) enum Joined {
    /// Pieces arrive already, into memory.
    Running(SwarmPeer),
    /// The image is too large for memory; the peer starts when there is a root to keep pieces on.
    NeedsDisk,
}

/// Why the node cannot take part.
#[derive(Debug, thiserror::Error)]
#[error("starting the peer")]
pub(crate) struct JoinError(#[from] StartError);

impl StageError for JoinError {
    fn code(&self) -> &'static str {
        "swarm-start"
    }

    fn recovery(&self) -> Recovery {
        Recovery::Retry
    }
}

/// How the node becomes a peer, and of which image.
pub(crate) struct Beginning {
    pub(crate) joined: Joined,
    /// The system on the disk that becomes the new one; the peer is one of the delta image's then.
    pub(crate) older: Option<OlderSystem>,
}

/// Looks whether a delta image will do, and starts the peer if its pieces fit into memory.
pub(crate) async fn run(
    hardware: &Hardware,
    objects: &dyn ObjectSource,
    accepted: &Accepted,
    session: &Session,
) -> Result<Done<Beginning>, JoinError> {
    let (mut offer, mut older, mut which) = (&accepted.full, None, "");
    if let Some(delta) = &accepted.delta {
        let find = || prepare::find_older(hardware, objects, accepted, &delta.image.manifest);
        match tokio::task::block_in_place(find) {
            Ok(found) => (offer, older, which) = (delta, Some(found), "of the delta image: "),
            Err(reason) => tracing::info!("no older system to make the new one from: {reason:#}"),
        }
    }
    let Done { value: joined, detail } = join(offer, session).await?;
    Ok(Done { value: Beginning { joined, older }, detail: format!("{which}{detail}") })
}

async fn join(offer: &Offer, session: &Session) -> Result<Done<Joined>, JoinError> {
    let manifest = &offer.image.manifest;
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = available_memory(&meminfo).unwrap_or_default();
    if !fits_in_memory(manifest.file_size, available) {
        let detail = format!(
            "the image has {} MiB, {} MiB of memory are free: pieces go to the new disk",
            manifest.file_size >> 20,
            available >> 20
        );
        return Ok(Done { value: Joined::NeedsDisk, detail });
    }
    let cache = Arc::new(PieceCache::in_memory(manifest.file_size, manifest.piece_size));
    let peer = SwarmPeer::start(offer, session, cache).await?;
    let detail =
        format!("{} pieces of {} KiB, kept in memory", manifest.piece_count, manifest.piece_size >> 10);
    Ok(Done { value: Joined::Running(peer), detail })
}

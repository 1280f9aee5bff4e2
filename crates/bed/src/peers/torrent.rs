//! What BitTorrent programs other than ours need: a metainfo file and a tracker.

use std::path::PathBuf;

use anyhow::Result;

use super::{Field, Launch, Ready, script};
use crate::leftovers::run;
use crate::network::Place;

/// Debian's own interpreter, for which its packages are built; another may come first in the path.
pub(crate) const PYTHON: &str = "/usr/bin/python3";
/// Port of the tracker at the manager.
const TRACKER_PORT: u16 = 6969;
/// Port of every peer.
pub(crate) const PEER_PORT: u16 = 6881;

/// The tracker at the manager.
pub(crate) fn tracker(field: &Field<'_>) -> Result<Launch> {
    let tracker = script(field, "tracker.py", include_str!("tracker.py"))?;
    let argv = [PYTHON.into(), tracker.into_os_string(), TRACKER_PORT.to_string().into()];
    Ok(Launch::new(Place::Manager, argv).ready(Ready::Listens(TRACKER_PORT)))
}

/// The source's metainfo, made once.
pub(crate) fn metainfo(field: &Field<'_>) -> Result<PathBuf> {
    let torrent = field.source.path.with_extension("torrent");
    if !torrent.exists() {
        let program = script(field, "metainfo.py", include_str!("metainfo.py"))?;
        let announce = format!("http://{}/announce", field.at(Place::Manager, TRACKER_PORT));
        let piece_bytes = field.source.piece_bytes().to_string();
        let (file, target) = (field.source.path.as_os_str(), torrent.as_os_str());
        run(PYTHON, [program.as_os_str(), file, piece_bytes.as_ref(), announce.as_ref(), target], "")?;
    }
    Ok(torrent)
}

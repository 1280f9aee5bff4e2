//! libtorrent (Debian's python3-libtorrent) with settings for a LAN.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::torrent::{PEER_PORT, PYTHON, metainfo, tracker};
use super::{Begins, Contestant, Field, Launch, Ready, script};
use crate::network::Place;

/// The library behind qBittorrent, Deluge and EZIO.
#[derive(Clone, Copy, Debug)]
pub struct Libtorrent;

impl Libtorrent {
    fn peer(field: &Field<'_>, place: Place, role: &str, dir: &Path) -> Result<Launch> {
        let program = script(field, "libtorrent_peer.py", include_str!("libtorrent_peer.py"))?;
        let listen = field.at(place, PEER_PORT);
        let torrent = metainfo(field)?;
        let argv = [Path::new(PYTHON), &program, Path::new(role), &torrent, dir, Path::new(&listen)];
        Ok(Launch::new(place, argv).ready(Ready::Says))
    }
}

impl Contestant for Libtorrent {
    fn name(&self) -> &'static str {
        "libtorrent"
    }

    fn serve(&self, field: &Field<'_>) -> Result<Vec<Launch>> {
        let dir = field.source.path.parent().unwrap_or(Path::new("/"));
        Ok(vec![tracker(field)?, Self::peer(field, Place::Server, "seed", dir)?])
    }

    fn fetch(&self, field: &Field<'_>, node: usize) -> Result<Launch> {
        let dir = field.node_dir(node)?;
        Ok(Self::peer(field, Place::Node(node), "fetch", &dir)?.begins(Begins::AtLine))
    }

    fn stored(&self, field: &Field<'_>, node: usize) -> Option<PathBuf> {
        Some(field.node_file(node))
    }

    fn expected_ratio(&self, nodes: usize) -> f64 {
        if nodes == 1 { 1.01 } else { 1.7 }
    }
}

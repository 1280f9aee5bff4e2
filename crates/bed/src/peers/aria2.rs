//! aria2: loaded with a paused download, which a call starts.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::torrent::{PEER_PORT, metainfo, tracker};
use super::{Begins, Contestant, Field, Launch, Ready, script};
use crate::network::Place;

/// Port of its control interface at each node.
const RPC_PORT: u16 = 6800;
/// aria2 starts this when a download is whole; its standard output is aria2's own.
const HOOK: &str = "#!/bin/sh\necho '{\"event\":\"complete\"}'\n";
/// For one swarm on a LAN.
const OPTIONS: [&str; 16] = [
    "--no-conf",
    "--quiet",
    "--enable-dht=false",
    "--enable-dht6=false",
    "--bt-enable-lpd=false",
    "--enable-peer-exchange=false",
    "--bt-max-peers=0",
    "--bt-request-peer-speed-limit=10000M",
    "--bt-tracker-interval=2",
    "--seed-ratio=0",
    "--seed-time=600",
    "--file-allocation=none",
    "--disk-cache=64M",
    "--follow-torrent=mem",
    "--disable-ipv6=true",
    "--bt-min-crypto-level=plain",
];
/// JSON-RPC of aria2's manual.
const UNPAUSE: &str = r#"{"jsonrpc":"2.0","id":"go","method":"aria2.unpauseAll"}"#;

/// The command-line client.
#[derive(Clone, Copy, Debug)]
pub struct Aria2;

impl Aria2 {
    fn peer(field: &Field<'_>, place: Place, dir: &Path) -> Result<Launch> {
        let dir = format!("--dir={}", dir.display());
        let port = format!("--listen-port={PEER_PORT}");
        let launch = Launch::new(place, ["aria2c"]).and(OPTIONS).and([dir, port]);
        Ok(launch.and([metainfo(field)?]))
    }
}

impl Contestant for Aria2 {
    fn name(&self) -> &'static str {
        "aria2"
    }

    fn serve(&self, field: &Field<'_>) -> Result<Vec<Launch>> {
        let dir = field.source.path.parent().unwrap_or(Path::new("/"));
        let seed = Self::peer(field, Place::Server, dir)?.and(["--bt-seed-unverified=true"]);
        Ok(vec![tracker(field)?, seed.ready(Ready::Listens(PEER_PORT))])
    }

    fn fetch(&self, field: &Field<'_>, node: usize) -> Result<Launch> {
        let hook = script(field, "complete.sh", HOOK)?;
        let dir = field.node_dir(node)?;
        let launch = Self::peer(field, Place::Node(node), &dir)?.and([
            "--pause=true".to_owned(),
            "--enable-rpc=true".to_owned(),
            "--rpc-listen-all=true".to_owned(),
            format!("--rpc-listen-port={RPC_PORT}"),
            format!("--on-bt-download-complete={}", hook.display()),
        ]);
        let call = Begins::AtCall { port: RPC_PORT, path: "/jsonrpc", body: UNPAUSE };
        Ok(launch.ready(Ready::Listens(RPC_PORT)).begins(call))
    }

    fn stored(&self, field: &Field<'_>, node: usize) -> Option<PathBuf> {
        Some(field.node_file(node))
    }

    fn expected_ratio(&self, nodes: usize) -> f64 {
        if nodes == 1 { 1.2 } else { 1.7 }
    }
}

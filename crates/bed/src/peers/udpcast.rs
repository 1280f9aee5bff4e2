//! udpcast: multicast with acknowledgements. It checks no hash.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{Begins, Contestant, Field, Launch, Ready};
use crate::network::Place;

/// Receivers listen on `portbase`, the sender on the next one.
const PORT: u16 = 9000;

/// Sender at the server, a receiver at each node.
#[derive(Clone, Copy, Debug)]
pub struct Udpcast;

impl Contestant for Udpcast {
    fn name(&self) -> &'static str {
        "udpcast"
    }

    fn serve(&self, field: &Field<'_>) -> Result<Vec<Launch>> {
        let nodes = field.bed.shape().nodes.to_string();
        let argv = ["udp-sender", "--interface", "eth0", "--nokbd", "--no-progress", "--full-duplex"];
        let launch = Launch::new(Place::Server, argv).and(["--min-receivers", &nodes, "--max-wait", "30"]);
        // Without repeated hellos a lost one keeps it from ever starting.
        let launch =
            launch.and(["--rexmit-hello-interval", "300", "--portbase", &PORT.to_string(), "--file"]);
        Ok(vec![launch.and([&field.source.path]).begins(Begins::Started)])
    }

    fn fetch(&self, field: &Field<'_>, node: usize) -> Result<Launch> {
        field.node_dir(node)?;
        let (file, port) = (field.node_file(node), PORT.to_string());
        let argv = ["udp-receiver", "--interface", "eth0", "--nokbd", "--no-progress", "--portbase", &port];
        let launch = Launch::new(Place::Node(node), argv).and([Path::new("--file"), &file]);
        Ok(launch.ready(Ready::Bound(PORT)).done_at_exit())
    }

    fn stored(&self, field: &Field<'_>, node: usize) -> Option<PathBuf> {
        Some(field.node_file(node))
    }

    fn expected_ratio(&self, _nodes: usize) -> f64 {
        1.4
    }
}

//! uftp: multicast with negative acknowledgements, at a rate that is told to it.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{Begins, Contestant, Field, Launch, Ready, script};
use crate::network::Place;

/// Its port.
const PORT: u16 = 1044;
/// Of the link's rate: as much as it can be told without dropping at the switch (its own headers come on top).
const SHARE_OF_RATE: f64 = 0.935;
/// Kilobits per second where links have no rate.
const UNSHAPED_KBIT_S: f64 = 1e6;
/// Called for each received file; uftpd gives its hooks no standard output, so the way to it is in a variable.
const HOOK: &str = "#!/bin/sh\necho '{\"event\":\"complete\"}' >$LINES\n";
/// Starts uftpd with that variable.
const WITH_LINES: &str = "LINES=/proc/$$/fd/1; export LINES; exec uftpd \"$@\"";

/// Sender at the server, the daemon at each node.
#[derive(Clone, Copy, Debug)]
pub struct Uftp;

impl Contestant for Uftp {
    fn name(&self) -> &'static str {
        "uftp"
    }

    fn serve(&self, field: &Field<'_>) -> Result<Vec<Launch>> {
        let kbit_s = field.bed.shape().rate.map_or(UNSHAPED_KBIT_S, |rate| rate.0 * 1000.0 * SHARE_OF_RATE);
        let rate = format!("{kbit_s:.0}");
        let argv = [Path::new("uftp"), Path::new("-R"), Path::new(&rate), Path::new("-I"), Path::new("eth0")];
        // Told whom to expect, it begins when all have registered instead of after its longest wait.
        let places = (0..field.bed.shape().nodes).map(Place::Node);
        let ids: Vec<String> =
            places.map(|node| format!("0x{:08X}", field.bed.address(node).to_bits())).collect();
        let launch = Launch::new(Place::Server, argv).and(["-H".to_owned(), ids.join(",")]);
        Ok(vec![launch.and([&field.source.path]).begins(Begins::Started)])
    }

    fn fetch(&self, field: &Field<'_>, node: usize) -> Result<Launch> {
        let (hook, dir) = (script(field, "received.sh", HOOK)?, field.node_dir(node)?);
        let launch =
            Launch::new(Place::Node(node), ["sh", "-c", WITH_LINES, "uftpd", "-d", "-I", "eth0", "-D"])
                .and([&dir]);
        Ok(launch.and([Path::new("-s"), &hook]).ready(Ready::Bound(PORT)))
    }

    fn stored(&self, field: &Field<'_>, node: usize) -> Option<PathBuf> {
        Some(field.node_file(node))
    }

    fn expected_ratio(&self, _nodes: usize) -> f64 {
        1.2
    }
}

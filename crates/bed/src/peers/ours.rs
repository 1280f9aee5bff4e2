//! Our own programs: `pxe-server seed` at the server, `image-tools fetch` at each node.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{Begins, Contestant, Field, Launch, Ready};
use crate::network::Place;

/// Port of torrent, tracker and web seed.
const HTTP_PORT: u16 = 8080;
/// Port of every peer.
const PEER_PORT: u16 = 6881;
/// A membership secret, as a deployment has one; races are run with the authentication that nodes use.
const SECRET: &str = "6265642d6265642d6265642d6265642d6265642d6265642d6265642d62656421";

/// How ours runs.
#[derive(Clone, Debug, Default)]
pub struct OursOptions {
    /// Nodes verify each piece and discard it; they serve from the source, which holds the same bytes.
    pub mirror: bool,
    /// HAVE policy; `None`: the default.
    pub have: Option<String>,
    /// Length of a piece; `None`: the default.
    pub piece_bytes: Option<u32>,
    /// Name in tables, where it is not `ours`.
    pub name: Option<&'static str>,
}

/// The two programs.
#[derive(Clone, Debug)]
pub struct Ours {
    /// `pxe-server`.
    pub pxe_server: PathBuf,
    /// `image-tools`.
    pub image_tools: PathBuf,
    /// How it runs.
    pub options: OursOptions,
}

impl Contestant for Ours {
    fn name(&self) -> &'static str {
        self.options.name.unwrap_or("ours")
    }

    fn serve(&self, field: &Field<'_>) -> Result<Vec<Launch>> {
        let secret = secret_file(field)?;
        let (http, peers) = (field.at(Place::Server, HTTP_PORT), field.at(Place::Server, PEER_PORT));
        let launch = Launch::new(Place::Server, [&self.pxe_server]).and(["seed"]).and([&field.source.path]);
        let launch =
            launch.and(["--http", &http, "--peers", &peers, "--json", "--secret-file"]).and([secret]);
        let launch = match self.options.piece_bytes {
            Some(bytes) => launch.and(["--piece-bytes", &bytes.to_string()]),
            None => launch,
        };
        Ok(vec![self.with_policy(launch).ready(Ready::Says)])
    }

    fn fetch(&self, field: &Field<'_>, node: usize) -> Result<Launch> {
        field.node_dir(node)?;
        let place = Place::Node(node);
        let url = format!("http://{}/{}.torrent", field.at(Place::Server, HTTP_PORT), field.source.name());
        let listen = field.at(place, PEER_PORT);
        let launch = Launch::new(place, [&self.image_tools]).and(["fetch", &url, "--listen", &listen]);
        let launch = launch.and(["--json", "--wait-for-go", "--seed-for", "forever", "--secret-file"]);
        let launch = self.with_policy(launch.and([secret_file(field)?]));
        let launch = if self.options.mirror {
            launch.and([Path::new("--mirror"), &field.source.path])
        } else {
            launch.and([Path::new("-o"), &field.node_file(node)])
        };
        Ok(launch.ready(Ready::Says).begins(Begins::AtLine))
    }

    fn stored(&self, field: &Field<'_>, node: usize) -> Option<PathBuf> {
        (!self.options.mirror).then(|| field.node_file(node))
    }

    fn expected_ratio(&self, _nodes: usize) -> f64 {
        1.1
    }
}

impl Ours {
    fn with_policy(&self, launch: Launch) -> Launch {
        match &self.options.have {
            Some(policy) => launch.and(["--have", policy]),
            None => launch,
        }
    }
}

fn secret_file(field: &Field<'_>) -> Result<PathBuf> {
    let path = field.dir.join("secret");
    fs::write(&path, SECRET).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

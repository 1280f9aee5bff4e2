//! Plain HTTP: nginx at the server, curl at each node.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{Begins, Contestant, Field, Launch, Ready};
use crate::network::Place;

/// Port of nginx.
const PORT: u16 = 80;

/// One server sends the file to each node.
#[derive(Clone, Copy, Debug)]
pub struct Http;

impl Contestant for Http {
    fn name(&self) -> &'static str {
        "http"
    }

    fn serve(&self, field: &Field<'_>) -> Result<Vec<Launch>> {
        let root = field.source.path.parent().unwrap_or(Path::new("/"));
        let (own, root) = (field.dir.display(), root.display());
        let text = format!(
            "user root; worker_processes 1; daemon off; pid {own}/nginx.pid; error_log {own}/nginx-error.log;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; sendfile on; tcp_nopush on; client_body_temp_path {own}/nginx-body;\n\
             server {{ listen {PORT}; root {root}; }} }}\n"
        );
        let path = field.dir.join("nginx.conf");
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        let argv = [Path::new("nginx"), Path::new("-p"), &field.dir, Path::new("-c"), &path];
        Ok(vec![Launch::new(Place::Server, argv).ready(Ready::Listens(PORT))])
    }

    fn fetch(&self, field: &Field<'_>, node: usize) -> Result<Launch> {
        field.node_dir(node)?;
        let url = format!("http://{}/{}", field.at(Place::Server, PORT), field.source.name());
        let file = field.node_file(node);
        let argv = [Path::new("curl"), Path::new("-sfo"), &file, Path::new(&url)];
        Ok(Launch::new(Place::Node(node), argv).begins(Begins::Started).done_at_exit())
    }

    fn stored(&self, field: &Field<'_>, node: usize) -> Option<PathBuf> {
        Some(field.node_file(node))
    }

    #[expect(clippy::cast_precision_loss, reason = "a few hundred nodes")]
    fn expected_ratio(&self, nodes: usize) -> f64 {
        nodes as f64 * 1.02
    }
}

//! The programs that race: one file each, all behind [`Contestant`].

mod aria2;
mod http;
mod libtorrent;
mod ours;
mod torrent;
mod udpcast;
mod uftp;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::network::{Bed, Place};
use crate::source::Source;

pub use aria2::Aria2;
pub use http::Http;
pub use libtorrent::Libtorrent;
pub use ours::{Ours, OursOptions};
pub use udpcast::Udpcast;
pub use uftp::Uftp;

/// A peer program, as a race needs it.
pub trait Contestant: Sync {
    /// Its name in tables.
    fn name(&self) -> &'static str;

    /// What serves the file; started before the nodes, in order.
    ///
    /// # Errors
    /// Its files cannot be written.
    fn serve(&self, field: &Field<'_>) -> Result<Vec<Launch>>;

    /// What fetches it at one node.
    ///
    /// # Errors
    /// Its files cannot be written.
    fn fetch(&self, field: &Field<'_>, node: usize) -> Result<Launch>;

    /// Where the node keeps the file; `None` if it keeps none.
    fn stored(&self, field: &Field<'_>, node: usize) -> Option<PathBuf>;

    /// About what part of S/B it takes: for estimates and deadlines, never for results.
    fn expected_ratio(&self, nodes: usize) -> f64;
}

/// Where one race is held.
#[derive(Debug)]
pub struct Field<'a> {
    /// The bed.
    pub bed: &'a Bed,
    /// What the nodes want.
    pub source: &'a Source,
    /// Files of this race; they go after it.
    pub dir: PathBuf,
}

/// A program to be started.
#[derive(Debug)]
pub struct Launch {
    /// Where.
    pub place: Place,
    /// Program and arguments.
    pub argv: Vec<OsString>,
    /// When.
    pub begins: Begins,
    /// How to tell that it is loaded.
    pub ready: Ready,
    /// Whether its completion is the end of the process (else the line that says so).
    pub done_at_exit: bool,
}

/// What makes a program begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begins {
    /// It is loaded before, and needs no word.
    Loaded,
    /// It is loaded before and waits for a line on its standard input.
    AtLine,
    /// It is loaded before and waits for an HTTP call.
    AtCall {
        /// TCP port.
        port: u16,
        /// Path.
        path: &'static str,
        /// Body of the POST.
        body: &'static str,
    },
    /// It cannot wait, so the clock starts with its process.
    Started,
}

/// How to tell that a program is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// It says so in a line.
    Says,
    /// It listens on a TCP port.
    Listens(u16),
    /// It has bound a UDP port.
    Bound(u16),
    /// Its process exists.
    AtOnce,
}

/// What a line of output means.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// Loaded.
    Ready,
    /// The file is whole and checked.
    Done(Value),
    /// Counters, the newest of which is kept.
    Stats(Value),
    /// Nothing of interest.
    Nothing,
}

impl Field<'_> {
    /// A node's own directory, made where missing.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn node_dir(&self, node: usize) -> Result<PathBuf> {
        let dir = self.dir.join(format!("n{node}"));
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        Ok(dir)
    }

    /// Where a node that keeps the file's name stores it.
    #[must_use]
    pub fn node_file(&self, node: usize) -> PathBuf {
        self.dir.join(format!("n{node}")).join(self.source.name())
    }

    /// Address and port as text.
    #[must_use]
    pub fn at(&self, place: Place, port: u16) -> String {
        format!("{}:{port}", self.bed.address(place))
    }
}

impl Launch {
    /// Loaded before the clock starts, done when a line says so.
    pub fn new<S: AsRef<OsStr>>(place: Place, argv: impl IntoIterator<Item = S>) -> Self {
        let argv = argv.into_iter().map(|word| word.as_ref().to_owned()).collect();
        Self { place, argv, begins: Begins::Loaded, ready: Ready::AtOnce, done_at_exit: false }
    }

    /// Sets what makes it begin.
    #[must_use]
    pub fn begins(self, begins: Begins) -> Self {
        Self { begins, ..self }
    }

    /// Sets how to tell that it is loaded.
    #[must_use]
    pub fn ready(self, ready: Ready) -> Self {
        Self { ready, ..self }
    }

    /// It is done when its process ends.
    #[must_use]
    pub fn done_at_exit(self) -> Self {
        Self { done_at_exit: true, ..self }
    }

    /// Adds arguments.
    #[must_use]
    pub fn and<S: AsRef<OsStr>>(mut self, more: impl IntoIterator<Item = S>) -> Self {
        self.argv.extend(more.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }
}

/// What a line says: one JSON object with `event`, as our programs and our scripts print it.
pub(crate) fn read_line(line: &str) -> Said {
    let Ok(value) = serde_json::from_str::<Value>(line) else { return Said::Nothing };
    let stats = value.get("stats").cloned().unwrap_or_default();
    match value.get("event").and_then(Value::as_str) {
        Some("ready") => Said::Ready,
        Some("complete") => Said::Done(stats),
        Some("stats") => Said::Stats(stats),
        _ => Said::Nothing,
    }
}

/// Writes a script of ours into the race's directory.
pub(crate) fn script(field: &Field<'_>, name: &str, text: &str) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = field.dir.join(name);
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_programs_are_understood() {
        assert_eq!(read_line(r#"{"event":"ready","peer":"10.0.0.1:6881"}"#), Said::Ready);
        let done = read_line(r#"{"event":"complete","seconds":1.5,"stats":{"have_messages":7}}"#);
        assert_eq!(done, Said::Done(serde_json::json!({ "have_messages": 7 })));
        assert_eq!(read_line("loading"), Said::Nothing);
    }
}

//! Says what happens: a bar and one line to a person, one JSON object per line to a program.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use swarm_net::PeerStats;

use super::source::Source;
use crate::{progress, text};

pub(super) struct Teller {
    json: bool,
    length: u64,
    server: Option<IpAddr>,
    bar: ProgressBar,
}

impl Teller {
    pub(super) fn new(json: bool, source: &Source) -> Self {
        let length = source.metainfo.length;
        let bar = if json { ProgressBar::hidden() } else { progress::swarm(length) };
        Self { json, length, server: source.server(), bar }
    }

    /// We listen, or will as soon as we are told to go.
    pub(super) fn ready(&self, peer: SocketAddr) -> Result<()> {
        if !self.json {
            return Ok(());
        }
        print_json(&json!({ "event": "ready", "peer": peer }))
    }

    pub(super) fn progress(&self, stats: &PeerStats) -> Result<()> {
        let done = self.done(stats);
        if self.json {
            return print_json(
                &json!({ "event": "progress", "bytes": self.length, "done": done, "stats": stats.to_json() }),
            );
        }
        self.bar.set_position(done);
        let share = self.share(stats).map(|share| format!(", {share} % from neighbours"));
        let peers = if stats.peers == 1 { "peer" } else { "peers" };
        self.bar.set_message(format!(
            "{}/{} pieces, {} {peers}{}",
            stats.verified,
            stats.pieces,
            stats.peers,
            share.unwrap_or_default()
        ));
        Ok(())
    }

    pub(super) fn complete(&self, took: Duration, path: &Path, stats: &PeerStats) -> Result<()> {
        if self.json {
            let seconds = took.as_secs_f64();
            return print_json(&json!({ "event": "complete", "seconds": seconds, "stats": stats.to_json() }));
        }
        self.bar.finish_and_clear();
        let share = self.share(stats).map(|share| format!(", {share} % of it from neighbours"));
        print_line(&format!(
            "{}: complete, {} in {:.1} s{}",
            path.display(),
            text::bytes(stats.downloaded + stats.web_seed_bytes),
            took.as_secs_f64(),
            share.unwrap_or_default()
        ))
    }

    /// Nothing had to be fetched.
    pub(super) fn was_complete(&self, path: &Path) -> Result<()> {
        if self.json {
            let stats = PeerStats::default().to_json();
            return print_json(&json!({ "event": "complete", "seconds": 0.0, "stats": stats }));
        }
        print_line(&format!("{}: complete, nothing had to be fetched", path.display()))
    }

    pub(super) fn banned(&self, peer: SocketAddr) -> Result<()> {
        if self.json {
            return print_json(&json!({ "event": "banned", "peer": peer }));
        }
        self.bar.suspend(|| {
            eprintln!(
                "image-tools: {peer} gives damaged pieces and is shut out; its memory or disk is broken"
            );
        });
        Ok(())
    }

    pub(super) fn seeding(&mut self, stats: &PeerStats) -> Result<()> {
        if self.json {
            return self.end(stats);
        }
        if self.bar.is_finished() {
            self.bar = progress::seeding();
        }
        self.bar.set_position(stats.uploaded);
        self.bar.set_message(format!("{} peers", stats.peers));
        Ok(())
    }

    /// Everything that was counted.
    pub(super) fn end(&self, stats: &PeerStats) -> Result<()> {
        if self.json {
            return print_json(&json!({ "event": "stats", "stats": stats.to_json() }));
        }
        self.bar.finish_and_clear();
        Ok(())
    }

    /// Before the first statistics nothing is known to be done.
    fn done(&self, stats: &PeerStats) -> u64 {
        if stats.pieces == 0 { 0 } else { self.length.saturating_sub(stats.left) }
    }

    /// Percent of what came that did not come from the server.
    fn share(&self, stats: &PeerStats) -> Option<u64> {
        let server = self.server?;
        let from_others = stats.downloaded_by_peer.iter().filter(|(address, _)| address.ip() != server);
        let from_others: u64 = from_others.map(|(_, bytes)| bytes).sum();
        (from_others * 100).checked_div(stats.downloaded + stats.web_seed_bytes)
    }
}

/// One sentence for whoever waited in vain.
pub(super) fn why_nothing_came(waited: Duration, stats: &PeerStats) -> String {
    let mut sentence = format!("nothing has come for {} s", waited.as_secs());
    let refused: u64 = stats
        .counts
        .closed
        .iter()
        .filter(|(reason, _)| matches!(reason, swarm::CloseReason::NoProof | swarm::CloseReason::WrongProof))
        .map(|(_, count)| count)
        .sum();
    if refused > 0 {
        sentence += ": peers have another swarm secret than this one";
    } else if stats.peers > 0 {
        sentence += &format!(": {} peers are connected, but none gives what is missing", stats.peers);
    } else if stats.counts.closed.is_empty() {
        sentence += ": no peer could be reached";
    } else {
        sentence += ": every peer has ended its connection";
    }
    if let Some(error) = &stats.tracker_error {
        sentence += &format!("; the tracker: {error}");
    }
    if let Some(error) = &stats.web_seed_error {
        sentence += &format!("; the web seed: {error}");
    }
    sentence + "; run the same command again to go on from there"
}

fn print_json(value: &Value) -> Result<()> {
    print_line(&value.to_string())
}

/// A reader that is gone ends the command, but not by a panic.
fn print_line(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("writing to standard output")
}

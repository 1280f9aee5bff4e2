//! What the server says of one node, reduced to what stories ask.

use std::fmt;

use node_api::{Lockdown, Progress, Stage, TrafficCounts};
use serde::Deserialize;

/// A node as the server knows it.
#[derive(Clone, Debug, Deserialize)]
pub struct NodeView {
    /// The server's name for it.
    pub name: String,
    /// Hardware addresses by which it boots.
    pub macs: Vec<String>,
    /// The server's word for its state: `seen`, `waiting`, `approved`, `deploying`, `lingering`, `deployed`, `failed`.
    pub state: String,
    /// Where it is in its life; `None` once it runs its own system.
    pub stage: Option<Stage>,
    /// Why it stopped.
    pub failure: Option<Failure>,
    /// Whether the kernel of its last agent was locked down.
    pub lockdown: Option<Lockdown>,
    /// When its firmware refused iPXE.
    pub refused_ipxe_unix_ms: Option<u64>,
    /// How far its stage is.
    pub progress: Option<Progress>,
    /// Image bytes by source in its last deployment.
    pub traffic: TrafficCounts,
    /// Stages of its last deployment, in order.
    pub stages: Vec<StageSpan>,
    /// What the server put on its disk.
    pub installed: Option<Installed>,
    /// What its agent did to make its system its own; only where one node was asked for.
    #[serde(default)]
    pub changes: Vec<String>,
}

/// What the server put on a node's disk.
#[derive(Clone, Debug, Deserialize)]
pub struct Installed {
    /// Image id, hex.
    pub image_id: String,
    /// Public SSH host keys of the installed system.
    pub host_keys: Vec<String>,
}

/// Why a node stopped.
#[derive(Clone, Debug, Deserialize)]
pub struct Failure {
    /// In which stage.
    pub stage: Stage,
    /// Short stable word.
    pub code: String,
    /// One sentence.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.code, self.message)
    }
}

/// One stage of a deployment.
#[derive(Clone, Debug, Deserialize)]
pub struct StageSpan {
    /// Which.
    pub stage: Stage,
    /// When the server heard of its beginning.
    pub began_unix_ms: u64,
    /// How long it took by the node's clock.
    pub took_ms: Option<u64>,
}

impl NodeView {
    /// Public SSH host keys of the system on its disk, as the server knows them; none before it is installed.
    #[must_use]
    pub fn host_keys(&self) -> &[String] {
        self.installed.as_ref().map_or(&[], |installed| &installed.host_keys)
    }

    /// The stage's word, or nothing.
    #[must_use]
    pub fn stage_word(&self) -> &'static str {
        self.stage.map_or("", Stage::word)
    }

    /// Whether its stage counts bytes.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        self.progress.is_some_and(|progress| progress.done_bytes < progress.total_bytes)
    }

    /// How much of its stage's bytes are done, 0 to 1.
    #[must_use]
    pub fn done_share(&self) -> f64 {
        self.progress.map_or(0.0, |progress| ratio(progress.done_bytes, progress.total_bytes))
    }

    /// Whether an image is installed and the node boots from its own disk from now on.
    #[must_use]
    pub fn is_installed(&self) -> bool {
        matches!(self.state.as_str(), "lingering" | "deployed")
    }

    /// Whether it is in `stage` or beyond; failure is beyond nothing.
    #[must_use]
    pub fn has_reached(&self, stage: Stage) -> bool {
        let beyond = |now: Stage| now == stage || (now > stage && now < Stage::Failed);
        self.failure.is_none() && (self.is_installed() || self.stage.is_some_and(beyond))
    }

    /// Share of its image bytes that other nodes gave, 0 to 1.
    #[must_use]
    pub fn share_from_nodes(&self) -> f64 {
        let traffic = self.traffic;
        ratio(traffic.from_nodes_bytes, traffic.from_nodes_bytes.saturating_add(traffic.from_server_bytes))
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share with two decimals")]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

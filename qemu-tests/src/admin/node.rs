//! What the server says of one node, reduced to what stories ask.

use std::fmt;
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use node_api::{Progress, Stage, TrafficCounts};
use serde::Deserialize;
use serde_json::Value;

/// A node as the server knows it.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// The server's name for it.
    pub name: String,
    /// The card that it booted from.
    pub mac: Option<String>,
    /// Its address.
    pub address: Option<Ipv4Addr>,
    /// The server's word for its state: `waiting`, `deploying`, `deployed`.
    pub state: String,
    /// Where it is in its life.
    pub stage: Option<Stage>,
    /// Whether an image is installed and the node boots from its own disk.
    pub is_installed: bool,
    /// Why it stopped.
    pub failure: Option<Failure>,
    /// How far its stage is.
    pub progress: Option<Progress>,
    /// Stages of its last deployment, in order.
    pub stages: Vec<StageSpan>,
    /// Image bytes by source, once it is installed.
    pub installed_traffic: Option<TrafficCounts>,
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

    /// Image bytes by source: the final count, or the newest.
    #[must_use]
    pub fn traffic(&self) -> TrafficCounts {
        let newest = || self.progress.map(|progress| progress.traffic);
        self.installed_traffic.or_else(newest).unwrap_or_default()
    }

    /// Share of its image bytes that other nodes gave, 0 to 1.
    #[must_use]
    pub fn share_from_nodes(&self) -> f64 {
        let traffic = self.traffic();
        ratio(traffic.from_nodes_bytes, traffic.from_nodes_bytes.saturating_add(traffic.from_server_bytes))
    }

    pub(super) fn list(answer: &Value) -> Result<Vec<Self>> {
        let nodes = answer.as_array().context("/v1/nodes answers no list")?;
        nodes.iter().map(Self::one).collect()
    }

    pub(super) fn one(answer: &Value) -> Result<Self> {
        let text = |field: &str| answer.get(field).and_then(Value::as_str);
        Ok(Self {
            name: text("name").context("a node without a name")?.to_owned(),
            mac: text("mac").map(str::to_owned),
            address: text("address").and_then(|address| address.parse().ok()),
            state: text("state").unwrap_or_default().to_owned(),
            stage: text("stage").and_then(|stage| stage.parse().ok()),
            is_installed: answer.get("installed").is_some_and(|installed| installed == &Value::Bool(true)),
            failure: answer.get("failure").cloned().and_then(|failure| serde_json::from_value(failure).ok()),
            progress: None,
            stages: Vec::new(),
            installed_traffic: None,
            host_keys: Vec::new(),
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share with two decimals")]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

//! What the server says of one node, reduced to what stories ask.

use std::fmt;
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use node_api::Stage;
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
    /// Where it is in its life.
    pub stage: Option<Stage>,
    /// Whether an image is installed and the node boots from its own disk.
    pub is_installed: bool,
    /// Why it stopped.
    pub failure: Option<Failure>,
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

impl NodeView {
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
            stage: text("stage").and_then(|stage| stage.parse().ok()),
            is_installed: answer.get("installed").is_some_and(|installed| installed == &Value::Bool(true)),
            failure: answer.get("failure").cloned().and_then(|failure| serde_json::from_value(failure).ok()),
        })
    }
}

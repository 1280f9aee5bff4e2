//! Deployments: which nodes share one image and one swarm secret.
//!
//! A deployment of an image is open while any of its nodes is at work, and for a while after the last one joined;
//! a node that gets its task meanwhile joins it, so that nodes powered on one after another share their bytes.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use node_api::SwarmSecret;
use serde::{Deserialize, Serialize};
use store::{Commit, Expect, Store, Write};

use crate::clock::now_unix_ms;
use crate::images::Image;
use crate::keys::random;
use crate::nodes::record::Run;

/// A deployment that nobody works in takes no new node after so long: its secret has served its time.
const OPEN_MS: u64 = 10 * 60 * 1000;
/// Deployments begun at the same moment by several servers on one store.
const TRIES_MAX: u32 = 16;
/// Deployments that a report lists; older ones stay in the store.
const LISTED_MAX: usize = 100;

/// One deployment, as stored under `deployment/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Deployment {
    /// `d000001`, counted.
    pub(crate) name: String,
    /// Image id, hex.
    pub(crate) image_id: String,
    /// Name of the image.
    pub(crate) image: String,
    /// Membership of its swarm.
    pub(crate) secret: SwarmSecret,
    /// When its first node joined.
    pub(crate) created_unix_ms: u64,
    /// When it was closed, because it was done.
    pub(crate) closed_unix_ms: Option<u64>,
}

/// A deployment and what came of it, for reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct DeploymentReport {
    /// Its name.
    pub(crate) name: String,
    /// Name of the image.
    pub(crate) image: String,
    /// Image id, hex.
    pub(crate) image_id: String,
    /// When its first node joined.
    pub(crate) created_unix_ms: u64,
    /// Each node's part.
    pub(crate) runs: Vec<NodeRun>,
}

/// One node's part in a deployment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct NodeRun {
    /// The node.
    pub(crate) node: String,
    /// Stages, bytes and outcome.
    #[serde(flatten)]
    pub(crate) run: Run,
}

/// Every deployment that takes nodes.
pub(crate) struct Deployments {
    store: Store,
    open: Mutex<Vec<Open>>,
}

struct Open {
    deployment: Deployment,
    version: u64,
    joined_unix_ms: u64,
}

impl Deployments {
    /// Loads those that are open.
    pub(crate) fn open(store: Store) -> Result<Self> {
        let mut open = Vec::new();
        for (key, found) in store.list("deployment/").context("reading the deployments")? {
            let deployment: Deployment = serde_json::from_slice(&found.value)
                .with_context(|| format!("reading the store's record {key}"))?;
            if deployment.closed_unix_ms.is_none() {
                // It may have been joined a moment before the server ended.
                open.push(Open { deployment, version: found.version, joined_unix_ms: now_unix_ms() });
            }
        }
        Ok(Self { store, open: Mutex::new(open) })
    }

    /// The deployment of `image` that a node with a new task belongs to; it is in the store.
    pub(crate) fn join(&self, image: &Image) -> Result<Deployment> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let now_unix_ms = now_unix_ms();
        if let Some(found) = open.iter_mut().find(|open| open.deployment.image_id == image.id) {
            found.joined_unix_ms = now_unix_ms;
            return Ok(found.deployment.clone());
        }
        let created = self.create(image, now_unix_ms)?;
        let deployment = created.deployment.clone();
        open.push(created);
        Ok(deployment)
    }

    fn create(&self, image: &Image, now_unix_ms: u64) -> Result<Open> {
        let secret = SwarmSecret::new(random()?);
        for _ in 0..TRIES_MAX {
            let last = self.store.list("deployment/")?.pop();
            let last = last.and_then(|(key, _)| key.strip_prefix("deployment/d")?.parse::<u64>().ok());
            let deployment = Deployment {
                name: format!("d{:06}", last.unwrap_or(0) + 1),
                image_id: image.id.clone(),
                image: image.name.clone(),
                secret: secret.clone(),
                created_unix_ms: now_unix_ms,
                closed_unix_ms: None,
            };
            let write = Write::put(key(&deployment), Expect::Absent, serde_json::to_vec(&deployment)?);
            if let Commit::Done { version } = self.store.commit(&[write])? {
                tracing::info!(deployment = deployment.name, image = image.name, "deployment begins");
                return Ok(Open { deployment, version, joined_unix_ms: now_unix_ms });
            }
        }
        bail!("a deployment could not be begun, because others began at the same moment")
    }

    /// Closes what is done: nobody is at work in it and nobody joined for a while. Those that were closed.
    pub(crate) fn close_done(&self, active: &BTreeSet<String>, now_unix_ms: u64) -> Result<Vec<Deployment>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut closed = Vec::new();
        for done in open.extract_if(.., |open| {
            let idle_ms = now_unix_ms.saturating_sub(open.joined_unix_ms);
            idle_ms > OPEN_MS && !active.contains(&open.deployment.name)
        }) {
            let deployment = Deployment { closed_unix_ms: Some(now_unix_ms), ..done.deployment };
            let value = serde_json::to_vec(&deployment)?;
            // A conflict means that another server closed it.
            self.store.commit(&[Write::put(key(&deployment), Expect::Version(done.version), value)])?;
            tracing::info!(deployment = deployment.name, "deployment is closed");
            closed.push(deployment);
        }
        Ok(closed)
    }

    /// Those that take nodes, for the seeds of a restarted server.
    pub(crate) fn list_open(&self) -> Vec<Deployment> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter().map(|open| open.deployment.clone()).collect()
    }

    /// The newest deployments, newest first.
    pub(crate) fn reports(&self) -> Result<Vec<DeploymentReport>> {
        let mut reports = Vec::new();
        for (_, found) in self.store.list("deployment/")?.into_iter().rev().take(LISTED_MAX) {
            let deployment: Deployment = serde_json::from_slice(&found.value)?;
            let prefix = format!("run/{}/", deployment.name);
            let runs = self.store.list(&prefix)?.into_iter().filter_map(|(key, found)| {
                let node = key.strip_prefix(&prefix)?.to_owned();
                Some(NodeRun { node, run: serde_json::from_slice(&found.value).ok()? })
            });
            reports.push(DeploymentReport {
                name: deployment.name.clone(),
                image: deployment.image,
                image_id: deployment.image_id,
                created_unix_ms: deployment.created_unix_ms,
                runs: runs.collect(),
            });
        }
        Ok(reports)
    }
}

fn key(deployment: &Deployment) -> String {
    format!("deployment/{}", deployment.name)
}

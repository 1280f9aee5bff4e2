//! Makes and signs tasks: what one node has to do in one boot.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use disk_layout::Layout;
use node_api::{
    Handover, ImageTask, LingerRule, NodeIdentity, ReuseTask, SignedTask, SigningKey, SwarmTask, Task,
    TaskBinding, paths,
};

use crate::deployments::Deployment;
use crate::images::Image;
use crate::nodes::record::NodeRecord;

/// A task must be begun within an hour: longer than any pause between poll and start, short enough that a copy
/// of last week is worth nothing.
const TASK_LIFE_S: u64 = 3600;

/// What all tasks of a site have in common.
pub(crate) struct TaskMaker {
    /// Signs them.
    pub(crate) key: SigningKey,
    /// The server, as nodes reach it.
    pub(crate) address: Ipv4Addr,
    /// Port of the tracker.
    pub(crate) http_port: u16,
    /// Whether stock clients take part.
    pub(crate) swarm_open: bool,
    /// Shape of the disk.
    pub(crate) layout: Layout,
    /// Lines for root's `authorized_keys`.
    pub(crate) authorized_keys: Vec<String>,
    /// Seconds of seeding at most.
    pub(crate) linger_max_s: u64,
    /// How the agent ends.
    pub(crate) handover: Handover,
    /// Whether unsigned images are let through.
    pub(crate) allow_unsigned: bool,
}

/// An image with the port on which its seed listens.
pub(crate) struct Seeded {
    pub(crate) image: Arc<Image>,
    pub(crate) port: u16,
}

impl TaskMaker {
    /// The task of `node` for the boot that it enrolled with; `delta` leads to the image from what the node has.
    pub(crate) fn sign(
        &self,
        node: &NodeRecord,
        deployment: &Deployment,
        full: &Seeded,
        delta: Option<&Seeded>,
        now_unix_ms: u64,
    ) -> Result<SignedTask> {
        let boot = node.boot.as_ref().context("the node has not enrolled")?;
        let task = Task {
            binding: TaskBinding {
                node: node.name.clone(),
                boot_nonce: boot.boot_nonce.clone(),
                expires_unix_s: now_unix_ms / 1000 + TASK_LIFE_S,
            },
            image: self.image(&full.image),
            reuse: delta.map(|delta| ReuseTask {
                image: self.image(&delta.image),
                swarm: self.swarm(deployment, delta.port),
            }),
            layout: self.layout.clone(),
            disk_keys: Vec::new(),
            swarm: self.swarm(deployment, full.port),
            identity: NodeIdentity {
                hostname: node.name.clone(),
                machine_id: node.machine_id.clone(),
                authorized_keys: self.authorized_keys.clone(),
            },
            linger: LingerRule { max_s: self.linger_max_s },
            handover: self.handover,
        };
        Ok(SignedTask::sign(&task, &self.key)?)
    }

    fn image(&self, image: &Image) -> ImageTask {
        ImageTask {
            name: image.name.clone(),
            manifest_base64: BASE64.encode(&image.manifest_bytes),
            signature: image.signature.clone(),
            metainfo_base64: BASE64.encode(&image.metainfo_bytes),
            allow_unsigned: self.allow_unsigned,
        }
    }

    fn swarm(&self, deployment: &Deployment, peer_port: u16) -> SwarmTask {
        SwarmTask {
            announce_url: format!("http://{}:{}{}", self.address, self.http_port, paths::ANNOUNCE),
            server_peer: SocketAddr::from((self.address, peer_port)),
            secret: deployment.secret.clone(),
            open: self.swarm_open,
        }
    }
}

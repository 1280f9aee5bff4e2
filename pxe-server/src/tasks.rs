//! Makes and signs tasks: what one node has to do in one boot.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use boot_menu::{Facts, Firmware, Server};
use disk_layout::Layout;
use node_api::{
    DiskKey, FirmwareKind, Handover, ImageTask, LingerRule, NodeIdentity, ReuseTask, SignedTask, SigningKey,
    SwarmTask, Task, TaskBinding, paths,
};
use site_file::Changeable;
use system_steps::{Made, Node, StepsError};

use crate::deployments::Deployment;
use crate::disk_keys::DiskKeys;
use crate::images::Image;
use crate::menus::Current;
use crate::nodes::record::NodeRecord;
use crate::policy::Relays;

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
    /// Keys of its LUKS containers.
    pub(crate) disk_keys: DiskKeys,
    /// Lines for root's `authorized_keys`.
    pub(crate) authorized_keys: Vec<String>,
    /// Seconds of seeding at most.
    pub(crate) linger_max_s: u64,
    /// How the agent ends.
    pub(crate) handover: Handover,
    /// Whether unsigned images are let through.
    pub(crate) allow_unsigned: bool,
    /// The newest good site file's settings of systems.
    pub(crate) site: Arc<Current>,
    /// Behind which relay a node was seen.
    pub(crate) relays: Arc<Relays>,
}

/// What a task is made of.
pub(crate) struct Order<'a> {
    /// The node as it took its task.
    pub(crate) node: &'a NodeRecord,
    /// From [`TaskMaker::identity`].
    pub(crate) identity: NodeIdentity,
    /// With whom.
    pub(crate) deployment: &'a Deployment,
    /// What is deployed.
    pub(crate) full: &'a Seeded,
    /// What leads to it from what the node has.
    pub(crate) delta: Option<&'a Seeded>,
}

/// What the site wants of one node's system: one path for the server and for the command line.
pub(crate) fn steps(
    site: &Changeable,
    facts: &Facts,
    server: &Server,
    machine_id: &str,
) -> Result<Made, StepsError> {
    site.systems.steps(&Node {
        rules: site.menus.rule_names(facts),
        values: site.menus.variables(facts, server),
        machine_id: machine_id.to_owned(),
    })
}

/// An image with the port on which its seed listens.
pub(crate) struct Seeded {
    pub(crate) image: Arc<Image>,
    pub(crate) port: u16,
}

impl TaskMaker {
    /// What makes the system of a node its own; its agent speaks from `address`.
    pub(crate) fn identity(&self, node: &NodeRecord, address: Option<IpAddr>) -> Result<NodeIdentity> {
        let boot = node.boot.as_ref().context("the node has not enrolled")?;
        let known = node.identity.clone().unwrap_or_default();
        let mac = boot.mac.parse().context("the node's agent is of another version; boot it again")?;
        let facts = Facts {
            mac,
            name: node.name.clone(),
            serial: known.serial,
            uuid: known.uuid,
            address: match address {
                Some(IpAddr::V4(address)) => Some(address),
                _ => None,
            },
            relay: self.relays.of(mac),
            firmware: match node.firmware {
                Some(FirmwareKind::Uefi) => Firmware::Uefi,
                Some(FirmwareKind::Bios) | None => Firmware::Bios,
            },
        };
        let http = SocketAddrV4::new(self.address, self.http_port);
        let server = Server { http, script_url: String::new() };
        let made = steps(&self.site.get(), &facts, &server, &node.machine_id)
            .with_context(|| format!("the site's settings do not fit {}", node.name))?;
        let mut authorized_keys = self.authorized_keys.clone();
        authorized_keys.extend(made.root_keys);
        Ok(NodeIdentity {
            hostname: node.name.clone(),
            machine_id: node.machine_id.clone(),
            authorized_keys,
            domain: made.domain,
            steps: made.steps,
            boot_order: made.boot_order,
        })
    }

    /// What opens the LUKS containers of the node with this machine id.
    pub(crate) fn disk_keys(&self, machine_id: &str) -> Vec<DiskKey> {
        self.disk_keys.of(machine_id, self.layout.key_names())
    }

    /// The task of a node for the boot that it enrolled with.
    pub(crate) fn sign(&self, order: Order<'_>, now_unix_ms: u64) -> Result<SignedTask> {
        let Order { node, identity, deployment, full, delta } = order;
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
            disk_keys: self.disk_keys(&node.machine_id),
            swarm: self.swarm(deployment, full.port),
            identity,
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

//! What the store keeps of a node.

use node_api::{FirmwareKind, Identity, Lockdown, Recovery, Stage, TrafficCounts};
use serde::{Deserialize, Serialize};

/// One node, as stored under `node/NAME`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct NodeRecord {
    /// Name and host name.
    pub(crate) name: String,
    /// Hardware addresses by which it boots, `52:54:00:aa:bb:cc`; the first one gave it its name.
    pub(crate) macs: Vec<String>,
    /// 32 hex digits, the same over all deployments.
    pub(crate) machine_id: String,
    /// When it was first seen.
    pub(crate) created_unix_ms: u64,
    /// What its firmware said at the last enrolment.
    pub(crate) identity: Option<Identity>,
    /// What started it last.
    pub(crate) firmware: Option<FirmwareKind>,
    /// Whether the kernel of its last agent was locked down, as it is under Secure Boot.
    #[serde(default)]
    pub(crate) lockdown: Option<Lockdown>,
    /// When its firmware refused iPXE; from then on it gets what is signed.
    #[serde(default)]
    pub(crate) refused_ipxe_unix_ms: Option<u64>,
    /// When its firmware refused shim as well; from then on it gets nothing.
    #[serde(default)]
    pub(crate) refused_shim_unix_ms: Option<u64>,
    /// Where it is.
    pub(crate) state: NodeState,
    /// Who let it in; `None`: it may not write to its disk.
    pub(crate) approved: Option<Approval>,
    /// Rules may not approve it again, because its identity changed: a person must look.
    pub(crate) held: bool,
    /// A deployment is owed to it. Set by approval and `deploy`, cleared when it is installed.
    pub(crate) armed: bool,
    /// Failures since it was armed.
    pub(crate) failures: u32,
    /// The agent that runs on it.
    pub(crate) boot: Option<BootSession>,
    /// Stages of the boot of that agent, in the order in which they began, those before the task included.
    #[serde(default)]
    pub(crate) stages: Vec<StageTime>,
    /// The deployment that runs, or the last one.
    pub(crate) run: Option<Run>,
    /// What is on its disk, as far as this server put it there.
    pub(crate) installed: Option<Installed>,
    /// What other nodes found wrong with it in this boot.
    #[serde(default)]
    pub(crate) alarm: Option<Alarm>,
    /// Sequence of the next history entry.
    pub(crate) history_next: u64,
}

/// Where a node is in its life, as the server decides by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(crate) enum NodeState {
    /// It asked for a network boot.
    Seen,
    /// Its agent runs; a person has to approve it.
    Waiting {
        /// Why nobody has.
        reason: String,
    },
    /// It will be deployed in this or its next boot.
    Approved,
    /// It has a task.
    Deploying {
        /// What it does.
        stage: Stage,
    },
    /// Installed; it goes on seeding.
    Lingering,
    /// Installed; it boots from its own disk.
    Deployed,
    /// A stage ended badly.
    Failed {
        /// Which.
        stage: Stage,
        /// A short stable word.
        code: String,
        /// What is wrong and what to do.
        message: String,
        /// What the node does next.
        recovery: Recovery,
    },
}

impl NodeState {
    /// The word for this state in history, API, page and command line.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::Seen => "seen",
            Self::Waiting { .. } => "waiting",
            Self::Approved => "approved",
            Self::Deploying { .. } => "deploying",
            Self::Lingering => "lingering",
            Self::Deployed => "deployed",
            Self::Failed { .. } => "failed",
        }
    }
}

/// Who let a node in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Approval {
    /// When.
    pub(crate) at_unix_ms: u64,
    /// A person's way (`admin API`) or a rule.
    pub(crate) by: String,
}

/// One boot's agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BootSession {
    /// SHA-256 of the session's secret, hex; the secret itself is never stored.
    pub(crate) session_sha256: String,
    /// The nonce that tasks are bound to.
    pub(crate) boot_nonce: String,
    /// The key that PID 1 made, hex.
    pub(crate) node_key: String,
    /// The NIC that booted.
    #[serde(default)]
    pub(crate) mac: String,
    /// When it enrolled.
    pub(crate) enrolled_unix_ms: u64,
    /// Highest event sequence that is stored.
    pub(crate) stored_sequence: u64,
    /// When its kernel started, by the server's clock: the best guess from the uptimes in its events.
    #[serde(default)]
    pub(crate) kernel_unix_ms: Option<u64>,
    /// Version of the agent, `uname -r` of its kernel.
    pub(crate) software: String,
    /// What it was started for.
    #[serde(default)]
    pub(crate) purpose: Purpose,
}

/// What an agent was started for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Purpose {
    /// The task that is owed to the node.
    #[default]
    Task,
    /// To report its hardware; it gets no task in this boot.
    Inventory,
}

/// One node's part in one deployment, also stored under `run/DEPLOYMENT/NODE` for reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// Name of the deployment.
    pub(crate) deployment: String,
    /// Image id, hex.
    pub(crate) image_id: String,
    /// Image name.
    pub(crate) image: String,
    /// When the node got its task.
    pub(crate) started_unix_ms: u64,
    /// When it was installed or failed.
    pub(crate) ended_unix_ms: Option<u64>,
    /// Nonce of the boot in which it had its task.
    #[serde(default)]
    pub(crate) boot_nonce: String,
    /// Stages of that boot.
    pub(crate) stages: Vec<StageTime>,
    /// Where the image's bytes came from, once it is installed.
    pub(crate) traffic: Option<TrafficCounts>,
    /// `running`, `installed`, `failed` or `interrupted`.
    pub(crate) outcome: Outcome,
    /// The last failure, as a sentence.
    pub(crate) failure: Option<String>,
}

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// In progress.
    Running,
    /// Complete and read back.
    Installed,
    /// A stage ended badly, and the node has not gone on since.
    Failed,
    /// The node booted again before the end.
    Interrupted,
}

/// One stage of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StageTime {
    /// Which.
    pub(crate) stage: Stage,
    /// When it began, by the server's clock.
    pub(crate) began_unix_ms: u64,
    /// How long it took by the node's clock; `None` while it runs.
    pub(crate) took_ms: Option<u64>,
    /// One sentence of the node about it.
    pub(crate) detail: String,
}

/// What this server put on a node's disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Installed {
    /// When the node reported it.
    pub(crate) at_unix_ms: u64,
    /// Image id, hex.
    pub(crate) image_id: String,
    /// Public SSH host keys of the installed system.
    pub(crate) host_keys: Vec<String>,
}

/// A node gives others damaged pieces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Alarm {
    /// When the first of them said so.
    pub(crate) since_unix_ms: u64,
    /// Who says so, by name; the first few.
    pub(crate) witnesses: Vec<String>,
}

/// One thing that happened to a node, stored under `history/NODE/SEQUENCE`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HistoryEntry {
    /// By the server's clock.
    pub(crate) at_unix_ms: u64,
    /// State before.
    pub(crate) from: String,
    /// State after; the same when only something was noted.
    pub(crate) to: String,
    /// The stage it is about.
    pub(crate) stage: Option<Stage>,
    /// Why, or what; one sentence.
    pub(crate) text: String,
    /// A short stable word for failures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<String>,
}

/// A one-boot token, stored under `token/SHA256`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TokenRecord {
    /// Whose.
    pub(crate) node: String,
    /// The hardware address that asked for it.
    pub(crate) mac: String,
    /// When it was made.
    pub(crate) minted_unix_ms: u64,
    /// The key that enrolled by it, hex.
    pub(crate) used_by: Option<String>,
    /// What the boot is for.
    #[serde(default)]
    pub(crate) purpose: Purpose,
}

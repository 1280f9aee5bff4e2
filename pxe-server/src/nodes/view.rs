//! What people and programs see of a node: the JSON of the admin API.

use anyhow::Result;
use node_api::{
    FirmwareKind, Identity, Inventory, Lockdown, LogLine, Progress, Recovery, Stage, TrafficCounts,
};
use serde::{Deserialize, Serialize};

use super::record::{Alarm, HistoryEntry, Installed, NodeRecord, NodeState, Outcome, StageTime};
use super::{Entry, Nodes};

/// One node in a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct NodeView {
    /// Name and host name.
    pub(crate) name: String,
    /// Hardware address by which it was first seen.
    pub(crate) mac: String,
    /// Hardware addresses by which it boots, the first one included.
    pub(crate) macs: Vec<String>,
    /// `seen`, `waiting`, `approved`, `deploying`, `lingering`, `deployed` or `failed`.
    pub(crate) state: String,
    /// The stage that runs or failed, as far as it is known.
    pub(crate) stage: Option<Stage>,
    /// Why it waits for approval.
    pub(crate) waits_for: Option<String>,
    /// Why it failed; only while its state is `failed`.
    pub(crate) failure: Option<Failure>,
    /// What a person must look after, as a sentence: it gives damaged pieces, or starts none of our loaders.
    #[serde(default)]
    pub(crate) alarm: Option<String>,
    /// Whether it was let in.
    pub(crate) approved: bool,
    /// Whether a deployment is owed to it.
    pub(crate) armed: bool,
    /// BIOS or UEFI.
    pub(crate) firmware: Option<FirmwareKind>,
    /// Whether the kernel of its last agent was locked down, as it is under Secure Boot.
    #[serde(default)]
    pub(crate) lockdown: Option<Lockdown>,
    /// When its firmware refused iPXE, milliseconds since 1970; from then on it gets shim and GRUB.
    #[serde(default)]
    pub(crate) refused_ipxe_unix_ms: Option<u64>,
    /// When its firmware refused shim, milliseconds since 1970; if it refused iPXE too, it gets nothing from then on.
    #[serde(default)]
    pub(crate) refused_shim_unix_ms: Option<u64>,
    /// From SMBIOS.
    pub(crate) identity: Option<Identity>,
    /// Where its agent speaks from.
    pub(crate) address: Option<String>,
    /// When it was heard of.
    pub(crate) last_seen_unix_ms: u64,
    /// The newest progress.
    pub(crate) progress: Option<Progress>,
    /// Image bytes by source in the run.
    pub(crate) traffic: TrafficCounts,
    /// The deployment that runs, or the last one.
    pub(crate) deployment: Option<String>,
    /// Image of that deployment.
    pub(crate) image: Option<String>,
    /// When that began.
    pub(crate) started_unix_ms: Option<u64>,
    /// When it was installed or failed.
    pub(crate) ended_unix_ms: Option<u64>,
    /// How it ended.
    pub(crate) outcome: Option<Outcome>,
    /// Stages of its last boot with an agent.
    pub(crate) stages: Vec<StageTime>,
    /// What this server put on its disk.
    pub(crate) installed: Option<Installed>,
}

/// Why a node failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// In which stage.
    pub(crate) stage: Stage,
    /// A short stable word.
    pub(crate) code: String,
    /// What is wrong and what to do.
    pub(crate) message: String,
    /// What the node does next.
    pub(crate) recovery: Recovery,
}

/// One node with everything that is known of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NodeDetail {
    /// As in the list.
    #[serde(flatten)]
    pub(crate) node: NodeView,
    /// 32 hex digits.
    pub(crate) machine_id: String,
    /// Agent and kernel that enrolled last.
    pub(crate) software: Option<String>,
    /// When it was first seen.
    pub(crate) created_unix_ms: u64,
    /// What happened, oldest first.
    pub(crate) history: Vec<HistoryEntry>,
    /// The last log lines.
    pub(crate) log: Vec<LogLine>,
    /// What its agent found.
    pub(crate) inventory: Option<Inventory>,
    /// What its agent did to make the installed system its own: programs with what they said, then files.
    #[serde(default)]
    pub(crate) changes: Vec<String>,
}

impl Nodes {
    /// The machine id of a node: the same over its deployments.
    pub(crate) fn machine_id(&self, name: &str) -> Option<String> {
        self.lock().nodes.get(name).map(|entry| entry.record.machine_id.clone())
    }

    /// Every node, by name.
    pub(crate) fn views(&self) -> Vec<NodeView> {
        self.lock().nodes.values().map(view).collect()
    }

    /// One node.
    pub(crate) fn view(&self, name: &str) -> Option<NodeView> {
        self.lock().nodes.get(name).map(view)
    }

    /// One node with history, log and inventory.
    pub(crate) fn detail(&self, name: &str) -> Result<Option<NodeDetail>> {
        let Some((node, machine_id, software, created_unix_ms, log)) =
            self.lock().nodes.get(name).map(|entry| {
                let record = &entry.record;
                let software = record.boot.as_ref().map(|boot| boot.software.clone());
                (view(entry), record.machine_id.clone(), software, record.created_unix_ms, entry.live.log())
            })
        else {
            return Ok(None);
        };
        let history = self.store.list(&format!("history/{name}/"))?;
        let history =
            history.iter().filter_map(|(_, entry)| serde_json::from_slice(&entry.value).ok()).collect();
        let inventory = self.store.get(&format!("inventory/{name}"))?;
        let inventory = inventory.and_then(|found| serde_json::from_slice(&found.value).ok());
        let changes = self.store.get(&format!("changes/{name}"))?;
        let changes = changes.and_then(|found| serde_json::from_slice(&found.value).ok()).unwrap_or_default();
        Ok(Some(NodeDetail { node, machine_id, software, created_unix_ms, history, log, inventory, changes }))
    }
}

fn alarm_sentence(record: &NodeRecord) -> Option<String> {
    let damaged = |alarm: &Alarm| {
        format!("gave damaged pieces to {}: check its memory and its disk", alarm.witnesses.join(", "))
    };
    let refused = record.refused_shim_unix_ms.map(|_| {
        let what = if record.refused_ipxe_unix_ms.is_some() { "iPXE and shim" } else { "shim" };
        format!(
            "its firmware refuses {what}, so nothing of ours can start there: have its Secure Boot trust Microsoft's \
             third-party UEFI CA, or turn Secure Boot off; then `pxe-server try-ipxe {}`",
            record.name
        )
    });
    let all: Vec<String> = record.alarm.as_ref().map(damaged).into_iter().chain(refused).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

fn view(entry: &Entry) -> NodeView {
    let record = &entry.record;
    let live = &entry.live;
    let (mut waits_for, mut failure) = (None, None);
    let stage = match &record.state {
        NodeState::Failed { stage, code, message, recovery } => {
            let (code, message) = (code.clone(), message.clone());
            failure = Some(Failure { stage: *stage, code, message, recovery: *recovery });
            Some(*stage)
        }
        NodeState::Deploying { stage } => Some(*stage),
        NodeState::Lingering => Some(Stage::Linger),
        NodeState::Waiting { reason } => {
            waits_for = Some(reason.clone());
            live.stage
        }
        NodeState::Seen | NodeState::Approved => live.stage,
        NodeState::Deployed => None,
    };
    let run = record.run.as_ref();
    let in_run =
        matches!(record.state, NodeState::Deploying { .. } | NodeState::Failed { .. } | NodeState::Lingering);
    let progress = live.progress.filter(|_| in_run);
    let final_traffic = run.and_then(|run| run.traffic);
    NodeView {
        name: record.name.clone(),
        mac: record.macs.first().cloned().unwrap_or_default(),
        macs: record.macs.clone(),
        state: record.state.word().to_owned(),
        stage,
        waits_for,
        failure,
        alarm: alarm_sentence(record),
        approved: record.approved.is_some(),
        armed: record.armed,
        firmware: record.firmware,
        lockdown: record.lockdown,
        refused_ipxe_unix_ms: record.refused_ipxe_unix_ms,
        refused_shim_unix_ms: record.refused_shim_unix_ms,
        identity: record.identity.clone(),
        address: live.address.map(|address| address.to_string()),
        last_seen_unix_ms: live.last_seen_unix_ms,
        progress,
        // While it seeds, the newest progress knows of more than the final word did.
        traffic: progress.map(|progress| progress.traffic).or(final_traffic).unwrap_or_default(),
        deployment: run.map(|run| run.deployment.clone()),
        image: run.map(|run| run.image.clone()),
        started_unix_ms: run.map(|run| run.started_unix_ms),
        ended_unix_ms: run.and_then(|run| run.ended_unix_ms),
        outcome: run.map(|run| run.outcome),
        stages: record.stages.clone(),
        installed: record.installed.clone(),
    }
}

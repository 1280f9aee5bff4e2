//! What an agent reports: events, progress, log and inventory.

use disk_layout::Disk;
use serde::{Deserialize, Serialize};

use crate::Stage;

/// One batch of news from an agent. Sent again with the same `sequence` until acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportRequest {
    /// Stage changes and outcomes, oldest first; stored before they are acknowledged.
    pub events: Vec<Event>,
    /// The newest progress; lives in the server's memory and promises nothing.
    pub progress: Option<Progress>,
    /// Log lines of the agent and the kernel since the last report, oldest first.
    pub log: Vec<LogLine>,
    /// Sent once, after `drivers`.
    pub inventory: Option<Inventory>,
    /// Port at which the node serves boot files to others, while it does; in every report.
    #[serde(default)]
    pub boot_share_port: Option<u16>,
}

/// One thing that happened on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts from 1 within one boot; the server drops what it already has.
    pub sequence: u64,
    /// The node's clock, milliseconds since 1970.
    pub at_unix_ms: u64,
    /// Milliseconds since the kernel started.
    pub uptime_ms: u64,
    /// What happened.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventKind {
    /// A stage began.
    Entered {
        /// Which.
        stage: Stage,
    },
    /// A stage ended well.
    Finished {
        /// Which.
        stage: Stage,
        /// How long it took.
        took_ms: u64,
        /// One sentence for people, such as `/dev/sda, 8 GiB, QEMU HARDDISK`.
        detail: String,
    },
    /// A stage ended badly.
    Failed {
        /// Which.
        stage: Stage,
        /// A short stable word, such as `disk-ambiguous`.
        code: String,
        /// One sentence that says what is wrong and what to do.
        message: String,
        /// What the node does next.
        recovery: Recovery,
    },
    /// The installed system is complete, read back and bootable.
    Installed {
        /// The image, hex.
        image_id: String,
        /// Where the image's bytes came from.
        traffic: TrafficCounts,
        /// The installed system's public SSH host keys, `ssh-ed25519 AAAA...`, one each.
        host_keys: Vec<String>,
        /// What was done to make it this node's own: paths of files, and programs with what they said.
        #[serde(default)]
        changes: Vec<String>,
    },
    /// A peer gave this node damaged pieces again and again and is shut out: the memory or the disk of the machine
    /// at that address is broken.
    BrokenPeer {
        /// Where the peer is.
        address: std::net::IpAddr,
    },
}

/// What a node does after a failed stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recovery {
    /// Tries the stage again after a pause.
    Retry,
    /// Waits for a person or a new task; the disk is as the message says.
    Wait,
    /// Reboots after a pause.
    Reboot,
}

/// Image bytes by source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficCounts {
    /// From the server, as seed or web seed, bytes.
    pub from_server_bytes: u64,
    /// From other nodes, bytes.
    pub from_nodes_bytes: u64,
    /// Sent to other nodes, bytes.
    pub sent_bytes: u64,
}

/// How far a stage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The stage that runs.
    pub stage: Stage,
    /// Done, in bytes of the stage's work.
    pub done_bytes: u64,
    /// In all, bytes; 0 where unknown.
    pub total_bytes: u64,
    /// Image bytes by source so far.
    pub traffic: TrafficCounts,
    /// Connected peers.
    pub peers: u32,
}

/// One line of a node's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Milliseconds since the kernel started.
    pub uptime_ms: u64,
    /// `kernel` or `agent`.
    pub source: String,
    /// The text, without a line end.
    pub text: String,
}

/// What the agent found on its machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Main memory, bytes.
    pub memory_bytes: u64,
    /// Logical processors.
    pub processors: u32,
    /// Processor model, as the kernel names it.
    pub processor_model: String,
    /// Every disk.
    pub disks: Vec<Disk>,
    /// Every network interface but loopback.
    pub nics: Vec<Nic>,
    /// Every device that has a modalias.
    pub devices: Vec<Device>,
}

/// One network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// Kernel name; no identity.
    pub name: String,
    /// Hardware address, `52:54:00:aa:bb:cc`.
    pub mac: String,
    /// Module that drives it.
    pub driver: Option<String>,
    /// Link speed, Mbit/s.
    pub speed_mbit_s: Option<u32>,
    /// Whether the link is up.
    pub carrier: bool,
}

/// One device on a bus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Path below `/sys/devices`.
    pub path: String,
    /// The kernel's alias for it.
    pub modalias: String,
    /// Driver bound to it, if any.
    pub driver: Option<String>,
    /// What is missing, in words; `None` when it is driven or nothing is known to drive it.
    pub missing: Option<String>,
}

/// What the server answers to a report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportReply {
    /// The highest event sequence that is in the server's store.
    pub stored_sequence: u64,
    /// Something to do now.
    pub directive: Option<Directive>,
}

/// What the server tells an agent to do between tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Directive {
    /// The group is done: stop lingering.
    EndLinger,
    /// Reboot now.
    Reboot,
}

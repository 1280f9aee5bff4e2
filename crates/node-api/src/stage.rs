//! The stages of a node's life, in order.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where a node is in its life; the same word in logs, console, API, dashboard, tests and documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The server saw DHCP from the node: who is it, what may it boot.
    Discover,
    /// Firmware, iPXE or GRUB loads kernel and initrd.
    Load,
    /// PID 1 runs: mounts, console, log, watchdog, kernel command line.
    Start,
    /// Devices are matched to modules; NIC drivers from the initrd first.
    Probe,
    /// Link, DHCP lease, clock.
    Network,
    /// Identity and one-boot token go to the server; log and events stream from here on.
    Enrol,
    /// All other modules, firmware and tools by hash; disks settled; inventory sent.
    Drivers,
    /// Waits until approved; takes the signed task.
    Await,
    /// Joins the swarm.
    Join,
    /// Chooses, clears and partitions the disk; makes file systems.
    Prepare,
    /// Pieces to frames to files.
    Fetch,
    /// Caches dropped, everything read back.
    Verify,
    /// The disk becomes this node's own and bootable.
    Personalise,
    /// Goes on seeding until the group is done or a limit ends it.
    Linger,
    /// Reboot, kexec or power off.
    Handover,
    /// A stage failed; the reason is on console and server.
    Failed,
    /// A person works on the node.
    Rescue,
}

impl Stage {
    /// Every stage in the order of a node's life; `Failed` and `Rescue` last.
    pub const ALL: [Self; 17] = [
        Self::Discover,
        Self::Load,
        Self::Start,
        Self::Probe,
        Self::Network,
        Self::Enrol,
        Self::Drivers,
        Self::Await,
        Self::Join,
        Self::Prepare,
        Self::Fetch,
        Self::Verify,
        Self::Personalise,
        Self::Linger,
        Self::Handover,
        Self::Failed,
        Self::Rescue,
    ];

    /// The word for this stage.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Discover => "discover",
            Self::Load => "load",
            Self::Start => "start",
            Self::Probe => "probe",
            Self::Network => "network",
            Self::Enrol => "enrol",
            Self::Drivers => "drivers",
            Self::Await => "await",
            Self::Join => "join",
            Self::Prepare => "prepare",
            Self::Fetch => "fetch",
            Self::Verify => "verify",
            Self::Personalise => "personalise",
            Self::Linger => "linger",
            Self::Handover => "handover",
            Self::Failed => "failed",
            Self::Rescue => "rescue",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// The text names no stage.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is no stage; the stages are discover, load, start, ... handover, failed, rescue")]
pub struct ParseStageError(String);

impl FromStr for Stage {
    type Err = ParseStageError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|stage| stage.word() == text)
            .ok_or_else(|| ParseStageError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_names_its_stage_in_text_and_json() {
        for stage in Stage::ALL {
            assert_eq!(stage.word().parse(), Ok(stage));
            assert_eq!(serde_json::to_string(&stage).unwrap(), format!("\"{stage}\""));
        }
        assert!("boot".parse::<Stage>().is_err());
    }
}

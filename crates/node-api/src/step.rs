//! Steps: what is done to an installed system beyond its names and its boot loader.
//!
//! The server works them out for one node; the agent follows them in their order and knows nothing of what they are
//! for. What depends on the image is said as a condition on paths, so that one task fits every image.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

/// One thing to do to an installed system: its program first, then its files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// For messages and the report: `network for netplan`, `hook 10-slurm.sh`.
    pub name: String,
    /// Of the steps with the same word here only the first that applies is done; empty: on its own.
    #[serde(default)]
    pub one_of: String,
    /// Done only if the system has one of these paths; empty: always.
    #[serde(default)]
    pub if_any: Vec<String>,
    /// Not done if the system has one of these.
    #[serde(default)]
    pub unless_any: Vec<String>,
    /// Run inside the system.
    #[serde(default)]
    pub program: Option<StepProgram>,
    /// Put into the system afterwards.
    #[serde(default)]
    pub files: Vec<StepFile>,
}

/// A program that comes with its step: a script with `#!`, or anything else that the system can run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepProgram {
    /// Its bytes.
    pub contents: Contents,
    /// It is stopped after so many seconds, and the deployment fails.
    pub limit_s: u64,
    /// Variables beside `PATH`.
    #[serde(default)]
    pub environment: Vec<(String, String)>,
}

/// A file, directory or symbolic link of a step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepFile {
    /// Absolute; or `~NAME/...`, below the home directory of a user of the installed system.
    pub path: String,
    /// What it is.
    #[serde(default)]
    pub kind: StepFileKind,
    /// Permission bits.
    pub mode: u32,
    /// `USER`, `USER:GROUP` or numbers; empty: root. A user's file without a group has that user's group.
    #[serde(default)]
    pub owner: String,
    /// A file's bytes, a link's target.
    #[serde(default)]
    pub contents: Contents,
}

/// What a [`StepFile`] is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepFileKind {
    /// Takes the place of whatever has its name.
    #[default]
    File,
    /// Likewise.
    Link,
    /// Made if it is not there; one that is there stays as it is.
    Folder,
    /// Removed if it is there; it is no directory.
    Absent,
}

/// Bytes, in JSON as base64. Its `Debug` shows only how many: they may be secret.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Contents(pub Vec<u8>);

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Contents({} bytes)", self.0.len())
    }
}

impl TryFrom<String> for Contents {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        BASE64.decode(text).map(Self).map_err(|_| "contents are base64")
    }
}

impl From<Contents> for String {
    fn from(contents: Contents) -> Self {
        BASE64.encode(contents.0)
    }
}

/// Where a UEFI firmware's boot order gets the installed system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BootOrder {
    /// Behind what started this boot, so that the server goes on deciding at each start.
    #[default]
    NetworkFirst,
    /// Before everything else.
    DiskFirst,
    /// Nowhere: no variable is written, and the firmware finds the removable path by itself.
    Untouched,
}

//! The words that agent, server, dashboard and tests share: stages, tasks, reports.
//!
//! Never opens a socket, reads a clock or touches a disk.
//!
//! Read first: [`Stage`], [`Task`], [`ReportRequest`].
#![forbid(unsafe_code)]

mod boot;
mod enrol;
mod keys;
mod report;
mod stage;
mod step;
mod task;

pub mod paths;

pub use boot::{
    BOOT_SHARE_AGENT, BootArguments, BootArgumentsError, BootFile, BootShare, SITE_TRUST_PATH, SiteTrust,
};
pub use enrol::{EnrolReply, EnrolRequest, EnrolRequestBody, FirmwareKind, Identity, Lockdown};
pub use keys::{SIGNATURE_BYTES, SigningKey, VerifyingKey};
pub use report::{
    Device, Directive, Event, EventKind, Inventory, LogLine, Nic, Progress, Recovery, ReportReply,
    ReportRequest, TrafficCounts,
};
pub use stage::{ParseStageError, Stage};
pub use step::{BootOrder, Contents, Step, StepFile, StepFileKind, StepProgram};
pub use task::{
    DiskKey, DiskSecret, Handover, ImageTask, LingerRule, NodeIdentity, ReuseTask, SignedTask, SwarmSecret,
    SwarmTask, Task, TaskBinding, TaskError, is_host_label,
};

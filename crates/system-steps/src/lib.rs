//! What a site wants of the systems that it installs becomes the steps of one node.
//!
//! Never opens a file of its own: overlays and hooks come through [`Source`]. Never knows the image: what depends on
//! it is a condition on paths of the step, which the agent looks at.
//!
//! Read first: [`RawSystem`] (a `[system]` table as written), [`Systems`] (all of a site), [`Systems::steps`].
//!
//! ```text
//! [system], [group.NAME.system], [node.system] --check--> Settings, one each
//! Settings of the rules that hold for a node + its Values --steps--> Made { steps, ... } --task--> agent
//! ```
#![forbid(unsafe_code)]

mod accounts;
mod check;
mod cloud_init;
mod network;
mod raw;
mod settings;
mod show;
mod steps;
mod template;

#[cfg(test)]
mod tests;

pub use check::{Checked, Source, SourceFile, SourceKind, check};
pub use raw::RawSystem;
pub use settings::{Settings, Systems};
pub use steps::{Made, Node, STEP_BYTES_MAX, StepsError};

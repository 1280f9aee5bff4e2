//! Virtual bare metal: machines, networks and disks in which stories are told.
//!
//! Never touches a network interface, namespace, process or file that this process did not make itself.
//!
//! Read first: [`Lab`], [`Node`], [`Machine`].
#![forbid(unsafe_code)]

pub mod admin;
pub mod command;
pub mod console;
pub mod demo;
pub mod disk;
pub mod image;
pub mod lab;
pub mod net;
pub mod packets;
pub mod programs;
pub mod report;
pub mod server;
pub mod session;
pub mod vm;

pub use console::Console;
pub use disk::{Bus, Disk, DiskSpec, gib, mib};
pub use lab::{Lab, LabOptions, Node};
pub use node_api::{FirmwareKind, Lockdown, Stage};
pub use vm::{Machine, MachineSpec, Nic};

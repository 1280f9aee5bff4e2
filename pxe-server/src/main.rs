//! DHCP, TFTP, HTTP boot, tracker and seed, control plane: one binary.
//!
//! Never writes a disk of a node: it only says which node may.
//!
//! Read first: [`serve`] (what runs), [`nodes::machine`] (a node's states), [`site`] (what an installation wants).
#![forbid(unsafe_code)]

mod admin_api;
mod agent_api;
mod api;
mod app;
mod boot_sharing;
mod bundle;
mod cli;
mod clock;
mod dashboard;
mod deltas;
mod deployments;
mod disk_keys;
mod doctor;
mod events;
mod fetches;
mod images;
mod keys;
mod menus;
mod netboot;
mod nodes;
mod policy;
mod privileges;
mod recent;
mod reload;
mod serve;
mod site;
mod state;
mod swarm_service;
mod tasks;
mod tls;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}

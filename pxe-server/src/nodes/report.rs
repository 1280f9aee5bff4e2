//! What agents report: events into the store, the rest into memory.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use dhcp_wire::MacAddr;
use node_api::{Directive, EventKind, Inventory, ReportReply, ReportRequest, Stage};
use store::{Expect, Write};

use super::machine::Transition;
use super::record::NodeState;
use super::text::clean;
use super::{Inner, Nodes, mac_key};
use crate::clock::now_unix_ms;

/// Events of one report; each is at most two writes of one commit.
const EVENTS_MAX: usize = 256;
/// Log lines of one report.
const LOG_LINES_MAX: usize = 2000;
/// Devices of one inventory; the largest servers have a few hundred.
const DEVICES_MAX: usize = 4096;
/// What was done to one installed system; programs come first, files after them.
const CHANGES_MAX: usize = 512;
/// NICs of one node.
const NICS_MAX: usize = 64;

/// A report that no agent sends.
#[derive(Debug, thiserror::Error)]
#[error("the report has more than {0}; send it in parts")]
pub(crate) struct InvalidReport(String);

impl Nodes {
    /// Takes a report of the node that `session_sha256` belongs to. Events are stored when this returns.
    pub(crate) fn report(
        &self,
        name: &str,
        session_sha256: &str,
        report: ReportRequest,
        address: IpAddr,
    ) -> Result<ReportReply> {
        check_size(&report)?;
        let stage = last_stage(&report);
        // Before the events are stored: an agent that is not answered reports again, and nothing is accused twice.
        for event in &report.events {
            if let EventKind::BrokenPeer { address } = event.kind {
                self.accuse(address, name)?;
            }
        }
        {
            let mut inner = self.lock();
            inner.heard(name, address, now_unix_ms());
            let entry = inner.nodes.get_mut(name).with_context(|| format!("no node is called `{name}`"))?;
            entry.live.push_log(report.log);
            if let Some(progress) = report.progress {
                entry.live.progress = Some(progress);
            }
            if let Some(stage) = stage {
                entry.live.stage = Some(stage);
            }
            inner.changed.insert(name.to_owned());
        }
        if !report.events.is_empty() || report.inventory.is_some() {
            self.update(name, |transition, writes| {
                let boot = transition.record.boot.as_ref();
                if boot.is_none_or(|boot| boot.session_sha256 != session_sha256) {
                    bail!("the node has booted again");
                }
                if let Some(newest) = report.events.last() {
                    transition.heard_at_uptime(newest.uptime_ms);
                }
                for event in &report.events {
                    transition.event(event);
                    if let EventKind::Installed { changes, .. } = &event.kind {
                        let changes: Vec<String> =
                            changes.iter().take(CHANGES_MAX).map(|text| clean(text)).collect();
                        let key = format!("changes/{}", transition.record.name);
                        writes.push(Write::put(key, Expect::Anything, serde_json::to_vec(&changes)?));
                    }
                }
                if let Some(inventory) = &report.inventory {
                    self.take_inventory(transition, inventory, writes)?;
                }
                Ok(())
            })?;
        }
        Ok(self.lock().reply(name))
    }

    /// A machine at this address gave `witness` damaged pieces: raises the alarm on the node that it is.
    pub(crate) fn accuse(&self, address: IpAddr, witness: &str) -> Result<()> {
        let Some(name) = self.name_at(address) else {
            tracing::warn!(peer = %address, witness, "a peer that is no node gave damaged pieces and is shut out");
            return Ok(());
        };
        self.update(&name, |transition, _| {
            transition.gives_damaged_pieces(witness);
            Ok(())
        })
    }

    fn take_inventory(
        &self,
        transition: &mut Transition<'_>,
        inventory: &Inventory,
        writes: &mut Vec<Write>,
    ) -> Result<()> {
        let key = format!("inventory/{}", transition.record.name);
        writes.push(Write::put(key, Expect::Anything, serde_json::to_vec(inventory)?));
        // Only of nodes that a person or rule let in: others could claim the addresses of machines to come.
        if transition.record.approved.is_none() {
            return Ok(());
        }
        for nic in &inventory.nics {
            let Ok(mac) = nic.mac.parse::<MacAddr>() else { continue };
            let mac_text = mac.to_string();
            let taken =
                self.lock().by_mac.contains_key(&mac_text) || transition.record.macs.contains(&mac_text);
            if mac.is_unicast() && !taken {
                writes.push(Write::put(mac_key(&mac_text), Expect::Absent, transition.record.name.clone()));
                transition.also_has_mac(mac_text);
            }
        }
        Ok(())
    }
}

impl Inner {
    fn reply(&self, name: &str) -> ReportReply {
        let Some(entry) = self.nodes.get(name) else { return ReportReply::default() };
        let record = &entry.record;
        let stored_sequence = record.boot.as_ref().map_or(0, |boot| boot.stored_sequence);
        let installed_ms = record.installed.as_ref().map_or(u64::MAX, |installed| installed.at_unix_ms);
        let directive = match record.state {
            NodeState::Lingering => {
                let busy =
                    entry.deployment().is_some_and(|deployment| self.busy_deployments.contains(&deployment));
                (!busy && self.ticked_unix_ms > installed_ms).then_some(Directive::EndLinger)
            }
            // An agent on a node that is owed nothing has nothing to wait for.
            NodeState::Deployed if !record.armed && entry.live.stage == Some(Stage::Await) => {
                Some(Directive::Reboot)
            }
            _ => None,
        };
        ReportReply { stored_sequence, directive }
    }
}

fn check_size(report: &ReportRequest) -> Result<(), InvalidReport> {
    let too_many = |count: usize, max: usize, what: &str| {
        if count > max { Err(InvalidReport(format!("{max} {what}"))) } else { Ok(()) }
    };
    too_many(report.events.len(), EVENTS_MAX, "events")?;
    too_many(report.log.len(), LOG_LINES_MAX, "log lines")?;
    if let Some(inventory) = &report.inventory {
        too_many(inventory.devices.len(), DEVICES_MAX, "devices")?;
        too_many(inventory.nics.len(), NICS_MAX, "network interfaces")?;
        too_many(inventory.disks.len(), DEVICES_MAX, "disks")?;
    }
    Ok(())
}

fn last_stage(report: &ReportRequest) -> Option<Stage> {
    let entered = report.events.iter().rev().find_map(|event| match event.kind {
        EventKind::Entered { stage } => Some(stage),
        _ => None,
    });
    entered.or(report.progress.map(|progress| progress.stage))
}

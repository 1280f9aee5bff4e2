//! Every node that the server knows: stored records, and what lives in memory only.
//!
//! Never answers before what it says is in the store; progress and log lines are the exception and promise nothing.
//!
//! Read first: [`Nodes`], [`record::NodeRecord`], [`machine::Transition`].

mod arrivals;
mod boot;
mod live;
pub(crate) mod machine;
pub(crate) mod record;
mod report;
mod text;
pub(crate) mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use anyhow::{Context as _, Result, bail};
use dhcp_wire::MacAddr;
use site_file::{ApproveRules, SiteNode};
use store::{Commit, Expect, Store, Versioned, Write};
use tokio::sync::Notify;

use crate::clock::now_unix_ms;
use crate::keys::random;
use crate::recent::Recent;
use arrivals::{PASSING_MAX, STORED_MAX};
pub(crate) use boot::{Boot, Refusal};
use live::Live;
use machine::{TaskAnswer, Transition};
use record::{HistoryEntry, NodeRecord, NodeState};
pub(crate) use report::InvalidReport;

/// The version of a record that is not in the store; the store counts from 1.
const UNSTORED: u64 = 0;
/// History entries of one node; older ones go as new ones come.
const HISTORY_MAX: u64 = 1000;
/// A commit that always finds the record changed by others means that something is wrong.
const TRIES_MAX: u32 = 32;
/// An installed node that is silent for so long has left for its own disk.
const SILENT_AFTER_MS: u64 = 60_000;
/// A node that was approved and heard of within this time is about to join its deployment.
const ABOUT_TO_JOIN_MS: u64 = 120_000;

/// What the site says about nodes.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeRules {
    /// Machines that need no person.
    pub(crate) approve: ApproveRules,
    /// Names given beforehand.
    pub(crate) names: Vec<SiteNode>,
}

/// Every node. Cheap to share behind an `Arc`; calls that write block for milliseconds.
pub(crate) struct Nodes {
    store: Store,
    approve: ApproveRules,
    names: RwLock<Arc<HashMap<MacAddr, String>>>,
    stored_max: usize,
    inner: Mutex<Inner>,
}

struct Inner {
    nodes: BTreeMap<String, Entry>,
    by_mac: HashMap<String, String>,
    /// Nodes that are in memory only, by the hardware address that was seen.
    passing: Recent<MacAddr, String>,
    /// Whether nodes were forgotten since the last [`Nodes::take_forgotten`].
    forgotten: bool,
    by_session: HashMap<String, String>,
    /// Where agents spoke from; an entry is good only while the node's own record of it is the same.
    by_address: HashMap<IpAddr, String>,
    /// Nodes whose view has changed since the last [`Nodes::take_changed`].
    changed: BTreeSet<String>,
    /// Deployments in which somebody is not done, as of the last tick.
    busy_deployments: BTreeSet<String>,
    /// When that was; a node that was installed later has to wait for the next tick.
    ticked_unix_ms: u64,
}

struct Entry {
    record: NodeRecord,
    version: u64,
    live: Live,
    /// Wakes polls for a task.
    wake: Arc<Notify>,
}

impl Nodes {
    /// Loads every node from the store.
    pub(crate) fn open(store: Store, rules: NodeRules) -> Result<Self> {
        let mut inner = Inner {
            nodes: BTreeMap::new(),
            by_mac: HashMap::new(),
            passing: Recent::new(PASSING_MAX),
            forgotten: false,
            by_session: HashMap::new(),
            by_address: HashMap::new(),
            changed: BTreeSet::new(),
            busy_deployments: BTreeSet::new(),
            ticked_unix_ms: 0,
        };
        for (key, entry) in store.list("node/").context("reading the nodes")? {
            let record = parse_record(&key, &entry)?;
            inner.put(record, entry.version);
        }
        let NodeRules { approve, names } = rules;
        let nodes = Self {
            store,
            approve,
            names: RwLock::default(),
            stored_max: STORED_MAX,
            inner: Mutex::new(inner),
        };
        nodes.set_names(&names);
        Ok(nodes)
    }

    /// Names that the site gives from now on. Nodes that have one keep it.
    pub(crate) fn set_names(&self, names: &[SiteNode]) {
        let names = names.iter().map(|node| (node.mac, node.name.clone())).collect();
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(names);
    }

    fn names_given(&self) -> Arc<HashMap<MacAddr, String>> {
        Arc::clone(&self.names.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A panic elsewhere cannot leave the maps half-changed: each change is a few assignments that cannot fail.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The site's name, else `node-` and the last half of the address, else all of it.
    fn new_name(&self, inner: &Inner, mac: MacAddr) -> String {
        let names = self.names_given();
        if let Some(named) = names.get(&mac).filter(|named| !inner.nodes.contains_key(*named)) {
            return named.clone();
        }
        let digits = mac.to_string().replace(':', "");
        let short = format!("node-{}", digits.get(6..).unwrap_or_default());
        if inner.nodes.contains_key(&short) { format!("node-{digits}") } else { short }
    }

    fn reload_owner(&self, mac_key: &str) -> Result<()> {
        let owner = self.store.get(mac_key)?;
        let name = owner.map(|owner| String::from_utf8_lossy(&owner.value).into_owned());
        name.map_or(Ok(()), |name| self.reload(&node_key(&name)))
    }

    /// Takes a record from the store, because somebody else changed it.
    fn reload(&self, key: &str) -> Result<()> {
        if let Some(entry) = self.store.get(key)? {
            let record = parse_record(key, &entry)?;
            self.lock().put(record, entry.version);
        }
        Ok(())
    }

    /// Changes one node in one commit: its record, its history and whatever else `change` adds.
    ///
    /// `change` may run several times; only its last run counts. Nothing is written if it changes nothing.
    fn update<T>(
        &self,
        name: &str,
        mut change: impl FnMut(&mut Transition<'_>, &mut Vec<Write>) -> Result<T>,
    ) -> Result<T> {
        for _ in 0..TRIES_MAX {
            let (before, version) = {
                let inner = self.lock();
                let entry = inner.nodes.get(name).with_context(|| format!("no node is called `{name}`"))?;
                (entry.record.clone(), entry.version)
            };
            if version == UNSTORED {
                let mac = before.macs.first().and_then(|mac| mac.parse().ok());
                self.keep(mac.with_context(|| format!("node {name} has no hardware address"))?)?;
                continue;
            }
            let mut record = before.clone();
            let mut writes = Vec::new();
            let mut transition = Transition::new(&mut record, now_unix_ms());
            let value = change(&mut transition, &mut writes)?;
            let history = transition.history;
            if history.is_empty() && writes.is_empty() && record == before {
                return Ok(value);
            }
            for entry in &history {
                tracing::info!(node = name, state = entry.to, "{}", entry.text);
            }
            history_writes(&mut record, history, &mut writes)?;
            if let Some(run) = record.run.as_ref().filter(|run| before.run.as_ref() != Some(run)) {
                let key = format!("run/{}/{name}", run.deployment);
                writes.push(Write::put(key, Expect::Anything, serde_json::to_vec(run)?));
            }
            writes.push(Write::put(node_key(name), Expect::Version(version), serde_json::to_vec(&record)?));
            match self.store.commit(&writes)? {
                Commit::Done { version } => {
                    self.lock().put(record, version);
                    return Ok(value);
                }
                Commit::Conflict { .. } => self.reload(&node_key(name))?,
            }
        }
        bail!("node {name} could not be changed, because its record kept changing")
    }

    /// A person or a rule lets nodes in. The names of those that were changed.
    pub(crate) fn approve(&self, names: &[String], by: &str) -> Result<Vec<String>> {
        self.order(names, |transition| transition.approve(by))
    }

    /// A person orders one deployment of each. The names of those that were changed.
    pub(crate) fn deploy(&self, names: &[String], by: &str) -> Result<Vec<String>> {
        self.order(names, |transition| transition.deploy(by))
    }

    /// A person wants iPXE tried again, because Secure Boot was turned off. The names of those that were changed.
    pub(crate) fn try_ipxe(&self, names: &[String], by: &str) -> Result<Vec<String>> {
        self.order(names, |transition| transition.try_ipxe(by))
    }

    fn order(&self, names: &[String], order: impl Fn(&mut Transition<'_>) -> bool) -> Result<Vec<String>> {
        // All or none by name: a typing error must not leave half of an order done.
        {
            let inner = self.lock();
            if let Some(unknown) = names.iter().find(|name| !inner.nodes.contains_key(*name)) {
                bail!("no node is called `{unknown}`; `pxe-server nodes` lists them");
            }
        }
        let mut changed = Vec::new();
        for name in names {
            if self.update(name, |transition, _| Ok(order(transition)))? {
                changed.push(name.clone());
            }
        }
        Ok(changed)
    }

    /// The names of all nodes.
    pub(crate) fn names(&self) -> Vec<String> {
        self.lock().nodes.keys().cloned().collect()
    }

    /// The node that a session belongs to.
    pub(crate) fn by_session(&self, session: &str) -> Option<String> {
        self.lock().by_session.get(&sha256_hex(session)).cloned()
    }

    /// Whether a node may read images.
    pub(crate) fn is_approved(&self, name: &str) -> bool {
        self.lock().nodes.get(name).is_some_and(|entry| entry.record.approved.is_some())
    }

    /// The image that this server put on the node's disk, unless the node has failed since its deployment was ordered:
    /// then nobody knows what the disk holds, and the next try is one in full.
    pub(crate) fn reusable_image(&self, name: &str) -> Option<String> {
        let inner = self.lock();
        let record = &inner.nodes.get(name)?.record;
        let installed = record.installed.as_ref().filter(|_| record.failures == 0)?;
        Some(installed.image_id.clone())
    }

    /// Whether an approved node was last heard from this address.
    pub(crate) fn is_approved_address(&self, address: IpAddr) -> bool {
        let inner = self.lock();
        let entry = inner.by_address.get(&address).and_then(|name| inner.nodes.get(name));
        entry.is_some_and(|entry| entry.record.approved.is_some() && entry.live.address == Some(address))
    }

    /// The node that was last heard from this address.
    fn name_at(&self, address: IpAddr) -> Option<String> {
        let inner = self.lock();
        let name = inner.by_address.get(&address)?;
        inner.nodes.get(name).filter(|entry| entry.live.address == Some(address)).map(|_| name.clone())
    }

    /// Wakes when a node's orders change.
    pub(crate) fn wake_of(&self, name: &str) -> Option<Arc<Notify>> {
        self.lock().nodes.get(name).map(|entry| Arc::clone(&entry.wake))
    }

    /// What a task poll of this node is answered.
    pub(crate) fn task_answer(&self, name: &str) -> TaskAnswer {
        self.lock().nodes.get(name).map_or(TaskAnswer::Wait, |entry| Transition::task_answer(&entry.record))
    }

    /// Records that the node has its task; fails if it may no longer have one.
    pub(crate) fn task_given(
        &self,
        name: &str,
        session_sha256: &str,
        deployment: &str,
        image: (&str, &str),
    ) -> Result<NodeRecord> {
        self.update(name, |transition, _| {
            let boot = transition.record.boot.as_ref();
            if boot.is_none_or(|boot| boot.session_sha256 != session_sha256) {
                bail!("the node has booted again");
            }
            if Transition::task_answer(transition.record) == TaskAnswer::Wait {
                bail!("the node may have no task any more");
            }
            transition.task_given(deployment, image.0, image.1);
            Ok(transition.record.clone())
        })
    }

    /// Deployments in which a node has a task and is not done.
    pub(crate) fn active_deployments(&self) -> BTreeSet<String> {
        let inner = self.lock();
        inner.nodes.values().filter(|entry| entry.is_active()).filter_map(Entry::deployment).collect()
    }

    /// Once a second: sees who went silent and which deployments are done.
    pub(crate) fn tick(&self, now_unix_ms: u64) {
        let mut silent = Vec::new();
        {
            let mut inner = self.lock();
            let mut busy = BTreeSet::new();
            let mut somebody_comes = false;
            for (name, entry) in &inner.nodes {
                let heard_ms_ago = now_unix_ms.saturating_sub(entry.live.last_seen_unix_ms);
                match entry.record.state {
                    NodeState::Deploying { .. } if heard_ms_ago < ABOUT_TO_JOIN_MS => {
                        busy.extend(entry.deployment())
                    }
                    NodeState::Approved if heard_ms_ago < ABOUT_TO_JOIN_MS => somebody_comes = true,
                    NodeState::Lingering if heard_ms_ago > SILENT_AFTER_MS => silent.push(name.clone()),
                    _ => {}
                }
            }
            if somebody_comes {
                busy.extend(inner.nodes.values().filter_map(Entry::deployment));
            }
            inner.busy_deployments = busy;
            inner.ticked_unix_ms = now_unix_ms;
        }
        for name in silent {
            let done = self.update(&name, |transition, _| {
                transition.silent();
                Ok(())
            });
            if let Err(error) = done {
                tracing::warn!(node = name, "{error:#}");
            }
        }
    }

    /// Whether nodes that were in a list are gone since the last call.
    pub(crate) fn take_forgotten(&self) -> bool {
        std::mem::take(&mut self.lock().forgotten)
    }

    /// The nodes whose view has changed since the last call.
    pub(crate) fn take_changed(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.lock().changed)
    }
}

impl Inner {
    /// Takes a record that is in the store, unless a newer one is here already.
    fn put(&mut self, record: NodeRecord, version: u64) {
        let name = record.name.clone();
        let old = self.nodes.get(&name);
        if old.is_some_and(|old| old.version >= version) {
            return;
        }
        if let Some(session) = old.and_then(|old| old.record.boot.as_ref()) {
            self.by_session.remove(&session.session_sha256);
        }
        if let Some(boot) = &record.boot {
            self.by_session.insert(boot.session_sha256.clone(), name.clone());
        }
        for mac in &record.macs {
            self.by_mac.insert(mac.clone(), name.clone());
        }
        self.changed.insert(name.clone());
        match self.nodes.get_mut(&name) {
            Some(entry) => {
                entry.record = record;
                entry.version = version;
                entry.wake.notify_waiters();
            }
            None => {
                self.nodes.insert(name, Entry::new(record, version, Live::new(now_unix_ms())));
            }
        }
    }

    /// An agent of the node spoke from this address.
    fn heard(&mut self, name: &str, address: IpAddr, now_unix_ms: u64) {
        let Some(entry) = self.nodes.get_mut(name) else { return };
        entry.live.last_seen_unix_ms = now_unix_ms;
        if entry.live.address != Some(address) {
            entry.live.address = Some(address);
            self.by_address.insert(address, name.to_owned());
        }
    }
}

impl Entry {
    fn new(record: NodeRecord, version: u64, live: Live) -> Self {
        Self { record, version, live, wake: Arc::new(Notify::new()) }
    }

    fn is_active(&self) -> bool {
        matches!(self.record.state, NodeState::Deploying { .. } | NodeState::Lingering)
    }

    fn deployment(&self) -> Option<String> {
        self.record.run.as_ref().map(|run| run.deployment.clone())
    }
}

fn new_record(name: String, mac: MacAddr) -> Result<NodeRecord> {
    Ok(NodeRecord {
        name,
        macs: vec![mac.to_string()],
        // machine-id(5): 32 lower-case hex digits, random.
        machine_id: hex::encode(random::<16>()?),
        created_unix_ms: now_unix_ms(),
        identity: None,
        firmware: None,
        lockdown: None,
        refused_ipxe_unix_ms: None,
        refused_shim_unix_ms: None,
        state: NodeState::Seen,
        approved: None,
        held: false,
        armed: false,
        failures: 0,
        boot: None,
        stages: Vec::new(),
        run: None,
        installed: None,
        alarm: None,
        history_next: 0,
    })
}

fn node_key(name: &str) -> String {
    format!("node/{name}")
}

fn mac_key(mac: &str) -> String {
    format!("mac/{}", mac.replace(':', "-"))
}

fn history_key(name: &str, sequence: u64) -> String {
    format!("history/{name}/{sequence:012}")
}

/// New entries in, those that are too old out.
fn history_writes(
    record: &mut NodeRecord,
    history: Vec<HistoryEntry>,
    writes: &mut Vec<Write>,
) -> Result<()> {
    for entry in history {
        let sequence = record.history_next;
        record.history_next += 1;
        let key = history_key(&record.name, sequence);
        writes.push(Write::put(key, Expect::Anything, serde_json::to_vec(&entry)?));
        if let Some(old) = sequence.checked_sub(HISTORY_MAX) {
            writes.push(Write::delete(history_key(&record.name, old), Expect::Anything));
        }
    }
    Ok(())
}

fn parse_record(key: &str, entry: &Versioned) -> Result<NodeRecord> {
    serde_json::from_slice(&entry.value).with_context(|| format!("reading the store's record {key}"))
}

pub(crate) fn sha256_hex(text: &str) -> String {
    use sha2::Digest as _;
    hex::encode(sha2::Sha256::digest(text.as_bytes()))
}

#[cfg(test)]
mod tests;

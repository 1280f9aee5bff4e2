//! The state machine of a node: record and input in, record and history out.
//!
//! Never reads a clock, a store or a socket; the registry in `nodes` does.
//!
//! ```text
//!            boots          enrols               approve / rule
//!  (unknown) ----> Seen ----------> Waiting ------------------------> Approved <--------------+
//!                   |                  ^  identity changed              |  ^                  |
//!                   | approve          +--------------------------------+  |                  |
//!                   +--------------------------------------------------->--+                  |
//!                                                                       | task taken          |
//!                          boots again / approve / deploy               v                     | deploy
//!              Failed <-----------------------------------------> Deploying(stage)            |
//!                                                                       | installed           |
//!                                                                       v                     |
//!                                                                   Lingering --> Deployed ---+
//! ```
//! A node is owed a deployment while `armed`; `installed` clears that, so nothing is deployed twice.

use node_api::{EnrolRequestBody, Event, EventKind, Identity, Recovery, Stage};

use super::record::{
    Alarm, Approval, BootSession, HistoryEntry, Installed, NodeRecord, NodeState, Outcome, Purpose, Run,
    StageTime,
};
use super::text::clean;

/// After so many failures a node gets no new task until a person orders it: it would only wear the disk.
pub(crate) const FAILURES_MAX: u32 = 5;
/// Stages of one boot that are kept; a node that repeats stages beyond that is still counted in its history.
const STAGES_MAX: usize = 128;
/// Witnesses of an alarm that are named; more say the same.
const WITNESSES_MAX: usize = 4;
/// Host keys of one installed system; OpenSSH makes four.
const HOST_KEYS_MAX: usize = 8;

/// A record in the act of changing, with the history that its commit will add.
pub(crate) struct Transition<'a> {
    pub(crate) record: &'a mut NodeRecord,
    pub(crate) now_unix_ms: u64,
    pub(crate) history: Vec<HistoryEntry>,
}

/// What a task poll finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaskAnswer {
    /// The node may have its task.
    Give,
    /// Not now; ask again.
    Wait,
}

impl<'a> Transition<'a> {
    pub(crate) fn new(record: &'a mut NodeRecord, now_unix_ms: u64) -> Self {
        Self { record, now_unix_ms, history: Vec::new() }
    }

    fn go(&mut self, state: NodeState, stage: Option<Stage>, text: impl Into<String>) {
        let from = self.record.state.word();
        let code = match &state {
            NodeState::Failed { code, .. } => Some(code.clone()),
            _ => None,
        };
        self.record.state = state;
        self.push(from, stage, text.into(), code);
    }

    fn note(&mut self, stage: Option<Stage>, text: impl Into<String>) {
        self.push(self.record.state.word(), stage, text.into(), None);
    }

    fn push(&mut self, from: &str, stage: Option<Stage>, text: String, code: Option<String>) {
        let to = self.record.state.word().to_owned();
        let at_unix_ms = self.now_unix_ms;
        self.history.push(HistoryEntry { at_unix_ms, from: from.to_owned(), to, stage, text, code });
    }

    /// The boot script was asked for and names the agent.
    pub(crate) fn boots_agent(&mut self, purpose: Purpose) {
        let text = match purpose {
            Purpose::Task => "boots the agent over the network",
            Purpose::Inventory => "boots the agent over the network, only to report its hardware",
        };
        self.note(Some(Stage::Load), text);
    }

    /// The boot script was asked for and names the local disk.
    pub(crate) fn boots_local(&mut self) {
        if self.record.state == NodeState::Lingering {
            self.go(NodeState::Deployed, None, "boots from its own disk");
        }
    }

    /// Its firmware fetched iPXE and asked again without having started it.
    pub(crate) fn refused_ipxe(&mut self) {
        if self.record.refused_ipxe_unix_ms.is_none() {
            self.record.refused_ipxe_unix_ms = Some(self.now_unix_ms);
            self.note(
                Some(Stage::Discover),
                "its firmware refused iPXE: it gets shim and GRUB, which are signed",
            );
        }
    }

    /// Its firmware fetched shim and asked again without having started it.
    pub(crate) fn refused_shim(&mut self) {
        if self.record.refused_shim_unix_ms.is_none() {
            self.record.refused_shim_unix_ms = Some(self.now_unix_ms);
            self.note(
                Some(Stage::Discover),
                "its firmware refused shim too, twice: it does not trust Microsoft's third-party UEFI CA",
            );
        }
    }

    /// Shim runs on it.
    pub(crate) fn runs_shim(&mut self) {
        if self.record.refused_shim_unix_ms.take().is_some() {
            self.note(Some(Stage::Discover), "runs shim: its firmware does not refuse it, or not any more");
        }
    }

    /// iPXE runs on it.
    pub(crate) fn runs_ipxe(&mut self) {
        if self.forget_refusals() {
            self.note(Some(Stage::Discover), "runs iPXE: its firmware does not refuse it, or not any more");
        }
    }

    /// Whether there was one.
    fn forget_refusals(&mut self) -> bool {
        let shim = self.record.refused_shim_unix_ms.take();
        self.record.refused_ipxe_unix_ms.take().or(shim).is_some()
    }

    /// A person wants iPXE tried again. Whether anything changed.
    pub(crate) fn try_ipxe(&mut self, by: &str) -> bool {
        let changed = self.forget_refusals();
        if changed {
            self.note(None, format!("iPXE is tried again, ordered by {by}"));
        }
        changed
    }

    /// An agent proved that it is this node's. `rule` is the rule that approves it, if one does; `before_enrol` are
    /// the stages of this boot that the server saw itself.
    pub(crate) fn enrolled(
        &mut self,
        body: &EnrolRequestBody,
        session_sha256: String,
        (rule, purpose): (Option<&str>, Purpose),
        before_enrol: Vec<StageTime>,
    ) {
        let again = self.record.boot.as_ref().filter(|boot| boot.node_key == body.node_key);
        let (same_boot, stored_sequence) = again.map_or((false, 0), |boot| (true, boot.stored_sequence));
        let kernel_unix_ms = again.and_then(|boot| boot.kernel_unix_ms);
        let identity = clean_identity(&body.identity);
        let changed = self.record.identity.as_ref().and_then(|known| identity_change(known, &identity));
        let software = format!("agent {}, kernel {}", body.agent_version, body.kernel_release);
        if !same_boot {
            self.record.stages = before_enrol;
        }
        self.record.identity = Some(identity);
        self.record.firmware = Some(body.firmware);
        self.record.lockdown = body.lockdown;
        self.record.boot = Some(BootSession {
            session_sha256,
            boot_nonce: body.boot_nonce.clone(),
            node_key: body.node_key.clone(),
            mac: body.mac.clone(),
            enrolled_unix_ms: self.now_unix_ms,
            stored_sequence,
            kernel_unix_ms,
            software: clean(&software),
            purpose,
        });
        if let Some(change) = changed {
            self.record.held = true;
            self.interrupt_run();
            self.wait(format!("its identity changed: {change}"));
        } else if same_boot {
            self.note(Some(Stage::Enrol), "its agent started again and enrolled again");
        } else {
            self.enrolled_new_boot(rule);
        }
    }

    fn enrolled_new_boot(&mut self, rule: Option<&str>) {
        // Whoever looked after it has booted it again; if not, the next alarm comes soon.
        self.record.alarm = None;
        self.note(Some(Stage::Enrol), "enrolled");
        self.interrupt_run();
        if self.record.approved.is_none() {
            match rule.filter(|_| !self.record.held) {
                Some(rule) => drop(self.approve(rule)),
                None if self.record.held => {
                    self.wait("its identity changed and nobody approved it since".into())
                }
                None => self.wait("nobody approved it".into()),
            }
            return;
        }
        match &self.record.state {
            NodeState::Failed { .. } if self.record.failures >= FAILURES_MAX => {
                let text =
                    format!("gets no task: it failed {FAILURES_MAX} times; see to it and deploy it again");
                self.note(None, text);
            }
            NodeState::Failed { .. } => self.go(NodeState::Approved, None, "booted again after a failure"),
            NodeState::Deploying { .. } => {
                self.go(NodeState::Approved, None, "booted again before it was installed");
            }
            NodeState::Seen | NodeState::Waiting { .. } if self.record.armed => {
                self.go(NodeState::Approved, None, "was approved before");
            }
            NodeState::Lingering => self.go(NodeState::Deployed, None, "booted again after it was installed"),
            NodeState::Seen | NodeState::Waiting { .. } | NodeState::Approved | NodeState::Deployed => {}
        }
    }

    fn wait(&mut self, reason: String) {
        self.record.approved = None;
        self.record.armed = false;
        let text = format!("waits for approval: {reason}");
        self.go(NodeState::Waiting { reason }, None, text);
    }

    fn interrupt_run(&mut self) {
        let now_unix_ms = self.now_unix_ms;
        if let Some(run) = self.record.run.as_mut().filter(|run| run.outcome == Outcome::Running) {
            run.outcome = Outcome::Interrupted;
            run.ended_unix_ms = Some(now_unix_ms);
        }
    }

    /// A person or a rule lets the node in. A node that is deployed already stays so. Whether anything changed.
    pub(crate) fn approve(&mut self, by: &str) -> bool {
        match self.record.state {
            NodeState::Deployed | NodeState::Lingering | NodeState::Deploying { .. } => false,
            NodeState::Approved if self.record.armed => false,
            NodeState::Seen | NodeState::Waiting { .. } | NodeState::Approved | NodeState::Failed { .. } => {
                self.arm(by, format!("approved by {by}"));
                true
            }
        }
    }

    /// A person orders one deployment, also of a node that is installed. Whether anything changed.
    pub(crate) fn deploy(&mut self, by: &str) -> bool {
        match self.record.state {
            NodeState::Deploying { .. } => false,
            NodeState::Approved if self.record.armed => false,
            _ => {
                self.arm(by, format!("one deployment ordered by {by}"));
                true
            }
        }
    }

    fn arm(&mut self, by: &str, text: String) {
        self.record.approved = Some(Approval { at_unix_ms: self.now_unix_ms, by: by.to_owned() });
        self.record.held = false;
        self.record.armed = true;
        self.record.failures = 0;
        self.go(NodeState::Approved, None, text);
    }

    /// What a poll for the task is answered.
    pub(crate) fn task_answer(record: &NodeRecord) -> TaskAnswer {
        let for_task = record.boot.as_ref().is_some_and(|boot| boot.purpose == Purpose::Task);
        let may = record.approved.is_some() && record.armed && for_task;
        let ready = match &record.state {
            NodeState::Approved | NodeState::Deploying { .. } => true,
            NodeState::Failed { recovery, .. } => {
                *recovery != Recovery::Wait && record.failures < FAILURES_MAX
            }
            NodeState::Seen | NodeState::Waiting { .. } | NodeState::Lingering | NodeState::Deployed => false,
        };
        if may && ready { TaskAnswer::Give } else { TaskAnswer::Wait }
    }

    /// The node gets its task; a second time in one boot when its agent lost the first.
    pub(crate) fn task_given(&mut self, deployment: &str, image_id: &str, image: &str) {
        let same = self.record.run.as_ref().is_some_and(|run| {
            run.deployment == deployment && run.outcome == Outcome::Running && run.image_id == image_id
        });
        if same && matches!(self.record.state, NodeState::Deploying { .. }) {
            self.note(Some(Stage::Await), "took its task again");
            return;
        }
        self.interrupt_run();
        self.record.run = Some(Run {
            deployment: deployment.to_owned(),
            image_id: image_id.to_owned(),
            image: image.to_owned(),
            started_unix_ms: self.now_unix_ms,
            ended_unix_ms: None,
            boot_nonce: self.record.boot.as_ref().map(|boot| boot.boot_nonce.clone()).unwrap_or_default(),
            stages: self.record.stages.clone(),
            traffic: None,
            outcome: Outcome::Running,
            failure: None,
        });
        let text = format!("took its task: {image} in deployment {deployment}");
        self.go(NodeState::Deploying { stage: Stage::Await }, Some(Stage::Await), text);
    }

    /// An agent that has been up for so long speaks now. What comes late only makes the guess later, so the
    /// earliest one is the best.
    pub(crate) fn heard_at_uptime(&mut self, uptime_ms: u64) {
        let guess = self.now_unix_ms.saturating_sub(uptime_ms);
        let Some(boot) = self.record.boot.as_mut() else { return };
        let kernel_unix_ms = boot.kernel_unix_ms.map_or(guess, |known| known.min(guess));
        boot.kernel_unix_ms = Some(kernel_unix_ms);
        // The kernel's start ends the loading of it.
        if let Some(load) = self.record.stages.iter_mut().find(|time| time.stage == Stage::Load) {
            load.took_ms = Some(kernel_unix_ms.saturating_sub(load.began_unix_ms));
        }
    }

    /// One event of the node's agent, unless it is stored already.
    pub(crate) fn event(&mut self, event: &Event) {
        let Some(boot) = self.record.boot.as_mut() else { return };
        if event.sequence <= boot.stored_sequence {
            return;
        }
        boot.stored_sequence = event.sequence;
        let kernel_unix_ms = boot.kernel_unix_ms;
        let at_unix_ms =
            kernel_unix_ms.map_or(self.now_unix_ms, |kernel| kernel.saturating_add(event.uptime_ms));
        match &event.kind {
            EventKind::Entered { stage } => self.entered(*stage, at_unix_ms),
            EventKind::Finished { stage, took_ms, detail } => {
                self.finished(*stage, *took_ms, clean(detail), at_unix_ms);
            }
            EventKind::Failed { stage, code, message, recovery } => {
                self.failed(*stage, clean(code), clean(message), *recovery);
            }
            EventKind::Installed { image_id, traffic, host_keys, changes: _ } => {
                let image_id = clean(image_id);
                if let Some(run) = self.record.run.as_mut() {
                    run.traffic = Some(*traffic);
                    run.outcome = Outcome::Installed;
                    run.ended_unix_ms = Some(self.now_unix_ms);
                }
                let host_keys = host_keys.iter().take(HOST_KEYS_MAX).map(|key| clean(key)).collect();
                self.installed(image_id, host_keys);
            }
            EventKind::BrokenPeer { address } => {
                self.note(Some(Stage::Fetch), format!("got damaged pieces from {address} and shut it out"));
            }
        }
        self.copy_stages_to_run();
    }

    /// A run has the stages of its own boot; one of an earlier boot keeps what it had.
    fn copy_stages_to_run(&mut self) {
        let NodeRecord { run: Some(run), boot: Some(boot), stages, .. } = &mut *self.record else { return };
        if run.boot_nonce == boot.boot_nonce {
            run.stages.clone_from(stages);
        }
    }

    fn entered(&mut self, stage: Stage, began_unix_ms: u64) {
        if self.record.stages.len() < STAGES_MAX {
            self.record.stages.push(StageTime { stage, began_unix_ms, took_ms: None, detail: String::new() });
        }
        let text = format!("began {stage}");
        match &self.record.state {
            NodeState::Deploying { .. } => self.go(NodeState::Deploying { stage }, Some(stage), text),
            // The agent tries again by its own rule, within the boot that failed.
            NodeState::Failed { recovery: Recovery::Retry, .. }
                if self.record.armed && stage > Stage::Await && stage < Stage::Failed =>
            {
                if let Some(run) = self.record.run.as_mut() {
                    run.outcome = Outcome::Running;
                    run.ended_unix_ms = None;
                }
                self.go(NodeState::Deploying { stage }, Some(stage), text);
            }
            NodeState::Lingering if stage == Stage::Handover => {
                self.go(NodeState::Deployed, Some(stage), "hands over to the installed system");
            }
            _ => self.note(Some(stage), text),
        }
    }

    fn finished(&mut self, stage: Stage, took_ms: u64, detail: String, at_unix_ms: u64) {
        let text = match detail.as_str() {
            "" => format!("finished {stage}"),
            detail => format!("finished {stage}: {detail}"),
        };
        let stages = &mut self.record.stages;
        if let Some(time) = stages.iter_mut().rfind(|time| time.stage == stage) {
            time.took_ms = Some(took_ms);
            time.detail = detail;
        } else if stages.len() < STAGES_MAX {
            let began_unix_ms = at_unix_ms.saturating_sub(took_ms);
            stages.push(StageTime { stage, began_unix_ms, took_ms: Some(took_ms), detail });
        }
        self.note(Some(stage), text);
    }

    fn failed(&mut self, stage: Stage, code: String, message: String, recovery: Recovery) {
        let text = format!("failed in {stage}: {message}");
        if let Some(run) = self.record.run.as_mut().filter(|run| run.outcome == Outcome::Running) {
            run.outcome = Outcome::Failed;
            run.ended_unix_ms = Some(self.now_unix_ms);
            run.failure = Some(message.clone());
        }
        match self.record.state {
            // Installed is installed: a failure while seeding or rebooting is worth a note and no more.
            NodeState::Lingering | NodeState::Deployed => self.note(Some(stage), text),
            // Without approval it stays where it is; its last words are in the history.
            NodeState::Seen | NodeState::Waiting { .. } => self.note(Some(stage), text),
            NodeState::Approved | NodeState::Deploying { .. } | NodeState::Failed { .. } => {
                self.record.failures = self.record.failures.saturating_add(1);
                self.go(NodeState::Failed { stage, code, message, recovery }, Some(stage), text);
            }
        }
    }

    fn installed(&mut self, image_id: String, host_keys: Vec<String>) {
        if !matches!(self.record.state, NodeState::Deploying { .. } | NodeState::Failed { .. }) {
            self.note(Some(Stage::Personalise), "reported an installation that nobody ordered");
            return;
        }
        self.record.armed = false;
        self.record.failures = 0;
        self.record.installed = Some(Installed { at_unix_ms: self.now_unix_ms, image_id, host_keys });
        self.go(NodeState::Lingering, Some(Stage::Personalise), "installed, read back and bootable");
    }

    /// Another node, or the server, got damaged pieces of this one: somebody has to look at its memory and disk.
    pub(crate) fn gives_damaged_pieces(&mut self, witness: &str) {
        let since_unix_ms = self.now_unix_ms;
        let alarm = self.record.alarm.get_or_insert_with(|| Alarm { since_unix_ms, witnesses: Vec::new() });
        if alarm.witnesses.len() >= WITNESSES_MAX || alarm.witnesses.iter().any(|known| known == witness) {
            return;
        }
        alarm.witnesses.push(witness.to_owned());
        self.note(None, format!("gave damaged pieces to {witness}: check its memory and its disk"));
    }

    /// An installed node has not reported for a while: it has left for its own disk.
    pub(crate) fn silent(&mut self) {
        if self.record.state == NodeState::Lingering {
            self.go(NodeState::Deployed, None, "was installed and reports no more");
        }
    }

    /// A second NIC of the same machine, from its inventory.
    pub(crate) fn also_has_mac(&mut self, mac: String) {
        self.note(None, format!("also boots by {mac}"));
        self.record.macs.push(mac);
    }
}

/// Whether an agent of this node would be given something to do.
pub(crate) fn wants_agent(record: &NodeRecord) -> bool {
    match record.state {
        NodeState::Lingering | NodeState::Deployed => record.armed,
        NodeState::Seen
        | NodeState::Waiting { .. }
        | NodeState::Approved
        | NodeState::Deploying { .. }
        | NodeState::Failed { .. } => true,
    }
}

fn clean_identity(identity: &Identity) -> Identity {
    let text = |text: &Option<String>| text.as_deref().map(clean).filter(|text| !text.is_empty());
    Identity {
        uuid: text(&identity.uuid),
        serial: text(&identity.serial),
        vendor: text(&identity.vendor),
        product: text(&identity.product),
    }
}

/// In words, what of the machine's identity is not as it was.
fn identity_change(known: &Identity, new: &Identity) -> Option<String> {
    let shown = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
    if known.uuid != new.uuid {
        return Some(format!("its SMBIOS UUID was {} and is {}", shown(&known.uuid), shown(&new.uuid)));
    }
    (known.serial != new.serial)
        .then(|| format!("its serial number was {} and is {}", shown(&known.serial), shown(&new.serial)))
}

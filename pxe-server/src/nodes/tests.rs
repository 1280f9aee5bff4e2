use node_api::{EnrolRequestBody, Event, EventKind, FirmwareKind, Identity, Recovery, Stage, TrafficCounts};
use proptest::prelude::*;

use super::machine::{FAILURES_MAX, wants_agent};
use super::record::Outcome;
use super::record::Purpose;
use super::*;

fn record() -> NodeRecord {
    new_record("node-000001".into(), MacAddr([0x52, 0x54, 0, 0, 0, 1])).unwrap()
}

/// One change at a time, as the registry makes them.
struct World {
    record: NodeRecord,
    now_unix_ms: u64,
    sequence: u64,
    words: Vec<String>,
}

impl World {
    fn new() -> Self {
        Self { record: record(), now_unix_ms: 1_000_000, sequence: 0, words: Vec::new() }
    }

    fn change<T>(&mut self, change: impl FnOnce(&mut Transition<'_>) -> T) -> T {
        self.now_unix_ms += 1000;
        let mut transition = Transition::new(&mut self.record, self.now_unix_ms);
        let value = change(&mut transition);
        for entry in &transition.history {
            assert!(!entry.text.is_empty(), "every entry has its reason");
            if self.words.last() != Some(&entry.to) {
                self.words.push(entry.to.clone());
            }
        }
        assert_eq!(
            transition.history.last().map_or(self.record.state.word(), |last| &last.to),
            self.record.state.word()
        );
        value
    }

    fn enrol(&mut self, boot: u8, serial: u8, rule: bool) {
        self.sequence = 0;
        let body = EnrolRequestBody {
            token: "t".into(),
            boot_nonce: format!("nonce{boot}"),
            node_key: format!("key{boot}"),
            mac: "52:54:00:00:00:01".into(),
            identity: Identity { serial: Some(format!("S{serial}")), ..Identity::default() },
            firmware: FirmwareKind::Bios,
            lockdown: None,
            kernel_release: "6.1".into(),
            agent_version: "0".into(),
            store_manifest: String::new(),
        };
        self.change(|t| {
            t.enrolled(&body, format!("session{boot}"), (rule.then_some("a rule"), Purpose::Task), Vec::new())
        });
    }

    /// Takes the task if it may be had.
    fn take_task(&mut self) -> bool {
        let given = Transition::task_answer(&self.record) == TaskAnswer::Give;
        if given {
            self.change(|t| t.task_given("d000001", "aa", "debian"));
        }
        given
    }

    fn event(&mut self, kind: EventKind) {
        self.sequence += 1;
        let event = Event { sequence: self.sequence, at_unix_ms: 0, uptime_ms: 0, kind };
        self.change(|t| t.event(&event));
        let again = self.record.clone();
        self.change(|t| t.event(&event));
        assert_eq!(self.record, again, "an event that comes twice counts once");
    }

    fn fail(&mut self, recovery: Recovery) {
        let (code, message) = ("c".to_owned(), "m".to_owned());
        self.event(EventKind::Failed { stage: Stage::Fetch, code, message, recovery });
    }

    fn install(&mut self) {
        let traffic = TrafficCounts::default();
        self.event(EventKind::Installed {
            image_id: "aa".into(),
            traffic,
            host_keys: vec![],
            changes: vec![],
        });
    }
}

#[test]
fn whole_life_goes_through_the_states_in_order() {
    let mut world = World::new();
    world.change(|t| t.boots_agent(Purpose::Task));
    world.enrol(1, 1, false);
    assert!(!world.take_task());
    assert!(world.change(|t| t.approve("somebody")));
    assert!(world.take_task());
    world.event(EventKind::Entered { stage: Stage::Fetch });
    world.install();
    world.event(EventKind::Entered { stage: Stage::Handover });
    assert!(!wants_agent(&world.record));
    assert_eq!(world.words, ["seen", "waiting", "approved", "deploying", "lingering", "deployed"]);
    assert!(!world.change(|t| t.approve("somebody")), "approval of what is installed changes nothing");
    assert!(world.change(|t| t.deploy("somebody")));
    assert!(wants_agent(&world.record));
}

#[test]
fn node_that_is_approved_before_it_enrols_needs_no_second_approval() {
    let mut world = World::new();
    assert!(world.change(|t| t.approve("somebody")));
    world.enrol(1, 1, false);
    assert!(world.take_task());
}

#[test]
fn rule_does_not_let_a_changed_machine_in_again() {
    let mut world = World::new();
    world.enrol(1, 1, true);
    assert!(world.take_task());
    world.enrol(2, 2, true);
    assert_eq!(world.record.state.word(), "waiting");
    world.enrol(3, 2, true);
    assert!(!world.take_task(), "nobody has looked at it yet");
    assert!(world.change(|t| t.approve("somebody")));
    assert!(world.take_task());
    assert_eq!(world.record.run.as_ref().unwrap().outcome, Outcome::Running);
}

#[test]
fn failing_node_is_tried_again_but_not_for_ever() {
    let mut world = World::new();
    world.enrol(1, 1, true);
    for boot in 2..20 {
        if !world.take_task() {
            break;
        }
        world.fail(Recovery::Reboot);
        world.enrol(boot, 1, true);
    }
    assert_eq!(world.record.failures, FAILURES_MAX);
    assert_eq!(world.record.state.word(), "failed");
    assert!(world.change(|t| t.deploy("somebody")));
    assert!(world.take_task());
}

#[test]
fn alarm_names_each_witness_once_and_ends_with_the_next_boot() {
    let mut world = World::new();
    world.enrol(1, 1, true);
    assert!(world.take_task());
    for witness in ["node-2", "node-3", "node-2", "node-4", "node-5", "node-6"] {
        world.change(|t| t.gives_damaged_pieces(witness));
    }
    let alarm = world.record.alarm.clone().unwrap();
    assert_eq!(alarm.witnesses, ["node-2", "node-3", "node-4", "node-5"]);
    world.enrol(1, 1, true);
    assert!(world.record.alarm.is_some(), "an agent that starts again is no new boot");
    world.enrol(2, 1, true);
    assert_eq!(world.record.alarm, None);
}

#[test]
fn failure_while_it_seeds_does_not_undo_the_installation() {
    let mut world = World::new();
    world.enrol(1, 1, true);
    assert!(world.take_task());
    world.install();
    world.fail(Recovery::Reboot);
    assert_eq!(world.record.state, NodeState::Lingering);
    assert!(!wants_agent(&world.record));
    world.change(|t| t.silent());
    assert_eq!(world.record.state, NodeState::Deployed);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Enrol { boot: u8, serial: u8, rule: bool },
    Approve,
    Deploy,
    Task,
    Enter(Stage),
    Fail(Recovery),
    Install,
    BootsLocal,
    Silent,
}

fn any_step() -> impl Strategy<Value = Step> {
    let recovery = prop_oneof![Just(Recovery::Retry), Just(Recovery::Wait), Just(Recovery::Reboot)];
    prop_oneof![
        (0_u8..4, 0_u8..2, any::<bool>()).prop_map(|(boot, serial, rule)| Step::Enrol { boot, serial, rule }),
        Just(Step::Approve),
        Just(Step::Deploy),
        Just(Step::Task),
        proptest::sample::select(Stage::ALL.to_vec()).prop_map(Step::Enter),
        recovery.prop_map(Step::Fail),
        Just(Step::Install),
        Just(Step::BootsLocal),
        Just(Step::Silent),
    ]
}

proptest! {
    /// Whatever an agent says, in whatever order: a person's or a rule's yes stands before every task, and one yes
    /// is good for one installation.
    #[test]
    fn no_history_gives_a_task_without_a_yes_or_two_installations_for_one(
        steps in proptest::collection::vec(any_step(), 0..60),
    ) {
        let mut world = World::new();
        let (mut yes, mut installed) = (0, 0);
        for step in steps {
            let before = world.record.clone();
            match step {
                Step::Enrol { boot, serial, rule } => {
                    world.enrol(boot, serial, rule);
                    yes += u32::from(!before.armed && world.record.armed);
                }
                Step::Approve => yes += u32::from(world.change(|t| t.approve("p"))),
                Step::Deploy => yes += u32::from(world.change(|t| t.deploy("p"))),
                Step::Task => {
                    let given = world.take_task();
                    prop_assert!(!given || (before.armed && before.approved.is_some()));
                }
                Step::Enter(stage) => world.event(EventKind::Entered { stage }),
                Step::Fail(recovery) => world.fail(recovery),
                Step::Install => {
                    world.install();
                    installed += u32::from(before.armed && !world.record.armed);
                }
                Step::BootsLocal => world.change(|t| t.boots_local()),
                Step::Silent => world.change(|t| t.silent()),
            }
            let record = &world.record;
            prop_assert!(installed <= yes);
            prop_assert!(!record.armed || record.approved.is_some(), "armed means approved");
            let waits = matches!(record.state, NodeState::Waiting { .. });
            prop_assert!(!waits || (record.approved.is_none() && !record.armed), "waiting means not approved");
            let settled = matches!(record.state, NodeState::Deployed | NodeState::Lingering);
            prop_assert!(!settled || !record.armed, "installed means nothing is owed");
            prop_assert!(!settled || record.installed.is_some());
        }
    }
}

/// A registry with room for so many nodes in the store.
fn registry(stored_max: usize, names: &[(MacAddr, &str)]) -> Nodes {
    let names = names.iter().map(|(mac, name)| SiteNode { mac: *mac, name: (*name).to_owned() }).collect();
    let rules = NodeRules { approve: ApproveRules::default(), names };
    Nodes { stored_max, ..Nodes::open(Store::open("memory:").unwrap(), rules).unwrap() }
}

fn made_up(number: u32) -> MacAddr {
    let [a, b, c, d] = number.to_be_bytes();
    MacAddr([2, 0xbb, a, b, c, d])
}

#[test]
fn flood_of_machines_that_only_ask_for_an_address_is_kept_by_nobody() {
    let (real, named) = (MacAddr([0x52, 0x54, 0, 0, 0, 1]), MacAddr([0x52, 0x54, 0, 0, 0, 2]));
    let nodes = registry(100, &[(named, "n2")]);
    assert!(matches!(nodes.decide(real).unwrap(), Boot::Agent { .. }));
    let name = nodes.discover(real).unwrap();
    let patient = nodes.discover(MacAddr([0x52, 0x54, 0, 0, 0, 3])).unwrap();
    for number in 0..30_000 {
        nodes.discover(made_up(number)).unwrap();
        if number % 1000 == 0 {
            nodes.discover(MacAddr([0x52, 0x54, 0, 0, 0, 3])).unwrap();
        }
    }
    assert_eq!(nodes.names().len(), arrivals::PASSING_MAX + 1);
    assert_eq!(nodes.store.list("node/").unwrap().len(), 1, "only what boots is in the store");
    assert!(nodes.take_forgotten() && nodes.take_changed().len() <= arrivals::PASSING_MAX + 1);
    assert!(nodes.view(&name).is_some(), "who was there before stays");
    assert!(nodes.view(&patient).is_some(), "and so does who keeps asking");
    // Who comes in the middle of it boots, and is in the store before it has its token.
    assert!(matches!(nodes.decide(named).unwrap(), Boot::Agent { .. }));
    assert_eq!(nodes.store.list("node/").unwrap().len(), 2);
    assert!(nodes.approve(&["n2".to_owned(), patient.clone()], "somebody").unwrap().len() == 2);
    let Nodes { store, .. } = nodes;
    let restarted = Nodes::open(store, NodeRules::default()).unwrap();
    assert_eq!(restarted.names(), {
        let mut names = vec!["n2".to_owned(), name, patient];
        names.sort();
        names
    });
}

#[test]
fn flood_of_machines_that_fetch_the_agent_pushes_out_its_own_and_no_known_node() {
    let nodes = registry(150, &[(made_up(7), "n7")]);
    let approved = nodes.discover(MacAddr([0x52, 0x54, 0, 0, 0, 1])).unwrap();
    nodes.approve(std::slice::from_ref(&approved), "somebody").unwrap();
    for number in 0..1000 {
        assert!(matches!(nodes.decide(made_up(number)).unwrap(), Boot::Agent { .. }), "{number}");
    }
    let stored = nodes.store.list("node/").unwrap().len();
    assert!(stored <= 150, "{stored}");
    assert!(nodes.store.list("mac/").unwrap().len() == stored);
    assert!(nodes.store.list("history/").unwrap().len() <= 4 * 150);
    assert!(nodes.view(&approved).is_some() && nodes.view("n7").is_some());
    // What was forgotten is a new machine.
    assert!(matches!(nodes.decide(made_up(0)).unwrap(), Boot::Agent { .. }));
}

#[test]
fn machines_that_never_come_are_forgotten_in_time() {
    let nodes = registry(150, &[]);
    let (passing, booted) = (nodes.discover(made_up(1)).unwrap(), nodes.discover(made_up(2)).unwrap());
    nodes.decide(made_up(2)).unwrap();
    let now = now_unix_ms();
    let day_ms = 24 * 3600 * 1000;
    nodes.prune(now + day_ms / 2).unwrap();
    assert_eq!(nodes.names().len(), 2);
    nodes.prune(now + 2 * day_ms).unwrap();
    assert!(nodes.view(&passing).is_none() && nodes.view(&booted).is_some());
    nodes.prune(now + 8 * day_ms).unwrap();
    assert!(
        nodes.names().is_empty()
            && nodes.store.list("").unwrap().iter().all(|(key, _)| key.starts_with("token/"))
    );
}

impl Nodes {
    /// As if the node had been installed by this server.
    pub(crate) fn install_for_test(&self, name: &str) {
        self.update(name, |transition, _| {
            transition.record.state = NodeState::Deployed;
            Ok(())
        })
        .unwrap();
    }
}

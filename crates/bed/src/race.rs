//! One race: everything loaded, go, until the last node has the file; then each file is compared.
//!
//! Never starts the clock before every program that can wait is loaded.

use std::collections::BTreeMap;
use std::fs;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::counters::Usage;
use crate::inside::{inside, post};
use crate::leftovers::unique_name;
use crate::network::{Bed, Place};
use crate::peers::{Begins, Contestant, Field, Launch, Ready, Said, read_line};
use crate::program::{Event, Program, What, is_bound};
use crate::shape::Mbit;
use crate::source::Source;
use crate::timeline::{Glance, Watcher};

/// Loading 32 interpreters on two processors beside other work takes a while; hashing the image too.
const LOADED_MAX: Duration = Duration::from_secs(90);
/// How often a port is looked at.
const LOOKED_AT_EVERY: Duration = Duration::from_millis(10);
/// Of processes that ended at the same time, how long the last line may lag.
const DRAINED_FOR: Duration = Duration::from_millis(20);

/// Something bad that happens to a node while it fetches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Disturbance {
    /// After go.
    pub after: Duration,
    /// To whom.
    pub node: usize,
    /// What.
    pub harm: Harm,
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Harm {
    /// Its program is killed and never comes back; the race no longer waits for it.
    Kill,
    /// Its link becomes slow, both ways.
    Slow(Mbit),
}

/// How a race went.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Seconds from go to each node's completion.
    pub finished_s: Vec<Option<f64>>,
    /// Seconds from go to the end of the race.
    pub seconds: f64,
    /// What it cost.
    pub usage: Usage,
    /// The links over time.
    pub timeline: Vec<Glance>,
    /// The newest counters of each program that printed some: server's first, then nodes'.
    pub stats: Vec<(Option<usize>, Value)>,
    /// Nodes whose file differs from the source.
    pub wrong: Vec<usize>,
    /// What programs said before they failed.
    pub failures: Vec<String>,
}

impl Outcome {
    /// The last of those that completed.
    #[must_use]
    pub fn last_s(&self) -> f64 {
        self.finished_s.iter().flatten().copied().fold(0.0, f64::max)
    }

    /// The first of those that completed.
    #[must_use]
    pub fn first_s(&self) -> f64 {
        self.finished_s.iter().flatten().copied().reduce(f64::min).unwrap_or_default()
    }
}

/// A program in the race.
struct Runner {
    launch: Launch,
    program: Option<Program>,
    ready: bool,
    stats: Option<Value>,
}

struct Race<'a> {
    field: Field<'a>,
    runners: Vec<Runner>,
    /// Index of node 0's runner.
    first_node: usize,
    events: Receiver<Event>,
    sender: Sender<Event>,
    outcome: Outcome,
    /// Nodes for which the race waits.
    awaited: Vec<bool>,
}

/// Holds a race. Nodes in `unawaited` take part, but the race ends without them.
///
/// # Errors
/// A program cannot be started or loaded, or the server's ends early.
pub fn race(
    bed: &Bed,
    contestant: &dyn Contestant,
    source: &Source,
    disturbances: &[Disturbance],
    unawaited: &[usize],
    deadline: Duration,
) -> Result<Outcome> {
    let dir = bed.dir().join(unique_name());
    fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
    let field = Field { bed, source, dir: dir.clone() };
    let result = Race::prepare(field, contestant, unawaited)
        .and_then(|race| race.hold(contestant, disturbances, deadline));
    // Also after an error: the next race needs an empty bed.
    bed.group.kill_all();
    let _ = fs::remove_dir_all(&dir);
    for Disturbance { node, harm, .. } in disturbances {
        if let (Harm::Slow(_), Some(rate)) = (harm, bed.shape().rate_of(*node)) {
            bed.set_rate(*node, rate)?;
        }
    }
    result.with_context(|| format!("racing {}", contestant.name()))
}

impl<'a> Race<'a> {
    fn prepare(field: Field<'a>, contestant: &dyn Contestant, unawaited: &[usize]) -> Result<Self> {
        let nodes = field.bed.shape().nodes;
        let mut launches = contestant.serve(&field)?;
        let first_node = launches.len();
        for node in 0..nodes {
            launches.push(contestant.fetch(&field, node)?);
        }
        let runner = |launch| Runner { launch, program: None, ready: false, stats: None };
        let (sender, events) = channel();
        let outcome = Outcome { finished_s: vec![None; nodes], ..Outcome::default() };
        let awaited = (0..nodes).map(|node| !unawaited.contains(&node)).collect();
        let runners = launches.into_iter().map(runner).collect();
        Ok(Self { field, runners, first_node, events, sender, outcome, awaited })
    }

    fn hold(
        mut self,
        contestant: &dyn Contestant,
        disturbances: &[Disturbance],
        deadline: Duration,
    ) -> Result<Outcome> {
        // One after the other: the tracker before the seed, the seed before the nodes.
        for index in 0..self.first_node {
            self.load(index..index + 1)?;
        }
        self.load(self.first_node..self.runners.len())?;
        let before = Usage::now(self.field.bed)?;
        let go = Instant::now();
        let watcher = Watcher::start(self.field.bed, go)?;
        self.go()?;
        self.watch(go, disturbances, deadline)?;
        self.outcome.seconds = go.elapsed().as_secs_f64();
        self.outcome.usage = Usage::now(self.field.bed)?.since(&before);
        self.outcome.timeline = watcher.stop();
        self.field.bed.group.kill_all();
        let first_node = self.first_node;
        for (index, runner) in self.runners.iter_mut().enumerate() {
            runner.program = None;
            if let Some(stats) = runner.stats.take() {
                self.outcome.stats.push((index.checked_sub(first_node), stats));
            }
        }
        self.compare(contestant)?;
        Ok(self.outcome)
    }

    /// Starts those that can be loaded before the clock starts and waits until they are.
    fn load(&mut self, range: std::ops::Range<usize>) -> Result<()> {
        for index in range.clone() {
            if self.runners.get(index).is_some_and(|runner| runner.launch.begins != Begins::Started) {
                self.start(index)?;
            }
        }
        let until = Instant::now() + LOADED_MAX;
        for index in range {
            self.wait_until_ready(index, until)?;
        }
        Ok(())
    }

    fn start(&mut self, index: usize) -> Result<()> {
        let Some(runner) = self.runners.get_mut(index) else { return Ok(()) };
        let log = self.field.dir.join(format!("{index}.log"));
        let Launch { place, argv, .. } = &runner.launch;
        let program = Program::start(self.field.bed, *place, argv, (index, self.sender.clone()), log)?;
        runner.program = Some(program);
        Ok(())
    }

    fn wait_until_ready(&mut self, index: usize, until: Instant) -> Result<()> {
        loop {
            let Some(runner) = self.runners.get(index) else { return Ok(()) };
            let Some(program) = &runner.program else { return Ok(()) };
            let is_ready = match runner.launch.ready {
                Ready::Says => runner.ready,
                Ready::Listens(port) => is_bound(program.id(), "tcp", port),
                Ready::Bound(port) => is_bound(program.id(), "udp", port),
                Ready::AtOnce => true,
            };
            if is_ready {
                return Ok(());
            }
            let argv = &runner.launch.argv;
            ensure!(Instant::now() < until, "{argv:?} was not loaded in time: {}", program.last_words());
            match self.events.recv_timeout(LOOKED_AT_EVERY) {
                Ok(Event { what: What::Line(line), program, .. }) => self.note(program, &line),
                Ok(Event { program, .. }) => bail!("{}", self.describe(program)),
                Err(_) => {}
            }
        }
    }

    /// A line before or beside the race itself.
    fn note(&mut self, index: usize, line: &str) {
        let Some(runner) = self.runners.get_mut(index) else { return };
        match read_line(line) {
            Said::Ready => runner.ready = true,
            Said::Stats(stats) => runner.stats = Some(stats),
            Said::Done(_) | Said::Nothing => {}
        }
    }

    /// Gives the word to all, nodes first: a sender finds its receivers waiting.
    fn go(&mut self) -> Result<()> {
        let (nodes, servers) = (self.first_node..self.runners.len(), 0..self.first_node);
        for index in nodes.chain(servers) {
            let Some(runner) = self.runners.get_mut(index) else { continue };
            match (&runner.launch.begins, &mut runner.program) {
                (Begins::Loaded, _) => {}
                (Begins::AtLine, Some(program)) => program.tell("go")?,
                (Begins::AtCall { .. }, _) => {}
                (Begins::Started | Begins::AtLine, _) => self.start(index)?,
            }
        }
        self.call_all()
    }

    /// Calls from the manager, which is not shaped.
    fn call_all(&self) -> Result<()> {
        let bed = self.field.bed;
        let calls = self.runners.iter().filter_map(|runner| match runner.launch.begins {
            Begins::AtCall { port, path, body } => Some((runner.launch.place, port, path, body)),
            _ => None,
        });
        let calls: Vec<_> = calls.collect();
        if calls.is_empty() {
            return Ok(());
        }
        inside(&bed.namespace(Place::Manager), || {
            calls.iter().try_for_each(|(place, port, path, body)| {
                post(bed.address(*place), *port, path, body).map(|_| ())
            })
        })
    }

    fn watch(&mut self, go: Instant, disturbances: &[Disturbance], deadline: Duration) -> Result<()> {
        let mut ahead: Vec<Disturbance> = disturbances.to_vec();
        ahead.sort_by_key(|disturbance| disturbance.after);
        ahead.reverse();
        while self.is_awaiting() {
            let next = ahead.last().map_or(deadline, |disturbance| disturbance.after.min(deadline));
            match self.events.recv_timeout(next.saturating_sub(go.elapsed())) {
                Ok(event) => self.handle(go, event)?,
                Err(RecvTimeoutError::Disconnected) => bail!("no program is left"),
                Err(RecvTimeoutError::Timeout) if go.elapsed() >= deadline => return Ok(()),
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(disturbance) = ahead.pop() {
                        self.disturb(disturbance)?;
                    }
                }
            }
        }
        // Counters that are printed with the last completion.
        while let Ok(Event { program, what: What::Line(line), .. }) = self.events.recv_timeout(DRAINED_FOR) {
            self.note(program, &line);
        }
        Ok(())
    }

    fn is_awaiting(&self) -> bool {
        self.awaited.iter().zip(&self.outcome.finished_s).any(|(awaited, done)| *awaited && done.is_none())
    }

    fn handle(&mut self, go: Instant, event: Event) -> Result<()> {
        let index = event.program;
        let node = index.checked_sub(self.first_node);
        let at_exit = self.runners.get(index).is_some_and(|runner| runner.launch.done_at_exit);
        let mut is_done = false;
        match event.what {
            What::Line(line) => {
                if let Said::Done(stats) = read_line(&line) {
                    is_done = !at_exit;
                    if let Some(runner) = self.runners.get_mut(index).filter(|_| !stats.is_null()) {
                        runner.stats = Some(stats);
                    }
                }
                self.note(index, &line);
            }
            What::Ended => is_done = self.ended(index, node)? && at_exit,
        }
        let finished = node.and_then(|node| self.outcome.finished_s.get_mut(node));
        if let Some(finished) = finished.filter(|finished| is_done && finished.is_none()) {
            *finished = Some(event.at.duration_since(go).as_secs_f64());
        }
        Ok(())
    }

    /// Whether a program that ended did so well; an unexpected end is written down.
    fn ended(&mut self, index: usize, node: Option<usize>) -> Result<bool> {
        let Some(runner) = self.runners.get_mut(index) else { return Ok(false) };
        let Some(program) = &mut runner.program else { return Ok(false) };
        let (well, begins) = (program.ended_well()?, runner.launch.begins.clone());
        let was_awaited = node.is_some_and(|node| self.awaited.get(node).copied().unwrap_or_default());
        let is_whole =
            node.is_some_and(|node| self.outcome.finished_s.get(node).is_some_and(Option::is_some));
        let is_expected = match node {
            // A node that was killed is not awaited any more.
            Some(_) => {
                !was_awaited
                    || is_whole
                    || (well && self.runners.get(index).is_some_and(|it| it.launch.done_at_exit))
            }
            None => begins == Begins::Started && well,
        };
        if !is_expected {
            let words = self.describe(index);
            ensure!(node.is_some() || begins == Begins::Started, "{words}");
            self.outcome.failures.push(words);
            if let Some(awaited) = node.and_then(|node| self.awaited.get_mut(node)) {
                *awaited = false;
            }
        }
        Ok(well)
    }

    fn disturb(&mut self, disturbance: Disturbance) -> Result<()> {
        let Disturbance { node, harm, .. } = disturbance;
        match harm {
            Harm::Slow(rate) => self.field.bed.set_rate(node, rate)?,
            Harm::Kill => {
                if let Some(awaited) = self.awaited.get_mut(node) {
                    *awaited = false;
                }
                let runner = self.runners.get(self.first_node + node);
                if let Some(program) = runner.and_then(|runner| runner.program.as_ref()) {
                    program.kill()?;
                }
            }
        }
        Ok(())
    }

    /// Compares what nodes stored with the source, on both processors.
    fn compare(&mut self, contestant: &dyn Contestant) -> Result<()> {
        let complete = self.outcome.finished_s.iter().enumerate().filter(|(_, done)| done.is_some());
        let files: BTreeMap<usize, _> =
            complete.filter_map(|(node, _)| Some((node, contestant.stored(&self.field, node)?))).collect();
        let source = self.field.source;
        let half = |parity: usize| {
            let mine = files.iter().filter(move |(node, _)| *node % 2 == parity);
            mine.filter_map(|(node, file)| match source.equals(file) {
                Ok(true) => None,
                Ok(false) => Some(Ok(*node)),
                Err(error) => Some(Err(error)),
            })
            .collect::<Result<Vec<usize>>>()
        };
        let (even, odd) = thread::scope(|scope| {
            let odd = scope.spawn(|| half(1));
            (half(0), odd.join())
        });
        self.outcome.wrong = even?;
        self.outcome.wrong.extend(odd.map_err(|_| anyhow::anyhow!("comparing files panicked"))??);
        Ok(())
    }

    fn describe(&self, index: usize) -> String {
        let Some(runner) = self.runners.get(index) else { return String::new() };
        let words = runner.program.as_ref().map(Program::last_words).unwrap_or_default();
        let place = runner.launch.place;
        let program = runner.launch.argv.first().map(|word| word.to_string_lossy().into_owned());
        format!("{} at {place:?} ended early: {words}", program.unwrap_or_default())
    }
}

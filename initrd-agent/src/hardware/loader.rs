//! Loads modules in parallel, each once, each after what it needs.
//!
//! ```text
//! queued --a worker's turn--> loading --the kernel returns--> loaded | failed
//! ```
//! A driver may hang in the kernel for ever: its worker is then lost, and whoever waits has a deadline.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

use crate::sys::modules::Inserted;

/// Loading is mostly waiting for hardware, so more workers than processors help; each module's own dependencies
/// stay in order.
const WORKERS: usize = 6;

/// Hands a module's bytes and parameters to the kernel.
pub(crate) type Insert = dyn Fn(&str, &[u8], &str) -> Result<Inserted, Errno> + Send + Sync;

/// Hears the name of every module before the kernel gets it, so that whoever listens knows which one a dead
/// machine died of.
pub(crate) type Announce = dyn Fn(&str) + Send + Sync;

/// How far a module is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LoadState {
    /// Waits for its turn.
    Queued,
    /// The kernel has it and has not returned.
    Loading,
    /// Loaded.
    Loaded,
    /// Not loaded, and why.
    Failed(String),
}

/// One module on the way to another.
#[derive(Debug)]
pub(crate) struct JobStep {
    pub(crate) module: String,
    /// Whether the steps after it are in vain without it.
    pub(crate) required: bool,
    /// Its bytes and parameters; `None` if an earlier job loads it and this one only waits.
    pub(crate) image: Option<(Vec<u8>, String)>,
}

/// The workers and what they know. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Loader {
    shared: Arc<Shared>,
    jobs: Sender<Vec<JobStep>>,
}

struct Shared {
    states: Mutex<BTreeMap<String, LoadState>>,
    changed: Condvar,
}

impl Loader {
    /// Starts the workers.
    pub(crate) fn start(insert: Arc<Insert>, announce: Arc<Announce>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { states: Mutex::default(), changed: Condvar::new() });
        // Bounded by the number of modules: each is in one job's hands once.
        let (jobs, receiver) = channel();
        let receiver = Arc::new(Mutex::new(receiver));
        for number in 0..WORKERS {
            let worker = Worker {
                shared: shared.clone(),
                jobs: receiver.clone(),
                insert: insert.clone(),
                announce: announce.clone(),
            };
            std::thread::Builder::new().name(format!("load-{number}")).spawn(move || worker.run())?;
        }
        Ok(Self { shared, jobs })
    }

    /// How far a module is; `None` if nobody asked for it.
    pub(crate) fn state(&self, module: &str) -> Option<LoadState> {
        self.shared.states().get(module).cloned()
    }

    /// Hands in the steps to one module, first to last.
    pub(crate) fn submit(&self, steps: Vec<JobStep>) {
        let mut states = self.shared.states();
        for step in steps.iter().filter(|step| step.image.is_some()) {
            states.insert(step.module.clone(), LoadState::Queued);
        }
        drop(states);
        // Workers live as long as the sender.
        let _ = self.jobs.send(steps);
    }

    /// Notes a module that is there without our doing, or that can't be had.
    pub(crate) fn note(&self, module: &str, state: LoadState) {
        self.shared.set(module, state);
    }

    /// Modules that are queued or loading.
    pub(crate) fn unfinished(&self) -> Vec<String> {
        let states = self.shared.states();
        let unfinished =
            states.iter().filter(|(_, state)| matches!(state, LoadState::Queued | LoadState::Loading));
        unfinished.map(|(module, _)| module.clone()).collect()
    }

    /// Every module that was asked for.
    pub(crate) fn states(&self) -> BTreeMap<String, LoadState> {
        self.shared.states().clone()
    }
}

impl Shared {
    fn states(&self) -> MutexGuard<'_, BTreeMap<String, LoadState>> {
        // Nothing panics while it holds the lock; a poisoned map would still be whole.
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, module: &str, state: LoadState) {
        self.states().insert(module.to_owned(), state);
        self.changed.notify_all();
    }

    /// Waits until another worker is through with a module; whether it is loaded.
    fn wait_for(&self, module: &str) -> bool {
        let mut states = self.states();
        loop {
            match states.get(module) {
                Some(LoadState::Loaded) => return true,
                Some(LoadState::Failed(_)) | None => return false,
                Some(LoadState::Queued | LoadState::Loading) => {
                    states = self.changed.wait(states).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

struct Worker {
    shared: Arc<Shared>,
    jobs: Arc<Mutex<Receiver<Vec<JobStep>>>>,
    insert: Arc<Insert>,
    announce: Arc<Announce>,
}

impl Worker {
    fn run(self) {
        loop {
            let job = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(job) = job else { return };
            self.do_job(job);
        }
    }

    /// Jobs wait only for jobs that began before them, so workers can't wait for each other in a circle.
    fn do_job(&self, job: Vec<JobStep>) {
        let mut missing: Option<String> = None;
        for step in job {
            let loaded = match (step.image, &missing) {
                (Some(_), Some(missing)) if step.required => {
                    self.shared.set(&step.module, LoadState::Failed(format!("needs {missing}")));
                    false
                }
                (Some((image, parameters)), _) => self.load(&step.module, &image, &parameters),
                (None, _) => self.shared.wait_for(&step.module),
            };
            if step.required && !loaded && missing.is_none() {
                missing = Some(step.module);
            }
        }
    }

    fn load(&self, module: &str, image: &[u8], parameters: &str) -> bool {
        self.shared.set(module, LoadState::Loading);
        (self.announce)(module);
        let state = match (self.insert)(module, image, parameters) {
            Ok(Inserted::New | Inserted::Present) => LoadState::Loaded,
            Err(error) => LoadState::Failed(why(error)),
        };
        if let LoadState::Failed(reason) = &state {
            tracing::info!("module {module}: {reason}");
        }
        let loaded = state == LoadState::Loaded;
        self.shared.set(module, state);
        loaded
    }
}

/// The kernel's answer in words.
pub(crate) fn why(error: Errno) -> String {
    let words = match error {
        Errno::ENODEV => "finds no device that it can drive",
        Errno::ENOEXEC => "is no module for this kernel",
        Errno::ENOENT => "needs symbols that no loaded module has",
        Errno::EKEYREJECTED | Errno::ENOKEY => "is not signed by a key that this kernel trusts",
        Errno::ENOMEM => "does not fit into memory",
        other => other.desc(),
    };
    format!("{words} ({error:?})")
}

#[cfg(test)]
mod tests;

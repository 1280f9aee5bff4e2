//! Devices to aliases, aliases to modules, modules to the kernel, until nothing happens any more.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use boot_bundle::{LoadStep, Lookup};

use super::arguments::ModuleArguments;
use super::catalog::{Catalog, InitrdCatalog, ObjectSource};
use super::loader::{Announce, Insert, JobStep, LoadState, Loader};
use super::root::Root;
use super::settle::{Next, Settle};
use super::uevent::{EventSource, Received, Uevent, coldplug};

/// After so many lost event buffers in one probe something floods us, and asking again makes it worse.
const OVERRUNS_MAX: u32 = 5;

/// Buses whose devices bring in nothing that a deployment needs: processors have aliases of ciphers and of
/// power drivers. Ciphers come by the soft dependencies of who uses them.
const LEFT_OUT_BUSES: [&str; 1] = ["cpu:"];

/// Whether devices with this alias are passed over.
pub(crate) fn is_left_out(alias: &str) -> bool {
    LEFT_OUT_BUSES.iter().any(|bus| alias.starts_with(bus))
}

/// What a probe did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Devices that the kernel told of in this probe.
    pub(crate) devices: usize,
    /// All modules that are loaded by now.
    pub(crate) loaded: Vec<String>,
    /// Modules that could not be loaded, with reasons.
    pub(crate) failed: Vec<(String, String)>,
    /// Modules that had not returned when the time was over.
    pub(crate) unfinished: Vec<String>,
    /// Modules that the kernel package has for devices of this machine, but the catalogue has not.
    pub(crate) not_in_bundle: Vec<String>,
    /// How long it took.
    pub(crate) took: Duration,
}

/// When a probe ends before its devices have settled, and what it may use.
#[derive(Clone, Copy)]
pub(crate) struct Terms<'a> {
    /// The latest end.
    pub(crate) deadline: Instant,
    /// What is waited for, if anything, is there.
    pub(crate) found: &'a dyn Fn() -> bool,
    /// Where modules are fetched that are not in the initrd.
    pub(crate) objects: Option<&'a dyn ObjectSource>,
}

impl Terms<'_> {
    /// Nothing particular is waited for.
    pub(crate) fn until(deadline: Instant) -> Self {
        Self { deadline, found: &|| false, objects: None }
    }
}

/// Everything that a probe needs.
pub(crate) struct Engine {
    root: Root,
    events: Box<dyn EventSource>,
    loader: Loader,
    catalog: Box<dyn Catalog>,
    arguments: ModuleArguments,
    denied: BTreeSet<String>,
    /// Aliases that were looked up in this catalogue.
    seen: HashSet<String>,
    not_in_bundle: BTreeSet<String>,
    devices: usize,
}

impl Engine {
    /// Begins with the initrd's modules.
    pub(crate) fn start(
        root: Root,
        events: Box<dyn EventSource>,
        insert: Arc<Insert>,
        announce: Arc<Announce>,
    ) -> Result<Self> {
        let catalog = Box::new(InitrdCatalog::open(&root)?);
        let command_line = std::fs::read_to_string(root.at("proc/cmdline")).unwrap_or_default();
        Ok(Self {
            root,
            events,
            loader: Loader::start(insert, announce).context("starting threads that load modules")?,
            catalog,
            arguments: ModuleArguments::parse(&command_line),
            denied: BTreeSet::new(),
            seen: HashSet::new(),
            not_in_bundle: BTreeSet::new(),
            devices: 0,
        })
    }

    /// Takes modules from here from now on, but never those that are denied.
    pub(crate) fn use_catalog(&mut self, catalog: Box<dyn Catalog>, deny: &[String]) {
        self.catalog = catalog;
        self.denied = deny.iter().map(|name| name.replace('-', "_")).collect();
        self.seen.clear();
        self.not_in_bundle.clear();
    }

    /// The catalogue in use.
    pub(crate) fn catalog(&self) -> &dyn Catalog {
        self.catalog.as_ref()
    }

    /// Every module that was asked for.
    pub(crate) fn states(&self) -> BTreeMap<String, LoadState> {
        self.loader.states()
    }

    /// Asks the kernel for all its devices and loads what they need.
    pub(crate) fn probe(&mut self, terms: Terms<'_>) -> Result<Summary> {
        self.devices = 0;
        let begun = Instant::now();
        let asked = coldplug(&self.root);
        tracing::debug!("asked for {asked} devices");
        self.settle(terms)?;
        Ok(self.summary(begun.elapsed()))
    }

    /// Follows events until nothing happens any more, or as the terms say.
    pub(crate) fn settle(&mut self, terms: Terms<'_>) -> Result<()> {
        let mut settle = Settle::new(Instant::now(), terms.deadline);
        let mut overruns = 0;
        loop {
            let wait = match settle.next(Instant::now(), self.loader.unfinished().len()) {
                Next::Wait(wait) => wait,
                Next::Settled => return Ok(()),
                Next::GivenUp => {
                    self.warn_of_unfinished();
                    return Ok(());
                }
            };
            match self.events.receive(wait).context("reading device events")? {
                Received::Event(event) => {
                    if self.handle(&event, terms.objects) {
                        settle.changed(Instant::now());
                    }
                    if event.subsystem == "net" && (terms.found)() {
                        return Ok(());
                    }
                }
                Received::Overrun if overruns < OVERRUNS_MAX => {
                    overruns += 1;
                    tracing::warn!("device events were lost; asking for all devices again");
                    coldplug(&self.root);
                    settle.changed(Instant::now());
                }
                Received::Overrun => tracing::warn!("device events are lost again and again"),
                Received::Nothing => {
                    if (terms.found)() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Whether the event is of a device, not of a module that we load.
    fn handle(&mut self, event: &Uevent, objects: Option<&dyn ObjectSource>) -> bool {
        if event.subsystem == "module" || event.subsystem == "drivers" {
            return false;
        }
        if event.action == "add" {
            self.devices += 1;
            for alias in &event.aliases {
                if self.seen.insert(alias.clone()) && !is_left_out(alias) {
                    self.request_alias(alias, objects);
                }
            }
        }
        true
    }

    /// Loads what `name`, a module or an alias, leads to; the command line's blacklist has no say.
    pub(crate) fn request(&mut self, name: &str, objects: Option<&dyn ObjectSource>) {
        for module in self.modules_of(name) {
            self.load(&module, objects);
        }
    }

    fn request_alias(&mut self, alias: &str, objects: Option<&dyn ObjectSource>) {
        for module in self.modules_of(alias) {
            if self.arguments.is_blacklisted(&module) {
                tracing::info!("module {module} is blacklisted on the kernel command line");
            } else if self.catalog.index().contains(&module) {
                self.load(&module, objects);
            } else {
                self.not_in_bundle.insert(module);
            }
        }
    }

    fn modules_of(&self, name: &str) -> Vec<String> {
        match self.catalog.index().lookup(name) {
            Lookup::Modules(modules) => modules.into_iter().map(str::to_owned).collect(),
            Lookup::Builtin | Lookup::Unknown => Vec::new(),
        }
    }

    /// Hands a module and what it needs to the workers, unless that was done.
    fn load(&mut self, module: &str, objects: Option<&dyn ObjectSource>) {
        if matches!(self.loader.state(module), Some(state) if !matches!(state, LoadState::Failed(_))) {
            return;
        }
        let Some(order) = self.catalog.index().load_order(module) else { return };
        if let Some(denied) = order.iter().find(|step| step.required && self.denied.contains(step.module)) {
            self.loader.note(module, LoadState::Failed(format!("{} is denied by the server", denied.module)));
            return;
        }
        let mut steps = Vec::new();
        // What a module can do without, and what failed before, is not fetched again for every module.
        let in_vain = |module: &str| matches!(self.loader.state(module), Some(LoadState::Failed(_)));
        let wanted = |step: &&LoadStep<'_>| {
            !self.denied.contains(step.module) && (step.required || !in_vain(step.module))
        };
        for step in order.iter().filter(wanted) {
            match self.image(step.module, objects) {
                Ok(image) => {
                    steps.push(JobStep { module: step.module.to_owned(), required: step.required, image });
                }
                Err(error) => {
                    let reason = format!("{error:#}");
                    tracing::warn!("module {}: {reason}", step.module);
                    self.loader.note(step.module, LoadState::Failed(reason));
                    if step.required {
                        if step.module != module {
                            self.loader.note(module, LoadState::Failed(format!("needs {}", step.module)));
                        }
                        return;
                    }
                }
            }
        }
        self.loader.submit(steps);
    }

    /// The bytes of a module that nobody has loaded or asked for, else nothing.
    fn image(&self, module: &str, objects: Option<&dyn ObjectSource>) -> Result<Option<(Vec<u8>, String)>> {
        if matches!(self.loader.state(module), Some(state) if !matches!(state, LoadState::Failed(_))) {
            return Ok(None);
        }
        if self.root.has_module(module) {
            self.loader.note(module, LoadState::Loaded);
            return Ok(None);
        }
        let image = self.catalog.module(module, objects)?;
        Ok(Some((image, self.arguments.parameters(module).to_owned())))
    }

    /// Whether all these modules or aliases are loaded or built in.
    pub(crate) fn check_loaded(&self, names: &[&str]) -> Result<()> {
        for name in names {
            let modules = match self.catalog.index().lookup(name) {
                Lookup::Builtin => continue,
                Lookup::Unknown if self.root.has_module(&name.replace('-', "_")) => continue,
                Lookup::Unknown => bail!("the boot bundle has no module {name}"),
                Lookup::Modules(modules) => modules,
            };
            for module in modules {
                match self.loader.state(module) {
                    Some(LoadState::Loaded) => {}
                    Some(LoadState::Failed(reason)) => bail!("module {module}: {reason}"),
                    Some(LoadState::Queued | LoadState::Loading) => {
                        bail!("module {module} hangs while it loads")
                    }
                    None => bail!("the boot bundle has no module {module}"),
                }
            }
        }
        Ok(())
    }

    fn warn_of_unfinished(&self) {
        let unfinished = self.loader.unfinished();
        if !unfinished.is_empty() {
            tracing::warn!("these modules have not finished loading: {}", unfinished.join(", "));
        }
    }

    fn summary(&self, took: Duration) -> Summary {
        let mut summary = Summary {
            devices: self.devices,
            not_in_bundle: self.not_in_bundle.iter().cloned().collect(),
            took,
            ..Summary::default()
        };
        for (module, state) in self.loader.states() {
            match state {
                LoadState::Loaded => summary.loaded.push(module),
                LoadState::Failed(reason) => summary.failed.push((module, reason)),
                LoadState::Queued | LoadState::Loading => summary.unfinished.push(module),
            }
        }
        summary
    }
}

#[cfg(test)]
mod tests;

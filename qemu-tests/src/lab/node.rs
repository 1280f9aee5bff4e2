//! One machine of a lab with what its server and its console say of it.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use node_api::{FirmwareKind, Stage};
use tokio::time::{Instant, sleep};

use super::{Neighbour, Shared};
use crate::admin::node::{Failure, NodeView};
use crate::console::{Console, Output, Shell};
use crate::disk::{Bus, Disk, DiskSpec, MountedPartition};
use crate::image::ROOT_PASSWORD;
use crate::net::Network;
use crate::packets::Recorder;
use crate::vm::{Machine, MachineSpec, Nic};

/// From power to any point of one boot. PXE takes 20 to 40 s under TCG, an OVMF that tries other protocols
/// first 120 s; two machines share two cores.
pub(super) const BOOT_MAX: Duration = Duration::from_secs(240);
/// From `fetch` to the finished installation.
pub(super) const INSTALL_MAX: Duration = Duration::from_secs(480);
/// From `installed` to a login prompt: the node may go on seeding for five minutes before it boots.
const LOGIN_MAX: Duration = Duration::from_secs(600);
/// One command on an installed node; update-grub takes an emulated processor 14 s.
const COMMAND_MAX: Duration = Duration::from_secs(120);
/// `systemctl is-system-running --wait` on a node that boots for the first time.
const SETTLED_MAX: Duration = Duration::from_secs(180);
/// Asks an installed system for its address.
const ADDRESS: &str = "ip -4 -o address show scope global | awk '{print $4; exit}' | cut -d/ -f1";
/// How often the server is asked.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// What stories boot by default: enough for the image in memory and the agent.
const DEFAULT_MEMORY_MIB: u32 = 2048;

/// A machine being described.
#[derive(Debug)]
pub struct NodeBuilder {
    shared: Arc<Shared>,
    network: Arc<Network>,
    spec: MachineSpec,
    data: Option<String>,
}

impl NodeBuilder {
    pub(super) fn new(shared: Arc<Shared>, name: &str, mac: [u8; 6]) -> Self {
        let spec = MachineSpec {
            name: name.to_owned(),
            firmware: FirmwareKind::Bios,
            secure_boot: false,
            nic: Nic::E1000,
            mac,
            memory_mib: DEFAULT_MEMORY_MIB,
            processors: 2,
            disks: Vec::new(),
            network_first: false,
            words: Vec::new(),
        };
        let network = Arc::clone(&shared.network);
        Self { shared, network, spec, data: None }
    }

    /// PC BIOS or UEFI.
    #[must_use]
    pub fn firmware(mut self, firmware: FirmwareKind) -> Self {
        self.spec.firmware = firmware;
        self
    }

    /// UEFI with Secure Boot and Microsoft's keys, on a card without ROM.
    #[must_use]
    pub fn secure_boot(mut self) -> Self {
        self.spec.secure_boot = true;
        self.firmware(FirmwareKind::Uefi).nic(Nic::Virtio)
    }

    /// Another hardware address than the lab's next; unicast. UUID and serial number follow from it.
    #[must_use]
    pub fn mac(mut self, mac: [u8; 6]) -> Self {
        self.spec.mac = mac;
        self
    }

    /// The card that it boots from.
    #[must_use]
    pub fn nic(mut self, nic: Nic) -> Self {
        self.spec.nic = nic;
        self
    }

    /// Main memory.
    #[must_use]
    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.spec.memory_mib = memory_mib;
        self
    }

    /// Plugs it into the network that a neighbour is the router of.
    #[must_use]
    pub fn behind(mut self, router: &Neighbour) -> Self {
        self.network = Arc::clone(router.network());
        self
    }

    /// Under UEFI too the card comes before the disks; PC BIOS does so anyway.
    #[must_use]
    pub fn network_first(mut self) -> Self {
        self.spec.network_first = true;
        self
    }

    /// More words for QEMU's command line.
    #[must_use]
    pub fn words(mut self, words: &[&str]) -> Self {
        self.spec.words.extend(words.iter().map(|&word| word.to_owned()));
        self
    }

    /// One more disk; its serial number is `NAME-0`, `NAME-1`, and so on.
    #[must_use]
    pub fn disk(mut self, bus: Bus, size_bytes: u64) -> Self {
        let serial = format!("{}-{}", self.spec.name, self.spec.disks.len());
        self.spec.disks.push(DiskSpec { bus, size_bytes, serial });
        self
    }

    /// Puts somebody's data on every disk.
    #[must_use]
    pub fn with_data(mut self, text: &str) -> Self {
        self.data = Some(text.to_owned());
        self
    }

    /// Makes the machine; the power stays off.
    ///
    /// # Errors
    /// Its files or its tap cannot be made.
    pub fn build(self) -> Result<Node> {
        let machine = Machine::new(self.spec, &self.shared.session, &self.network)?;
        if let Some(text) = self.data {
            machine.disks().iter().try_for_each(|disk| disk.put_data(&text))?;
        }
        Ok(Node { machine, said: Mutex::new(None), network: self.network, shared: self.shared })
    }

    /// Makes the machine and switches it on.
    ///
    /// # Errors
    /// As [`Self::build`], or QEMU refuses it.
    pub fn power_on(self) -> Result<Node> {
        let node = self.build()?;
        node.power_on()?;
        Ok(node)
    }
}

/// A machine of a lab.
#[derive(Debug)]
pub struct Node {
    machine: Machine,
    said: Mutex<Option<Stage>>,
    network: Arc<Network>,
    shared: Arc<Shared>,
}

impl Node {
    /// Switches it on.
    ///
    /// # Errors
    /// It is on already, or QEMU refuses it.
    pub fn power_on(&self) -> Result<&Self> {
        self.note("power on");
        self.machine.console().starts_anew();
        self.machine.power_on(&self.shared.session, &self.network)?;
        Ok(self)
    }

    /// Pulls the plug.
    ///
    /// # Errors
    /// It is off.
    pub fn cut_power(&self) -> Result<&Self> {
        self.note("power cut");
        self.machine.cut_power()?;
        Ok(self)
    }

    /// Takes one of its disks out while it is off.
    ///
    /// # Errors
    /// It is on, or has fewer disks.
    pub fn pull_disk(&self, number: usize) -> Result<&Self> {
        self.note(&format!("disk {number} is pulled"));
        self.machine.pull_disk(number)?;
        Ok(self)
    }

    /// Begins to record what goes over its wire.
    ///
    /// # Errors
    /// Its port cannot be listened at.
    pub fn record(&self) -> Result<Recorder> {
        Recorder::start(self.network.namespace(), self.machine.tap())
    }

    /// Presses the reset button.
    ///
    /// # Errors
    /// It is off.
    pub fn reset(&self) -> Result<&Self> {
        self.note("reset");
        self.machine.console().starts_anew();
        self.machine.reset()?;
        Ok(self)
    }

    /// The machine itself.
    #[must_use]
    pub const fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Its serial console.
    #[must_use]
    pub const fn console(&self) -> &Console {
        self.machine.console()
    }

    /// Its disk number `number`.
    ///
    /// # Errors
    /// It has fewer.
    pub fn disk(&self, number: usize) -> Result<&Disk> {
        self.machine.disks().get(number).context("the machine has fewer disks")
    }

    /// Mounts the partition of this name of disk number `number`, read-only. The machine must be off.
    ///
    /// # Errors
    /// The machine is on, there is no such disk or partition, or it was not unmounted cleanly.
    pub fn looks_into(&self, number: usize, partition: &str) -> Result<MountedPartition> {
        ensure!(!self.machine.is_on(), "{} is on and writes its disks itself", self.name());
        let place = self.machine.dir().join(format!("{number}-{partition}"));
        self.shared.session.owns_mount(&place)?;
        self.disk(number)?.mount(partition, &place)
    }

    /// Waits until the machine has switched itself off.
    ///
    /// # Errors
    /// It takes longer than a boot.
    pub async fn switches_itself_off(&self) -> Result<&Self> {
        let until = Instant::now() + BOOT_MAX;
        while self.machine.is_on() {
            self.still_time(until, "switch itself off")?;
            sleep(ASK_EVERY).await;
        }
        self.note("switched itself off");
        Ok(self)
    }

    /// Waits until the node is in `stage` or beyond.
    ///
    /// # Errors
    /// It fails before, or does not come so far in the time of a boot.
    pub async fn reaches(&self, stage: Stage) -> Result<&Self> {
        self.reaches_within(stage, BOOT_MAX).await
    }

    /// As [`Self::reaches`] with another limit.
    ///
    /// # Errors
    /// It fails before, or does not come so far in time.
    pub async fn reaches_within(&self, stage: Stage, within: Duration) -> Result<&Self> {
        let until = Instant::now() + within;
        loop {
            let view = self.view().await?;
            let reached = match &view {
                Some(view) => view.has_reached(stage),
                // No server: the console knows too.
                None => self.stage_on_console().is_some_and(|now| now >= stage && now < Stage::Failed),
            };
            if reached {
                return Ok(self);
            }
            if let Some(failure) = view.and_then(|view| view.failure) {
                bail!("{} failed in {} instead of reaching {stage}: {failure}", self.name(), failure.stage);
            }
            self.still_time(until, &format!("reach {stage}"))?;
            sleep(ASK_EVERY).await;
        }
    }

    /// Waits until at least this share of the image is fetched, and returns how much it was when seen.
    ///
    /// # Errors
    /// The node fails, or does not come so far in time.
    pub async fn fetches(&self, share: f64) -> Result<f64> {
        self.reaches(Stage::Fetch).await?;
        let fetched = |view: &NodeView| {
            let now = if view.has_reached(Stage::Verify) { 1.0 } else { view.done_share() };
            (now >= share).then_some(now)
        };
        self.is_seen_to("fetch", fetched).await
    }

    /// Waits until the server knows that the node is installed.
    ///
    /// # Errors
    /// It fails, or takes longer than [`INSTALL_MAX`].
    pub async fn is_installed(&self) -> Result<NodeView> {
        let installed = |view: &NodeView| view.is_installed().then(|| view.clone());
        let view = self.is_seen_to("be installed", installed).await?;
        self.note("installed");
        Ok(view)
    }

    /// Waits until a stage of the node fails, and checks that its console says so too.
    ///
    /// # Errors
    /// Nothing fails in time, or the console is silent about it.
    pub async fn stops(&self) -> Result<Failure> {
        let until = Instant::now() + BOOT_MAX;
        loop {
            if let Some(failure) = self.view().await?.and_then(|view| view.failure) {
                self.note(&format!("stops in {}: {failure}", failure.stage));
                let text = self.console().text();
                ensure!(text.contains(&failure.message), "the console does not say `{}`", failure.message);
                return Ok(failure);
            }
            self.still_time(until, "stop")?;
            sleep(ASK_EVERY).await;
        }
    }

    /// Waits for the login prompt of the installed system, logs in on the serial console, and waits until the
    /// system has settled.
    ///
    /// # Errors
    /// No prompt in the time of a boot, no shell, or the system is of another distribution than `distribution`
    /// (`debian-12`: `ID-VERSION_ID` of os-release).
    pub async fn boots_into(&self, distribution: &str) -> Result<InstalledSystem> {
        let shell = self.console().log_in("root", ROOT_PASSWORD, LOGIN_MAX).await;
        let mut system =
            InstalledSystem { shell: shell.with_context(|| format!("booting {}", self.name()))? };
        // What the kernel says on the console would stand in the middle of what commands print.
        system.text_of("dmesg --console-off").await?;
        let found = system.text_of(". /etc/os-release; echo $ID-$VERSION_ID").await?;
        ensure!(found == distribution, "{} runs {found}, not {distribution}", self.name());
        self.note(&format!("login prompt of {found}"));
        Ok(system)
    }

    /// Checks on the console that the firmware asked the network, was told to boot its own disk, and did, since the
    /// machine was last switched on.
    ///
    /// # Errors
    /// The console shows no such thing; the error quotes it.
    pub fn tried_the_network_before_its_disk(&self) -> Result<()> {
        let text = self.console().text_since_power_on();
        let network = text.find("boot.ipxe");
        let disk = text.find("GRUB");
        ensure!(
            network.is_some() && network < disk,
            "{} did not try the network before its disk; its console began:\n{}",
            self.name(),
            text.lines().take(40).collect::<Vec<_>>().join("\n")
        );
        Ok(())
    }

    /// What the server knows of the node; `None` before it has seen it, or while no server answers.
    ///
    /// # Errors
    /// The server answers nonsense.
    pub async fn view(&self) -> Result<Option<NodeView>> {
        let Ok(nodes) = self.shared.server.admin().nodes().await else { return Ok(None) };
        let mac = self.machine.spec().mac_text();
        let view = nodes.into_iter().find(|node| node.macs.contains(&mac));
        if let Some(view) = &view {
            self.note_stage(view);
        }
        Ok(view)
    }

    /// The newest stage that the agent named on the console since the machine was switched on: `esir: [fetch] ...`.
    #[must_use]
    pub fn stage_on_console(&self) -> Option<Stage> {
        let text = self.console().text_since_power_on();
        let named = |line: &str| line.split_once("esir: [")?.1.split_once(']')?.0.parse().ok();
        text.lines().rev().find_map(named)
    }

    /// The name that the server gave the node.
    ///
    /// # Errors
    /// The server has not seen it.
    pub async fn name_at_server(&self) -> Result<String> {
        let view = self.view().await?;
        Ok(view.with_context(|| format!("the server has not seen {}", self.name()))?.name)
    }

    /// Its name in the lab.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.machine.spec().name
    }

    /// Waits until the server's view of the node holds what is `wanted`, at most [`INSTALL_MAX`].
    async fn is_seen_to<T>(&self, what: &str, wanted: impl Fn(&NodeView) -> Option<T>) -> Result<T> {
        let until = Instant::now() + INSTALL_MAX;
        loop {
            if let Some(view) = self.view().await? {
                if let Some(found) = wanted(&view) {
                    return Ok(found);
                }
                if let Some(failure) = view.failure {
                    bail!("{} failed in {}: {failure}", self.name(), failure.stage);
                }
            }
            self.still_time(until, what)?;
            sleep(ASK_EVERY).await;
        }
    }

    fn still_time(&self, until: Instant, what: &str) -> Result<()> {
        let (name, on) = (self.name(), if self.machine.is_on() { "" } else { " (it is off)" });
        if Instant::now() >= until {
            let console = self.machine.console_tail(25);
            let server = self.shared.server.log_tail(15);
            bail!(
                "{name}{on} did not {what} in time; its console ends:\n{console}\nthe server's log ends:\n{server}"
            );
        }
        Ok(())
    }

    fn note(&self, text: &str) {
        self.shared.note(&format!("{}: {text}", self.name()));
    }

    fn note_stage(&self, view: &NodeView) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if *said != view.stage {
            *said = view.stage;
            if let Some(stage) = view.stage {
                self.note(stage.word());
            }
        }
    }
}

/// The system that a node runs from its own disk, through a root shell on the serial console.
#[derive(Debug)]
pub struct InstalledSystem {
    shell: Shell,
}

impl InstalledSystem {
    /// What a command that must succeed prints.
    ///
    /// # Errors
    /// It fails or does not end.
    pub async fn text_of(&mut self, command: &str) -> Result<String> {
        self.shell.text_of(command, COMMAND_MAX).await
    }

    /// Its address on the lab's network.
    ///
    /// # Errors
    /// It has none.
    pub async fn address(&mut self) -> Result<Ipv4Addr> {
        let address = self.text_of(ADDRESS).await?;
        address.parse().with_context(|| format!("the system has the address {address:?}"))
    }

    /// Runs a command.
    ///
    /// # Errors
    /// It does not end.
    pub async fn run(&mut self, command: &str) -> Result<Output> {
        self.shell.run(command, COMMAND_MAX).await
    }

    /// Waits until every unit has started.
    ///
    /// # Errors
    /// A unit failed; the error names it.
    pub async fn has_settled(&mut self) -> Result<()> {
        let said = self.shell.run("systemctl is-system-running --wait", SETTLED_MAX).await?.text;
        // Before it comes what services, such as cloud-init, say on the console meanwhile.
        let state = said.lines().last().unwrap_or_default();
        if state != "running" {
            let failed = self.text_of("systemctl --failed --plain --no-legend").await?;
            bail!("the system is {state}: {failed}");
        }
        Ok(())
    }

    /// Shuts the system down; the machine switches itself off after that.
    ///
    /// # Errors
    /// The shell does not answer.
    pub async fn shuts_down(mut self) -> Result<()> {
        // Begun a moment later: the shell has to answer first.
        self.text_of("( { sleep 1; systemctl poweroff; } >/dev/null 2>&1 & )").await.map(drop)
    }
}

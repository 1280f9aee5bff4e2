//! The two machines of the demo, and who lives in them afterwards.
//!
//! Never believes the server alone: an installed system is asked on its own console and over ssh.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use node_api::Stage;
use serde::Serialize;

use crate::FirmwareKind;
use crate::disk::{Bus, gib};
use crate::image::TestImage;
use crate::lab::{InstalledSystem, Lab, Node};
use crate::report::{DeployReport, NodeReport};
use crate::vm::Nic;

/// Root of an installed system: serial number of its disk.
const ROOT_DISK: &str = "lsblk -dno SERIAL /dev/$(lsblk -no PKNAME $(findmnt -no SOURCE /))";
/// Public host keys, sorted, without comments.
const HOST_KEYS: &str = "cat /etc/ssh/ssh_host_*_key.pub | cut -d' ' -f1,2 | sort";
const FIRMWARE: &str = "test -d /sys/firmware/efi && echo uefi || echo bios";

/// Rate of the server's and of each machine's link, Mbit/s. An emulated machine takes 5 to 7 MB/s; as on real
/// hardware the links, and not the processors, have to be what is shared, or the server alone outruns everybody.
pub const LINK_MBIT_S: u32 = 50;

/// A = PC BIOS, e1000, SATA; B = UEFI, virtio, `NVMe`. Both disks are empty.
#[derive(Debug)]
pub struct Couple {
    nodes: [Node; 2],
}

impl Couple {
    /// Makes both machines and switches them on.
    ///
    /// # Errors
    /// QEMU refuses one of them.
    pub fn power_on(lab: &Lab) -> Result<Self> {
        let a = lab.node("a").firmware(FirmwareKind::Bios).nic(Nic::E1000).disk(Bus::Ahci, gib(8));
        let b = lab.node("b").firmware(FirmwareKind::Uefi).nic(Nic::Virtio).disk(Bus::Nvme, gib(8));
        Ok(Self { nodes: [a.power_on()?, b.power_on()?] })
    }

    /// A and B.
    #[must_use]
    pub const fn nodes(&self) -> [&Node; 2] {
        let [a, b] = &self.nodes;
        [a, b]
    }
}

/// Powers both machines on, approves them together, and does not believe in success before both systems said so
/// themselves, before and after a power cycle.
///
/// # Errors
/// Anything that is not as it must be; times and shares are only reported.
pub async fn deploy_couple(lab: &Lab, image: &TestImage) -> Result<DeployReport> {
    let powered_on = Instant::now();
    let couple = Couple::power_on(lab)?;
    lab.network().limit_links_mbit_s(LINK_MBIT_S)?;
    let [a, b] = couple.nodes();
    let (a_waits, b_waits) = tokio::join!(a.reaches(Stage::Await), b.reaches(Stage::Await));
    a_waits.and(b_waits)?;
    lab.approve(&[a, b]).await?;
    let (a_done, b_done) = tokio::join!(a.is_installed(), b.is_installed());
    a_done.and(b_done)?;
    let residents = Residents::meet(lab, &couple, image).await?;
    residents.are_two_servers_of_their_own()?;
    let total_s = powered_on.elapsed().as_secs_f64();

    let cycled = Instant::now();
    for node in [a, b] {
        node.cut_power()?.power_on()?;
    }
    let again = Residents::meet(lab, &couple, image).await.context("after a power cycle")?;
    ensure!(again == residents, "after a power cycle the nodes are others: {residents:?} then {again:?}");
    let power_cycle_s = cycled.elapsed().as_secs_f64();

    let mut rows = Vec::new();
    for (node, resident) in [a, b].into_iter().zip(residents.0) {
        node.tried_the_network_before_its_disk()?;
        let view = lab.server().admin().node(&node.name_at_server().await?).await?;
        rows.push(NodeReport::new(resident, &view));
    }
    let image_bytes = fs::metadata(&image.image).context("looking at the image")?.len();
    Ok(DeployReport::new(image_bytes, total_s, power_cycle_s, rows))
}

/// What makes an installed system somebody, as it says itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Resident {
    /// Name of the machine in the lab.
    pub machine: String,
    /// `hostname`
    pub hostname: String,
    /// `/etc/machine-id`
    pub machine_id: String,
    /// Public SSH host keys, sorted.
    pub host_keys: Vec<String>,
    /// Serial number of the disk that holds `/`.
    pub root_disk: String,
    /// `bios` or `uefi`.
    pub firmware: String,
    /// `uname -r`
    pub kernel: String,
}

/// Who lives in the two machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Residents(pub Vec<Resident>);

impl Residents {
    /// Waits for both login prompts, waits until both systems have settled, and asks who they are: on the serial
    /// console, and over ssh with the host keys that the server was told.
    ///
    /// # Errors
    /// A system does not come up, has failed units, or shows other host keys than reported.
    pub async fn meet(lab: &Lab, couple: &Couple, image: &TestImage) -> Result<Self> {
        let [a, b] = couple.nodes();
        let (a, b) = tokio::join!(meet(lab, a, image), meet(lab, b, image));
        Ok(Self(vec![a?, b?]))
    }

    /// Checks that nothing which must be a node's own is shared, and that each runs from its own disk.
    ///
    /// # Errors
    /// Names what is shared or wrong.
    pub fn are_two_servers_of_their_own(&self) -> Result<()> {
        let [a, b] = self.0.as_slice() else { anyhow::bail!("there are {} of two", self.0.len()) };
        ensure!(a.hostname != b.hostname, "both are called {}", a.hostname);
        ensure!(a.machine_id != b.machine_id, "both have machine-id {}", a.machine_id);
        ensure!(a.host_keys.iter().all(|key| !b.host_keys.contains(key)), "they share a host key");
        for (resident, firmware) in [(a, "bios"), (b, "uefi")] {
            let Resident { machine, root_disk, .. } = resident;
            ensure!(*root_disk == format!("{machine}-0"), "{machine} runs from disk {root_disk}");
            ensure!(resident.firmware == firmware, "{machine} was started by {}", resident.firmware);
            ensure!(resident.machine_id.len() == 32, "{machine} has machine-id {}", resident.machine_id);
            ensure!(!resident.host_keys.is_empty(), "{machine} has no host keys");
        }
        Ok(())
    }
}

async fn meet(lab: &Lab, node: &Node, image: &TestImage) -> Result<Resident> {
    let mut system = node.boots_into("debian-12").await?;
    system.has_settled().await.with_context(|| format!("on {}", node.name()))?;
    let resident = ask(node, &mut system).await.with_context(|| format!("asking {}", node.name()))?;
    let address = system.address().await.with_context(|| format!("asking {}", node.name()))?;
    let over_ssh = ask_over_ssh(lab, node, address, image).await?;
    ensure!(
        over_ssh == resident.kernel,
        "{} runs {} but says {over_ssh} over ssh",
        node.name(),
        resident.kernel
    );
    lab.note(&format!("{}: settled, and reached over ssh as {}", node.name(), resident.hostname));
    Ok(resident)
}

async fn ask(node: &Node, system: &mut InstalledSystem) -> Result<Resident> {
    Ok(Resident {
        machine: node.name().to_owned(),
        hostname: system.text_of("hostname").await?,
        machine_id: system.text_of("cat /etc/machine-id").await?,
        host_keys: system.text_of(HOST_KEYS).await?.lines().map(str::to_owned).collect(),
        root_disk: system.text_of(ROOT_DISK).await?.trim().to_owned(),
        firmware: system.text_of(FIRMWARE).await?,
        kernel: system.text_of("uname -r").await?,
    })
}

async fn ask_over_ssh(lab: &Lab, node: &Node, address: Ipv4Addr, image: &TestImage) -> Result<String> {
    let view = node.view().await?.context("the server does not answer")?;
    ensure!(!view.host_keys().is_empty(), "the server knows no host keys of {}", node.name());
    lab.ssh(&image.ssh_key, address, view.host_keys(), "uname -r").await
}

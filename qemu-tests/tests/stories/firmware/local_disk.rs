//! The server says "your own disk", and that is what comes up.

use std::time::Duration;

use anyhow::Result;
use qemu_tests::{Bus, FirmwareKind, Lab, Nic, Node, mib};

use super::{MEMORY_MIB, is_as_kept, lab, names};

const BIOS: (&str, &str) =
    ("local-bios", "SeaBIOS, a menu whose time is over: its default is the local disk");
const UEFI: (&str, &str) = (
    "local-uefi",
    "OVMF, the local disk without a menu: `exit 1` goes on to HTTP boot, which is not answered, then to the disk",
);
/// What the program on the disk says.
const SAID: &str = "ESIR-TEST: this is the local disk";
/// From power to the disk: PXE, a menu's seconds, and under UEFI HTTP boot as well.
const BOOT_MAX: Duration = Duration::from_secs(240);
/// Three seconds for the menu; the agent, if the default were not obeyed.
const MENU: &str = "
    [entry.disk]
    title = 'Boot from the local disk'
    local = 'auto'
    [entry.hardware]
    title = 'Report the hardware'
    inventory = true
    [menu.main]
    title = 'Lab'
    timeout = 3
    default = 'disk'
    items = ['hardware', 'disk']
    [default]
    menu = 'main'
";
const NO_MENU: &str = "
    [entry.disk]
    title = 'Boot from the local disk'
    local = 'auto'
    [default]
    boot = 'disk'
";
/// Without IPv6, which nobody answers here, for whole minutes.
const IPV4_ONLY: [&str; 4] = [
    "-fw_cfg",
    "name=opt/org.tianocore/IPv6PXESupport,string=n",
    "-fw_cfg",
    "name=opt/org.tianocore/IPv6Support,string=n",
];

pub(crate) async fn bios() -> Result<()> {
    let lab = lab(MENU).await?;
    let node = lab.node("local-bios").firmware(FirmwareKind::Bios).nic(Nic::E1000);
    let node = node.memory_mib(MEMORY_MIB).disk(Bus::Ahci, mib(64)).build()?;
    node.disk(0)?.boots_on_bios(SAID)?;
    boots_its_disk(&lab, &node, BIOS).await
}

pub(crate) async fn uefi() -> Result<()> {
    let lab = lab(NO_MENU).await?;
    let node = lab.node("local-uefi").firmware(FirmwareKind::Uefi).nic(Nic::Virtio).words(&IPV4_ONLY);
    let node = node.network_first().memory_mib(MEMORY_MIB).disk(Bus::VirtioBlk, mib(64)).build()?;
    node.disk(0)?.boots_on_uefi(SAID, node.machine().dir())?;
    boots_its_disk(&lab, &node, UEFI).await
}

async fn boots_its_disk(lab: &Lab, node: &Node, golden: (&str, &str)) -> Result<()> {
    let recorder = node.record()?;
    let booted = node.power_on()?.console().wait_for(&[SAID], BOOT_MAX).await.map(drop);
    is_as_kept(lab, recorder, golden, &names(node), booted)
}

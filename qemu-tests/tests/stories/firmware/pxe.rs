//! The ways that most machines go: iPXE in the card, UEFI's own PXE, and UEFI's HTTP boot.

use anyhow::Result;
use qemu_tests::{FirmwareKind, Nic};

use super::{MEMORY_MIB, lab, names, reaches_its_agent};

const IPXE_ROM: (&str, &str) = ("bios-ipxe-rom", "SeaBIOS, iPXE in the ROM of the network card (e1000)");
const UEFI_PXE: (&str, &str) = ("uefi-pxe", "OVMF's own PXE, on a network card without a ROM (virtio)");
const UEFI_HTTP: (&str, &str) = ("uefi-http", "OVMF's HTTP boot, on a network card without a ROM (virtio)");
/// OVMF tries PXE over IPv4 and IPv6 before HTTP, 60 s each; a person would change the order in its setup menu.
const HTTP_ONLY: [&str; 6] = [
    "-fw_cfg",
    "name=opt/org.tianocore/IPv4PXESupport,string=n",
    "-fw_cfg",
    "name=opt/org.tianocore/IPv6PXESupport,string=n",
    "-fw_cfg",
    "name=opt/org.tianocore/IPv6Support,string=n",
];

pub(crate) async fn ipxe_rom() -> Result<()> {
    let lab = lab("").await?;
    let node = lab.node("ipxe-rom").firmware(FirmwareKind::Bios).nic(Nic::E1000);
    let node = node.memory_mib(MEMORY_MIB).build()?;
    reaches_its_agent(&lab, &node, IPXE_ROM, &names(&node)).await
}

pub(crate) async fn uefi() -> Result<()> {
    let lab = lab("").await?;
    let node = lab.node("uefi-pxe").firmware(FirmwareKind::Uefi).nic(Nic::Virtio);
    let node = node.memory_mib(MEMORY_MIB).build()?;
    reaches_its_agent(&lab, &node, UEFI_PXE, &names(&node)).await
}

pub(crate) async fn uefi_http() -> Result<()> {
    let lab = lab("").await?;
    let node = lab.node("uefi-http").firmware(FirmwareKind::Uefi).nic(Nic::Virtio).words(&HTTP_ONLY);
    let node = node.memory_mib(MEMORY_MIB).build()?;
    reaches_its_agent(&lab, &node, UEFI_HTTP, &names(&node)).await
}

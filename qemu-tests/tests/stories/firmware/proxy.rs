//! Another server gives the addresses; ours only says what to boot.

use std::net::Ipv4Addr;

use anyhow::Result;
use qemu_tests::lab::Neighbour;
use qemu_tests::{FirmwareKind, Lab, Nic};

use super::{MEMORY_MIB, lab, names, reaches_its_agent};

const WITH: (&str, &str) = (
    "proxy-4011",
    "OVMF's PXE beside dnsmasq, which gives the addresses: the file is asked for on port 4011",
);
const WITHOUT: (&str, &str) =
    ("proxy-direct", "OVMF's PXE beside dnsmasq, which gives the addresses: port 4011 is closed");
pub(super) const DNSMASQ: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
const LAST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 199);
/// Where firmware asks again.
const PXE_PORT: u16 = 4011;

pub(crate) async fn with_port_4011() -> Result<()> {
    boots_beside_dnsmasq("[dhcp]\nmode = 'proxy'\n", WITH, false).await
}

pub(crate) async fn without_port_4011() -> Result<()> {
    boots_beside_dnsmasq("[dhcp]\nmode = 'proxy'\nuefi_proxy = 'direct'\n", WITHOUT, true).await
}

/// The site's own DHCP server.
pub(super) async fn dnsmasq(lab: &Lab) -> Result<Neighbour> {
    let mut dnsmasq = lab.neighbour("dhcp", DNSMASQ)?;
    dnsmasq.gives_addresses(FIRST, LAST).await?;
    Ok(dnsmasq)
}

async fn boots_beside_dnsmasq(site: &str, golden: (&str, &str), port_is_closed: bool) -> Result<()> {
    let lab = lab(site).await?;
    let _dnsmasq = dnsmasq(&lab).await?;
    if port_is_closed {
        lab.network().drop_udp_to(PXE_PORT)?;
    }
    let node = lab.node("beside").firmware(FirmwareKind::Uefi).nic(Nic::Virtio);
    let node = node.memory_mib(MEMORY_MIB).build()?;
    reaches_its_agent(&lab, &node, golden, &names(&node).and(DNSMASQ, "dnsmasq")).await
}

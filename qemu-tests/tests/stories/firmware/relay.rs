//! A network behind a router: DHCP goes through its relay, everything else is routed.

use std::net::Ipv4Addr;

use anyhow::Result;
use qemu_tests::net::SERVER_ADDRESS;
use qemu_tests::{FirmwareKind, Nic};

use super::{MEMORY_MIB, lab, names, reaches_its_agent};

const GOLDEN: (&str, &str) = ("relay", "OVMF's PXE on a network behind a router with a DHCP relay");
const UPLINK: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 254);
/// The only address of the relayed network, so that the kept conversation shows that the machine got it.
const NODE: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 100);
const SITE: &str = "
    [[dhcp.subnet]]
    network = '10.78.0.0/24'
    pool = '10.78.0.100-10.78.0.100'
    router = '10.78.0.254'
";

pub(crate) async fn tell() -> Result<()> {
    let lab = lab(SITE).await?;
    let mut router = lab.router("router", UPLINK, INSIDE)?;
    router.relays_dhcp(INSIDE, SERVER_ADDRESS).await?;
    let node = lab.node("relayed").behind(&router).firmware(FirmwareKind::Uefi).nic(Nic::Virtio);
    let node = node.memory_mib(MEMORY_MIB).build()?;
    let names = names(&node).and(INSIDE, "router").and(NODE, "10.78.0.100");
    reaches_its_agent(&lab, &node, GOLDEN, &names).await
}

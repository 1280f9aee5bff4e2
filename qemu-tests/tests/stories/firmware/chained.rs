//! A card whose ROM knows PXE and nothing more gets iPXE by TFTP, and the script once that runs.
//!
//! No such ROM can be had for a virtual card: QEMU's are all iPXE. What tells iPXE from others are options 77 and 175
//! of its packets, so the bridge gives both another number on the way to the server until the machine has asked for its
//! first file. The server then sees a bare PXE ROM; what loads `undionly.kpxe` and what that builds on (UNDI) is still
//! the iPXE of the ROM, where a vendor's own code would be.

use anyhow::{Context as _, Result};
use qemu_tests::net::BRIDGE;
use qemu_tests::packets::{Names, Recorder};
use qemu_tests::{FirmwareKind, Lab, Nic, Stage};

use super::{MEMORY_MIB, is_as_kept, lab, names, proxy};

const ALONE: (&str, &str) = (
    "bios-undionly",
    "SeaBIOS, a ROM that says it is PXE only (its options 77 and 175 are 225 and 226 here), undionly.kpxe",
);
const PROXY: (&str, &str) = (
    "proxy-bios",
    "SeaBIOS, a ROM that says it is PXE only, beside dnsmasq, which gives the addresses: port 4011 is not asked",
);
/// Options 77 and 175 of the iPXE in the ROM begin 290 and 321 bytes into its DHCP packets, 8 bytes behind the UDP
/// header. The checksum goes, as IPv4 allows, since the payload changes.
const RULES: &str = "
    add table bridge vendor
    add set bridge vendor chained { type ether_addr; flags dynamic; }
    add chain bridge vendor rom { type filter hook prerouting priority 0; }
    add rule bridge vendor rom udp dport 69 add @chained { ether saddr }
    add rule bridge vendor rom ether saddr @chained accept
    add rule bridge vendor rom udp dport 67 @th,2384,8 77 @th,2384,8 set 225
    add rule bridge vendor rom udp dport 67 @th,2632,8 175 @th,2632,8 set 226
    add rule bridge vendor rom udp dport 67 udp checksum set 0
";

pub(crate) async fn alone() -> Result<()> {
    boots(&lab("").await?, ALONE, |names| names).await
}

/// What a bare ROM is told by a server that gives no addresses, and iPXE after it.
pub(crate) async fn beside_another_server() -> Result<()> {
    let lab = lab("[dhcp]\nmode = 'proxy'\n").await?;
    let _dnsmasq = proxy::dnsmasq(&lab).await?;
    boots(&lab, PROXY, |names| names.and(proxy::DNSMASQ, "dnsmasq")).await
}

async fn boots(lab: &Lab, golden: (&str, &str), named: impl Fn(Names) -> Names) -> Result<()> {
    lab.network().nft(RULES).context("disguising the ROM")?;
    let node = lab.node("bare-rom").firmware(FirmwareKind::Bios).nic(Nic::E1000);
    let node = node.memory_mib(MEMORY_MIB).build()?;
    // At the server's port: at the machine's own the packets are still as iPXE sent them.
    let recorder = Recorder::start(lab.network().namespace(), BRIDGE)?;
    let reached = node.power_on()?.reaches(Stage::Await).await.map(drop);
    is_as_kept(lab, recorder, golden, &named(names(&node)), reached)
}

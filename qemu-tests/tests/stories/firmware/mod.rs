//! From power-on to the agent's start, or to the local disk, on every kind of firmware, each with the conversation
//! that it takes.

mod chained;
mod grub;
mod local_disk;
mod menu;
mod proxy;
mod pxe;
mod relay;

use anyhow::{Context as _, Result};
use qemu_tests::console::keys::ENTER;
use qemu_tests::packets::{Names, Recorder};
use qemu_tests::{Console, Lab, LabOptions, Node, Stage};

use super::Story;

/// Enough for the agent and what it keeps in memory.
const MEMORY_MIB: u32 = 1024;

/// From this version of Linux on nftables reach beyond the first 255 bytes of a packet.
const REWRITING_KERNEL: [u32; 2] = [6, 2];

/// In the order of what they need.
pub(crate) const STORIES: [Story; 11] = [
    Story {
        name: "a BIOS machine boots by the iPXE in its network card",
        tell: || Box::pin(pxe::ipxe_rom()),
    },
    Story { name: "a UEFI machine boots by its firmware's own PXE", tell: || Box::pin(pxe::uefi()) },
    Story { name: "a UEFI machine boots over HTTP", tell: || Box::pin(pxe::uefi_http()) },
    Story {
        name: "a machine boots beside another DHCP server, by port 4011",
        tell: || Box::pin(proxy::with_port_4011()),
    },
    Story {
        name: "a machine boots beside another DHCP server where port 4011 is closed",
        tell: || Box::pin(proxy::without_port_4011()),
    },
    Story { name: "a machine boots behind a router with a DHCP relay", tell: || Box::pin(relay::tell()) },
    Story {
        name: "what is typed at a machine's menu decides what boots, behind a password too",
        tell: || Box::pin(menu::tell()),
    },
    Story {
        name: "a machine with Secure Boot asks for a password in GRUB's menu and boots what is behind it",
        tell: || Box::pin(grub::password()),
    },
    Story {
        name: "a machine whose GRUB knows HTTP loads kernel and initrd over it",
        tell: || Box::pin(grub::over_http()),
    },
    Story {
        name: "a BIOS machine whose menu's time is over boots its own disk",
        tell: || Box::pin(local_disk::bios()),
    },
    Story {
        name: "a UEFI machine that is to boot its own disk does so",
        tell: || Box::pin(local_disk::uefi()),
    },
];

/// Those for which the kernel of this machine must be able to rewrite packets.
pub(crate) const REWRITING_STORIES: [Story; 2] = [
    Story {
        name: "a BIOS machine whose card has a bare PXE ROM boots by undionly.kpxe",
        tell: || Box::pin(chained::alone()),
    },
    Story {
        name: "a BIOS machine whose card has a bare PXE ROM boots beside another DHCP server",
        tell: || Box::pin(chained::beside_another_server()),
    },
];

/// Why [`REWRITING_STORIES`] are not told on this machine.
pub(crate) fn why_no_rewriting() -> Option<String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let numbers: Vec<u32> = release.split(['.', '-']).map_while(|part| part.parse().ok()).take(2).collect();
    (numbers < REWRITING_KERNEL.to_vec())
        .then(|| format!("nftables of Linux {} change no byte so far into a packet", release.trim()))
}

/// A lab whose server has this site file.
async fn lab(site: &str) -> Result<Lab> {
    let (mut options, _image) = LabOptions::debian_12()?;
    let dir = tempfile::tempdir()?;
    options.write_site(dir.path(), site)?;
    Lab::start(options).await
}

/// Powers a machine on, waits for its agent, and compares what went over its wire with `goldens/NAME.txt`.
async fn reaches_its_agent(lab: &Lab, node: &Node, golden: (&str, &str), names: &Names) -> Result<()> {
    let recorder = node.record()?;
    let reached = node.power_on()?.reaches(Stage::Await).await.map(drop);
    is_as_kept(lab, recorder, golden, names, reached)
}

/// Compares a conversation with the kept one. If the story failed already, it only shows the conversation.
pub(crate) fn is_as_kept(
    lab: &Lab,
    recorder: Recorder,
    (name, title): (&str, &str),
    names: &Names,
    told: Result<()>,
) -> Result<()> {
    let recording = recorder.stop()?;
    recording.save(&lab.dir().join(format!("{name}.pcap")))?;
    told.with_context(|| format!("the conversation so far:\n{}", recording.told(names)))?;
    recording.is_like(name, title, names)
}

/// Types this and Return, key by key.
pub(crate) async fn types_line(console: &Console, text: &str) -> Result<()> {
    let letters: Vec<String> = text.chars().map(String::from).collect();
    console.types(&letters.iter().map(String::as_str).chain([ENTER]).collect::<Vec<_>>()).await
}

/// Words for what differs between two boots of this machine.
pub(crate) fn names(node: &Node) -> Names {
    Names::of(node.machine().spec())
}

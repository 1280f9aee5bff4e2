//! Systems, file systems and disks beside those of the other stories: each is deployed, and starts twice from its own
//! disk with nothing failed.

use std::time::Duration;

use anyhow::{Result, ensure};
use qemu_tests::image::{TestImage, debian_12_systemd_boot, debian_13};
use qemu_tests::lab::NodeBuilder;
use qemu_tests::programs::Programs;
use qemu_tests::{Bus, FirmwareKind, Lab, LabOptions, Nic, Node, Stage, gib};

/// What is deployed, and what it says of itself then.
struct System {
    image: fn(&Programs) -> Result<TestImage>,
    distribution: &'static str,
    site: &'static str,
    question: &'static str,
    answer: &'static str,
}

/// A node with Secure Boot has to load its kernel in lock step, which takes minutes without acceleration.
const AWAIT_MAX: Duration = Duration::from_secs(420);

pub(crate) async fn tell_secure_debian_13() -> Result<()> {
    let system = System {
        image: debian_13,
        distribution: "debian-13",
        site: "[default]\nsecure_boot = true\n",
        question: "findmnt -no FSTYPE /; cat /sys/class/block/nvme0n1/queue/logical_block_size; \
                   grep -o '\\[.*\\]' /sys/kernel/security/lockdown",
        answer: "ext4\n4096\n[integrity]",
    };
    system.is_told_on("locked", |node| node.secure_boot().disk(Bus::Nvme4Kn, gib(8))).await
}

pub(crate) async fn tell_subvolumes() -> Result<()> {
    let system = System {
        image: debian_13,
        distribution: "debian-13",
        site: r#"
layout.partition = [
    { role = "esp", size = "300MiB" },
    { role = "root", fs = "btrfs", options = "compress=zstd:1", subvolumes = [
        { name = "@", mount = "/" },
        { name = "@home", mount = "/home" },
    ] },
]
"#,
        question: "findmnt -rno TARGET,FSTYPE,FSROOT /; findmnt -rno TARGET,FSTYPE,FSROOT /home",
        answer: "/ btrfs /@\n/home btrfs /@home",
    };
    system.is_told_on("subvolumes", |node| uefi(node).disk(Bus::VirtioBlk, gib(8))).await
}

pub(crate) async fn tell_systemd_boot() -> Result<()> {
    let system = System {
        image: debian_12_systemd_boot,
        distribution: "debian-12",
        site: r#"
layout.partition = [
    { role = "esp", size = "512MiB" },
    { role = "root", fs = "xfs" },
]
"#,
        question: "findmnt -no FSTYPE /; ls /boot/grub 2>/dev/null; bootctl is-installed",
        answer: "xfs\nyes",
    };
    system.is_told_on("xfs", |node| uefi(node).disk(Bus::Nvme, gib(8))).await
}

fn uefi(node: NodeBuilder) -> NodeBuilder {
    node.firmware(FirmwareKind::Uefi).nic(Nic::Virtio)
}

impl System {
    async fn is_told_on(&self, name: &str, hardware: impl FnOnce(NodeBuilder) -> NodeBuilder) -> Result<()> {
        let (mut options, _) = LabOptions::of(self.image)?;
        let dir = tempfile::tempdir()?;
        options.write_site(dir.path(), self.site)?;
        let lab = Lab::start(options).await?;
        let node = hardware(lab.node(name)).power_on()?;
        node.reaches_within(Stage::Await, AWAIT_MAX).await?;
        lab.approve(&[&node]).await?;
        node.is_installed().await?;
        self.starts(&node).await?;
        node.cut_power()?.power_on()?;
        self.starts(&node).await
    }

    async fn starts(&self, node: &Node) -> Result<()> {
        let mut system = node.boots_into(self.distribution).await?;
        system.has_settled().await?;
        let said = system.text_of(self.question).await?;
        ensure!(said == self.answer, "the system says {said:?} and not {:?}", self.answer);
        Ok(())
    }
}

//! The system lies in LUKS containers: one is opened by the key that the server tells its admin, typed at each start,
//! the other one by a key file that only the first one holds open.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use qemu_tests::image::debian_12_storage;
use qemu_tests::lab::InstalledSystem;
use qemu_tests::{Bus, FirmwareKind, Lab, LabOptions, Nic, Node, Stage, gib};

use super::firmware::types_line;

const SITE: &str = r#"
layout.partition = [
    { role = "esp", size = "300MiB" },
    { role = "boot", size = "512MiB" },
    { luks = "crypt", size = "3GiB" },
    { luks = "more" },
]
layout.luks = [
    { name = "crypt", lvm = "vg0" },
    { name = "more", lvm = "vg0", unlock = "keyfile" },
]
layout.volume = [
    { group = "vg0", name = "root", role = "root", size = "4GiB" },
    { group = "vg0", name = "swap", role = "swap" },
]
"#;
/// What cryptsetup-initramfs asks.
const PROMPT: &str = "unlock disk crypt";
const PROMPT_MAX: Duration = Duration::from_secs(300);
/// Where the system is, which keys it holds, and who may read what its kernel starts from.
const ASKED: &str = "findmnt -no SOURCE /; lsblk -rnso TYPE /dev/mapper/vg0-root | sort -u | xargs; \
                     ls /etc/cryptsetup-keys.d; stat -c %a /etc/cryptsetup-keys.d/* /boot/initrd.img-*";
const SAID: &str = "/dev/mapper/vg0-root\ncrypt disk lvm part\nmore.key\n600\n600";

pub(crate) async fn tell() -> Result<()> {
    let (mut options, _) = LabOptions::of(debian_12_storage)?;
    let dir = tempfile::tempdir()?;
    options.write_site(dir.path(), SITE)?;
    let lab = Lab::start(options).await?;
    let node = lab.node("locked").firmware(FirmwareKind::Uefi).nic(Nic::Virtio);
    let node = node.disk(Bus::Nvme, gib(6)).power_on()?;
    node.reaches(Stage::Await).await?;
    lab.approve(&[&node]).await?;
    node.is_installed().await?;
    let key = key_of(&lab, &node, "crypt").await?;
    for _ in 0..2 {
        let mut system = unlocked(&node, &key).await?;
        let said = system.text_of(ASKED).await?;
        ensure!(said == SAID, "the system says {said:?} and not {SAID:?}");
        let leaked = system.run(&format!("grep -rqs {key} /etc /root /var/lib/esir")).await?;
        ensure!(leaked.status == 1, "the key that is typed lies on the disk");
        node.cut_power()?.power_on()?;
    }
    Ok(())
}

/// As `pxe-server disk-keys` tells it.
async fn key_of(lab: &Lab, node: &Node, container: &str) -> Result<String> {
    let told = lab.admin_says(&["disk-keys", &node.name_at_server().await?])?;
    let key = told.lines().find_map(|line| line.strip_prefix(container));
    Ok(key.with_context(|| format!("no key of {container}: {told}"))?.trim().to_owned())
}

/// Types the key where the initramfs asks for it.
async fn unlocked(node: &Node, key: &str) -> Result<InstalledSystem> {
    let console = node.console();
    console.wait_for(&[PROMPT], PROMPT_MAX).await?;
    types_line(console, key).await?;
    let mut system = node.boots_into("debian-12").await?;
    system.has_settled().await?;
    Ok(system)
}

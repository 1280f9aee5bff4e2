//! A node that runs an older image is deployed anew: it fetches what is new, keeps the rest of its disk, and becomes
//! what a bare machine becomes.

mod newer;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use qemu_tests::image::TestImage;
use qemu_tests::{Bus, FirmwareKind, Lab, LabOptions, Nic, Node, Stage, gib};

use super::compare::differences;
use newer::Newer;

/// The second half of the site file. Nodes switch themselves off, so that their disks can be looked into.
const SITE: &str = r#"
[deploy]
reuse = true
handover = "power_off"

[[layout.partition]]
role = "bios-boot"
size = "1MiB"
[[layout.partition]]
role = "esp"
size = "512MiB"
[[layout.partition]]
role = "root"
size = "5GiB"
[[layout.partition]]
name = "data"
mount = "/data"
keep = true
"#;
/// Name of the root's partition.
const ROOT: &str = "esir-root";
/// What somebody does in the older system: one file that stays; one that is added, two that are changed, one that is
/// removed, a mode. All but the first are gone afterwards. What is changed or removed is not in the newer image either,
/// or is another there, so that nothing has to be fetched for it.
const BY_HAND: &str = "echo ours >/data/kept; echo ours >/etc/by-hand; echo ours >>/etc/issue; \
                       rm /usr/share/common-licenses/GFDL-1.2; echo ours >>/usr/share/doc/bash/copyright; \
                       chmod 700 /etc/issue.net; sync";
/// What the agent makes a node's own. The times of directories in which it does so are too.
const OWN: [&str; 12] = [
    "boot/efi/",
    "boot/grub/",
    "data/",
    "etc/fstab",
    "etc/hostname",
    "etc/hosts",
    "etc/machine-id",
    "etc/ssh/ssh_host_",
    "etc/systemd/network/10-esir",
    "lost+found/",
    "var/lib/dbus/machine-id",
    "var/lib/esir/",
];

pub(crate) async fn tell() -> Result<()> {
    let (mut options, older) = LabOptions::debian_12()?;
    let dir = tempfile::tempdir()?;
    let newer = Newer::make(&options.programs, &older, dir.path())?;
    options.server.image = None;
    let site = options.write_site(dir.path(), &site_with(&[&older.image]))?;
    let lab = Lab::start(options).await?;

    let node = lab.node("keeper").firmware(FirmwareKind::Bios).nic(Nic::Virtio);
    let node = node.disk(Bus::VirtioBlk, gib(8)).power_on()?;
    node.reaches(Stage::Await).await?;
    lab.approve(&[&node]).await?;
    node.is_installed().await?;
    let own_of_bare = own(&node, &older.tree).await?;
    lives_for_a_while(&node).await?;

    lab.server().kill()?;
    fs::write(&site, site_with(&[&newer.image, &older.image]))?;
    lab.start_server_again().await?;
    fetches_what_is_new(&lab, &node, &older, &newer).await?;
    let own_of_reused = own(&node, &newer.tree).await?;
    let unlike: Vec<&String> = own_of_bare.symmetric_difference(&own_of_reused).collect();
    ensure!(unlike.is_empty(), "the disk is not as that of a bare machine: {unlike:#?}");
    lab.note("the disk is, file by file, what a bare machine's is");
    for _ in 0..2 {
        runs_the_newer(&node).await?;
    }
    Ok(())
}

fn site_with(images: &[&Path]) -> String {
    format!("[image]\nfiles = {images:?}\n{SITE}")
}

/// What is on the disk of a node that was just deployed beside the tree of its image.
async fn own(node: &Node, tree: &Path) -> Result<BTreeSet<String>> {
    let root = node.switches_itself_off().await?.looks_into(0, ROOT)?;
    let own: BTreeSet<String> = differences(tree, root.path())?.into_iter().collect();
    let others: Vec<&String> = own.iter().filter(|line| !is_own(line)).collect();
    ensure!(others.is_empty(), "the disk is not as the image says: {others:#?}");
    ensure!(own.iter().any(|line| line.ends_with(" etc/hostname")), "the node has no name of its own");
    Ok(own)
}

/// Whether a difference is one that the agent makes.
fn is_own(line: &str) -> bool {
    let Some((what, path)) = line.split_at_checked(12) else { return false };
    let directory = if path == "./" { "" } else { path };
    OWN.iter().any(|own| path.starts_with(own) || (what == ".d..t...... " && own.starts_with(directory)))
}

/// It runs its system, and somebody works on it.
async fn lives_for_a_while(node: &Node) -> Result<()> {
    let mut system = node.power_on()?.boots_into("debian-12").await?;
    system.has_settled().await?;
    system.text_of(BY_HAND).await?;
    system.shuts_down().await?;
    node.switches_itself_off().await.map(drop)
}

async fn fetches_what_is_new(lab: &Lab, node: &Node, older: &TestImage, newer: &Newer) -> Result<()> {
    let name = node.name_at_server().await?;
    lab.admin_says(&["deploy", &name])?;
    node.power_on()?.reaches(Stage::Fetch).await?;
    let view = node.is_installed().await?;
    let installed = view.installed.map(|installed| installed.image_id).unwrap_or_default();
    ensure!(installed == newer.id, "the server says that it has image {installed}");
    let fetched = view.traffic.from_server_bytes + view.traffic.from_nodes_bytes;
    let full = fs::metadata(&newer.image)?.len();
    let most = newer.fetched_bytes_max();
    lab.note(&format!("{fetched} bytes fetched, at most {most} should be, of an image of {full}"));
    ensure!(fetched <= most, "{fetched} bytes were fetched for {newer:?}");
    ensure!(
        most < full / 10,
        "{} and {} have too little in common",
        older.image.display(),
        newer.image.display()
    );
    Ok(())
}

async fn runs_the_newer(node: &Node) -> Result<()> {
    let mut system = node.power_on()?.boots_into("debian-12").await?;
    system.has_settled().await?;
    node.tried_the_network_before_its_disk()?;
    let kept = system.text_of("cat /data/kept").await?;
    ensure!(kept == "ours", "the kept partition has {kept:?}");
    newer::is_what_runs(&mut system).await?;
    system.shuts_down().await?;
    node.switches_itself_off().await.map(drop)
}

//! What the site says of a group is what its nodes are: users, files, fixed address, services, and what a hook did.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use qemu_tests::image::TestImage;
use qemu_tests::{Bus, FirmwareKind, Lab, LabOptions, Nic, Stage, gib};

/// Outside the range in which the lab's server gives addresses by itself.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);

const SITE: &str = r#"
[vars]
rack = "none"

[system]
domain = "lab.example"
mask = ["fstrim.timer"]

[group.compute]
match = { mac = "52:54:00:77:00:*" }
vars = { rack = "r3" }

[group.compute.system]
files = ["overlay"]
enable = ["proof"]
hooks = ["10-proof.sh"]
hook_limit_s = 60

[group.compute.system.network]
address = "10.77.0.9/24"
gateway = "10.77.0.1"
dns = "10.77.0.1"
search = "lab.example"

[group.compute.system.user.ops]
uid = 1500
groups = ["adm", "slurm"]
keys = ["KEY"]

[group.compute.system.file."/etc/secret.conf"]
owner = "ops:slurm"
mode = "0640"
"#;

const UNIT: &str = "[Unit]\nDescription=Proof\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
                    ExecStart=/bin/sh -c 'echo started >/run/proof'\n[Install]\nWantedBy=multi-user.target\n";
/// What it leaves running would keep the disk from being unmounted.
const HOOK: &str = "#!/bin/sh\nset -e\nsleep 3600 >/dev/null 2>&1 &\n\
                    echo \"$ESIR_FQDN in $ESIR_RACK, $(id -u ops)\" >/etc/proof\necho the hook was here\n";

/// What is asked of the running system as `ops`, and what it has to say.
const ASKED: [(&str, &str); 8] = [
    ("id -un; id -u; id -Gn", "ops\n1500\nops adm slurm"),
    ("cat /etc/motd", "NAME stands in r3, ${HOME} is kept"),
    ("cat /etc/proof", "NAME.lab.example in r3, 1500"),
    ("cat /run/proof; systemctl is-enabled proof fstrim.timer", "started\nenabled\nmasked"),
    ("stat -c '%U %G %a' /etc/secret.conf", "ops slurm 640"),
    ("cat /etc/secret.conf", "secret"),
    ("hostname -f", "NAME.lab.example"),
    (
        "grep -v '^#' /etc/resolv.conf; ip route show default | cut -d' ' -f3",
        "search lab.example\nnameserver 10.77.0.1\n10.77.0.1",
    ),
];

pub(crate) async fn tell() -> Result<()> {
    let (mut options, image) = LabOptions::debian_12()?;
    let dir = tempfile::tempdir()?;
    options.server.site = Some(write_site(dir.path(), &image)?);
    let lab = Lab::start(options).await?;
    let node = lab.node("worker").firmware(FirmwareKind::Uefi).nic(Nic::Virtio);
    let node = node.disk(Bus::VirtioBlk, gib(8)).power_on()?;
    node.reaches(Stage::Await).await?;
    lab.approve(&[&node]).await?;
    node.is_installed().await?;

    let mut system = node.boots_into("debian-12").await?;
    system.has_settled().await?;
    let name = node.name_at_server().await?;
    let view = lab.server().admin().node(&name).await?;
    let said = view.changes.iter().find(|change| change.starts_with("ran hook 10-proof.sh"));
    let said = said.with_context(|| format!("the server knows of no hook: {:?}", view.changes))?;
    ensure!(said.ends_with("the hook was here"), "what the hook said is not kept: {said}");
    for (line, expected) in ASKED {
        let found = lab.ssh_as("ops", &image.ssh_key, ADDRESS, view.host_keys(), line).await?;
        let expected = expected.replace("NAME", &name);
        ensure!(found == expected, "`{line}` says {found:?} and not {expected:?}");
    }
    lab.note(&format!("{name}: reached as ops at {ADDRESS}, and all that its group is to have is there"));
    Ok(())
}

fn write_site(dir: &Path, image: &TestImage) -> Result<PathBuf> {
    let key = fs::read_to_string(image.ssh_key.with_extension("pub"))?;
    let site = SITE.replace("KEY", key.trim());
    for (path, mode, text) in [
        ("site.toml", 0o644, site.as_str()),
        ("10-proof.sh", 0o644, HOOK),
        ("overlay/etc/motd.tmpl", 0o644, "${name} stands in ${rack}, $${HOME} is kept\n"),
        ("overlay/etc/secret.conf", 0o600, "secret\n"),
        ("overlay/etc/systemd/system/proof.service", 0o644, UNIT),
    ] {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().context("a file has a place")?)?;
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    Ok(dir.join("site.toml"))
}

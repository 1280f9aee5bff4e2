//! A container image has no kernel: with a layer that brings one it becomes a running server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use qemu_tests::command::{output, run};
use qemu_tests::image::TestImage;
use qemu_tests::programs::Programs;
use qemu_tests::{Bus, FirmwareKind, Lab, LabOptions, Nic, Stage, gib};

/// What the container has not, and the layer has.
const OF_THE_KERNEL: [&str; 2] = ["./boot", "./usr/lib/modules"];
/// All that an archive has to keep.
const TAR: [&str; 5] = ["--numeric-owner", "--sparse", "--xattrs", "--xattrs-include=*", "-cf"];

pub(crate) async fn tell() -> Result<()> {
    let (mut options, base) = LabOptions::debian_12()?;
    let dir = tempfile::tempdir()?;
    let image = with_kernel(&options.programs, &base, dir.path())?;
    options.server.image = Some(image);
    let lab = Lab::start(options).await?;
    let node = lab.node("container").firmware(FirmwareKind::Uefi).nic(Nic::Virtio);
    let node = node.disk(Bus::VirtioBlk, gib(8)).power_on()?;
    node.reaches(Stage::Await).await?;
    lab.approve(&[&node]).await?;
    node.is_installed().await?;
    for start in ["first", "second"] {
        let mut system = node.boots_into("debian-12").await?;
        system.has_settled().await?;
        let of_container = system.text_of("cat /etc/container").await?;
        ensure!(of_container == "of its second layer", "at the {start} start it says {of_container:?}");
        if start == "first" {
            node.cut_power()?.power_on()?;
        }
    }
    Ok(())
}

/// A docker-archive of the tree without its kernel, and the kernel laid over it.
fn with_kernel(programs: &Programs, base: &TestImage, dir: &Path) -> Result<PathBuf> {
    let (container, image) = (dir.join("container"), dir.join("container.esir"));
    let (first, second, kernel) =
        (container.join("first.tar"), container.join("second.tar"), dir.join("kernel.tar"));
    fs::create_dir_all(&container)?;
    let tar = |archive: &Path, from: &Path, words: &[String]| {
        run(Command::new("tar").args(TAR).arg(archive).arg("-C").arg(from).args(words))
    };
    let without = OF_THE_KERNEL.map(|path| format!("--exclude={path}/*"));
    tar(&first, &base.tree, &[&without[..], &[".".to_owned()]].concat())?;
    tar(&kernel, &base.tree, &OF_THE_KERNEL.map(str::to_owned))?;
    let added = dir.join("added");
    fs::create_dir_all(added.join("etc"))?;
    fs::write(added.join("etc/container"), "of its second layer\n")?;
    tar(&second, &added, &["./etc/container".to_owned()])?;

    let digests: Vec<String> =
        [&first, &second].into_iter().map(|layer| sha256(layer)).collect::<Result<_>>()?;
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": digests },
    });
    let manifest = serde_json::json!([
        { "Config": "config.json", "RepoTags": ["debian:12"], "Layers": ["first.tar", "second.tar"] },
    ]);
    fs::write(container.join("config.json"), config.to_string())?;
    fs::write(container.join("manifest.json"), manifest.to_string())?;
    let mut import = Command::new(&programs.image_tools);
    import.arg("import").arg(&container).arg("--layer").arg(&kernel).arg("-o").arg(&image);
    run(import.arg("--sign").arg(&base.secret_key).args(["--level", "3"]))?;
    Ok(image)
}

fn sha256(file: &Path) -> Result<String> {
    let said = output(Command::new("sha256sum").arg(file))?;
    Ok(format!("sha256:{}", said.split_whitespace().next().unwrap_or_default()))
}

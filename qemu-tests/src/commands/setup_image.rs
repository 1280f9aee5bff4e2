//! `qemu-tests setup-image`: fills the cache.

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use qemu_tests::image;
use qemu_tests::programs::Programs;

/// Options of `setup-image`.
#[derive(Debug, Args)]
pub(crate) struct SetupImageArguments {
    /// Makes the Debian tree again from today's mirrors.
    #[arg(long)]
    again: bool,
    /// Makes the images of the slow stories too: Debian 13, Debian 12 of a cloud, with systemd-boot, and with RAID and LVM.
    #[arg(long)]
    all: bool,
}

pub(crate) fn run(arguments: &SetupImageArguments) -> Result<ExitCode> {
    ensure!(nix::unistd::Uid::effective().is_root(), "making a Debian tree needs root; use sudo");
    if arguments.again {
        image::forget().context("emptying the cache")?;
    }
    let programs = Programs::find()?;
    let made = image::debian_12(&programs)?;
    if arguments.all {
        let slow = [
            image::debian_13,
            image::debian_12_cloud,
            image::debian_12_systemd_boot,
            image::debian_12_storage,
        ];
        for make in slow {
            println!("image       {}", make(&programs)?.image.display());
        }
    }
    let bundle = image::boot_bundle(&programs)?;
    println!("image       {}", made.image.display());
    println!("tree        {}", made.tree.display());
    println!("public key  {}", made.public_key.display());
    println!("boot bundle {}", bundle.dir.display());
    Ok(ExitCode::SUCCESS)
}

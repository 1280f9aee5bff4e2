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
    /// Makes the images of the slow stories too: Debian 13, a cloud's Debian 12, one with systemd-boot.
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
        for make in [image::debian_13, image::debian_12_cloud, image::debian_12_systemd_boot] {
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

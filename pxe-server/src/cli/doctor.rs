//! `pxe-server doctor`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use super::check::read_alone;
use crate::doctor::{HostSetup, Level, check_host, listen};
use crate::netboot::BOOT_FILES_DIR;

#[derive(Args)]
pub(super) struct DoctorArguments {
    /// Site file, for the interface, the ports and the files of menus
    #[arg(long, value_name = "site.toml")]
    site: Option<PathBuf>,
    /// Network interface that faces the nodes
    #[arg(long)]
    interface: Option<String>,
    /// Directory of keys, boot bundle and state
    #[arg(long, value_name = "DIR", default_value = "/var/lib/esir")]
    state: PathBuf,
    /// Directory with undionly.kpxe and snponly.efi
    #[arg(long, value_name = "DIR")]
    boot_files: Option<PathBuf>,
    /// Then listen on the interface, and explain each handshake that fails
    #[arg(long)]
    listen: bool,
    /// Listen for so many seconds instead of until interrupted
    #[arg(long, value_name = "SECONDS", requires = "listen")]
    seconds: Option<u64>,
}

/// `pxe-server doctor`: what is wrong goes to standard output too; the exit code says whether anything is.
pub(super) fn doctor(arguments: &DoctorArguments) -> Result<()> {
    let setup = setup(arguments)?;
    let findings = check_host(&setup);
    for finding in &findings {
        let mark = match finding.level {
            Level::Good => "ok   ",
            Level::Doubt => "doubt",
            Level::Bad => "BAD  ",
        };
        println!("{mark}  {}", finding.what);
        if !finding.remedy.is_empty() {
            println!("       -> {}", finding.remedy);
        }
    }
    if arguments.listen {
        let interface =
            setup.interface.context("--listen needs --interface NAME, or a site file that names it")?;
        println!("listening on {interface}; power a node on");
        let until = arguments.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        return listen(&interface, until, |said| println!("{said}"));
    }
    match findings.iter().filter(|finding| finding.level == Level::Bad).count() {
        0 => Ok(()),
        bad => bail!("nodes will not boot: {bad} of {} findings marked BAD", findings.len()),
    }
}

fn setup(arguments: &DoctorArguments) -> Result<HostSetup> {
    let site = arguments.site.as_deref().map(read_alone).transpose()?;
    let site = site.as_ref();
    let directory = site.and_then(|site| site.menu_files.clone());
    let files = site.map(|site| site.menus.files()).unwrap_or_default();
    let menu_files = files.iter().filter_map(|(_, file)| Some(directory.as_ref()?.join(file))).collect();
    Ok(HostSetup {
        interface: arguments.interface.clone().or_else(|| site.and_then(|site| site.interface.clone())),
        address: site.and_then(|site| site.address),
        http_port: site.map_or(80, |site| site.http_port),
        agent_port: site.map_or(node_api::paths::DEFAULT_AGENT_PORT, |site| site.agent_port),
        boot_files: boot_files(arguments, site.and_then(|site| site.boot_files.clone())),
        state: arguments.state.clone(),
        menu_files,
    })
}

fn boot_files(arguments: &DoctorArguments, of_site: Option<PathBuf>) -> PathBuf {
    arguments.boot_files.clone().or(of_site).unwrap_or_else(|| BOOT_FILES_DIR.into())
}

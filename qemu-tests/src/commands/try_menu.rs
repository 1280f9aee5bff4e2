//! `qemu-tests try`: a node's menu on a real virtual machine, before any server of the site has it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use dhcp_wire::MacAddr;
use qemu_tests::lab::LabOptions;
use qemu_tests::{Bus, FirmwareKind, Lab, Nic, gib};
use toml::{Table, Value};

use super::attach;

/// What of a site file is about menus. The rest (addresses, interfaces, images) is of the site's own network.
const SECTIONS: [&str; 8] = ["boot", "vars", "user", "entry", "menu", "group", "default", "node"];
/// What of `[boot]` and of `[[node]]` holds in any network.
const BOOT: [&str; 2] = ["arguments", "menu_files"];
const NODE: [&str; 10] =
    ["mac", "name", "group", "menu", "boot", "once", "then", "local", "secure_boot", "vars"];

/// Options of `try`.
#[derive(Debug, Args)]
pub(crate) struct TryArguments {
    /// Site file with the menus.
    #[arg(long)]
    site: PathBuf,
    /// Hardware address of the machine, as the site's rules know it.
    #[arg(long)]
    mac: MacAddr,
    /// What starts it.
    #[arg(long, value_enum)]
    firmware: FirmwareChoice,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FirmwareChoice {
    /// SeaBIOS with iPXE in the card's ROM.
    Bios,
    /// OVMF, which loads iPXE over the network.
    Uefi,
    /// OVMF with Secure Boot, shim and GRUB.
    Secureboot,
}

pub(crate) async fn run(arguments: TryArguments) -> Result<ExitCode> {
    ensure!(arguments.mac.is_unicast(), "{} is no hardware address of a NIC", arguments.mac);
    let text = fs::read_to_string(&arguments.site)
        .with_context(|| format!("reading {}", arguments.site.display()))?;
    let base = arguments.site.canonicalize()?.parent().map(Path::to_owned).unwrap_or_default();
    let secure_boot = matches!(arguments.firmware, FirmwareChoice::Secureboot);
    let copy = Copy::of(&menus_of(&text, &base, secure_boot)?)?;
    let (mut options, _image) = LabOptions::debian_12()?;
    options.quiet = true;
    options.server.site = Some(copy.0.clone());
    let lab = Lab::start(options).await?;
    let node = lab.node("try").mac(arguments.mac.0).disk(Bus::VirtioBlk, gib(1));
    let node = match arguments.firmware {
        FirmwareChoice::Bios => node.firmware(FirmwareKind::Bios).nic(Nic::E1000),
        FirmwareChoice::Uefi => node.firmware(FirmwareKind::Uefi).nic(Nic::Virtio),
        FirmwareChoice::Secureboot => node.secure_boot(),
    };
    let node = node.power_on()?;
    println!("server log {}", lab.server().log().display());
    let console = node.machine().console_socket();
    let shown = tokio::task::spawn_blocking(move || attach::run(&attach::AttachArguments::of(console)));
    shown.await.context("showing the console")?
}

/// The part of a site file that is about menus, for another network. A machine with Secure Boot needs no first boot
/// to show that it has.
fn menus_of(text: &str, base: &Path, secure_boot: bool) -> Result<String> {
    let mut site: Table = text.parse().context("reading the site file; `pxe-server check` says more")?;
    site.retain(|section, _| SECTIONS.contains(&section));
    if let Some(Value::Table(boot)) = site.get_mut("boot") {
        boot.retain(|word, _| BOOT.contains(&word));
        if let Some(Value::String(files)) = boot.get_mut("menu_files") {
            *files = base.join(&*files).display().to_string();
        }
    }
    if let Some(Value::Array(nodes)) = site.get_mut("node") {
        for node in nodes.iter_mut().filter_map(Value::as_table_mut) {
            node.retain(|word, _| NODE.contains(&word));
        }
    }
    if secure_boot {
        let default = site.entry("default").or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(default) = default {
            default.entry("secure_boot").or_insert(Value::Boolean(true));
        }
    }
    Ok(toml::to_string(&site)?)
}

/// A file that goes with this value.
struct Copy(PathBuf);

impl Copy {
    fn of(text: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("esir-try-{}.toml", std::process::id()));
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn menus_are_taken_and_the_site_s_own_network_is_left() {
        let text = "name = 'x'\n[server]\ninterface = 'eno2'\n[dhcp]\nlease_s = 60\n[boot]\nfiles = '/a'\nmenu_files = 'b'\n\
                    [entry.a]\nlocal = 'auto'\n[default]\nboot = 'a'\n[[node]]\nmac = '52:54:00:00:00:01'\nname = 'n1'\n\
                    address = '10.0.0.1'\nboot = 'a'\n";
        let menus: Table = menus_of(text, Path::new("/site"), false).unwrap().parse().unwrap();
        let keys: Vec<&str> = menus.keys().map(String::as_str).collect();
        assert_eq!(keys, ["boot", "default", "entry", "node"]);
        assert_eq!(menus["boot"]["menu_files"].as_str(), Some("/site/b"));
        assert!(menus["boot"].get("files").is_none() && menus["node"][0].get("address").is_none());
        assert_eq!(menus["node"][0]["boot"].as_str(), Some("a"));
        let secure: Table = menus_of(text, Path::new("/site"), true).unwrap().parse().unwrap();
        assert_eq!(secure["default"]["secure_boot"].as_bool(), Some(true));
        assert_eq!(secure["default"]["boot"].as_str(), Some("a"));
    }
}

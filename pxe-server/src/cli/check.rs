//! `pxe-server check`.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Result, bail};
use boot_menu::{Facts, Firmware};
use clap::Args;
use dhcp_wire::MacAddr;
use site_file::{Overrides, Site};

use super::menu::server;
use crate::site::read_site;
use crate::tasks::steps;

#[derive(Args)]
pub(super) struct CheckArguments {
    /// Site file
    #[arg(value_name = "site.toml", default_value = "/etc/esir/site.toml")]
    site: PathBuf,
}

/// What the file alone says; `serve` may add the interface and the images.
pub(super) fn read_alone(path: &std::path::Path) -> Result<Site> {
    read_site(Some(path), &Overrides { partial: true, ..Overrides::default() })
}

/// `pxe-server check`.
pub(super) fn check(arguments: &CheckArguments) -> Result<()> {
    let site = read_alone(&arguments.site)?;
    let mut missing = missing_files(&site);
    missing.extend(unfit_nodes(&site));
    if !missing.is_empty() {
        bail!("{}", missing.join("\n"));
    }
    let nodes = site.menus.nodes().count();
    println!("{}: no problem found; {nodes} nodes are named", arguments.site.display());
    Ok(())
}

/// Nodes that the site names and that could have no task by its settings.
fn unfit_nodes(site: &Site) -> Vec<String> {
    let changeable = site.changeable();
    let problem = |(mac, name): (MacAddr, &str)| {
        let facts = Facts {
            mac,
            name: name.to_owned(),
            serial: None,
            uuid: None,
            // Stands for any (RFC 5737).
            address: Some(Ipv4Addr::new(192, 0, 2, 1)),
            relay: None,
            firmware: Firmware::Uefi,
        };
        let made = steps(&changeable, &facts, &server(site), "");
        made.err().map(|error| format!("the settings of systems do not fit {name}: {error}"))
    };
    site.menus.nodes().filter_map(problem).collect()
}

/// Files that menus name and nobody put there.
fn missing_files(site: &Site) -> Vec<String> {
    let files = site.menus.files();
    let Some(directory) = &site.menu_files else {
        let named = files.iter().map(|(entry, file)| {
            format!("entry `{entry}` names the file {file}; write menu_files = \"DIR\" under [boot] and put it there")
        });
        return named.collect();
    };
    let absent = files.iter().filter(|(_, file)| !directory.join(file).is_file());
    absent
        .map(|(entry, file)| {
            format!(
                "entry `{entry}`: there is no file {}; put it there or correct the name",
                directory.join(file).display()
            )
        })
        .collect()
}

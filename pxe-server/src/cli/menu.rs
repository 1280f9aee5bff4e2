//! `pxe-server menu`: a node's menu before any node sees it, by the code that serves it.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use boot_menu::{Facts, Local, Server, preview};
use clap::{Args, Subcommand, ValueEnum};
use dhcp_wire::MacAddr;
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use node_api::FirmwareKind;
use site_file::Site;

use super::check::read_alone;
use crate::menus::{self, Give, password};
use crate::netboot::{
    self, Asks, BootDecision, BootFiles, BootPolicy, BootRequest, DhcpSeen, Loader, script_url,
};

/// Stand for what is made when a node asks.
const TOKEN: &str = "TOKEN";
const BUNDLE: &str = "BUNDLE";

#[derive(Subcommand)]
pub(super) enum MenuCommand {
    /// Print exactly what a node would get
    Render(NodeArguments),
    /// Draw a node's menus in the terminal
    Preview(NodeArguments),
    /// Print the section of a user: hashes of the password that is read from standard input
    Password {
        /// Name of the user
        user: String,
    },
}

#[derive(Args)]
pub(super) struct NodeArguments {
    /// Hardware address of the NIC that boots
    #[arg(long)]
    mac: MacAddr,
    /// What starts the node
    #[arg(long, value_enum)]
    firmware: FirmwareChoice,
    /// Site file
    #[arg(long, value_name = "site.toml", default_value = "/etc/esir/site.toml")]
    site: PathBuf,
    /// SMBIOS serial number
    #[arg(long)]
    serial: Option<String>,
    /// SMBIOS UUID
    #[arg(long)]
    uuid: Option<String>,
    /// Address that the node has [default: 0.0.0.0, which is in no subnet]
    #[arg(long)]
    address: Option<Ipv4Addr>,
    /// Relay agent in front of the node
    #[arg(long)]
    relay: Option<Ipv4Addr>,
    /// Name of the node [default: as the site or the server names it]
    #[arg(long)]
    name: Option<String>,
    /// What the node gets after this entry was chosen
    #[arg(long, value_name = "ENTRY")]
    item: Option<String>,
    /// As if this user had given the password
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// As if the node had had everything that is given only once
    #[arg(long)]
    again: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FirmwareChoice {
    Bios,
    Uefi,
    Secureboot,
}

/// `pxe-server menu`.
pub(super) fn menu(command: &MenuCommand) -> Result<()> {
    match command {
        MenuCommand::Render(arguments) => render(arguments),
        MenuCommand::Preview(arguments) => preview(arguments),
        MenuCommand::Password { user } => print_password(user),
    }
}

fn render(arguments: &NodeArguments) -> Result<()> {
    let site = read_alone(&arguments.site)?;
    let server = server(&site);
    let agent = SocketAddrV4::new(*server.http.ip(), site.agent_port);
    let sample =
        Sample { site, node: arguments.name.clone(), relay: arguments.relay, again: arguments.again };
    let text = netboot::told(Arc::new(sample), (server.http, agent), &request(arguments));
    print!("{text}");
    if text.contains(TOKEN) {
        eprintln!(
            "{BUNDLE} and {TOKEN} stand for what is made when a node asks; one that is owed nothing boots its disk"
        );
    }
    Ok(())
}

fn preview(arguments: &NodeArguments) -> Result<()> {
    let site = read_alone(&arguments.site)?;
    let request = request(arguments);
    let name = sample_name(&site, arguments.name.clone(), arguments.mac);
    let facts = Facts { relay: arguments.relay, ..menus::facts(&request, name, None) };
    let server = server(&site);
    if site.menus.own_disk(&facts, true, |_| arguments.again) == Some(Local::Ignore) {
        println!(
            "local = \"ignore\": while this node's own disk is what it gets, its firmware is not answered and never sees this:"
        );
    }
    match site.menus.resolve(&facts, &server, |_| arguments.again) {
        Some(plan) => print!("{}", preview::draw(&plan)),
        None => println!("no menu: the node gets what the server has for it, else it boots its own disk"),
    }
    Ok(())
}

/// As the server would name it if no other node had the name.
pub(super) fn sample_name(site: &Site, given: Option<String>, mac: MacAddr) -> String {
    let digits = mac.to_string().replace(':', "");
    let made = || format!("node-{}", digits.get(6..).unwrap_or_default());
    given.or_else(|| site.menus.node_name(mac).map(str::to_owned)).unwrap_or_else(made)
}

pub(super) fn server(site: &Site) -> Server {
    let found =
        site.interface.as_deref().and_then(|interface| netboot::server_address(interface, site.address));
    let address = found.or(site.address).unwrap_or(Ipv4Addr::LOCALHOST);
    let http = SocketAddrV4::new(address, site.http_port);
    Server { http, script_url: script_url(http) }
}

fn request(arguments: &NodeArguments) -> BootRequest {
    BootRequest {
        mac: arguments.mac,
        uuid: arguments.uuid.clone(),
        serial: arguments.serial.clone(),
        platform: match arguments.firmware {
            FirmwareChoice::Bios => FirmwareKind::Bios,
            FirmwareChoice::Uefi | FirmwareChoice::Secureboot => FirmwareKind::Uefi,
        },
        loader: match arguments.firmware {
            FirmwareChoice::Bios | FirmwareChoice::Uefi => Loader::Ipxe,
            FirmwareChoice::Secureboot => Loader::Grub,
        },
        address: arguments.address.unwrap_or(Ipv4Addr::UNSPECIFIED),
        asks: arguments.item.clone().map_or(Asks::Start, Asks::Item),
        user: arguments.user.clone(),
    }
}

/// Decides as the server does, for a node to which a deployment is owed, and writes nothing down.
struct Sample {
    site: Site,
    node: Option<String>,
    relay: Option<Ipv4Addr>,
    again: bool,
}

impl BootPolicy for Sample {
    fn saw_dhcp(&self, _: &DhcpSeen) {}

    fn decide(&self, request: &BootRequest, server: &Server) -> BootDecision {
        let name = sample_name(&self.site, self.node.clone(), request.mac);
        let facts = Facts { relay: self.relay, ..menus::facts(request, name, None) };
        let answer = menus::answer(&self.site.menus, &facts, server, request, |_| self.again);
        match answer.give {
            Give::Script(script) => BootDecision::Script(script),
            Give::Login => BootDecision::Login,
            Give::Task | Give::Inventory => BootDecision::Agent {
                token: TOKEN.to_owned(),
                extra_arguments: self.site.boot_arguments.clone(),
            },
        }
    }

    fn saw_load(&self, _: MacAddr, _: &str) {}

    fn boot_files(&self) -> BootFiles {
        let (vmlinuz, initrd) = (PathBuf::new(), PathBuf::new());
        BootFiles { bundle_id: BUNDLE.to_owned(), vmlinuz, initrd, site_cpio: Arc::from([]) }
    }
}

fn print_password(user: &str) -> Result<()> {
    let password = read_password()?;
    ensure!(!password.is_empty(), "the password is empty; type one");
    println!(
        "[user.{user}]\ndigest = \"{}\"\ngrub = \"{}\"",
        password::digest(user, &password),
        password::grub(&password)?
    );
    Ok(())
}

/// One line of standard input; what is typed at a terminal is not shown.
fn read_password() -> Result<String> {
    let input = std::io::stdin();
    let mut line = String::new();
    if !input.is_terminal() {
        input.lock().read_line(&mut line).context("reading the password")?;
        return Ok(line.trim_end_matches(['\n', '\r']).to_owned());
    }
    eprint!("password: ");
    std::io::stderr().flush()?;
    let before = tcgetattr(&input).context("asking for the terminal's settings")?;
    let mut silent = before.clone();
    silent.local_flags.remove(LocalFlags::ECHO);
    tcsetattr(&input, SetArg::TCSANOW, &silent).context("turning the terminal's echo off")?;
    let read = input.lock().read_line(&mut line);
    tcsetattr(&input, SetArg::TCSANOW, &before).context("turning the terminal's echo on again")?;
    eprintln!();
    read.context("reading the password")?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

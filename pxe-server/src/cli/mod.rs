//! The command line: one subcommand, one file. Raw arguments become checked values in `site`.

mod check;
mod client;
mod disk_keys;
mod doctor;
mod layout;
mod menu;
mod nodes;
mod report;
mod seed;
mod system;
mod text;
mod watch;

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use site_file::Overrides;
use tracing_subscriber::EnvFilter;

use crate::privileges::Bound;
use crate::reload::SiteSource;
use client::AdminClient;

#[derive(Parser)]
#[command(version, about = "Deploys operating systems to bare machines", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server: DHCP, TFTP, boot files, swarm, APIs and dashboard
    Serve(Box<ServeArguments>),
    /// List the nodes
    Nodes(nodes::NodesArguments),
    /// Let waiting nodes in: they are deployed in this or their next boot
    Approve(nodes::OrderArguments),
    /// Order one deployment of each node, also of installed ones
    Deploy(nodes::OrderArguments),
    /// Give nodes iPXE again whose firmware has refused it: Secure Boot was turned off
    TryIpxe(nodes::OrderArguments),
    /// Show the nodes live
    Watch(watch::WatchArguments),
    /// Show what came of the last deployment
    Report(report::ReportArguments),
    /// Check a site file: every problem at once, with its line and what to write instead
    Check(check::CheckArguments),
    /// Look for what keeps nodes from booting, on this machine and on its wire
    Doctor(doctor::DoctorArguments),
    /// Show what a node would get, before any server does
    #[command(subcommand)]
    Menu(menu::MenuCommand),
    /// Show what would make a node's installed system its own, before any node does it
    #[command(subcommand)]
    System(system::SystemCommand),
    /// Show what the site's layout would do to nodes' disks, before it does
    #[command(subcommand)]
    Layout(layout::LayoutCommand),
    /// Tell what opens the LUKS containers of a node
    DiskKeys(disk_keys::DiskKeysArguments),
    /// Offer one file to a swarm until interrupted: torrent, tracker, seed and web seed
    Seed(seed::SeedArguments),
}

#[derive(Args)]
struct ServeArguments {
    /// Network interface that faces the nodes
    #[arg(long)]
    interface: Option<String>,
    /// Image to deploy, X.esir; the first is the default
    #[arg(long = "image", value_name = "X.esir")]
    images: Vec<PathBuf>,
    /// Directory of keys, boot bundle and state
    #[arg(long, value_name = "DIR", default_value = "/var/lib/esir")]
    state: PathBuf,
    /// Let every machine in that boots over the network; its disk is written
    #[arg(long)]
    approve_all: bool,
    /// Directory with undionly.kpxe and snponly.efi, perhaps shimx64.efi and grubx64.efi
    #[arg(long, value_name = "DIR")]
    boot_files: Option<PathBuf>,
    /// Words added to the agent's kernel command line, in place of the site file's
    #[arg(long, value_name = "WORDS")]
    boot_arguments: Option<String>,
    /// Minisign public key that may sign images, beside those in DIR/trusted
    #[arg(long, value_name = "FILE.pub")]
    trust: Vec<PathBuf>,
    /// Deploy images without a trusted signature
    #[arg(long)]
    allow_unsigned: bool,
    /// Offer images unchecked, for nodes to refuse
    #[arg(long, hide = true)]
    leave_signatures_to_nodes: bool,
    /// Site file
    #[arg(long, value_name = "site.toml")]
    site: Option<PathBuf>,
    /// Address of the admin API and the dashboard [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS:PORT")]
    admin: Option<SocketAddr>,
    /// User to work as once the sockets are bound; start as root
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// No DHCP, TFTP and boot scripts; the same as server.mode = "off"
    #[arg(long, hide = true)]
    no_netboot: bool,
}

/// Where the server's admin API is.
#[derive(Args)]
struct AdminArguments {
    /// Admin API of the server
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    admin: String,
}

/// Runs the command line. Every failure is one sentence on standard error and exit code 1.
pub(crate) fn run() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pxe-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Serve(arguments) => serve(*arguments),
        Command::Nodes(arguments) => nodes::list(&arguments),
        Command::Approve(arguments) => nodes::order(&arguments, "approve", "approved"),
        Command::Deploy(arguments) => nodes::order(&arguments, "deploy", "will be deployed"),
        Command::TryIpxe(arguments) => nodes::order(&arguments, "try-ipxe", "gets iPXE at its next boot"),
        Command::Watch(arguments) => watch::watch(&arguments),
        Command::Report(arguments) => report::report(&arguments),
        Command::Check(arguments) => check::check(&arguments),
        Command::Doctor(arguments) => doctor::doctor(&arguments),
        Command::Menu(command) => menu::menu(&command),
        Command::System(command) => system::system(&command),
        Command::Layout(command) => layout::layout(&command),
        Command::DiskKeys(arguments) => disk_keys::disk_keys(&arguments),
        Command::Seed(arguments) => {
            log_to_standard_error("warn");
            seed::seed(&arguments)
        }
    }
}

fn log_to_standard_error(level: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}

fn serve(arguments: ServeArguments) -> Result<()> {
    log_to_standard_error("info");
    let overrides = Overrides {
        interface: arguments.interface,
        images: arguments.images,
        approve_all: arguments.approve_all,
        boot_files: arguments.boot_files,
        boot_arguments: arguments.boot_arguments,
        trust: arguments.trust,
        allow_unsigned: arguments.allow_unsigned,
        leave_signatures_to_nodes: arguments.leave_signatures_to_nodes,
        admin: arguments.admin,
        no_netboot: arguments.no_netboot,
        partial: false,
    };
    let source = SiteSource { path: arguments.site, overrides };
    let site = source.read()?;
    // Before there is a second thread, and before any file of the state directory is made.
    let bound = arguments.user.map(|user| Bound::become_user(&user, &arguments.state)).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting")?;
    runtime.block_on(crate::serve::serve(site, source, &arguments.state, bound))
}

/// Runs one conversation with the admin API.
fn talk<T>(admin: &AdminArguments, conversation: impl AsyncFnOnce(AdminClient) -> Result<T>) -> Result<T> {
    let client = AdminClient::new(&admin.admin)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting")?;
    runtime.block_on(conversation(client))
}

//! `pxe-server layout`: what the site's layout would do to nodes' disks, before it does.
//!
//! Chooses and plans by the code that nodes run; their disks are what their agents reported last.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use disk_layout::{Disk, Layout, Plan, Seeds, choose};
use serde::Deserialize;

use super::check::read_alone;
use super::{AdminArguments, talk};
use crate::nodes::view::{NodeDetail, NodeView};

/// Where the site file is when none is named.
const SITE: &str = "/etc/esir/site.toml";

#[derive(Subcommand)]
pub(super) enum LayoutCommand {
    /// Say for each node which disks it would be deployed to, or why it would stop
    Check(NodesArguments),
    /// Print what a deployment would do to a node's disks
    Plan(NodesArguments),
}

#[derive(Args)]
pub(super) struct NodesArguments {
    /// Names of nodes, as `pxe-server nodes` lists them
    #[arg(value_name = "NAME", required_unless_present_any = ["all", "inventory"])]
    names: Vec<String>,
    /// Every node that has reported its disks
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// In place of nodes: a file with what `GET /v1/nodes/NAME` answered
    #[arg(long, value_name = "FILE.json", conflicts_with_all = ["names", "all"])]
    inventory: Option<PathBuf>,
    /// Site file [default: /etc/esir/site.toml, and the default layout if that is not there]
    #[arg(long, value_name = "site.toml")]
    site: Option<PathBuf>,
    #[command(flatten)]
    admin: AdminArguments,
}

/// A node's name and disks.
struct Found {
    name: String,
    /// `None`: its agent has reported none yet.
    disks: Option<Vec<Disk>>,
}

/// What is read of a file: an answer of the API, or the inventory alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum InventoryFile {
    Detail { inventory: DisksOnly },
    Alone(DisksOnly),
}

#[derive(Deserialize)]
struct DisksOnly {
    disks: Vec<Disk>,
}

/// `pxe-server layout`.
pub(super) fn layout(command: &LayoutCommand) -> Result<()> {
    let (arguments, tell): (_, fn(&Plan) -> String) = match command {
        LayoutCommand::Check(arguments) => (arguments, in_a_line),
        LayoutCommand::Plan(arguments) => (arguments, |plan| format!("\n{plan:#}")),
    };
    let layout = wanted(arguments.site.as_deref())?;
    let nodes = match &arguments.inventory {
        Some(path) => vec![from_file(path)?],
        None => from_server(arguments)?,
    };
    let mut stopped = 0;
    for node in &nodes {
        match plan(&layout, node) {
            Ok(plan) => println!("{}:{}", node.name, tell(&plan).trim_end()),
            Err(error) => {
                stopped += 1;
                println!("{}: STOPS: {error:#}", node.name);
            }
        }
    }
    if stopped > 0 {
        bail!("{stopped} of {} nodes would stop before their first write", nodes.len());
    }
    Ok(())
}

fn wanted(site: Option<&Path>) -> Result<Layout> {
    match site {
        None if !Path::new(SITE).exists() => Ok(Layout::default()),
        site => Ok(read_alone(site.unwrap_or(Path::new(SITE)))?.layout),
    }
}

fn plan(layout: &Layout, node: &Found) -> Result<Plan> {
    let Some(disks) = &node.disks else {
        bail!("it has not reported its disks yet; let it boot over the network once");
    };
    Ok(Plan::on(layout, &choose(layout, disks)?, &Seeds::default())?)
}

/// The disks that are written, and what is lost with them.
fn in_a_line(plan: &Plan) -> String {
    let disks = plan.disks().iter().map(|disk| {
        let holds = match disk.contents.as_str() {
            "" => "blank".to_owned(),
            contents => format!("holds {contents}"),
        };
        let kept: Vec<&str> =
            disk.partitions.iter().filter(|one| one.kept).map(|one| one.name.as_str()).collect();
        let kept = if kept.is_empty() { String::new() } else { format!("; keeps {}", kept.join(", ")) };
        format!("/dev/{}, {holds}{kept}", disk.description)
    });
    format!(" {}", disks.collect::<Vec<_>>().join("; "))
}

fn from_file(path: &Path) -> Result<Found> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).with_context(|| format!("reading {name}"))?;
    let parsed = serde_json::from_slice(&bytes);
    let (InventoryFile::Detail { inventory } | InventoryFile::Alone(inventory)) =
        parsed.with_context(|| format!("{name} is no inventory; save what GET /v1/nodes/NAME answers"))?;
    Ok(Found { name, disks: Some(inventory.disks) })
}

fn from_server(arguments: &NodesArguments) -> Result<Vec<Found>> {
    talk(&arguments.admin, async |admin| {
        let mut names = arguments.names.clone();
        if arguments.all {
            let nodes: Vec<NodeView> = admin.get("/v1/nodes").await?;
            names = nodes.into_iter().map(|node| node.name).collect();
        }
        let mut found = Vec::with_capacity(names.len());
        for name in names {
            let detail: NodeDetail = admin
                .get(&format!("/v1/nodes/{name}"))
                .await
                .with_context(|| format!("asking for {name}; `pxe-server nodes` lists them"))?;
            let disks = detail.inventory.map(|inventory| inventory.disks);
            if disks.is_some() || !arguments.all {
                found.push(Found { name, disks });
            }
        }
        Ok(found)
    })
}

//! `nodes`, and the orders `approve`, `deploy` and `try-ipxe`.

use anyhow::{Result, bail};
use clap::Args;
use node_api::Lockdown;

use super::text::{bytes, table};
use super::{AdminArguments, talk};
use crate::admin_api::{Order, OrderReply};
use crate::nodes::view::NodeView;

#[derive(Args)]
pub(super) struct NodesArguments {
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminArguments,
}

#[derive(Args)]
pub(super) struct OrderArguments {
    /// Names of nodes, as `pxe-server nodes` lists them
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Every node
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminArguments,
}

/// `pxe-server nodes`.
pub(super) fn list(arguments: &NodesArguments) -> Result<()> {
    if arguments.json {
        let nodes: serde_json::Value = talk(&arguments.admin, async |admin| admin.get("/v1/nodes").await)?;
        println!("{}", serde_json::to_string_pretty(&nodes)?);
        return Ok(());
    }
    let nodes: Vec<NodeView> = talk(&arguments.admin, async |admin| admin.get("/v1/nodes").await)?;
    if nodes.is_empty() {
        println!("no machine has booted over the network yet");
        return Ok(());
    }
    let rows: Vec<Vec<String>> = nodes.iter().map(row).collect();
    print!(
        "{}",
        table(
            &[
                "NAME",
                "STATE",
                "STAGE",
                "ADDRESS",
                "MAC",
                "MACHINE",
                "FIRMWARE",
                "FROM SERVER",
                "FROM NODES",
                ""
            ],
            &rows
        )
    );
    Ok(())
}

fn row(node: &NodeView) -> Vec<String> {
    let identity = node.identity.clone().unwrap_or_default();
    let machine: Vec<String> = [identity.vendor, identity.product].into_iter().flatten().collect();
    vec![
        node.name.clone(),
        node.state.clone(),
        node.stage.map(|stage| stage.to_string()).unwrap_or_default(),
        node.address.clone().unwrap_or_default(),
        node.mac.clone(),
        machine.join(" "),
        firmware(node),
        bytes(node.traffic.from_server_bytes),
        bytes(node.traffic.from_nodes_bytes),
        remark(node),
    ]
}

/// What starts a node, and what that keeps from changing its kernel: `uefi, lockdown integrity`.
fn firmware(node: &NodeView) -> String {
    let locked = node.lockdown.filter(|lockdown| *lockdown != Lockdown::None);
    let words = [
        node.firmware.map(|firmware| firmware.to_string()),
        node.refused_ipxe_unix_ms.map(|_| "signed loaders".to_owned()),
        locked.map(|lockdown| format!("lockdown {lockdown}")),
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Why a node waits or failed, after what a person must look after.
pub(super) fn remark(node: &NodeView) -> String {
    let alarm = node.alarm.as_ref().map(|alarm| format!("ALARM: {alarm}"));
    let why = match (&node.failure, &node.waits_for) {
        (Some(failure), _) => Some(format!("{}: {}", failure.code, failure.message)),
        (None, reason) => reason.clone(),
    };
    alarm.into_iter().chain(why).collect::<Vec<_>>().join("; ")
}

/// `pxe-server approve`, `deploy` and `try-ipxe`.
pub(super) fn order(arguments: &OrderArguments, order: &str, done: &str) -> Result<()> {
    if arguments.names.is_empty() && !arguments.all {
        bail!("name the nodes for {order}, or give --all; `pxe-server nodes` lists them");
    }
    let body = Order { nodes: arguments.names.clone(), all: arguments.all };
    let path = format!("/v1/{order}");
    let reply: OrderReply = talk(&arguments.admin, async |admin| admin.post(&path, &body).await)?;
    if arguments.json {
        println!("{}", serde_json::to_string(&reply)?);
    } else if reply.changed.is_empty() {
        println!("nothing to do: every node named is so already");
    } else {
        for name in &reply.changed {
            println!("{name}: {done}");
        }
    }
    Ok(())
}

//! `report`: a deployment with the time of each stage and where the bytes came from.

use anyhow::Result;
use clap::Args;
use node_api::{Stage, TrafficCounts};

use super::text::{bytes, duration, table};
use super::{AdminArguments, talk};
use crate::deployments::{DeploymentReport, NodeRun};

#[derive(Args)]
pub(super) struct ReportArguments {
    /// Name of a deployment, such as d000001; without it the last one
    #[arg(value_name = "DEPLOYMENT")]
    deployment: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminArguments,
}

/// `pxe-server report`.
pub(super) fn report(arguments: &ReportArguments) -> Result<()> {
    let reports: Vec<DeploymentReport> =
        talk(&arguments.admin, async |admin| admin.get("/v1/deployments").await)?;
    let found = match &arguments.deployment {
        None => reports.first(),
        Some(name) => {
            let found = reports.iter().find(|report| report.name == *name);
            let known: Vec<&str> = reports.iter().map(|report| report.name.as_str()).collect();
            anyhow::ensure!(
                found.is_some(),
                "no deployment is called `{name}`; there are: {}",
                known.join(", ")
            );
            found
        }
    };
    match (found, arguments.json) {
        (Some(report), true) => println!("{}", serde_json::to_string_pretty(report)?),
        (Some(report), false) => print!("{}", render(report)),
        (None, true) => println!("null"),
        (None, false) => println!("no node has been deployed yet"),
    }
    Ok(())
}

/// The report as a table: one column for each node.
fn render(report: &DeploymentReport) -> String {
    let mut head = vec![""];
    head.extend(report.runs.iter().map(|run| run.node.as_str()));
    let line = |name: &str, cell: &dyn Fn(&NodeRun) -> String| -> Vec<String> {
        std::iter::once(name.to_owned()).chain(report.runs.iter().map(cell)).collect()
    };
    let mut rows = vec![line("outcome", &|run| outcome(run))];
    for stage in Stage::ALL {
        if report.runs.iter().any(|run| run.run.stages.iter().any(|time| time.stage == stage)) {
            rows.push(line(stage.word(), &|run| stage_time(run, stage)));
        }
    }
    rows.push(line("task to installed", &|run| {
        let ended = run.run.ended_unix_ms.map(|ended| ended.saturating_sub(run.run.started_unix_ms));
        ended.map(duration).unwrap_or_default()
    }));
    let traffic = |run: &NodeRun| run.run.traffic.unwrap_or_default();
    rows.push(line("from the server", &|run| bytes(traffic(run).from_server_bytes)));
    rows.push(line("from other nodes", &|run| bytes(traffic(run).from_nodes_bytes)));
    rows.push(line("share from nodes", &|run| share(traffic(run))));
    rows.push(line("sent to nodes", &|run| bytes(traffic(run).sent_bytes)));
    let mut text = format!("deployment {} of {}\n\n{}", report.name, report.image, table(&head, &rows));
    for run in &report.runs {
        if let Some(failure) = &run.run.failure {
            text.push_str(&format!("\n{}: {failure}\n", run.node));
        }
    }
    text
}

fn outcome(run: &NodeRun) -> String {
    let word = serde_json::to_value(run.run.outcome).ok();
    word.and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The sum of all tries of a stage.
fn stage_time(run: &NodeRun, stage: Stage) -> String {
    let tries: Vec<_> = run.run.stages.iter().filter(|time| time.stage == stage).collect();
    let took: Option<u64> = tries.iter().map(|time| time.took_ms).sum();
    match (took, tries.len()) {
        (_, 0) => String::new(),
        (Some(took), 1) => duration(took),
        (Some(took), tries) => format!("{} in {tries} tries", duration(took)),
        (None, _) => "not finished".to_owned(),
    }
}

fn share(traffic: TrafficCounts) -> String {
    let total = traffic.from_server_bytes.saturating_add(traffic.from_nodes_bytes);
    let percent = traffic.from_nodes_bytes.saturating_mul(100).checked_div(total);
    percent.map(|percent| format!("{percent} %")).unwrap_or_default()
}

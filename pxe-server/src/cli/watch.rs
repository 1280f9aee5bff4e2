//! `watch`: the nodes live, redrawn in place on a terminal, line by line elsewhere.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Deserialize;

use super::nodes::remark;
use super::text::{bar, bytes, table};
use super::{AdminArguments, talk};
use crate::nodes::view::NodeView;

/// Width of a progress bar, characters.
const BAR_WIDTH: usize = 20;
/// A server that went away is asked again after this.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
/// The total rate is of this time, milliseconds.
const RATE_WINDOW_MS: u64 = 3000;

#[derive(Args)]
pub(super) struct WatchArguments {
    #[command(flatten)]
    admin: AdminArguments,
}

#[derive(Deserialize)]
struct News {
    nodes: Vec<NodeView>,
    now_unix_ms: u64,
}

/// `pxe-server watch`: until interrupted.
pub(super) fn watch(arguments: &WatchArguments) -> Result<()> {
    talk(&arguments.admin, async |admin| {
        let mut screen = Screen { live: std::io::stdout().is_terminal(), ..Screen::default() };
        // The first time a server that is not there is the user's mistake; later it is being restarted.
        let mut events = admin.events().await?;
        loop {
            while let Ok(Some((event, data))) = events.next().await {
                let news: News = serde_json::from_str(&data).context("reading an event of the server")?;
                screen.take(&event, news)?;
            }
            screen.note("the server is away; waiting for it")?;
            events = loop {
                tokio::time::sleep(RECONNECT_PAUSE).await;
                if let Ok(events) = admin.events().await {
                    break events;
                }
            };
        }
    })
}

#[derive(Default)]
struct Screen {
    live: bool,
    nodes: BTreeMap<String, NodeView>,
    lines: usize,
    /// Times and total image bytes, for the rate.
    totals: std::collections::VecDeque<(u64, u64)>,
}

impl Screen {
    fn take(&mut self, event: &str, news: News) -> Result<()> {
        if event == "snapshot" {
            self.nodes.clear();
        }
        for node in news.nodes {
            let before = self.nodes.get(&node.name);
            let same =
                before.is_some_and(|before| (&before.state, before.stage) == (&node.state, node.stage));
            if !self.live && !same {
                let stage = node.stage.map(|stage| format!(" ({stage})")).unwrap_or_default();
                println!("{}: {}{stage} {}", node.name, node.state, remark(&node));
            }
            self.nodes.insert(node.name.clone(), node);
        }
        let total = self.nodes.values().map(received).sum();
        self.totals.push_back((news.now_unix_ms, total));
        while self.totals.len() > 2
            && self.totals.front().is_some_and(|(at, _)| at + RATE_WINDOW_MS < news.now_unix_ms)
        {
            self.totals.pop_front();
        }
        if self.live { self.draw() } else { Ok(()) }
    }

    fn draw(&mut self) -> Result<()> {
        let rows: Vec<Vec<String>> = self.nodes.values().map(row).collect();
        let mut text = table(&["NODE", "STATE", "STAGE", "PROGRESS", "SERVER", "NODES", "PEERS", ""], &rows);
        let active = self.nodes.values().filter(|node| node.state == "deploying").count();
        let installed = self
            .nodes
            .values()
            .filter(|node| matches!(node.state.as_str(), "lingering" | "deployed"))
            .count();
        text.push_str(&format!(
            "\n{} nodes, {active} deploying, {installed} installed, {}/s in all\n",
            self.nodes.len(),
            bytes(self.rate())
        ));
        self.replace(&text)
    }

    fn note(&mut self, text: &str) -> Result<()> {
        if self.live {
            return self.replace(&format!("{text}\n"));
        }
        println!("{text}");
        Ok(())
    }

    fn replace(&mut self, text: &str) -> Result<()> {
        let mut out = std::io::stdout().lock();
        // ECMA-48: cursor up by so many lines, erase to the end of the screen.
        if self.lines > 0 {
            write!(out, "\x1b[{}A\x1b[J", self.lines)?;
        }
        write!(out, "{text}")?;
        out.flush()?;
        self.lines = text.lines().count();
        Ok(())
    }

    /// Bytes per second over the window.
    fn rate(&self) -> u64 {
        let (Some(first), Some(last)) = (self.totals.front(), self.totals.back()) else { return 0 };
        let ms = last.0.saturating_sub(first.0);
        last.1.saturating_sub(first.1).saturating_mul(1000).checked_div(ms).unwrap_or(0)
    }
}

fn received(node: &NodeView) -> u64 {
    node.traffic.from_server_bytes.saturating_add(node.traffic.from_nodes_bytes)
}

fn row(node: &NodeView) -> Vec<String> {
    let progress = node.progress.map_or_else(String::new, |progress| {
        let percent = progress.done_bytes.saturating_mul(100).checked_div(progress.total_bytes).unwrap_or(0);
        format!("{} {percent:3} %", bar(progress.done_bytes, progress.total_bytes, BAR_WIDTH))
    });
    vec![
        node.name.clone(),
        node.state.clone(),
        node.stage.map(|stage| stage.to_string()).unwrap_or_default(),
        progress,
        bytes(node.traffic.from_server_bytes),
        bytes(node.traffic.from_nodes_bytes),
        node.progress.map(|progress| progress.peers.to_string()).unwrap_or_default(),
        remark(node),
    ]
}

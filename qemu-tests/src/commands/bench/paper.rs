//! `bench paper`: the paper's headline on this bed: 596 MiB to 32 nodes.
//!
//! Nodes verify each piece and discard it, and serve from the one copy in memory: 19 GB do not fit.

use std::time::Duration;

use anyhow::Result;
use bed::peers::{Ours, OursOptions};
use bed::{Mbit, Shape};
use qemu_tests::programs::Programs;
use qemu_tests::report::Bar;

use super::choice::Choice;
use super::swarm::{Case, Entry, PAPER_MIB, Row, Turns};

/// Nodes in the paper.
const NODES: usize = 32;
/// So that two processors are not the limit.
const SHAPED: Mbit = Mbit(25.0);
const RUNS: usize = 3;
/// The bar of the swarm.
const RATIO_MAX: f64 = 1.10;
/// What the paper needed, on links of unknown speed: existing peers would need about 110 s here.
const PAPER: Duration = Duration::from_secs(260);

pub(super) fn paper(choice: &Choice) -> Result<()> {
    let programs = Programs::find_peers()?;
    let (nodes, mib) = if choice.quick { (8, 64) } else { (NODES, PAPER_MIB) };
    let rates = if choice.quick { vec![None] } else { vec![None, Some(SHAPED)] };
    let entry = |rate| {
        let ours = Ours {
            pxe_server: programs.pxe_server.clone(),
            image_tools: programs.image_tools.clone(),
            options: OursOptions { mirror: true, ..OursOptions::default() },
        };
        let note = "nodes verify and discard";
        Entry { note, ..Entry::new(Box::new(ours), Shape::new(nodes, rate), mib) }
    };
    let entries: Vec<Entry> = rates.into_iter().map(entry).collect();
    let left_out =
        if choice.quick { "32 nodes, the paper's size, shaped links, repetitions" } else { "nothing" };
    let runs = choice.turns(RUNS);
    Turns::new("paper", choice.json, left_out, bars).take(&[Case { name: "paper", entries }], runs)
}

fn bars(rows: &[Row]) -> Vec<Bar> {
    let mut bars = Vec::new();
    for row in rows.iter().filter(|row| row.shape.nodes == NODES) {
        if let Some(ratio) = row.ratio() {
            let (name, value) = ("shaped: last node / (S/B)".into(), ratio.median);
            bars.push(Bar { name, value, limit: RATIO_MAX, holds: value <= RATIO_MAX, is_time: true });
        } else if let Some(last) = row.last_s() {
            let (name, value, limit) = ("not shaped: seconds".into(), last.median, PAPER.as_secs_f64());
            bars.push(Bar { name, value, limit, holds: value <= limit, is_time: true });
        }
    }
    bars
}

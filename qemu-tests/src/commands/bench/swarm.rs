//! `bench swarm`: one file to N nodes on shaped links, ours beside every peer that an admin could use instead.
//!
//! Never compares figures of different runs of this command: peers take turns within one.

mod bars;
mod cases;
mod sample;
mod table;
mod turns;

use anyhow::{Result, ensure};
use qemu_tests::programs::Programs;

use super::choice::Choice;

pub(super) use cases::{Case, Entry, PAPER_MIB, peer};
pub(super) use sample::{Row, Sample};
pub(super) use turns::Turns;

/// Turns per row.
const RUNS: usize = 3;

pub(super) fn swarm(choice: &Choice) -> Result<()> {
    let programs = Programs::find_peers()?;
    let mut chosen = if choice.quick { vec![cases::quick(&programs)] } else { cases::all(&programs) };
    choice.knows_cases(&chosen.iter().map(|case| case.name).collect::<Vec<_>>())?;
    chosen.retain(|case| choice.has_case(case.name));
    for case in &mut chosen {
        case.entries.retain(|entry| choice.only.is_empty() || choice.only.contains(&entry.label));
    }
    chosen.retain(|case| !case.entries.is_empty());
    ensure!(!chosen.is_empty(), "nothing is left to run");
    let left_out =
        choice.left_out("16 and 32 nodes, loss, slow and dying nodes, every peer but aria2, repetitions");
    let runs = choice.turns(RUNS);
    Turns::new("swarm", choice.json, left_out, bars::bars).take(&chosen, runs)
}

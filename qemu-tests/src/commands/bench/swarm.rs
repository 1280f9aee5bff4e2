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

pub(super) use cases::{Case, Entry, PAPER_MIB, peer};
pub(super) use sample::{Row, Sample};
pub(super) use turns::Turns;

/// Turns per row.
const RUNS: usize = 3;

/// What is left out or repeated, as the command line says.
#[derive(Clone, Debug, Default)]
pub(super) struct Choice {
    pub(super) quick: bool,
    pub(super) json: bool,
    /// Only these peers.
    pub(super) only: Vec<String>,
    /// Only these cases.
    pub(super) cases: Vec<String>,
    /// Turns per row, if not three.
    pub(super) runs: Option<usize>,
}

impl Choice {
    /// Fails if a case is asked for that is not one of these.
    pub(super) fn knows_cases(&self, names: &[&str]) -> Result<()> {
        for name in &self.cases {
            ensure!(
                names.contains(&name.as_str()),
                "there is no case {name}; there are {}",
                names.join(", ")
            );
        }
        Ok(())
    }

    /// What a run with these options leaves out; `quick`: of the reduced form.
    pub(super) fn left_out(&self, quick: &'static str) -> &'static str {
        if self.quick {
            quick
        } else if self.cases.is_empty() && self.only.is_empty() && self.runs.is_none() {
            "nothing"
        } else {
            "what the options leave out"
        }
    }

    pub(super) fn has_case(&self, name: &str) -> bool {
        self.cases.is_empty() || self.cases.iter().any(|case| case == name)
    }
}

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
    let runs = choice.runs.unwrap_or(if choice.quick { 1 } else { RUNS });
    Turns::new("swarm", choice.json, left_out, bars::bars).take(&chosen, runs)
}

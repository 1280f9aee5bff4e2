//! The same policies once with the real programs, in network namespaces.

use anyhow::{Result, ensure};
use bed::peers::{Ours, OursOptions};
use bed::{Mbit, Shape};
use qemu_tests::programs::Programs;
use serde_json::{Value, json};

use super::{Case, Contender};
use crate::commands::bench::figures::rounded;
use crate::commands::bench::swarm::{Entry, Row, Turns};

/// So that two processors are not the limit; the same S/B as 596 MiB at 100 Mbit/s.
const NODES: usize = 32;
const MBIT: u64 = 25;
const MIB: u64 = 149;
const PIECE_KIB: u32 = 64;

/// As a case.
pub(super) const NAME: &str = "bed";

const CASE: Case = Case { name: NAME, nodes: NODES, mbit: MBIT, mib: MIB, piece_kib: PIECE_KIB, coarser: 1 };

/// One race per policy, in rows like the simulator's; what can't be seen from outside is left out.
pub(super) fn races(json: bool) -> Result<Vec<Value>> {
    let programs = Programs::find_peers()?;
    let contenders = [Contender::Bep3, Contender::Suppress, Contender::Fixed, Contender::Adaptive];
    let entry = |contender: Contender| {
        let options = OursOptions {
            have: Some(contender.option()),
            piece_bytes: Some(PIECE_KIB << 10),
            name: Some(contender.name()),
            ..OursOptions::default()
        };
        let (pxe_server, image_tools) = (programs.pxe_server.clone(), programs.image_tools.clone());
        let ours = Ours { pxe_server, image_tools, options };
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let shape = Shape::new(NODES, Some(Mbit(MBIT as f64)));
        Entry::new(Box::new(ours), shape, MIB)
    };
    let entries = contenders.map(entry).into();
    let cases = [crate::commands::bench::swarm::Case { name: "have", entries }];
    let rows = Turns::new("have", json, "the simulator", |_| Vec::new()).rows(&cases, 1)?;
    ensure!(rows.len() == contenders.len(), "a race is missing");
    let same_degree = rows.first().and_then(messages);
    Ok(rows.iter().map(|row| described(row, same_degree)).collect())
}

/// Of the undisturbed race, or else of the last disturbed one: load changes when, hardly how many.
fn messages(row: &Row) -> Option<f64> {
    let sample = row.samples.last().or(row.disturbed.last())?;
    #[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
    sample.have_messages.map(|count| count as f64)
}

fn described(row: &Row, same_degree: Option<f64>) -> Value {
    let sample = row.samples.last().or(row.disturbed.last());
    let last_s = sample.filter(|sample| sample.is_complete()).map(|sample| sample.last_s);
    let (messages, bound_s) = (messages(row), row.bound_s());
    let nodes = NODES as f64;
    let all_peers = (CASE.pieces() * CASE.nodes as u64 * (CASE.nodes as u64 - 1)) as f64;
    let to = |value: Option<f64>, decimals| value.map(|value| rounded(value, decimals));
    json!({
        "where": "namespaces",
        "nodes": NODES,
        "mbit": MBIT,
        "image_mib": MIB,
        "piece_kib": PIECE_KIB,
        "have": row.label,
        "messages": messages,
        "messages_per_s_node": to(messages.zip(last_s).map(|(count, last)| count / last / nodes), 1),
        "of_all_peers": to(messages.map(|count| count / all_peers), 3),
        "of_same_degree": to(messages.zip(same_degree).map(|(count, bep3)| count / bep3), 3),
        "last_ratio": to(last_s.zip(bound_s).map(|(last, bound)| last / bound), 4),
        "disturbed": row.samples.is_empty(),
    })
}

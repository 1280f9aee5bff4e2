//! One race on a bed: `race PEER NODES MBIT MIB [LOSS_PERCENT [PIECE_KIB]]`; MBIT 0 leaves links as fast as they are.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bed::peers::{Aria2, Http, Libtorrent, Ours, OursOptions, Udpcast, Uftp};
use bed::{Bed, Contestant, Mbit, Outcome, Shape, Source, race};

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, default: &str| -> Result<f64> {
        let word = words.get(index).map_or(default, String::as_str);
        word.parse().with_context(|| format!("{word} is no number"))
    };
    let (nodes, mbit, mib, loss) = (number(1, "2")?, number(2, "100")?, number(3, "16")?, number(4, "0")?);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an example's small numbers")]
    let (nodes, mib) = (nodes as usize, mib as u64);
    let mut shape = Shape::new(nodes, (mbit > 0.0).then_some(Mbit(mbit)));
    shape.loss_percent = loss;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an example's small numbers")]
    let piece_bytes = Some((number(5, "0")? * 1024.0) as u32).filter(|bytes| *bytes > 0);
    let contestant = contestant(words.first().map_or("", String::as_str), piece_bytes)?;
    let bed = Bed::new(shape)?;
    let source = Source::make(&bed.dir().join("image"), mib << 20)?;
    let outcome = race(&bed, contestant.as_ref(), &source, &[], &[], Duration::from_secs(600))?;
    let bound = bed.shape().bound_s(source.bytes).unwrap_or(f64::NAN);
    let (last, first) = (outcome.last_s(), outcome.first_s());
    println!("bound {bound:.2} s, last {last:.2} s, first {first:.2} s, ratio {:.3}", last / bound);
    println!("failures {:?}, wrong {:?}", outcome.failures, outcome.wrong);
    println!("finished {:.1?}", outcome.finished_s);
    if let Some(rate) = bed.shape().rate {
        print_timeline(&outcome, rate);
        print_middle(&outcome, rate);
    }
    for (node, stats) in &outcome.stats {
        println!("{node:?} {stats}");
    }
    let usage = bed::Usage { nodes: Vec::new(), ..outcome.usage.clone() };
    println!("{usage:?}");
    Ok(())
}

/// Per second or so: use of the server's link, and of the links of nodes that were not complete.
fn print_timeline(outcome: &Outcome, rate: Mbit) {
    println!("   at s  server  nodes in: mean  least  idle   nodes out: mean  least");
    let second = rate.0 * 1e6 / 8.0;
    for pair in outcome.timeline.windows(3).step_by(2) {
        let [before, _, now] = pair else { continue };
        let full = second * (now.at_s - before.at_s);
        #[expect(clippy::cast_precision_loss, reason = "shown with two decimals")]
        let part = |now: u64, then: u64| now.saturating_sub(then) as f64 / full;
        let links = now.nodes.iter().zip(&before.nodes).zip(&outcome.finished_s);
        let open: Vec<(f64, f64)> = links
            .filter(|(_, done)| done.is_none_or(|done| done > before.at_s))
            .map(|((now, then), _)| (part(now.0, then.0), part(now.1, then.1)))
            .collect();
        #[expect(clippy::cast_precision_loss, reason = "a few nodes")]
        let count = open.len().max(1) as f64;
        let (inward, outward) = (open.iter().map(|it| it.0), open.iter().map(|it| it.1));
        println!(
            "{:7.1}  {:6.2}  {:14.2} {:6.2} {:5}  {:15.2} {:6.2}  of {}",
            now.at_s,
            part(now.server_sent, before.server_sent),
            inward.clone().sum::<f64>() / count,
            inward.clone().fold(f64::INFINITY, f64::min),
            inward.filter(|used| *used < 0.5).count(),
            outward.clone().sum::<f64>() / count,
            outward.fold(f64::INFINITY, f64::min),
            open.len()
        );
    }
}

/// Use of each node's link in the middle third of the race, fewest received first.
fn print_middle(outcome: &Outcome, rate: Mbit) {
    let third = outcome.timeline.len() / 3;
    let (Some(before), Some(now)) = (outcome.timeline.get(third), outcome.timeline.get(2 * third)) else {
        return;
    };
    let full = rate.0 * 1e6 / 8.0 * (now.at_s - before.at_s);
    #[expect(clippy::cast_precision_loss, reason = "shown with two decimals")]
    let part = |now: u64, then: u64| now.saturating_sub(then) as f64 / full;
    let links = now.nodes.iter().zip(&before.nodes).enumerate();
    let mut nodes: Vec<(f64, f64, usize)> =
        links.map(|(node, (now, then))| (part(now.0, then.0), part(now.1, then.1), node)).collect();
    nodes.sort_by(|left, right| left.0.total_cmp(&right.0));
    println!("middle third: node received/sent");
    let words = nodes.iter().map(|(inward, outward, node)| format!("n{node} {inward:.2}/{outward:.2}"));
    println!("  {}", words.collect::<Vec<_>>().join("  "));
}

fn contestant(name: &str, piece_bytes: Option<u32>) -> Result<Box<dyn Contestant>> {
    let programs = std::env::current_exe()?;
    let release = programs.ancestors().nth(3).context("target directory")?.join("release");
    Ok(match name {
        "aria2" => Box::new(Aria2),
        "http" => Box::new(Http),
        "libtorrent" => Box::new(Libtorrent),
        "udpcast" => Box::new(Udpcast),
        "uftp" => Box::new(Uftp),
        "ours" | "ours-mirror" => Box::new(Ours {
            pxe_server: release.join("pxe-server"),
            image_tools: release.join("image-tools"),
            options: OursOptions { mirror: name == "ours-mirror", piece_bytes, ..OursOptions::default() },
        }),
        _ => bail!("race PEER NODES MBIT MIB [LOSS_PERCENT [PIECE_KIB]]"),
    })
}

//! One race on a bed: `race PEER NODES MBIT MIB [LOSS_PERCENT]`; MBIT 0 leaves links as fast as they are.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bed::peers::{Aria2, Http, Libtorrent, Ours, OursOptions, Udpcast, Uftp};
use bed::{Bed, Contestant, Mbit, Shape, Source, race};

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
    let contestant = contestant(words.first().map_or("", String::as_str))?;
    let bed = Bed::new(shape)?;
    let source = Source::make(&bed.dir().join("image"), mib << 20)?;
    let outcome = race(&bed, contestant.as_ref(), &source, &[], &[], Duration::from_secs(600))?;
    let bound = bed.shape().bound_s(source.bytes).unwrap_or(f64::NAN);
    let (last, first) = (outcome.last_s(), outcome.first_s());
    println!("bound {bound:.2} s, last {last:.2} s, first {first:.2} s, ratio {:.3}", last / bound);
    println!("{outcome:#?}");
    Ok(())
}

fn contestant(name: &str) -> Result<Box<dyn Contestant>> {
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
            options: OursOptions { mirror: name == "ours-mirror", ..OursOptions::default() },
        }),
        _ => bail!("race PEER NODES MBIT MIB [LOSS_PERCENT]"),
    })
}

//! `bench delta`: what a node that has an older image fetches for a newer one and how long it then writes, beside a
//! deployment in full, casync and rsync.
//!
//! Every run begins with a file system made anew that holds the older tree, none of it in memory. Never measures a
//! network: what is fetched is on this computer already.

mod changes;
mod contents;
mod ways;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use qemu_tests::image;
use qemu_tests::programs::Programs;
use qemu_tests::report::{Bar, megabytes};
use qemu_tests::session;
use serde_json::{Value, json};

use super::choice::Choice;
use super::device::{self, LoopDevice};
use super::figures::{range, shown};
use super::print::print_columns;
use super::quiet::others_are_quiet;
use super::timed::{Timed, note_if_untimed};
use changes::Change;
use contents::NewContents;
use ways::{Sources, Way};

/// The change of the reduced form.
const QUICK: Change = Change::OnePercent;
/// zstd level of delta images, as the server packs them.
const LEVEL: &str = "3";
const RUNS: usize = 3;
/// What may be fetched over the contents that are new, compressed, and the table of contents.
const OVER_CONTENTS_MAX: f64 = 1.1;
const COLUMNS: [&str; 9] = ["change", "files", "way", "MB", "of full", "limit MB", "s", "range", "runs"];

pub(super) fn delta(choice: &Choice) -> Result<()> {
    choice.knows_cases(&Change::ALL.map(Change::name))?;
    let programs = Programs::find_peers()?;
    session::before_exit(device::sweep_own);
    let older = image::debian_12_point_release(&programs)?.image;
    let device = LoopDevice::make()?;
    let older = Older::extract(&programs, older, device.dir())?;
    let mut cases = Vec::new();
    for change in Change::ALL.into_iter().filter(|change| choice.chooses(change.name(), QUICK.name())) {
        let mut case = Case::make(change, &programs, &older, device.dir())?;
        case.measure(choice, &programs, &older, &device)?;
        case.forget_files()?;
        cases.push(case);
    }
    let rows: Vec<Value> = cases.iter().flat_map(Case::rows).collect();
    let left_out = choice.left_out("the updates of packages unless named, repetitions");
    let busy = note_if_untimed(cases.iter().flat_map(|case| &case.ways).map(|(_, measured)| measured));
    let limited_by = format!(
        "the contents that are new; seconds: without a network, from what was fetched to a synced file system, the \
         older tree on the disk and not in memory; ours hashes what it keeps, rsync trusts sizes and times{busy}; \
         left out: {left_out}"
    );
    let bars: Vec<Bar> = cases.iter().map(Case::bar).collect();
    print_columns("delta", choice.json, &COLUMNS, &rows, &limited_by, &bars)
}

/// What nodes have.
struct Older {
    image: PathBuf,
    tree: PathBuf,
}

impl Older {
    fn extract(programs: &Programs, image: PathBuf, dir: &Path) -> Result<Self> {
        let tree = dir.join("older");
        ways::extract(programs, &image, &tree)?;
        Ok(Self { image, tree })
    }
}

/// One newer tree, and what came of every way to it.
struct Case {
    change: Change,
    sources: Sources,
    contents: NewContents,
    table_bytes: u64,
    ways: Vec<(Way, Timed)>,
}

impl Case {
    fn make(change: Change, programs: &Programs, older: &Older, dir: &Path) -> Result<Self> {
        let dir = dir.join(change.name());
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        let (image, tree) = change.make(programs, older, &dir)?;
        let manifest = image::read_manifest(&image)?;
        let contents = NewContents::between(&older.tree, &tree)?;
        let sources = Sources::make(programs, older, image, tree, &dir)?;
        let ways = Way::ALL.map(|way| (way, Timed::default())).to_vec();
        Ok(Self { change, sources, contents, table_bytes: manifest.toc.len, ways })
    }

    fn measure(
        &mut self,
        choice: &Choice,
        programs: &Programs,
        older: &Older,
        device: &LoopDevice,
    ) -> Result<()> {
        let runs = choice.turns(RUNS);
        for run in 1..=runs {
            // Forth and back, so that none always comes behind the same other.
            if run > 1 {
                self.ways.reverse();
            }
            for (way, measured) in &mut self.ways {
                let prepared = ways::prepare(*way, programs, older, device)?;
                let is_quiet = others_are_quiet().is_ok();
                let (bytes, seconds) =
                    ways::run(*way, programs, &self.sources, &prepared).with_context(|| way.name())?;
                eprintln!(
                    "{run}/{runs} {} {}: {bytes} bytes, {seconds:.2} s",
                    self.change.name(),
                    way.name()
                );
                measured.add(bytes, seconds, is_quiet);
            }
        }
        Ok(())
    }

    /// The next case needs the room.
    fn forget_files(&self) -> Result<()> {
        let dir = self.sources.dir();
        fs::remove_dir_all(dir).with_context(|| format!("removing {}", dir.display()))
    }

    fn bytes(&self, way: Way) -> u64 {
        self.ways.iter().find(|(known, _)| *known == way).map_or(0, |(_, measured)| measured.bytes)
    }

    #[expect(clippy::cast_precision_loss, reason = "sizes below 2^53")]
    fn limit_bytes(&self) -> f64 {
        (self.contents.compressed_bytes as f64).mul_add(OVER_CONTENTS_MAX, self.table_bytes as f64)
    }

    #[expect(clippy::cast_precision_loss, reason = "sizes below 2^53")]
    fn bar(&self) -> Bar {
        let value = self.bytes(Way::Delta) as f64 / self.limit_bytes();
        let name = format!(
            "{}: bytes fetched, of {OVER_CONTENTS_MAX} x new contents and the table, at most",
            self.change.name()
        );
        Bar { name: name.into(), value, limit: 1.0, holds: value <= 1.0, is_time: false }
    }

    fn rows(&self) -> Vec<Value> {
        let mut ways = self.ways.clone();
        ways.sort_by_key(|(way, _)| Way::ALL.iter().position(|known| known == way));
        ways.iter().map(|(way, measured)| self.row(*way, measured)).collect()
    }

    #[expect(clippy::cast_precision_loss, reason = "sizes below 2^53")]
    fn row(&self, way: Way, measured: &Timed) -> Value {
        let mut row = json!({
            "change": self.change.name(), "files": self.contents.files, "way": way.name(),
            "MB": format!("{:.1}", megabytes(measured.bytes)),
            "of full": format!("{:.3}", measured.bytes as f64 / self.bytes(Way::Full) as f64),
            "limit MB": "", "s": shown(measured.median(), 1),
            "range": range(measured.seconds.iter().copied(), 1), "runs": measured.seconds.len(),
            "bytes": measured.bytes, "seconds": measured.seconds,
        });
        if let (Way::Delta, Some(row)) = (way, row.as_object_mut()) {
            row.insert("limit MB".to_owned(), format!("{:.1}", self.limit_bytes() / 1e6).into());
            row.insert("new_contents_bytes".to_owned(), self.contents.bytes.into());
            row.insert("new_contents_compressed_bytes".to_owned(), self.contents.compressed_bytes.into());
            row.insert("table_bytes".to_owned(), self.table_bytes.into());
        }
        row
    }
}

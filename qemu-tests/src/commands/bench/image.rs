//! `bench image`: how large an image of a real system is and how long it takes to make, ours beside every other form.
//!
//! Never compares figures of different runs of this command: the forms take turns within one.

mod disks;
mod forms;
mod trees;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use qemu_tests::command::run;
use qemu_tests::image::cache_dir;
use qemu_tests::programs::Programs;
use qemu_tests::report::{Bar, megabytes};
use serde_json::{Value, json};

use super::choice::Choice;
use super::figures::shown;
use super::print::print_columns;
use super::quiet::others_are_quiet;
use super::timed::{Timed, note_if_untimed};
use disks::Disks;
use forms::{Form, Kind, Source};
use trees::{TREES, Tree};

/// Turns of the two forms whose times are compared.
const RUNS: usize = 3;
/// The tree of the reduced form.
const QUICK: &str = "minimal";
const COLUMNS: [&str; 6] = ["tree", "form", "MB", "MB used", "s", "s used"];

/// Most of a compressed raw disk, of partclone's and of tar's bytes that a file-mode image may have.
const OF_RAW_USED_MAX: f64 = 0.3;
const OF_PARTCLONE_MAX: f64 = 1.0;
const OF_TAR_MAX: f64 = 1.03;
/// And of tar's time.
const OF_TAR_TIME_MAX: f64 = 1.2;

/// One form of one tree.
struct Row {
    tree: &'static str,
    form: Form,
    /// From the tree, or the disk that it was just written to; from the disk that was lived in.
    clean: Timed,
    used: Option<Timed>,
}

pub(super) fn image(choice: &Choice) -> Result<()> {
    let programs = Programs::find_peers()?;
    choice.knows_cases(&TREES.map(|tree| tree.name))?;
    let mut rows = Vec::new();
    for tree in TREES.iter().filter(|tree| choice.chooses(tree.name, QUICK)) {
        rows.extend(measure(tree, &programs, choice)?);
    }
    ensure!(!rows.is_empty(), "nothing is left to run");
    let left_out = choice.left_out("the larger trees unless named, levels 9 and 19, repetitions");
    let busy = note_if_untimed(rows.iter().map(|row| &row.clean));
    let limited_by = format!(
        "the compressor; every form until its file is on the disk; used: a copy of the tree and \
         half as much that cannot be compressed were written to the disk before and deleted{busy}; left out: {left_out}"
    );
    let lines: Vec<Value> = rows.iter().map(Row::line).collect();
    print_columns("image", choice.json, &COLUMNS, &lines, &limited_by, &bars(&rows))
}

fn measure(tree: &'static Tree, programs: &Programs, choice: &Choice) -> Result<Vec<Row>> {
    let forms: Vec<Form> = forms::all(choice.quick)
        .into_iter()
        .filter(|form| choice.only.is_empty() || choice.only.contains(&form.to_string()))
        .collect();
    let directory = tree.ready()?;
    let work = Work::new()?;
    let needs_disks = forms.iter().any(|form| form.kind.source() == Source::Disk);
    let disks = needs_disks.then(|| Disks::make(&directory, &work.0, tree.disk_gib)).transpose()?;
    let mut rows: Vec<Row> = Vec::new();
    for form in forms {
        let used = (form.kind.source() == Source::Disk).then(Timed::default);
        rows.push(Row { tree: tree.name, form, clean: Timed::default(), used });
    }
    let runs = choice.turns(RUNS);
    for run in 1..=runs {
        // A B C A B C, never all of A and then all of B.
        for row in rows.iter_mut().filter(|row| run == 1 || row.form.repeats()) {
            let source = disks.as_ref().map_or(&directory, |disks| match row.form.kind.source() {
                Source::Tree => &directory,
                Source::Disk => &disks.clean,
            });
            make(&row.form, &mut row.clean, programs, source, &work.0)?;
            if let (Some(sample), Some(disks)) = (&mut row.used, &disks) {
                make(&row.form, sample, programs, &disks.used, &work.0)?;
            }
            eprintln!("{run}/{runs} {}", row.line());
        }
    }
    Ok(rows)
}

/// A directory for disks and images; its contents go with the value.
struct Work(PathBuf);

impl Work {
    fn new() -> Result<Self> {
        let work = Self(cache_dir()?.join("bench-image-work"));
        work.remove();
        fs::create_dir_all(&work.0).with_context(|| format!("making {}", work.0.display()))?;
        Ok(work)
    }

    fn remove(&self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Makes it once more.
fn make(form: &Form, timed: &mut Timed, programs: &Programs, source: &Path, work: &Path) -> Result<()> {
    let output = work.join("output");
    let _ = fs::remove_dir_all(&output);
    fs::create_dir_all(&output)?;
    let mut command = Command::new("bash");
    command.args(["-c", &form.script(), "bash"]).arg(source).arg(output.join("image.esir"));
    command.env("IMAGE_TOOLS", &programs.image_tools).stdout(Stdio::null());
    let is_quiet = others_are_quiet().is_ok();
    let begun = Instant::now();
    run(&mut command).with_context(|| form.to_string())?;
    let took = begun.elapsed().as_secs_f64();
    let made = fs::metadata(output.join("image.esir")).with_context(|| format!("{form} left nothing"))?;
    timed.add(made.len(), took, is_quiet);
    fs::remove_dir_all(&output)?;
    Ok(())
}

impl Row {
    fn line(&self) -> Value {
        let megabytes = |timed: &Timed| format!("{:.1}", megabytes(timed.bytes));
        let seconds = |timed: &Timed| shown(timed.median(), 1);
        let mut line = json!({
            "tree": self.tree, "form": self.form.to_string(), "MB": megabytes(&self.clean),
            "s": seconds(&self.clean), "bytes": self.clean.bytes, "seconds": self.clean.seconds,
        });
        if let (Some(used), Some(line)) = (&self.used, line.as_object_mut()) {
            line.insert("MB used".to_owned(), megabytes(used).into());
            line.insert("s used".to_owned(), seconds(used).into());
            line.insert("bytes_used".to_owned(), used.bytes.into());
        }
        line
    }
}

fn bars(rows: &[Row]) -> Vec<Bar> {
    let mut bars = Vec::new();
    for ours in rows.iter().filter(|row| row.form.kind == Kind::Files) {
        let other = |kind: Kind| {
            rows.iter().find(|row| row.tree == ours.tree && row.form == Form { kind, level: ours.form.level })
        };
        let mut push = |what: &str, value: Option<f64>, limit: f64, is_time: bool| {
            if let Some(value) = value {
                let name = format!("{}, {}: {what}", ours.tree, ours.form);
                bars.push(Bar { name: name.into(), value, limit, holds: value <= limit, is_time });
            }
        };
        let raw_used = other(Kind::Raw).and_then(|raw| raw.used.as_ref());
        push(
            "bytes of those of raw | zstd, used",
            raw_used.map(|raw| ratio(&ours.clean, raw)),
            OF_RAW_USED_MAX,
            false,
        );
        let partclone = other(Kind::Partclone).map(|other| ratio(&ours.clean, &other.clean));
        push("bytes of those of partclone | zstd", partclone, OF_PARTCLONE_MAX, false);
        let tar = other(Kind::Tar);
        push(
            "bytes of those of tar | zstd",
            tar.map(|tar| ratio(&ours.clean, &tar.clean)),
            OF_TAR_MAX,
            false,
        );
        let times = tar.and_then(|tar| Some(ours.clean.median()? / tar.clean.median()?));
        push("time of that of tar | zstd", times, OF_TAR_TIME_MAX, true);
    }
    bars
}

#[expect(clippy::cast_precision_loss, reason = "sizes below 2^53")]
fn ratio(ours: &Timed, theirs: &Timed) -> f64 {
    ours.bytes as f64 / theirs.bytes.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kind: Kind, bytes: u64, used: Option<u64>, seconds: &[f64]) -> Row {
        let sample = |bytes| Timed { bytes, seconds: seconds.to_vec() };
        Row { tree: "t", form: Form { kind, level: Some(3) }, clean: sample(bytes), used: used.map(sample) }
    }

    #[test]
    fn each_bar_is_of_the_same_tree_and_level() {
        let mut rows = vec![
            row(Kind::Files, 100, None, &[3.0, 1.0, 2.0]),
            row(Kind::Tar, 99, None, &[1.0]),
            row(Kind::Raw, 101, Some(1000), &[]),
            row(Kind::Partclone, 99, Some(101), &[]),
        ];
        let holds: Vec<bool> = bars(&rows).iter().map(|bar| bar.holds).collect();
        assert_eq!(holds, [true, false, true, false]);
        if let Some(tar) = rows.get_mut(1) {
            tar.form.level = Some(9);
        }
        assert_eq!(bars(&rows).len(), 2);
    }

    #[test]
    fn a_busy_computer_gives_no_time() {
        let rows = [row(Kind::Files, 100, None, &[]), row(Kind::Tar, 99, None, &[1.0])];
        assert!(bars(&rows).iter().all(|bar| !bar.is_time));
        assert_eq!(rows.first().map(|row| row.line()["s"].clone()), Some(json!("-")));
    }
}

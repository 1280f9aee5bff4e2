//! `qemu-tests bench`: one benchmark, as a table for people or one JSON object for programs.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use qemu_tests::demo::deploy_couple;
use qemu_tests::programs::Programs;
use qemu_tests::report::{Bar, commit, machine};
use qemu_tests::{Bus, FirmwareKind, Lab, LabOptions, Nic, Stage, gib, image};
use serde_json::{Value, json};

use super::demo::with_table;

const BENCHMARKS: [(&str, &str); 2] = [
    (
        "deploy",
        "two machines of different kinds, from power to two running servers: time per stage, bytes by source",
    ),
    ("payload", "what a node loads before it can ask for more: kernel, initrd, agent"),
];

/// Kernel excluded: what the boot loader fetches into memory for us; server NIC firmware included.
const INITRD_MAX_BYTES: u64 = 13 << 20;
/// The agent's static binary.
const AGENT_MAX_BYTES: u64 = 4 << 20;
/// Part of the processors' time that others may take before figures are worthless.
const OTHERS_BUSY_MAX: f64 = 0.3;
/// How long the machine is watched before a timed run.
const WATCHED: Duration = Duration::from_secs(2);

/// Options of `bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    /// Which one, or `list`.
    name: String,
    /// A reduced form that ends within a minute.
    #[arg(long)]
    quick: bool,
    /// One JSON object on standard output and nothing else.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: BenchArguments) -> Result<ExitCode> {
    match arguments.name.as_str() {
        "list" => BENCHMARKS.iter().for_each(|(name, what)| println!("{name:<10} {what}")),
        "deploy" if arguments.quick => deploy_quick(arguments.json).await?,
        "deploy" => deploy(arguments.json).await?,
        "payload" => payload(arguments.json)?,
        other => bail!("there is no benchmark {other}; `bench list` names them"),
    }
    Ok(ExitCode::SUCCESS)
}

async fn deploy(json: bool) -> Result<()> {
    let (mut options, image) = LabOptions::debian_12()?;
    others_are_quiet()?;
    options.quiet = json;
    let lab = Lab::start(options).await?;
    if json {
        println!("{}", serde_json::to_string(&deploy_couple(&lab, &image).await?)?);
    } else {
        println!("{}", with_table(&lab, deploy_couple(&lab, &image)).await?.markdown());
    }
    Ok(())
}

/// One machine up to `await`.
async fn deploy_quick(as_json: bool) -> Result<()> {
    let (mut options, _image) = LabOptions::debian_12()?;
    others_are_quiet()?;
    options.quiet = as_json;
    let lab = Lab::start(options).await?;
    let begun = std::time::Instant::now();
    let node =
        lab.node("quick").firmware(FirmwareKind::Bios).nic(Nic::E1000).disk(Bus::Ahci, gib(4)).power_on()?;
    node.reaches(Stage::Await).await?;
    let rows = vec![json!({ "from": "power", "to": "await", "seconds": begun.elapsed().as_secs_f64() })];
    let left_out = "everything after await, the UEFI machine and the power cycle";
    print_rows("deploy", as_json, &rows, &format!("emulated firmware and kernel; left out: {left_out}"), &[])
}

fn payload(as_json: bool) -> Result<()> {
    let programs = Programs::find()?;
    let bundle = image::boot_bundle(&programs)?;
    let (kernel, initrd) = (bundle.dir.join("vmlinuz"), bundle.dir.join("initrd.img"));
    let bytes = |path: &Path| {
        fs::metadata(path).map(|file| file.len()).with_context(|| format!("looking at {}", path.display()))
    };
    let sizes =
        [("kernel", bytes(&kernel)?), ("initrd", bytes(&initrd)?), ("agent", bytes(&programs.agent)?)];
    let rows: Vec<Value> = sizes.iter().map(|(what, size)| json!({ "what": what, "bytes": size })).collect();
    let [_, (_, initrd), (_, agent)] = sizes;
    let bars = [
        bar("initrd with every Ethernet driver, bytes", initrd, INITRD_MAX_BYTES),
        bar("agent, bytes", agent, AGENT_MAX_BYTES),
    ];
    print_rows("payload", as_json, &rows, "drivers and their firmware, then the agent", &bars)
}

#[expect(clippy::cast_precision_loss, reason = "sizes below 2^53")]
fn bar(name: &'static str, value: u64, limit: u64) -> Bar {
    Bar { name, value: value as f64, limit: limit as f64, holds: value <= limit, is_time: false }
}

fn print_rows(name: &str, as_json: bool, rows: &[Value], limited_by: &str, bars: &[Bar]) -> Result<()> {
    if as_json {
        let whole = json!({
            "name": name, "commit": commit(), "machine": machine(), "rows": rows, "limited_by": limited_by, "bars": bars,
        });
        println!("{}", serde_json::to_string(&whole)?);
        return Ok(());
    }
    println!("{name}, commit {}, {}", commit(), machine());
    for row in rows.iter().filter_map(Value::as_object) {
        let cells: Vec<String> = row.iter().map(|(key, value)| format!("{key} {value}")).collect();
        println!("  {}", cells.join("  "));
    }
    println!("  limited by: {limited_by}");
    for bar in bars {
        let verdict = if bar.holds { "holds" } else { "DOES NOT HOLD" };
        println!("  {}: {} (limit {}): {verdict}", bar.name, bar.value, bar.limit);
    }
    Ok(())
}

/// A run beside other work would measure that work.
fn others_are_quiet() -> Result<()> {
    let before = processor_ticks()?;
    std::thread::sleep(WATCHED);
    let after = processor_ticks()?;
    let (all, idle) = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
    #[expect(clippy::cast_precision_loss, reason = "ticks of two seconds")]
    let busy = 1.0 - idle as f64 / all.max(1) as f64;
    if busy > OTHERS_BUSY_MAX {
        bail!("this computer is {:.0} % busy with other work; no figure would mean anything", busy * 100.0);
    }
    Ok(())
}

/// All ticks and idle ticks since boot (proc(5), `/proc/stat`).
fn processor_ticks() -> Result<(u64, u64)> {
    let text = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
    let first = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> =
        first.split_whitespace().skip(1).take(8).filter_map(|word| word.parse().ok()).collect();
    let idle = ticks.iter().skip(3).take(2).sum();
    Ok((ticks.iter().sum(), idle))
}

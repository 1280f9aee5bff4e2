//! `bench tftp`: the same load on our TFTP server, dnsmasq's and atftpd, in turns.
//!
//! Never compares runs of different loads; a server that does not know windows is asked for them all the same.

pub(super) mod load;

use std::future::ready;
use std::net::SocketAddrV4;

use anyhow::{Context as _, Result, ensure};
use bed::Place;
use qemu_tests::programs::Programs;
use qemu_tests::report::Bar;
use qemu_tests::session;
use serde_json::{Value, json};
use tftp::ReadRequest;

use super::boot_bed::{BootBed, Running};
use super::choice::Choice;
use super::figures::median;
use super::print::print_columns;
use super::quiet::others_are_quiet;
use load::{Order, load};

const SERVERS: [&str; 3] = [OURS, "dnsmasq", "atftpd"];
const OURS: &str = "ours";
const PORT: u16 = 69;
/// Nodes at a time, and the file that each fetches: about the same work for each row.
const LOADS: [(u32, &str, usize); 3] =
    [(1, "ipxe.efi", 16 << 20), (10, "snponly.efi", 4 << 20), (100, "undionly.kpxe", 1 << 20)];
/// What firmware without options and GRUB ask for, and EDK2.
const BLOCK_BYTES: [u16; 2] = [512, 1468];
/// Lock step, EDK2, and the most that our server grants.
const WINDOWS: [u16; 3] = [1, 4, 16];
const RUNS: usize = 5;
const COLUMNS: [&str; 7] =
    ["nodes", "blksize", "window", "ours MB/s", "dnsmasq MB/s", "atftpd MB/s", "ratio"];

/// One load, and what each server made of it in each run.
struct Row {
    order: Order,
    mb_s: [Vec<f64>; SERVERS.len()],
}

pub(super) fn tftp(choice: &Choice) -> Result<()> {
    let programs = Programs::find_peers()?;
    session::before_exit(bed::sweep_own);
    others_are_quiet()?;
    let bed = BootBed::new(None)?;
    for (_, file, bytes) in LOADS {
        bed.boot_file(file, bytes)?;
    }
    let ours = bed.address(Place::Server);
    let site = format!("[server]\ninterface = \"eth0\"\naddress = \"{ours}\"\nadmin = \"127.0.0.1:8080\"\n");
    let mut running = vec![bed.start_ours(&programs, ours, &site)?];
    let addresses = [ours, bed.add_server_address(102)?, bed.add_server_address(103)?];
    running.push(start_dnsmasq(&bed, &addresses.map(|address| address.to_string())[1])?);
    running.push(start_atftpd(&bed, &addresses.map(|address| address.to_string())[2])?);
    let runs = choice.turns(RUNS);
    let mut rows = rows(choice.quick);
    if !choice.cases.is_empty() {
        rows.retain(|row| choice.cases.contains(&row.order.nodes.to_string()));
    }
    for row in &mut rows {
        others_are_quiet_beside(&bed, &mut running)?;
        for run in 1..=runs {
            // A B C A B C, never all of A and then all of B.
            for ((name, address), samples) in SERVERS.iter().zip(addresses).zip(&mut row.mb_s) {
                let order = Order { server: SocketAddrV4::new(address, PORT), ..row.order.clone() };
                let bytes = order.bytes * u64::from(order.nodes);
                let took = bed
                    .in_load(move || ready(load(&order)))
                    .with_context(|| format!("fetching from {name}"))?;
                #[expect(clippy::cast_precision_loss, reason = "sizes below 2^53")]
                let mb_s = bytes as f64 / 1e6 / took.as_secs_f64();
                eprintln!("{run}/{runs} {} {name:<8} {mb_s:.1} MB/s", what(&row.order));
                samples.push(mb_s);
            }
        }
    }
    let left_out = if choice.quick { "most rows, repetitions" } else { "nothing that was asked for" };
    let limited_by = format!(
        "processors and the way from packet to packet (links have no rate); medians of {runs}; dnsmasq 2.90 knows no \
         windowsize; left out: {left_out}"
    );
    let lines: Vec<Value> = rows.iter().map(Row::line).collect();
    let bars: Vec<Bar> = rows.iter().map(Row::bar).collect();
    print_columns("tftp", choice.json, &COLUMNS, &lines, &limited_by, &bars)
}

fn rows(quick: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    for (nodes, file, bytes) in LOADS {
        for blksize in BLOCK_BYTES {
            for window in WINDOWS {
                let middle = (nodes == 10) == (blksize == 1468 && window == 4);
                if quick && (!middle || window == 16 || nodes == 100) {
                    continue;
                }
                let request = ReadRequest {
                    name: file.into(),
                    blksize: Some(blksize),
                    windowsize: (window > 1).then_some(window),
                    tsize: true,
                    timeout: None,
                };
                let server = SocketAddrV4::new([0, 0, 0, 0].into(), PORT);
                let order = Order { server, request, bytes: bytes as u64, nodes };
                rows.push(Row { order, mb_s: Default::default() });
            }
        }
    }
    rows
}

fn start_dnsmasq(bed: &BootBed, address: &str) -> Result<Running> {
    let mut command = bed.command(Place::Server, "dnsmasq");
    command.args(["--no-daemon", "--conf-file=/dev/null", "--port=0", "--bind-interfaces", "--enable-tftp"]);
    command.args(["--tftp-max=300", "--user=root", "--pid-file", "--quiet-tftp"]);
    command
        .arg(format!("--listen-address={address}"))
        .arg(format!("--tftp-root={}", bed.boot_files().display()));
    bed.start("dnsmasq", &mut command)
}

fn start_atftpd(bed: &BootBed, address: &str) -> Result<Running> {
    let mut command = bed.command(Place::Server, "atftpd");
    command.args(["--daemon", "--no-fork", "--user", "root", "--group", "root", "--maxthread", "300"]);
    command.args(["--verbose=2", "--logfile", "-", "--bind-address", address]).arg(bed.boot_files());
    bed.start("atftpd", &mut command)
}

/// All three still run, and nobody else does.
fn others_are_quiet_beside(bed: &BootBed, running: &mut [Running]) -> Result<()> {
    for server in running {
        ensure!(server.is_alive(), "{} has ended: {}", server.name(), bed.said(server.name()));
    }
    others_are_quiet()
}

fn what(order: &Order) -> String {
    let (blksize, window) = (order.request.blksize.unwrap_or(512), order.request.windowsize.unwrap_or(1));
    format!("{} nodes, blksize {blksize}, window {window}", order.nodes)
}

impl Row {
    fn medians(&self) -> [f64; SERVERS.len()] {
        self.mb_s.each_ref().map(|samples| median(samples.iter().copied()).unwrap_or_default())
    }

    /// Ours over the better of the others.
    fn ratio(&self) -> f64 {
        let [ours, others @ ..] = self.medians();
        ours / others.into_iter().fold(f64::MIN_POSITIVE, f64::max)
    }

    fn line(&self) -> Value {
        let [ours, dnsmasq, atftpd] = self.medians().map(|mb_s| format!("{mb_s:.1}"));
        json!({
            "nodes": self.order.nodes, "blksize": self.order.request.blksize,
            "window": self.order.request.windowsize.unwrap_or(1), "ours MB/s": ours, "dnsmasq MB/s": dnsmasq,
            "atftpd MB/s": atftpd, "ratio": format!("{:.2}", self.ratio()),
            "mb_s": { "ours": self.mb_s[0], "dnsmasq": self.mb_s[1], "atftpd": self.mb_s[2] },
        })
    }

    fn bar(&self) -> Bar {
        let name = format!("{}: ours over the better of the others, at least", what(&self.order));
        let value = self.ratio();
        Bar { name: name.into(), value, limit: 1.0, holds: value >= 1.0, is_time: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_run_has_a_row_of_each_kind_and_the_full_one_has_all() {
        assert_eq!(rows(false).len(), 18);
        let quick = rows(true);
        assert!((2..=6).contains(&quick.len()), "{}", quick.len());
        assert!(
            quick.iter().any(|row| row.order.nodes == 10) && quick.iter().any(|row| row.order.nodes == 1)
        );
    }

    #[test]
    fn ratio_is_to_the_better_of_the_others() {
        let mut row = rows(false).remove(0);
        row.mb_s = [vec![1.0, 30.0, 20.0], vec![10.0], vec![5.0]];
        assert!((row.ratio() - 2.0).abs() < 1e-9 && row.bar().holds);
    }
}

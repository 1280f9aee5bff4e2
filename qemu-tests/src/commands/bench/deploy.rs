//! `bench deploy`: from power to a running server.

use anyhow::Result;
use qemu_tests::demo::deploy_couple;
use qemu_tests::{Bus, FirmwareKind, Lab, LabOptions, Nic, Stage, gib};
use serde_json::json;

use super::print::print_rows;
use super::quiet::others_are_quiet;
use crate::commands::demo::with_table;

pub(super) async fn deploy(json: bool) -> Result<()> {
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
pub(super) async fn deploy_quick(as_json: bool) -> Result<()> {
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

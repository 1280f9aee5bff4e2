//! The whole job: two bare machines of different kinds are powered on and become two running servers.

use anyhow::{Result, ensure};
use qemu_tests::demo::deploy_couple;
use qemu_tests::{Lab, LabOptions};

pub(crate) async fn tell() -> Result<()> {
    let (options, image) = LabOptions::debian_12()?;
    let lab = Lab::start(options).await?;
    let report = deploy_couple(&lab, &image).await?;
    eprintln!("{}", report.markdown());
    for bar in report.bars {
        ensure!(bar.holds || bar.is_time, "{}: {:.2}, limit {}", bar.name, bar.value, bar.limit);
    }
    Ok(())
}

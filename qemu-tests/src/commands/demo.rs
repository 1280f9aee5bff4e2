//! `qemu-tests demo`: two bare machines of different kinds become two running servers, with a live table.

use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use qemu_tests::demo::deploy_couple;
use qemu_tests::image::cache_dir;
use qemu_tests::report::DeployReport;
use qemu_tests::{Lab, LabOptions};

use super::table::Table;

/// Between two looks at the server.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Options of `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArguments {
    /// Port of the dashboard on this computer's loopback; 0 takes any free one.
    #[arg(long, default_value_t = 0)]
    dashboard_port: u16,
    /// Keeps both servers running at the end until Ctrl-C.
    #[arg(long)]
    keep: bool,
}

pub(crate) async fn run(arguments: DemoArguments) -> Result<ExitCode> {
    let begun = Instant::now();
    let (mut options, image) = LabOptions::debian_12()?;
    options.server.dashboard_port = arguments.dashboard_port;
    let lab = Lab::start(options).await?;
    println!("dashboard: {}", lab.server().dashboard());
    let report = with_table(&lab, deploy_couple(&lab, &image)).await?;
    let markdown = report.markdown();
    println!("\n{markdown}");
    save(&report, &markdown)?;
    println!("the whole demo took {:.0} s, image and boot bundle included", begun.elapsed().as_secs_f64());
    if arguments.keep {
        println!("both servers run on; Ctrl-C takes them down");
        std::future::pending::<()>().await;
    }
    Ok(if report.bars.iter().all(|bar| bar.holds) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Shows the nodes while `work` goes on.
pub(crate) async fn with_table<T>(lab: &Lab, work: impl Future<Output = Result<T>>) -> Result<T> {
    let showing = async {
        let mut table = Table::new();
        loop {
            if let Ok(views) = lab.server().admin().nodes().await {
                table.show(&views);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::select! {
        done = work => done,
        () = showing => anyhow::bail!("the table ended"),
    }
}

fn save(report: &DeployReport, markdown: &str) -> Result<()> {
    let dir = cache_dir()?.join("reports");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("demo.md"), markdown)?;
    fs::write(dir.join("demo.json"), serde_json::to_vec_pretty(report)?)?;
    println!("saved as {}/demo.md and demo.json", dir.display());
    Ok(())
}

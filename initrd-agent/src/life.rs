//! The stages of a node's life in this boot, top to bottom.

use std::future::Future;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use node_api::{Directive, FirmwareKind, Recovery, Stage};

use crate::boot_share;
use crate::console;
use crate::deploy::{self, Node};
use crate::failure::{BackOff, Failure, StageError};
use crate::hardware::Hardware;
use crate::objects::ServerObjects;
use crate::report::{self, Reporter};
use crate::secrets::RUN_DIRECTORY;
use crate::stage::enrol::{self, Enrolled};
use crate::stage::network;
use crate::stage::start::{self, Started};
use crate::stage::{Done, await_task, drivers, probe};
use crate::supervise::{EXIT_POWER_OFF, EXIT_REBOOT};

/// First pause before a failed stage is tried again.
const RETRY_FIRST: Duration = Duration::from_secs(2);
/// Longest pause before a failed stage is tried again.
const RETRY_LIMIT: Duration = Duration::from_mins(1);
/// Time for a person to read the reason before the node reboots, and for the server to hear it.
const REBOOT_PAUSE: Duration = Duration::from_secs(20);

/// A deployment that failed for a reason that may pass is tried so often before the node boots again.
const DEPLOY_TRIES_MAX: u32 = 8;
/// See [`DEPLOY_TRIES_MAX`].
const DEPLOY_RETRY_FIRST: Duration = Duration::from_secs(5);
/// See [`DEPLOY_TRIES_MAX`].
const DEPLOY_RETRY_LIMIT: Duration = Duration::from_mins(2);

/// How the agent's life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Reboot,
    PowerOff,
}

/// Lives until the node reboots or is switched off; PID 1 does either by the exit status.
pub(crate) fn run() -> ExitCode {
    let reporter = Reporter::new(Some(Path::new(RUN_DIRECTORY)));
    console::install(reporter.clone());
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            console::say(&format!("esir: the agent cannot start its threads: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let end = runtime.block_on(async {
        tokio::spawn(report::follow_kernel_log(reporter.clone()));
        tokio::select! {
            end = live(&reporter) => end,
            end = reboot_ordered(&reporter) => end,
        }
    });
    // A thread that waits for a broken disk must not keep the node from leaving.
    runtime.shutdown_background();
    match end {
        End::Reboot => ExitCode::from(EXIT_REBOOT),
        End::PowerOff => ExitCode::from(EXIT_POWER_OFF),
    }
}

async fn live(reporter: &Reporter) -> End {
    match stages(reporter).await {
        Ok(end) | Err(end) => end,
    }
}

async fn stages(reporter: &Reporter) -> Result<End, End> {
    let started = again(reporter, Stage::Start, async || start::run()).await?;
    let hardware = again(reporter, Stage::Probe, async || probe::run().await).await?;
    let online = again(reporter, Stage::Network, async || network::run(started.boot_mac).await).await?;
    let enrolled =
        again(reporter, Stage::Enrol, async || enrol::run(&started, &online.interface).await).await?;
    let session = &enrolled.session;
    // A task of its own, because stages block theirs at times.
    if let Some(share) = &enrolled.boot_share {
        tokio::spawn(boot_share::run(share.clone(), reporter.clone()));
    }
    let lost = tokio::spawn(report::send(reporter.clone(), session.clone(), enrolled.report_interval));
    tokio::select! {
        end = enrolled_stages(reporter, &started, &enrolled, &hardware) => end,
        lost = lost => {
            let reason = lost.map_or_else(|stopped| stopped.to_string(), |lost| lost.to_string());
            tracing::error!("{reason}; the node boots again");
            Err(End::Reboot)
        }
    }
}

/// What needs the server: hardware by hash, tasks, the installation.
async fn enrolled_stages(
    reporter: &Reporter,
    started: &Started,
    enrolled: &Enrolled,
    hardware: &Hardware,
) -> Result<End, End> {
    let objects = ServerObjects::new(enrolled.session.clone());
    let deny = &enrolled.module_deny;
    let inventory =
        again(reporter, Stage::Drivers, async || drivers::run(hardware, &objects, deny).await).await?;
    reporter.inventory(inventory);
    if started.firmware == FirmwareKind::Uefi
        && let Err(problem) = start::mount_efivarfs()
    {
        tracing::warn!("{problem}; the firmware's boot order stays as it is");
    }
    let session = &enrolled.session;
    let node = Node { started, session, hardware, objects: &objects, reporter };
    let mut pauses = BackOff::new(DEPLOY_RETRY_FIRST, DEPLOY_RETRY_LIMIT);
    for _ in 0..DEPLOY_TRIES_MAX {
        let failure = match deploy_once(&node).await {
            Ok(end) => return Ok(end),
            Err(failure) => failure,
        };
        if failure.recovery == Recovery::Reboot {
            break;
        }
        // The server gives the next task by what it knows of this failure, so it must know before it is asked.
        reporter.all_stored().await;
        tokio::time::sleep(pauses.pause()).await;
    }
    Err(reboot_after_failure(reporter).await)
}

/// Waits for a task and carries it out.
async fn deploy_once(node: &Node<'_>) -> Result<End, Failure> {
    let waiting = await_task::run(node.session, node.started);
    let accepted = once(node.reporter, Stage::Await, waiting).await?;
    let installed = deploy::install(node, &accepted).await?;
    Ok(deploy::leave(node, &accepted, installed).await)
}

/// Whether a directive means a reboot in this stage. An agent that died while it lingered comes back as one that
/// waits for a task: for it the end of lingering is the end of the boot.
fn ends_the_boot(directive: Option<Directive>, stage: Stage) -> bool {
    match directive {
        Some(Directive::Reboot) => true,
        Some(Directive::EndLinger) => stage == Stage::Await,
        None => false,
    }
}

/// Runs a stage until it ends well; its error says how to go on.
async fn again<T, E: StageError, F>(reporter: &Reporter, stage: Stage, work: impl Fn() -> F) -> Result<T, End>
where
    F: Future<Output = Result<Done<T>, E>>,
{
    let mut back_off = BackOff::new(RETRY_FIRST, RETRY_LIMIT);
    loop {
        let failure = match once(reporter, stage, work()).await {
            Ok(value) => return Ok(value),
            Err(failure) => failure,
        };
        match failure.recovery {
            Recovery::Reboot => return Err(reboot_after_failure(reporter).await),
            // Nothing but time or a person changes what these stages meet, so waiting is trying slowly.
            Recovery::Wait => tokio::time::sleep(RETRY_LIMIT).await,
            Recovery::Retry => tokio::time::sleep(back_off.pause()).await,
        }
    }
}

/// Runs a stage once and tells everybody how it went.
pub(crate) async fn once<T, E: StageError>(
    reporter: &Reporter,
    stage: Stage,
    work: impl Future<Output = Result<Done<T>, E>>,
) -> Result<T, Failure> {
    console::set_stage(stage);
    reporter.entered(stage);
    let begun = Instant::now();
    match work.await {
        Ok(Done { value, detail }) => {
            let took = begun.elapsed();
            tracing::info!("done in {:.1} s: {detail}", took.as_secs_f64());
            reporter.finished(stage, took, &detail);
            Ok(value)
        }
        Err(error) => {
            let failure = Failure::new(stage, &error);
            tracing::error!(
                "failed ({}): {}; next: {}",
                failure.code,
                failure.message,
                word(failure.recovery)
            );
            reporter.failed(&failure);
            Err(failure)
        }
    }
}

const fn word(recovery: Recovery) -> &'static str {
    match recovery {
        Recovery::Retry => "try again",
        Recovery::Wait => "wait for a person or a new task",
        Recovery::Reboot => "reboot",
    }
}

async fn reboot_after_failure(reporter: &Reporter) -> End {
    tracing::warn!("the node reboots in {} s", REBOOT_PAUSE.as_secs());
    reporter.flush(REBOOT_PAUSE).await;
    tokio::time::sleep(REBOOT_PAUSE).await;
    End::Reboot
}

/// Ends when the server tells the node to reboot.
async fn reboot_ordered(reporter: &Reporter) -> End {
    let mut directives = reporter.directives();
    // The sender lives as long as the reporter.
    let _ = directives.wait_for(|directive| ends_the_boot(*directive, console::stage())).await;
    tracing::warn!("the server orders a reboot");
    End::Reboot
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agent_that_died_while_it_lingered_leaves_when_the_group_is_done() {
        assert!(ends_the_boot(Some(Directive::EndLinger), Stage::Await));
        assert!(!ends_the_boot(Some(Directive::EndLinger), Stage::Linger));
        assert!(ends_the_boot(Some(Directive::Reboot), Stage::Fetch));
        assert!(!ends_the_boot(None, Stage::Await));
    }

    #[derive(Debug, thiserror::Error)]
    #[error("the reason")]
    struct Fails(Recovery);

    impl StageError for Fails {
        fn code(&self) -> &'static str {
            "fails"
        }

        fn recovery(&self) -> Recovery {
            self.0
        }
    }

    #[tokio::test(start_paused = true)]
    async fn stage_that_fails_for_a_passing_reason_is_tried_again() {
        let reporter = Reporter::new(None);
        let tries = std::sync::atomic::AtomicU32::new(0);
        let work = async || match tries.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0..3 => Err(Fails(Recovery::Retry)),
            tries => Ok(Done { value: tries, detail: String::new() }),
        };
        assert_eq!(again(&reporter, Stage::Network, work).await, Ok(3));
    }

    #[tokio::test(start_paused = true)]
    async fn stage_that_only_another_boot_can_cure_reboots() {
        let reporter = Reporter::new(None);
        let ended =
            again(&reporter, Stage::Start, async || Err::<Done<()>, _>(Fails(Recovery::Reboot))).await;
        assert_eq!(ended, Err(End::Reboot));
    }
}

//! `prepare`: the disks that the task's rule names become empty file systems. The first write of this boot.

use std::time::Duration;

use anyhow::Context as _;
use disk_apply::{
    ClearError, ClearedDisks, FormatError, Formatted, GivenRootError, MountError, Mounted, OlderPlace,
    OlderSystem, RootFrom, StackError, Wanted,
};
use disk_layout::{Disk, Plan, Seeds};
use image_apply::{RedeployError, Redeployment};
use image_format::{Manifest, Toc};
use node_api::Recovery;

use super::Done;
use super::await_task::Accepted;
use super::fetch::Aside;
use crate::failure::StageError;
use crate::hardware::{Hardware, ObjectSource};

/// How long the disk that the rule names may take to appear; a RAID controller with many disks needs a minute.
const DISKS_LIMIT: Duration = Duration::from_secs(60);

/// Why there is no prepared disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    /// No disk may be or could be partitioned.
    #[error(transparent)]
    Clear(#[from] ClearError),
    /// A formatting tool cannot be had. Nothing was written.
    #[error("fetching {tool} from the boot bundle: {reason}")]
    Tool { tool: &'static str, reason: String },
    /// A file system's module cannot be had. Nothing was written.
    #[error("loading file systems: {0}")]
    Modules(String),
    /// The task lacks a key. Nothing was written.
    #[error(transparent)]
    Key(StackError),
    /// A file system could not be made.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// It could not be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The image's partition cannot be the layout's root. Nothing was written.
    #[error(transparent)]
    GivenRoot(GivenRootError),
    /// No random numbers.
    #[error("the kernel gives no random numbers: {0}")]
    Random(String),
    /// The older system cannot make room for its successor.
    #[error(transparent)]
    Aside(#[from] RedeployError),
    /// The blocking part died, which only a bug does.
    #[error("preparing the disk stopped in the middle")]
    Stopped(#[from] tokio::task::JoinError),
}

impl StageError for PrepareError {
    fn code(&self) -> &'static str {
        match self {
            Self::Clear(ClearError::Choose(error)) => error.code(),
            Self::Clear(ClearError::Plan(_)) | Self::GivenRoot(_) => "layout",
            Self::Clear(ClearError::InUse { .. } | ClearError::Open { .. } | ClearError::Protected(_)) => {
                "disk-busy"
            }
            Self::Clear(_) => "disk-write",
            Self::Tool { .. } | Self::Modules(_) => "tool",
            Self::Key(_) => "disk-key",
            Self::Format(_) => "make-file-system",
            Self::Mount(_) => "mount",
            Self::Aside(_) => "reuse",
            Self::Random(_) | Self::Stopped(_) => "prepare-internal",
        }
    }

    fn recovery(&self) -> Recovery {
        match self {
            Self::Clear(ClearError::Choose(_) | ClearError::Plan(_)) | Self::Format(_) => Recovery::Wait,
            Self::Key(_) | Self::GivenRoot(_) => Recovery::Wait,
            Self::Clear(ClearError::Write { .. } | ClearError::Table { .. }) => Recovery::Wait,
            Self::Clear(ClearError::Reread { .. }) => Recovery::Reboot,
            _ => Recovery::Retry,
        }
    }
}

/// What the image is written to.
pub(crate) enum Prepared {
    /// New file systems, empty.
    Empty(Mounted),
    /// New file systems beside a root that stayed, and what was in it.
    Aside(Mounted, Box<Aside>),
    /// New file systems, and a device for a root that comes block by block.
    Blocks(Formatted),
}

/// Looks for a system on the disks that the task's delta image can make the task's image. Writes nothing.
///
/// # Errors
/// Why there is none; the node is deployed in full then.
pub(crate) fn find_older(
    hardware: &Hardware,
    objects: &dyn ObjectSource,
    accepted: &Accepted,
    delta: &Manifest,
) -> anyhow::Result<OlderSystem> {
    disk_apply::release()?;
    let image = &accepted.full.image.manifest;
    let seeds = Seeds { image_id: *image.image_id.as_bytes(), fresh: random_bytes()? };
    let disks = wait_for_disks(hardware, objects, accepted);
    let place = OlderPlace::find(&accepted.task.layout, &disks, seeds)?;
    hardware.load_modules(&[place.module()], objects).context("loading its file system")?;
    place.read(&Wanted { delta, image })
}

/// Chooses, plans, fetches the tools, and only then writes.
pub(crate) async fn run(
    hardware: &Hardware,
    objects: &dyn ObjectSource,
    accepted: &Accepted,
    older: Option<OlderSystem>,
) -> Result<Done<Prepared>, PrepareError> {
    // What an earlier try or an earlier agent of this boot left behind.
    disk_apply::release()?;
    let fresh = Seeds { image_id: *accepted.full.image.manifest.image_id.as_bytes(), fresh: random_bytes()? };
    let seeds = older.as_ref().map_or(fresh, |older| older.seeds);
    let cleared = tokio::task::block_in_place(|| choose(hardware, objects, accepted, &seeds))?;
    let keys = &accepted.task.disk_keys;
    disk_apply::check_keys(cleared.plan().layers(), keys).map_err(PrepareError::Key)?;
    let manifest = &accepted.full.image.manifest;
    let root = RootFrom::of(manifest);
    if matches!(root, RootFrom::Blocks) {
        let kind = &manifest.root_file_system.kind;
        disk_apply::check_given_root(cleared.plan(), kind).map_err(PrepareError::GivenRoot)?;
    }
    let disks = cleared.plan().disks().iter().map(|disk| format!("/dev/{}", disk.description));
    let mut detail = disks.collect::<Vec<_>>().join(", ");
    tokio::task::block_in_place(|| fetch_tools(hardware, objects, cleared.plan()))?;
    let (partitioned, table) = match older {
        Some(older) => {
            detail.push_str("; the older system becomes the new one");
            let disarmed = tokio::task::spawn_blocking(move || cleared.disarm(older)).await??;
            (disarmed.0, Some(disarmed.1))
        }
        None => {
            for line in cleared.plan().to_string().lines() {
                tracing::info!("{line}");
            }
            (tokio::task::spawn_blocking(move || cleared.partition()).await??, None)
        }
    };
    let formatted = disk_apply::make_file_systems(partitioned, keys, root).await?;
    let prepared = match (root, table) {
        (RootFrom::Blocks, _) => Prepared::Blocks(formatted),
        (_, None) => Prepared::Empty(Mounted::mount(formatted)?),
        (_, Some(table)) => {
            let mounted = Mounted::mount(formatted)?;
            let aside = put_aside(&mounted, table).await?;
            Prepared::Aside(mounted, Box::new(aside))
        }
    };
    Ok(Done { value: prepared, detail })
}

async fn put_aside(mounted: &Mounted, table: Toc) -> Result<Aside, PrepareError> {
    let root = mounted.root().to_owned();
    let redeployment = tokio::task::spawn_blocking(move || Redeployment::begin(&root)).await??;
    Ok(Aside { redeployment, table })
}

/// Chooses when devices have settled and the rule is met, at the latest after [`DISKS_LIMIT`].
fn choose(
    hardware: &Hardware,
    objects: &dyn ObjectSource,
    accepted: &Accepted,
    seeds: &Seeds,
) -> Result<ClearedDisks, ClearError> {
    let disks = wait_for_disks(hardware, objects, accepted);
    ClearedDisks::open(&accepted.task.layout, &disks, seeds)
}

fn wait_for_disks(hardware: &Hardware, objects: &dyn ObjectSource, accepted: &Accepted) -> Vec<Disk> {
    let layout = &accepted.task.layout;
    // Late disks are the commonest reason for no match; a disk too many or one in use is none of that.
    let decided =
        |disks: &[Disk]| !matches!(disk_layout::choose(layout, disks), Err(error) if error.may_pass());
    hardware.wait_for_disks_until(DISKS_LIMIT, Some(objects), decided)
}

/// Everything that the plan's file systems need, before the first write.
fn fetch_tools(hardware: &Hardware, objects: &dyn ObjectSource, plan: &Plan) -> Result<(), PrepareError> {
    for tool in disk_apply::tools_for(plan) {
        let program = hardware
            .install_tool(tool, objects)
            .map_err(|error| PrepareError::Tool { tool, reason: format!("{error:#}") })?;
        tracing::info!("{tool} is {}", program.display());
    }
    let modules = disk_apply::modules_for(plan);
    hardware.load_modules(&modules, objects).map_err(|error| PrepareError::Modules(format!("{error:#}")))
}

fn random_bytes() -> Result<[u8; 32], PrepareError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| PrepareError::Random(error.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;

//! One task from `join` to `handover`: each stage takes what the one before it made.

use std::path::Path;
use std::sync::Arc;

use disk_apply::{MountError, Mounted};
use node_api::Stage;
use system_apply::{Origin, OwnSystem, Personal, PersonaliseError, make_own};

use crate::api::Session;
use crate::failure::{Failure, StageError};
use crate::hardware::{Hardware, ObjectSource};
use crate::life::{End, once};
use crate::peer::SwarmPeer;
use crate::report::Reporter;
use crate::stage::await_task::Accepted;
use crate::stage::fetch::{self, Fetched, Place};
use crate::stage::join::Beginning;
use crate::stage::prepare::Prepared;
use crate::stage::start::Started;
use crate::stage::{Done, handover, join, linger, prepare, verify};

/// What every deployment of this boot shares.
pub(crate) struct Node<'a> {
    pub(crate) started: &'a Started,
    pub(crate) session: &'a Session,
    pub(crate) hardware: &'a Hardware,
    pub(crate) objects: &'a dyn ObjectSource,
    pub(crate) reporter: &'a Reporter,
}

/// The installed system is complete and the server knows it.
pub(crate) struct Installed {
    peer: SwarmPeer,
    mounted: Mounted,
}

/// Writes the task's image to the task's disk.
pub(crate) async fn install(node: &Node<'_>, accepted: &Accepted) -> Result<Installed, Failure> {
    let Node { session, reporter, .. } = *node;
    let joining = join::run(node.hardware, node.objects, accepted, session);
    let Beginning { joined, older } = once(reporter, Stage::Join, joining).await?;
    let preparing = prepare::run(node.hardware, node.objects, accepted, older);
    let full = &accepted.full;
    let (mounted, fetched) = match once(reporter, Stage::Prepare, preparing).await? {
        Prepared::Blocks(formatted) => {
            let place = Place::Device(formatted.root_device());
            let fetching = fetch::run(joined, place, full, session, reporter);
            let fetched = once(reporter, Stage::Fetch, fetching).await?;
            let toc = Arc::clone(&fetched.toc);
            let verifying = verify::run_on_blocks(formatted, toc, fetched.traffic, reporter);
            (once(reporter, Stage::Verify, verifying).await?, fetched)
        }
        Prepared::Empty(mounted) => {
            let place = Place::Tree(mounted.root().to_owned());
            let fetching = fetch::run(joined, place, full, session, reporter);
            verified(mounted, once(reporter, Stage::Fetch, fetching).await?, reporter).await?
        }
        Prepared::Aside(mounted, aside) => {
            let fetching = fetch::run_beside(joined, *aside, accepted, session, reporter);
            verified(mounted, once(reporter, Stage::Fetch, fetching).await?, reporter).await?
        }
    };
    let Fetched { peer, table, beside_bytes, .. } = fetched;
    let own = once(reporter, Stage::Personalise, personalise(node, accepted, &mounted, &table)).await?;
    let (mut traffic, _) = peer.traffic();
    traffic.from_server_bytes += beside_bytes;
    let image_id = accepted.full.image.manifest.image_id.to_string();
    let told = reporter.installed(&image_id, traffic, own.host_keys, own.changes);
    tracing::info!("installed; waiting until the server has stored it");
    reporter.stored(told).await;
    Ok(Installed { peer, mounted })
}

/// Reads the files back that were written.
async fn verified(
    mounted: Mounted,
    fetched: Fetched,
    reporter: &Reporter,
) -> Result<(Mounted, Fetched), Failure> {
    let verifying = verify::run(&mounted, Arc::clone(&fetched.toc), fetched.traffic, reporter);
    once(reporter, Stage::Verify, verifying).await?;
    Ok((mounted, fetched))
}

/// Seeds as long as the task says and leaves.
pub(crate) async fn leave(node: &Node<'_>, accepted: &Accepted, installed: Installed) -> End {
    let Installed { peer, mounted } = installed;
    let reporter = node.reporter;
    let lingering =
        async { Ok::<_, Never>(linger::run(peer, mounted, accepted.task.linger, reporter).await) };
    let Ok(()) = once(reporter, Stage::Linger, lingering).await else { return End::Reboot };
    let going = async { Ok::<_, Never>(handover::run(accepted.task.handover, reporter).await) };
    once(reporter, Stage::Handover, going).await.unwrap_or(End::Reboot)
}

async fn personalise(
    node: &Node<'_>,
    accepted: &Accepted,
    mounted: &Mounted,
    table: &[u8],
) -> Result<Done<OwnSystem>, PersonaliseStageError> {
    let esp = mounted.mount_esp()?.map(Path::to_owned);
    if let Err(error) = fetch::remove_journal(mounted.root()) {
        tracing::warn!("removing the journal: {error}");
    }
    // Programs of the image write it into what they make, such as comments of host keys.
    if let Err(error) = nix::unistd::sethostname(&accepted.task.identity.hostname) {
        tracing::warn!("setting the host name: {error}");
    }
    let personal = Personal {
        root: mounted.root(),
        esp,
        plan: mounted.plan(),
        disk_keys: &accepted.task.disk_keys,
        firmware: node.started.firmware,
        identity: &accepted.task.identity,
        manifest: &accepted.full.image.manifest_bytes,
        table,
        origin: Origin {
            node: &accepted.task.binding.node,
            image: &accepted.task.image.name,
            image_id: &accepted.full.image.manifest.image_id.to_string(),
        },
    };
    let own = make_own(&personal).await?;
    mounted.copy_esp()?;
    let detail = format!("{} on {}", accepted.task.identity.hostname, mounted.disks());
    Ok(Done { value: own, detail })
}

/// Why the system could not be made this node's own.
#[derive(Debug, thiserror::Error)]
enum PersonaliseStageError {
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Own(#[from] PersonaliseError),
}

impl StageError for PersonaliseStageError {
    fn code(&self) -> &'static str {
        match self {
            Self::Mount(_) => "mount",
            Self::Own(error) => error.code(),
        }
    }

    fn recovery(&self) -> node_api::Recovery {
        match self {
            Self::Mount(_) => node_api::Recovery::Retry,
            // The image or the disk is at fault; neither gets better by itself.
            Self::Own(_) => node_api::Recovery::Wait,
        }
    }
}

/// The error of stages that cannot fail.
#[derive(Debug, thiserror::Error)]
enum Never {}

impl StageError for Never {
    fn code(&self) -> &'static str {
        match *self {}
    }

    fn recovery(&self) -> node_api::Recovery {
        match *self {}
    }
}

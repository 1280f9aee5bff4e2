//! What the handlers of both APIs share.

use std::sync::Arc;

use site_file::Site;

use crate::boot_sharing::BootSharing;
use crate::bundle::Bundle;
use crate::deltas::Deltas;
use crate::deployments::Deployments;
use crate::images::Images;
use crate::nodes::Nodes;
use crate::swarm_service::SwarmService;
use crate::tasks::TaskMaker;

/// The running server's parts.
pub(crate) struct App {
    /// What the site wants.
    pub(crate) site: Site,
    /// Every node.
    pub(crate) nodes: Arc<Nodes>,
    /// Every image.
    pub(crate) images: Images,
    /// What leads from other images to the default one.
    pub(crate) deltas: Deltas,
    /// What nodes boot.
    pub(crate) bundle: Arc<Bundle>,
    /// Who shares what.
    pub(crate) deployments: Deployments,
    /// Makes tasks.
    pub(crate) tasks: TaskMaker,
    /// Tracker and seeds.
    pub(crate) swarm: Arc<SwarmService>,
    /// Nodes that serve boot files to others, where the site wants it.
    pub(crate) boot_peers: Option<BootSharing>,
    /// When the server started.
    pub(crate) started_unix_ms: u64,
}

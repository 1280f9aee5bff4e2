//! Tracker and seeds: the server's part in the swarm.

use axum::Router;
use std::sync::Arc;

use crate::deployments::Deployment;
use crate::images::Image;
use crate::nodes::Nodes;

pub(crate) struct SwarmService {
    peer_port: u16,
}

impl SwarmService {
    pub(crate) fn new(_nodes: Arc<Nodes>, peer_port: u16) -> Self {
        Self { peer_port }
    }

    pub(crate) fn router(self: &Arc<Self>) -> Router {
        Router::new()
    }

    pub(crate) async fn seed(&self, _image: &Arc<Image>, _deployment: &Deployment) -> anyhow::Result<u16> {
        Ok(self.peer_port)
    }

    pub(crate) async fn stop_seed(&self, _deployment: &Deployment) {}

    pub(crate) async fn shutdown(&self) {}
}

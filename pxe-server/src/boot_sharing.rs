//! Boot from peers, the agents' side: who is asked to serve boot files, and who says that it does.
//!
//! Never sends a node anywhere: that is netboot's, which shares the same books.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::{MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::Result;
use node_api::BootShare;

use crate::bundle::Bundle;
use crate::netboot::{BootPeers, Netboot, SharedPeers};

/// What agents are asked to serve, and the books.
pub(crate) struct BootSharing {
    peers: SharedPeers,
    share: BootShare,
}

impl BootSharing {
    /// `None` where the site wants no boot from peers, or boots nobody.
    pub(crate) fn new(netboot: Option<&Netboot>, bundle: &Bundle) -> Result<Option<Self>> {
        let Some((netboot, peers)) = netboot.and_then(|netboot| Some((netboot, netboot.peers()?))) else {
            return Ok(None);
        };
        let server: SocketAddrV4 = netboot.http_address();
        let share = BootShare { server, bundle: bundle.id.clone(), files: bundle.boot_files()? };
        Ok(Some(Self { peers: SharedPeers::clone(peers), share }))
    }

    /// What an agent that enrols from `node` shall serve, if it shall.
    pub(crate) fn invite(&self, node: IpAddr) -> Option<BootShare> {
        let invited = self.books().invite(Instant::now(), ipv4(node)?);
        invited.then(|| self.share.clone())
    }

    /// An agent reported from `node`, and whether it serves.
    pub(crate) fn reported(&self, node: IpAddr, port: Option<u16>) {
        if let Some(node) = ipv4(node) {
            self.books().reported(Instant::now(), node, port);
        }
    }

    fn books(&self) -> MutexGuard<'_, BootPeers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(address) => address.to_ipv4_mapped(),
    }
}

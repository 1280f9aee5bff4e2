//! Admission, handshakes and the proof of the swarm secret.

use super::Swarm;
use super::connection::{Active, Connection, Proving, REQUESTS_QUEUED_MAX, Standing};
use super::types::{Action, CloseReason, PeerKey, Refusal};
use super::upkeep::Culprit;
use crate::extension::{ES_AUTH_ID, ES_HAVE_ID, ExtensionHandshake, Nonce};
use crate::moment::Moment;
use crate::secret::{Covered, Side};
use crate::wire::{Handshake, Message};
use std::net::SocketAddr;

/// Our bound on the `reqq` of others: 2000 requests are 32 MiB, more than any link holds.
const REQUEST_LIMIT_MAX: usize = 2000;

impl Swarm {
    /// The peer's first 68 bytes.
    pub fn handle_handshake(&mut self, now: Moment, peer: PeerKey, theirs: Handshake) {
        self.advance(now);
        let ours = self.handshake();
        let Some(connection) = self.peers.get_mut(&peer) else { return };
        if !matches!(connection.standing, Standing::Greeting) {
            return self.close(peer, CloseReason::Malformed);
        }
        connection.last_heard = now;
        connection.peer_id = Some(theirs.peer_id);
        let (side, culprit) = (connection.side, connection.culprit());
        if theirs.info_hash != ours.info_hash {
            return self.close(peer, CloseReason::WrongTorrent);
        }
        if theirs.peer_id == ours.peer_id {
            return self.close(peer, CloseReason::SelfConnection);
        }
        if self.suspicions.is_banned(culprit, now) {
            return self.close(peer, CloseReason::Banned);
        }
        if side == Side::Inbound {
            self.actions.push_back(Action::Handshake { to: peer, handshake: ours });
        }
        if self.config.open {
            return self.activate(peer, theirs.fast, theirs.extended, None);
        }
        if !theirs.extended {
            return self.close(peer, CloseReason::NoProof);
        }
        let our_nonce = self.chance.nonce();
        if let Some(connection) = self.peers.get_mut(&peer) {
            connection.standing = Standing::Proving(Proving { fast: theirs.fast, our_nonce, theirs: None });
        }
        self.send_extension_handshake(peer, Some(our_nonce));
    }

    pub(super) fn handshake(&self) -> Handshake {
        Handshake {
            info_hash: self.config.info_hash,
            peer_id: self.config.peer_id,
            fast: true,
            extended: true,
        }
    }

    pub(super) fn admit(&self, address: SocketAddr) -> Result<(), Refusal> {
        let limits = &self.config.limits;
        if self.suspicions.is_banned(Culprit::new(address.ip(), None), self.now) {
            return Err(Refusal::Banned);
        }
        if self.peers.len() >= limits.peers_max {
            return Err(Refusal::TooManyPeers);
        }
        let there = |peer: &&Connection| peer.address.ip() == address.ip();
        let under_way = |peer: &&Connection| !matches!(peer.standing, Standing::Active(_));
        let peers = || self.peers.values();
        // One address alone can't keep all others from shaking hands.
        let share = limits.handshakes_max.div_ceil(4);
        if peers().filter(under_way).count() >= limits.handshakes_max
            || peers().filter(under_way).filter(there).count() >= share
        {
            return Err(Refusal::TooManyHandshakes);
        }
        if peers().filter(there).count() >= limits.peers_per_address_max {
            return Err(Refusal::TooManyFromAddress);
        }
        Ok(())
    }

    fn send_extension_handshake(&mut self, peer: PeerKey, nonce: Option<Nonce>) {
        let handshake = ExtensionHandshake {
            es_have: Some(ES_HAVE_ID),
            es_auth: nonce.map(|_| ES_AUTH_ID),
            nonce,
            listen_port: self.config.listen_port,
            request_queue: u32::try_from(REQUESTS_QUEUED_MAX).ok(),
            // A super-seed hides what it has; to call itself a seed would give that away.
            upload_only: self.is_complete() && self.reveal.is_none(),
            redundant_have: self.reveal.is_some(),
        };
        self.send(peer, Message::Extended { id: 0, payload: handshake.encode() });
    }

    /// A message from a peer that has not proved the secret: nothing but the proof is taken.
    pub(super) fn receive_unproven(&mut self, peer: PeerKey, message: &Message) {
        match message {
            Message::KeepAlive => {}
            Message::Extended { id: 0, payload } => match ExtensionHandshake::parse(payload) {
                Some(theirs) => self.prove(peer, theirs),
                None => self.close(peer, CloseReason::Malformed),
            },
            Message::Extended { id, payload } if *id == ES_AUTH_ID => self.judge_proof(peer, payload),
            Message::Choke
            | Message::Unchoke
            | Message::Interested
            | Message::NotInterested
            | Message::Have(_)
            | Message::Bitfield(_)
            | Message::Request(_)
            | Message::Piece(_)
            | Message::Cancel(_)
            | Message::Suggest(_)
            | Message::HaveAll
            | Message::HaveNone
            | Message::Reject(_)
            | Message::AllowedFast(_)
            | Message::Extended { .. }
            | Message::Other(_) => self.close(peer, CloseReason::NoProof),
        }
    }

    /// Answers the peer's nonce with our proof.
    fn prove(&mut self, peer: PeerKey, theirs: ExtensionHandshake) {
        let (Some(_), Some(auth_id)) = (theirs.nonce, theirs.es_auth) else {
            return self.close(peer, CloseReason::NoProof);
        };
        let Some(connection) = self.peers.get_mut(&peer) else { return };
        let side = connection.side;
        let Standing::Proving(proving) = &mut connection.standing else { return };
        if proving.theirs.is_some() {
            // A second nonce would let a stranger ask for as many proofs as it likes.
            return self.close(peer, CloseReason::Malformed);
        }
        proving.theirs = Some(theirs);
        let covered = self.covered(peer);
        let proof = covered.and_then(|covered| self.config.secret.as_ref()?.proof(side, &covered));
        match proof {
            Some(proof) => self.send(peer, Message::Extended { id: auth_id, payload: proof.to_vec() }),
            None => self.close(peer, CloseReason::NoProof),
        }
    }

    fn judge_proof(&mut self, peer: PeerKey, proof: &[u8]) {
        let Some(covered) = self.covered(peer) else {
            return self.close(peer, CloseReason::NoProof);
        };
        let Some(connection) = self.peers.get_mut(&peer) else { return };
        let prover = connection.side.other();
        let proved = self.config.secret.as_ref().is_some_and(|secret| secret.proves(prover, &covered, proof));
        if !proved {
            return self.close(peer, CloseReason::WrongProof);
        }
        let Standing::Proving(proving) = &mut connection.standing else { return };
        let (fast, theirs) = (proving.fast, proving.theirs.take());
        self.activate(peer, fast, true, theirs);
    }

    /// What both proofs cover, once both nonces are known.
    fn covered(&self, peer: PeerKey) -> Option<Covered> {
        let connection = self.peers.get(&peer)?;
        let Standing::Proving(proving) = &connection.standing else { return None };
        let ours = (self.config.peer_id, proving.our_nonce);
        let theirs = (connection.peer_id?, proving.theirs.as_ref()?.nonce?);
        let (opener, accepter) = match connection.side {
            Side::Outbound => (ours, theirs),
            Side::Inbound => (theirs, ours),
        };
        Some(Covered {
            info_hash: self.config.info_hash,
            opener: opener.0,
            accepter: accepter.0,
            opener_nonce: opener.1,
            accepter_nonce: accepter.1,
        })
    }

    /// From here on pieces may flow. `theirs` is the BEP 10 handshake that the proof came with.
    fn activate(&mut self, peer: PeerKey, fast: bool, extended: bool, theirs: Option<ExtensionHandshake>) {
        if self.settle_duplicate(peer) {
            return;
        }
        let (now, pieces, log) = (self.now, self.config.geometry.pieces(), self.log.len());
        let Some(connection) = self.peers.get_mut(&peer) else { return };
        let mut active = Active::new(now, pieces, fast);
        active.cursor = log;
        connection.standing = Standing::Active(Box::new(active));
        if let Some(address) = connection.dialled() {
            self.addresses.connected(address);
        }
        self.send_map(peer, fast);
        match theirs {
            Some(theirs) => self.apply_extension(peer, &theirs),
            None if extended => self.send_extension_handshake(peer, None),
            None => {}
        }
        self.send(peer, Message::Unchoke);
        self.reveal_more();
    }

    /// What we have, in the form that must come first (BEP 3, BEP 6).
    fn send_map(&mut self, peer: PeerKey, fast: bool) {
        let have = self.pieces.verified();
        let message = match (fast, self.reveal.is_some(), have.count()) {
            (true, true, _) | (true, _, 0) => Message::HaveNone,
            (true, false, _) if have.is_full() => Message::HaveAll,
            (false, true, _) | (false, _, 0) => return,
            (_, false, _) => Message::Bitfield(have.to_bitfield()),
        };
        self.send(peer, message);
    }

    pub(super) fn apply_extension(&mut self, peer: PeerKey, theirs: &ExtensionHandshake) {
        let Some(active) = self.active_mut(peer) else { return };
        active.es_have = theirs.es_have;
        active.upload_only = theirs.upload_only;
        active.redundant_have = theirs.redundant_have;
        if let Some(limit) = theirs.request_queue {
            let limit = usize::try_from(limit).unwrap_or(REQUEST_LIMIT_MAX).clamp(1, REQUEST_LIMIT_MAX);
            // Never below what is out already, so that the bound holds at every moment.
            active.request_limit = limit.max(active.outstanding.len());
        }
        if let (Some(port), Some(connection)) = (theirs.listen_port, self.peers.get_mut(&peer)) {
            connection.listen_port = Some(port);
            if let Some(address) = connection.dialled() {
                self.addresses.connected(address);
            }
        }
        self.leave_if_both_complete(peer);
    }

    /// Two connections to one peer: both ends keep the one that the smaller peer id opened. True if `peer`,
    /// the newer one, was closed.
    fn settle_duplicate(&mut self, peer: PeerKey) -> bool {
        let Some(newer) = self.peers.get(&peer) else { return true };
        let (id, newer_side) = (newer.peer_id, newer.side);
        let twin = self.peers.iter().find(|(key, other)| {
            **key != peer && other.peer_id == id && matches!(other.standing, Standing::Active(_))
        });
        let Some((&older, twin)) = twin else { return false };
        let wanted =
            if id.is_some_and(|id| self.config.peer_id < id) { Side::Outbound } else { Side::Inbound };
        let close_older = twin.side != newer_side && newer_side == wanted;
        self.close(if close_older { older } else { peer }, CloseReason::Duplicate);
        !close_older
    }
}

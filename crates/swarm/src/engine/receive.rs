//! What each message of a peer does.

use super::Swarm;
use super::connection::{REQUESTS_QUEUED_MAX, Standing};
use super::types::{Action, BlockVerdict, CheckOutcome, CloseReason, Event, PeerKey};
use crate::extension::{ES_HAVE_ID, ExtensionHandshake, HaveBatch};
use crate::geometry::{Block, PieceIndex};
use crate::moment::Moment;
use crate::piece_set::PieceSet;
use crate::pieces::Receipt;
use crate::wire::{Message, RawBlock};
use std::time::Duration;

/// How long nothing is asked for after a piece could not be stored.
const STORE_PAUSE: Duration = Duration::from_secs(1);

impl Swarm {
    /// A message without a block.
    pub fn handle_message(&mut self, now: Moment, peer: PeerKey, message: Message) {
        self.advance(now);
        let Some(connection) = self.peers.get_mut(&peer) else { return };
        connection.last_heard = now;
        match connection.standing {
            Standing::Greeting => self.close(peer, CloseReason::Malformed),
            Standing::Proving(_) => self.receive_unproven(peer, &message),
            Standing::Active(_) => self.receive(peer, message),
        }
    }

    fn receive(&mut self, peer: PeerKey, message: Message) {
        match message {
            Message::KeepAlive
            | Message::Suggest(_)
            // QUIRK(BEP 6): allowed-fast is advisory, and we are unchoked at once by everyone who serves.
            | Message::AllowedFast(_)
            | Message::Other(_) => {}
            Message::Choke => self.choked(peer),
            Message::Unchoke => {
                if let Some(active) = self.active_mut(peer) {
                    active.chokes_us = false;
                }
                self.fill_requests(peer);
            }
            Message::Interested => self.interested(peer, true),
            Message::NotInterested => self.interested(peer, false),
            Message::Have(raw) => match self.config.geometry.piece(raw) {
                Some(piece) => self.learn(peer, [piece]),
                None => self.close(peer, CloseReason::Malformed),
            },
            Message::Bitfield(bytes) => match PieceSet::from_bitfield(&bytes, self.config.geometry.pieces()) {
                Some(have) => self.learn_map(peer, &have),
                None => self.close(peer, CloseReason::Malformed),
            },
            Message::HaveAll => self.learn(peer, self.config.geometry.all()),
            // BEP 6: nothing may come before it. Taken in mid-stream it would be five bytes that cost us a look at
            // every piece, as often as the peer likes.
            Message::HaveNone if self.active(peer).is_some_and(|active| active.have.count() > 0) => {
                self.close(peer, CloseReason::Malformed);
            }
            Message::HaveNone => {}
            Message::Request(raw) => self.requested(peer, raw),
            Message::Cancel(raw) => self.cancelled(peer, raw),
            Message::Reject(raw) => self.rejected(peer, raw),
            // The driver gives blocks to `handle_block`; a caller that doesn't has broken the contract.
            Message::Piece(_) => self.close(peer, CloseReason::UnaskedBlock),
            Message::Extended { id: 0, payload } => match ExtensionHandshake::parse(&payload) {
                Some(theirs) => self.apply_extension(peer, &theirs),
                None => self.close(peer, CloseReason::Malformed),
            },
            Message::Extended { id: ES_HAVE_ID, payload } => self.batch(peer, &payload),
            Message::Extended { .. } => {}
        }
    }

    /// The header of a block: says whether the driver keeps its bytes.
    pub fn handle_block(&mut self, now: Moment, peer: PeerKey, raw: RawBlock) -> BlockVerdict {
        self.advance(now);
        if let Some(connection) = self.peers.get_mut(&peer) {
            connection.last_heard = now;
        }
        let block = self.config.geometry.checked(raw.piece, raw.begin, raw.len);
        let (Some(block), Some(active)) = (block, self.active_mut(peer)) else {
            self.close(peer, CloseReason::UnaskedBlock);
            return BlockVerdict::Drop;
        };
        if active.take_outstanding(block).is_none() && !active.take_forgotten(block) {
            self.close(peer, CloseReason::UnaskedBlock);
            return BlockVerdict::Drop;
        }
        active.download_rate.add(now, u64::from(block.bytes()));
        active.last_block = now;
        active.snubbed = false;
        self.intake.add(now, u64::from(block.bytes()));
        let verdict = self.take_block(peer, block);
        self.fill_requests(peer);
        verdict
    }

    fn take_block(&mut self, peer: PeerKey, block: Block) -> BlockVerdict {
        let bytes = u64::from(block.bytes());
        let suspect = self.is_suspect(peer);
        let open =
            self.pieces.arriving_at(block.piece()).is_some_and(|arriving| arriving.open_to(peer, suspect));
        let receipt = if open {
            self.pieces.receive(block, peer)
        } else {
            // It fell under suspicion after the request: its block may not mix with those of others.
            self.pieces.unask(block.piece(), block.number(), peer);
            Receipt::Redundant
        };
        match receipt {
            Receipt::Redundant => {
                self.counts.redundant_bytes += bytes;
                BlockVerdict::Drop
            }
            Receipt::Needed { also_asked, completes } => {
                self.counts.downloaded_bytes += bytes;
                self.web.progress_at = self.now;
                if let Some(active) = self.active_mut(peer) {
                    active.downloaded_bytes += bytes;
                }
                if let Some(other) = also_asked {
                    self.cancel(other, block);
                }
                if completes {
                    self.actions.push_back(Action::Check { piece: block.piece() });
                }
                BlockVerdict::Keep(block)
            }
        }
    }

    /// The answer to [`Action::Check`].
    pub fn handle_checked(&mut self, now: Moment, piece: PieceIndex, outcome: CheckOutcome) {
        self.advance(now);
        match outcome {
            CheckOutcome::Stored => self.verified_now(piece),
            CheckOutcome::Corrupt => self.corrupt(piece),
            CheckOutcome::NotStored => {
                self.pieces.bad(piece);
                self.paused_until = now.plus(STORE_PAUSE);
                self.tell(Event::NotStored(piece));
            }
        }
    }

    fn verified_now(&mut self, piece: PieceIndex) {
        let was_full = self.is_memory_full();
        let Some(givers) = self.pieces.good(piece) else { return };
        self.clear_suspicion(&givers);
        for key in self.active_keys() {
            let now = self.now;
            if let Some(active) = self.active_mut(key).filter(|active| active.have.has(piece)) {
                active.useful = active.useful.saturating_sub(1);
                if active.useful == 0 {
                    active.useless_since = now;
                }
            }
        }
        self.tell(Event::PieceVerified(piece));
        self.announce(piece);
        if self.is_complete() {
            self.completed();
        } else if was_full {
            self.fill_all();
            self.ask_web_seed();
        }
    }

    fn completed(&mut self) {
        self.tell(Event::Complete);
        self.announcer.complete(self.now);
        self.announce_completion();
        for key in self.active_keys() {
            self.update_interest(key);
            self.leave_if_both_complete(key);
        }
    }

    /// Two complete peers have nothing to say to each other; a slot is worth more to a node that lacks pieces.
    pub(super) fn leave_if_both_complete(&mut self, peer: PeerKey) {
        if self.is_complete() && self.active(peer).is_some_and(super::Active::is_complete) {
            self.close(peer, CloseReason::BothComplete);
        }
    }

    fn choked(&mut self, peer: PeerKey) {
        let Some(active) = self.active_mut(peer) else { return };
        active.chokes_us = true;
        // With BEP 6 each request is still answered, by a block or a reject; without it all are void.
        if !active.fast {
            self.give_up_requests(peer);
        }
    }

    fn interested(&mut self, peer: PeerKey, interested: bool) {
        if let Some(active) = self.active_mut(peer) {
            active.interested_in_us = interested;
        }
        self.announce_due();
    }

    /// The peer has these pieces, in addition to what we know.
    pub(super) fn learn(&mut self, peer: PeerKey, pieces: impl IntoIterator<Item = PieceIndex>) {
        let mut learned = false;
        let Some(active) = self.active(peer) else { return };
        // A few bytes can name every piece, again and again: what is known already must cost next to nothing.
        let new: Vec<PieceIndex> = pieces.into_iter().filter(|piece| !active.have.has(*piece)).collect();
        for piece in new {
            let verified = self.pieces.verified().has(piece);
            let Some(active) = self.active_mut(peer) else { return };
            if active.have.insert(piece.get()) {
                active.useful += u32::from(!verified);
                self.pieces.peer_has(piece);
                learned = true;
            }
        }
        if learned {
            self.learned(peer);
        }
    }

    /// The peer has exactly these pieces.
    ///
    /// QUIRK(aria2): sends a whole bitfield in mid-stream where that is shorter than its HAVEs.
    fn learn_map(&mut self, peer: PeerKey, have: &PieceSet) {
        let geometry = self.config.geometry;
        let Some(active) = self.active(peer) else { return };
        let lost: Vec<PieceIndex> = active.have.without(have).filter_map(|raw| geometry.piece(raw)).collect();
        lost.into_iter().for_each(|piece| self.unlearn(peer, piece));
        self.learn(peer, have.iter().filter_map(|raw| geometry.piece(raw)));
    }

    /// The peer doesn't have the piece after all.
    fn unlearn(&mut self, peer: PeerKey, piece: PieceIndex) {
        let verified = self.pieces.verified().has(piece);
        let Some(active) = self.active_mut(peer) else { return };
        if active.have.remove(piece.get()) {
            active.useful -= u32::from(!verified);
            self.pieces.peer_lacks(piece);
        }
    }

    fn learned(&mut self, peer: PeerKey) {
        self.update_interest(peer);
        self.fill_requests(peer);
        self.reveal_more();
        self.leave_if_both_complete(peer);
    }

    fn batch(&mut self, peer: PeerKey, payload: &[u8]) {
        let geometry = self.config.geometry;
        let Some(batch) = HaveBatch::parse(payload, geometry.pieces()) else {
            return self.close(peer, CloseReason::Malformed);
        };
        let Some(active) = self.active_mut(peer) else { return };
        active.hungry = batch.hungry && !batch.complete;
        active.upload_only |= batch.complete;
        self.learn(peer, batch.pieces().filter_map(|raw| geometry.piece(raw)));
        self.leave_if_both_complete(peer);
        self.reveal_more();
        self.announce_due();
    }

    fn requested(&mut self, peer: PeerKey, raw: RawBlock) {
        let block = self.config.geometry.checked(raw.piece, raw.begin, raw.len);
        let servable = block.filter(|block| self.pieces.verified().has(block.piece()));
        let Some(active) = self.active_mut(peer) else { return };
        match servable {
            Some(_) if active.queue.len() >= REQUESTS_QUEUED_MAX => {
                self.close(peer, CloseReason::TooManyRequests)
            }
            Some(block) => {
                active.queue.push_back(block);
                self.reveal_requested(peer, block);
                self.serve();
            }
            None if block.is_none() && raw.len > crate::geometry::BLOCK_BYTES => {
                self.close(peer, CloseReason::Malformed);
            }
            None if active.fast => self.send(peer, Message::Reject(raw)),
            None => {}
        }
    }

    fn cancelled(&mut self, peer: PeerKey, raw: RawBlock) {
        let Some(active) = self.active_mut(peer) else { return };
        let Some(at) = active.queue.iter().position(|block| RawBlock::from(*block) == raw) else { return };
        active.queue.remove(at);
        // BEP 6: every request gets exactly one answer, also a cancelled one.
        if active.fast {
            self.send(peer, Message::Reject(raw));
        }
    }

    fn rejected(&mut self, peer: PeerKey, raw: RawBlock) {
        let block = self.config.geometry.checked(raw.piece, raw.begin, raw.len);
        let (Some(block), Some(active)) = (block, self.active_mut(peer)) else {
            return self.close(peer, CloseReason::Malformed);
        };
        if !active.fast {
            return self.close(peer, CloseReason::Malformed);
        }
        if active.take_outstanding(block).is_some() {
            self.pieces.unask(block.piece(), block.number(), peer);
            if self.active_mut(peer).is_some_and(|active| active.refuses(block.piece())) {
                self.unlearn(peer, block.piece());
            }
            self.fill_all();
        } else if !active.take_forgotten(block) {
            self.close(peer, CloseReason::Malformed);
        }
    }
}

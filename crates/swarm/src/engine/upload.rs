//! Whom to serve.
//!
//! Everyone is unchoked, but only a few peers are served at a time, each until the piece that it is
//! at is done: a piece finished early is a piece that its owner can pass on.

use super::Swarm;
use super::connection::{Active, Connection};
use super::types::{Action, CloseReason, PeerKey};
use crate::geometry::{BLOCK_BYTES, Block, PieceIndex};
use crate::moment::Moment;
use crate::wire::{Message, RawBlock};
use std::time::Duration;

/// Peers served at a time: as few as keep the uplink busy, since a piece sent alone can be passed on sooner. A receiver
/// whose downlink others fill takes little, and the uplink must have somebody else to turn to meanwhile; so there
/// are more wherever the uplink gives less than it can. (Last node of 128 in the simulator, times one link: 1.06 with two and
/// with two to eight, 1.12 with eight. Real nodes, 16 at 50 Mbit/s, 298 MiB: 1.07 with two to eight as with eight; 32
/// at 25 Mbit/s with two: 1.39.)
const SLOTS_MIN: usize = 2;
pub(super) const SLOTS_MAX: usize = 8;

/// How often to look whether the uplink is full.
const SLOTS_LOOK: Duration = Duration::from_millis(500);

/// An uplink that gives less than its peak by more than this part has room for another slot.
const SLOTS_SLACK: u64 = 32;

/// After so many looks at a full uplink it is tried with one slot less.
const SLOTS_FULL_LOOKS: u32 = 4;

/// By this part the peak fades at every look: half of it in three quarters of a minute.
const SLOTS_PEAK_FADE: u64 = 128;

/// What goes out, and to how many peers at a time.
#[derive(Debug)]
pub(super) struct Outflow {
    slots: usize,
    /// Bytes per second while the uplink had most to do.
    peak: u64,
    looked_at: Moment,
    bytes_before: u64,
    /// Looks in turn at which the uplink was full.
    full: u32,
}

impl Default for Outflow {
    fn default() -> Outflow {
        Outflow { slots: SLOTS_MIN, peak: 0, looked_at: Moment::ZERO, bytes_before: 0, full: 0 }
    }
}

impl Outflow {
    /// `uploaded` bytes have gone out by now; `waiting`: somebody waits for a slot.
    fn look(&mut self, now: Moment, uploaded: u64, waiting: bool) {
        let elapsed = now.since(self.looked_at);
        if elapsed < SLOTS_LOOK {
            return;
        }
        let bytes = uploaded.saturating_sub(self.bytes_before);
        let rate =
            u64::try_from(u128::from(bytes) * 1_000_000 / elapsed.as_micros().max(1)).unwrap_or(u64::MAX);
        (self.looked_at, self.bytes_before) = (now, uploaded);
        self.peak = rate.max(self.peak - self.peak / SLOTS_PEAK_FADE);
        if !waiting {
            return;
        }
        if rate < self.peak - self.peak / SLOTS_SLACK {
            self.slots = (self.slots + 1).min(SLOTS_MAX);
            self.full = 0;
        } else {
            self.full += 1;
            if self.full == SLOTS_FULL_LOOKS {
                self.slots = (self.slots - 1).max(SLOTS_MIN);
                self.full = 0;
            }
        }
    }

    /// What the uplink carries in this time when it is full; 0 before the first look.
    pub(super) fn bytes_in(&self, time: Duration) -> u64 {
        let bytes = u128::from(self.peak) * time.as_micros() / 1_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

/// How long a slot waits for the next request of its piece while others wait for the slot and the uplink has
/// something to send. A peer asks for several blocks in as many messages; the second must not come too late.
const SLOT_GRACE: Duration = Duration::from_millis(2);

/// So many pieces' difference in progress decides who is served first.
const PROGRESS_STEP: u32 = 8;

/// A slot whose peer takes nothing for this long is given to another.
const SLOT_STALL: Duration = Duration::from_millis(100);

/// How much is given to the driver ahead of the network, in time and in bytes: enough to keep a socket busy,
/// little enough that a cancel or a HAVE doesn't queue behind it.
const SEND_AHEAD: Duration = Duration::from_millis(20);
const SEND_AHEAD_BYTES_MIN: u64 = 2 * BLOCK_BYTES as u64;
const SEND_AHEAD_BYTES_MAX: u64 = 1024 * 1024;

/// One peer that is being served.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) peer: PeerKey,
    piece: PieceIndex,
    /// Last time that something was sent, or the slot was given.
    pub(super) progress_at: Moment,
    /// Since when its queue holds nothing of its piece.
    idle_since: Option<Moment>,
}

enum SlotWork {
    /// This block is next.
    Send(Block),
    /// Enough is given to the driver.
    Full,
    /// Nothing of its piece is asked for now.
    Idle,
    /// It is at another piece, or gone.
    Done,
}

impl Active {
    fn send_ahead(&self, now: Moment) -> u64 {
        let bytes = u128::from(self.upload_rate.per_second(now)) * SEND_AHEAD.as_millis() / 1000;
        u64::try_from(bytes).unwrap_or(u64::MAX).clamp(SEND_AHEAD_BYTES_MIN, SEND_AHEAD_BYTES_MAX)
    }
}

impl Swarm {
    /// At every tick.
    pub(super) fn renew_outflow(&mut self) {
        let waiting = self.next_waiting().is_some();
        self.outflow.look(self.now, self.counts.uploaded_bytes, waiting);
    }

    /// Gives blocks to the driver as far as slots and send-ahead allow.
    pub(super) fn serve(&mut self) {
        loop {
            let mut sent = false;
            for at in 0..self.slots.len() {
                sent |= self.serve_slot(at);
            }
            self.drop_finished_slots();
            if !self.give_slot() && !sent {
                return;
            }
        }
    }

    fn serve_slot(&mut self, at: usize) -> bool {
        let Some(slot) = self.slots.get(at).copied() else { return false };
        let now = self.now;
        match self.slot_work(&slot) {
            SlotWork::Send(block) => {
                let Some(connection) = self.peers.get_mut(&slot.peer) else { return false };
                connection.unsent_bytes += Message::Piece(RawBlock::from(block)).wire_bytes() as u64;
                let Some(active) = self.active_mut(slot.peer) else { return false };
                // Only this one: BEP 6 wants an answer to each request, also to a repeated one.
                if let Some(place) = active.queue.iter().position(|queued| *queued == block) {
                    active.queue.remove(place);
                }
                active.upload_rate.add(now, u64::from(block.bytes()));
                active.uploaded_bytes += u64::from(block.bytes());
                active.served_at = now;
                self.counts.uploaded_bytes += u64::from(block.bytes());
                if let Some(slot) = self.slots.get_mut(at) {
                    slot.idle_since = None;
                }
                self.reveal_sent(slot.peer);
                self.actions.push_back(Action::SendBlock { to: slot.peer, block });
                true
            }
            SlotWork::Idle => {
                if let Some(slot) = self.slots.get_mut(at) {
                    slot.idle_since.get_or_insert(now);
                }
                false
            }
            SlotWork::Full | SlotWork::Done => false,
        }
    }

    fn slot_work(&self, slot: &Slot) -> SlotWork {
        let Some(connection) = self.peers.get(&slot.peer) else { return SlotWork::Done };
        let Some(active) = self.active(slot.peer) else { return SlotWork::Done };
        if connection.unsent_bytes >= active.send_ahead(self.now) {
            return SlotWork::Full;
        }
        match active.queue.iter().find(|block| block.piece() == slot.piece) {
            Some(block) => SlotWork::Send(*block),
            None if active.queue.is_empty() => SlotWork::Idle,
            None => SlotWork::Done,
        }
    }

    fn drop_finished_slots(&mut self) {
        let waiting = self.next_waiting().is_some();
        let now = self.now;
        let busy = self.slots.iter().any(|slot| {
            let unsent = |c: &Connection| c.unsent_bytes >= u64::from(BLOCK_BYTES);
            !matches!(self.slot_work(slot), SlotWork::Idle) || self.peers.get(&slot.peer).is_some_and(unsent)
        });
        let mut slots = std::mem::take(&mut self.slots);
        slots.retain(|slot| match self.slot_work(slot) {
            SlotWork::Send(_) => true,
            SlotWork::Full => !waiting || now.since(slot.progress_at) < SLOT_STALL,
            // An uplink with nothing else to do doesn't wait.
            SlotWork::Idle => !waiting || (busy && now.since(slot.idle_since.unwrap_or(now)) < SLOT_GRACE),
            SlotWork::Done => false,
        });
        self.slots = slots;
    }

    /// Gives a free slot to the peer that has the fewest pieces, more or less, and of such to the one that has
    /// waited longest: a node with fewer sources than others would fall behind and be the last.
    fn give_slot(&mut self) -> bool {
        if self.slots.len() >= self.outflow.slots {
            return false;
        }
        let Some((peer, piece)) = self.next_waiting() else { return false };
        self.slots.push(Slot { peer, piece, progress_at: self.now, idle_since: None });
        true
    }

    fn next_waiting(&self) -> Option<(PeerKey, PieceIndex)> {
        let waiting = self.active_peers().filter(|(key, active)| {
            !active.queue.is_empty()
                && !self.slots.iter().any(|slot| slot.peer == *key)
                && self
                    .peers
                    .get(key)
                    .is_some_and(|c: &Connection| c.unsent_bytes < active.send_ahead(self.now))
        });
        let (key, active) = waiting
            .min_by_key(|(key, active)| (active.have.count() / PROGRESS_STEP, active.served_at, *key))?;
        Some((key, active.queue.front()?.piece()))
    }

    /// When a waiting peer may take over a slot that does nothing.
    pub(super) fn next_slot_change(&self) -> Option<Moment> {
        self.next_waiting()?;
        let changes = self.slots.iter().map(|slot| match self.slot_work(slot) {
            // Only an idle slot is given up for its idleness; one that is full was idle before its last refill.
            SlotWork::Idle => slot.idle_since.unwrap_or(self.now).plus(SLOT_GRACE),
            SlotWork::Send(_) | SlotWork::Full | SlotWork::Done => slot.progress_at.plus(SLOT_STALL),
        });
        changes.min()
    }

    /// Bytes that peers wait for from us: the measure of a busy uplink.
    pub(super) fn upload_backlog(&self) -> u64 {
        self.peers
            .values()
            .map(|connection| match &connection.standing {
                super::Standing::Active(active) => {
                    connection.unsent_bytes + active.queue.len() as u64 * u64::from(BLOCK_BYTES)
                }
                super::Standing::Greeting | super::Standing::Proving(_) => 0,
            })
            .sum()
    }

    /// A block given by [`Action::SendBlock`] could not be read from the store.
    pub fn handle_unreadable(&mut self, now: Moment, peer: PeerKey, block: Block) {
        self.advance(now);
        let Some(connection) = self.peers.get_mut(&peer) else { return };
        let wire_bytes = Message::Piece(RawBlock::from(block)).wire_bytes() as u64;
        connection.unsent_bytes = connection.unsent_bytes.saturating_sub(wire_bytes);
        match self.active(peer).map(|active| active.fast) {
            Some(true) => self.send(peer, Message::Reject(block.into())),
            // Without BEP 6 there is no way to say no; the peer must ask elsewhere.
            Some(false) => self.close(peer, CloseReason::Lost),
            None => {}
        }
    }
}

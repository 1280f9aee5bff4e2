//! Our extensions, all inside BEP 10: `es_have` (batched HAVE) and `es_auth` (proof of the swarm secret).

use crate::bencode::{Data, Value};
use crate::piece_set::PieceSet;

/// Our number for `es_have` messages that are sent to us.
pub(crate) const ES_HAVE_ID: u8 = 1;

/// Our number for `es_auth` messages that are sent to us.
pub(crate) const ES_AUTH_ID: u8 = 2;

/// Largest BEP 10 handshake taken; stock peers send a few hundred bytes.
pub(crate) const EXTENSION_HANDSHAKE_BYTES_MAX: usize = 8 * 1024;

/// A fresh random value that a proof must cover.
pub type Nonce = [u8; 32];

/// What we read from and write into the BEP 10 handshake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtensionHandshake {
    /// The sender's number for `es_have`; absent or 0 = it doesn't take them.
    pub es_have: Option<u8>,
    /// The sender's number for `es_auth`.
    pub es_auth: Option<u8>,
    /// The sender's nonce (`es_nonce`).
    pub nonce: Option<Nonce>,
    /// `p`: the port on which the sender accepts connections.
    pub listen_port: Option<u16>,
    /// `reqq`: how many requests the sender queues.
    pub request_queue: Option<u32>,
    /// `upload_only` (BEP 21): the sender wants nothing more.
    pub upload_only: bool,
    /// `rh`: the sender wants HAVEs also of pieces that it has.
    pub redundant_have: bool,
}

impl ExtensionHandshake {
    /// Reads a handshake's payload. What it doesn't know or can't use is left out (BEP 10 asks for that);
    /// `None` only if the payload is no dictionary or too long.
    pub fn parse(payload: &[u8]) -> Option<ExtensionHandshake> {
        if payload.len() > EXTENSION_HANDSHAKE_BYTES_MAX {
            return None;
        }
        let (root, _) = Value::parse_prefix(payload).ok()?;
        let messages = root.get("m");
        let number = |name: &str| {
            let id = messages.and_then(|messages| messages.get(name)).and_then(Value::integer)?;
            u8::try_from(id).ok().filter(|&id| id != 0)
        };
        let flag = |name: &str| root.get(name).and_then(Value::integer).is_some_and(|value| value != 0);
        let integer = |name: &str| root.get(name).and_then(Value::integer);
        Some(ExtensionHandshake {
            es_have: number("es_have"),
            es_auth: number("es_auth"),
            nonce: root.get("es_nonce").and_then(Value::bytes).and_then(|bytes| bytes.try_into().ok()),
            listen_port: integer("p").and_then(|port| u16::try_from(port).ok()).filter(|&port| port != 0),
            request_queue: integer("reqq").and_then(|count| u32::try_from(count).ok()),
            upload_only: flag("upload_only"),
            redundant_have: flag("rh"),
        })
    }

    /// The payload to send.
    pub fn encode(&self) -> Vec<u8> {
        let ids = [("es_have", self.es_have), ("es_auth", self.es_auth)];
        let ids = ids.into_iter().filter_map(|(name, id)| Some((name, Data::Integer(i64::from(id?)))));
        let mut root = vec![("m", Data::dictionary(ids)), ("v", Data::text("ESIR 0.1"))];
        root.extend(self.nonce.map(|nonce| ("es_nonce", Data::Bytes(nonce.to_vec()))));
        root.extend(self.listen_port.map(|port| ("p", Data::Integer(i64::from(port)))));
        root.extend(self.request_queue.map(|count| ("reqq", Data::Integer(i64::from(count)))));
        root.extend(self.upload_only.then_some(("upload_only", Data::Integer(1))));
        root.extend(self.redundant_have.then_some(("rh", Data::Integer(1))));
        Data::dictionary(root).encode()
    }
}

/// One `es_have` message: new pieces as runs, and the sender's hunger.
///
/// On the wire: one byte of flags (bit 0 hungry, bit 1 complete), then for each run the gap since the end of
/// the run before and the run's length, both as LEB128 numbers of at most 5 bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HaveBatch {
    /// The sender is about to run out of work: tell it of new pieces at once.
    pub hungry: bool,
    /// The sender has every piece; it needs no more HAVEs.
    pub complete: bool,
    /// First piece and length of each run, ascending and apart.
    pub runs: Vec<(u32, u32)>,
}

const FLAG_HUNGRY: u8 = 1;
const FLAG_COMPLETE: u8 = 2;

impl HaveBatch {
    /// The batch that names these pieces.
    pub fn of(pieces: &PieceSet) -> HaveBatch {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for piece in pieces.iter() {
            match runs.last_mut() {
                Some((first, length)) if *first + *length == piece => *length += 1,
                _ => runs.push((piece, 1)),
            }
        }
        HaveBatch { hungry: false, complete: false, runs }
    }

    /// The payload to send.
    pub fn encode(&self) -> Vec<u8> {
        let hungry = if self.hungry { FLAG_HUNGRY } else { 0 };
        let complete = if self.complete { FLAG_COMPLETE } else { 0 };
        let mut out = vec![hungry | complete];
        let mut end = 0;
        for &(first, length) in &self.runs {
            write_leb(&mut out, first.saturating_sub(end));
            write_leb(&mut out, length);
            end = first + length;
        }
        out
    }

    /// Reads a payload for a torrent of `pieces` pieces; `None` if it names a piece that doesn't exist, has an
    /// empty or touching run, or is cut. Runs can't be more than the pieces, so memory is bounded.
    pub fn parse(payload: &[u8], pieces: u32) -> Option<HaveBatch> {
        let (flags, mut rest) = payload.split_first()?;
        let mut runs = Vec::new();
        let mut end = 0_u32;
        while !rest.is_empty() {
            let gap = read_leb(&mut rest)?;
            let length = read_leb(&mut rest)?;
            let first = end.checked_add(gap)?;
            let touching = gap == 0 && !runs.is_empty();
            end = first.checked_add(length).filter(|&end| end <= pieces && length > 0 && !touching)?;
            runs.push((first, length));
        }
        Some(HaveBatch { hungry: flags & FLAG_HUNGRY != 0, complete: flags & FLAG_COMPLETE != 0, runs })
    }

    /// The numbers of all pieces named.
    pub fn pieces(&self) -> impl Iterator<Item = u32> + '_ {
        self.runs.iter().flat_map(|&(first, length)| first..first + length)
    }
}

fn write_leb(out: &mut Vec<u8>, mut number: u32) {
    loop {
        let low = number.to_le_bytes()[0] & 0x7f;
        number >>= 7;
        if number == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

fn read_leb(rest: &mut &[u8]) -> Option<u32> {
    let mut number = 0_u64;
    for shift in [0, 7, 14, 21, 28] {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return u32::try_from(number).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_batch_survives_and_names_exactly_its_pieces(pieces in prop::collection::btree_set(0_u32..2000, 0..200), hungry: bool, complete: bool) {
            let mut set = PieceSet::empty(2000);
            for &piece in &pieces {
                set.insert(piece);
            }
            let batch = HaveBatch { hungry, complete, ..HaveBatch::of(&set) };
            let read = HaveBatch::parse(&batch.encode(), 2000).unwrap();
            prop_assert_eq!(read.pieces().collect::<Vec<_>>(), pieces.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(read, batch);
        }

        #[test]
        fn any_payload_names_only_pieces_that_exist(payload in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Some(batch) = HaveBatch::parse(&payload, 500) {
                prop_assert!(batch.pieces().all(|piece| piece < 500));
                prop_assert!(batch.pieces().count() <= 500);
            }
        }

        #[test]
        fn any_payload_is_an_extension_handshake_or_none(payload in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = ExtensionHandshake::parse(&payload);
        }
    }

    #[test]
    fn a_run_of_a_hundred_pieces_takes_three_bytes() {
        assert_eq!(HaveBatch { runs: vec![(7, 100)], ..HaveBatch::default() }.encode(), [0, 7, 100]);
    }

    #[test]
    fn the_handshake_survives_and_a_zero_id_means_off() {
        let handshake = ExtensionHandshake {
            es_have: Some(1),
            es_auth: Some(2),
            nonce: Some([9; 32]),
            listen_port: Some(6881),
            request_queue: Some(250),
            upload_only: true,
            redundant_have: true,
        };
        assert_eq!(ExtensionHandshake::parse(&handshake.encode()), Some(handshake));
        let off = ExtensionHandshake::parse(b"d1:md7:es_havei0eee").unwrap();
        assert_eq!(off, ExtensionHandshake::default());
        assert_eq!(ExtensionHandshake::parse(b"le").unwrap(), ExtensionHandshake::default());
        assert_eq!(ExtensionHandshake::parse(b"x"), None);
    }
}

//! What each fuzz target does with its bytes: decode, then check what must hold for everything that was taken.
//!
//! Never depends on the fuzzer: the same functions replay the corpora in `crates/swarm/tests/corpus.rs`.
#![allow(missing_docs)] // each function is named after its target

mod engine;
mod moves;

pub use engine::engine;

use std::collections::BTreeSet;
use std::net::IpAddr;
use swarm::bencode::{Data, Kind, Value};
use swarm::tracker::{Admission, AnnounceReply, AnnounceRequest, Tracker, TrackerConfig};
use swarm::wire::{Decoder, HANDSHAKE_BYTES, Handshake, Message};
use swarm::{ExtensionHandshake, HaveBatch, InfoHash, Metainfo, Moment, PIECES_MAX};

/// What is taken is canonical: written again it gives the same bytes.
pub fn bencode(data: &[u8]) {
    if let Ok(value) = Value::parse(data) {
        assert_eq!(value.raw, data);
        assert_eq!(owned(&value).encode(), data);
    }
    if let Ok((value, used)) = Value::parse_prefix(data) {
        assert_eq!(value.raw, &data[..used]);
    }
}

fn owned(value: &Value<'_>) -> Data {
    match &value.kind {
        Kind::Integer(number) => Data::Integer(*number),
        Kind::Bytes(bytes) => Data::Bytes(bytes.to_vec()),
        Kind::List(items) => Data::List(items.iter().map(owned).collect()),
        Kind::Dictionary(entries) => {
            Data::Dictionary(entries.iter().map(|(key, value)| (key.to_vec(), owned(value))).collect())
        }
    }
}

/// Lengths fit each other, the name is no path, and our own torrent of the same file reads the same.
pub fn metainfo(data: &[u8]) {
    let Ok(metainfo) = Metainfo::parse(data) else { return };
    let geometry = metainfo.geometry().expect("checked lengths");
    assert_eq!(geometry.pieces() as usize, metainfo.pieces.len());
    assert!(geometry.pieces() <= PIECES_MAX);
    let spans: u64 = geometry.all().map(|piece| u64::from(geometry.bytes_of(piece))).sum();
    assert_eq!(spans, metainfo.length);
    assert!(!metainfo.name.contains(['/', '\0']) && metainfo.name != ".." && metainfo.name != ".");
    let Metainfo { name, length, piece_length, pieces, announce, .. } = &metainfo;
    let ours = Metainfo::encode_single_file(name, *length, *piece_length, pieces, announce.as_deref());
    let again = Metainfo::parse(&ours.expect("what was read can be written")).expect("ours");
    let web_seeds: Vec<&str> = metainfo.web_seeds.iter().map(String::as_str).collect();
    let bare = Metainfo { web_seeds: Vec::new(), ..metainfo.clone() };
    assert_eq!(Metainfo { info_hash: metainfo.info_hash, private: metainfo.private, ..again }, bare);
    let same = Metainfo::with_sources(data, announce.as_deref(), &web_seeds).expect("what was read");
    assert_eq!(Metainfo::parse(&same), Ok(metainfo.clone()), "another torrent came back");
}

/// However a stream is cut into chunks, the same messages come out of it, and what waits for the rest of a
/// message is never longer than the bound. Input: pieces of the torrent (2 bytes), chunk length, stream.
pub fn wire(data: &[u8]) {
    if let Some(handshake) = data.first_chunk::<HANDSHAKE_BYTES>().and_then(Handshake::parse) {
        assert_eq!(Handshake::parse(&handshake.encode()), Some(handshake));
    }
    let [high, low, chunk, stream @ ..] = data else { return };
    let decoder = Decoder::new(u32::from(u16::from_be_bytes([*high, *low])) + 1);
    let whole = cut(&decoder, stream, stream.len().max(1));
    let chunked = cut(&decoder, stream, usize::from(*chunk) + 1);
    assert_eq!(whole, chunked);
}

/// The messages of a stream with their blocks' lengths, and whether it ended in an error.
fn cut(decoder: &Decoder, stream: &[u8], chunk: usize) -> (Vec<(Message, usize)>, bool) {
    let (mut messages, mut buffer) = (Vec::new(), Vec::new());
    for part in stream.chunks(chunk) {
        buffer.extend_from_slice(part);
        loop {
            let decoded = match decoder.decode(&buffer) {
                Ok(Some(decoded)) => decoded,
                Ok(None) => break,
                Err(_) => return (messages, true),
            };
            let (message, used) = (decoded.message, decoded.used);
            let mut again = Vec::new();
            message.encode(&mut again);
            again.extend_from_slice(decoded.data);
            if !matches!(message, Message::Other(_)) {
                assert_eq!(again, &buffer[..used]);
                assert_eq!(message.wire_bytes(), used);
            }
            messages.push((message, decoded.data.len()));
            buffer.drain(..used);
        }
        assert!(buffer.len() < decoder.message_bytes_max(), "a whole message waits");
    }
    (messages, false)
}

/// What was understood is written so that it is understood again. Input: pieces (2 bytes), payload.
pub fn extension(data: &[u8]) {
    let [high, low, payload @ ..] = data else { return };
    if let Some(handshake) = ExtensionHandshake::parse(payload) {
        assert_eq!(ExtensionHandshake::parse(&handshake.encode()), Some(handshake));
    }
    let pieces = u32::from(u16::from_be_bytes([*high, *low]));
    if let Some(batch) = HaveBatch::parse(payload, pieces) {
        assert!(batch.pieces().count() <= pieces as usize);
        assert!(batch.pieces().all(|piece| piece < pieces));
        assert_eq!(HaveBatch::parse(&batch.encode(), pieces), Some(batch));
    }
}

/// The tracker answers every query, with bytes that a peer of ours understands; its memory is bounded by its
/// members.
pub fn tracker_query(data: &[u8]) {
    let mut tracker = Tracker::new(TrackerConfig::new(Admission::Open, [1; 32]));
    let mut hash = InfoHash([0; 20]);
    let text = String::from_utf8_lossy(data);
    for (number, query) in (0_u8..).zip(text.split('\n').take(16)) {
        let from = IpAddr::from([10, 0, 0, number % 4]);
        if let Ok(request) = AnnounceRequest::parse(query, from) {
            assert_eq!(AnnounceRequest::parse(&request.to_query(), from), Ok(request.clone()));
            tracker.add_torrent(request.info_hash);
            hash = request.info_hash;
        }
        let body = tracker.handle_query(Moment::ZERO, from, query);
        let reply = AnnounceReply::parse(&body).expect("our own reply");
        if let AnnounceReply::Peers { peers, .. } = reply {
            assert!(peers.len() < 16 && !peers.iter().any(|peer| peer.port() == 0));
        }
    }
    let (complete, incomplete) = tracker.members(hash);
    assert!(complete + incomplete <= 16);
}

/// A reply names a bounded number of usable peers; written again it names the same.
pub fn tracker_reply(data: &[u8]) {
    let Ok(reply) = AnnounceReply::parse(data) else { return };
    let again = AnnounceReply::parse(&reply.encode()).expect("our own reply");
    match (reply, again) {
        (
            AnnounceReply::Peers { interval, peers },
            AnnounceReply::Peers { interval: interval_again, peers: peers_again },
        ) => {
            assert_eq!(interval, interval_again);
            assert!(peers.len() <= swarm::ADDRESSES_MAX && peers.iter().all(|peer| peer.port() != 0));
            let known: BTreeSet<_> = peers.iter().collect();
            assert_eq!(known, peers_again.iter().collect());
        }
        (reply, again) => assert_eq!(reply, again),
    }
}

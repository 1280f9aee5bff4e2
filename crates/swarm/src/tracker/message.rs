//! Announces and their replies, as values and as bytes.

use crate::addresses::ADDRESSES_MAX;
use crate::bencode::{Data, Value};
use crate::engine::AnnounceEvent;
use crate::metainfo::InfoHash;
use crate::wire::PeerId;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Longest query taken; a real one has about 200 bytes.
pub const QUERY_BYTES_MAX: usize = 2048;

/// Peers named when the query doesn't say how many it wants (BEP 3: 50).
const WANTED_DEFAULT: usize = 50;

/// One announce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnounceRequest {
    /// The torrent.
    pub info_hash: InfoHash,
    /// Who announces.
    pub peer_id: PeerId,
    /// Where it accepts peers: the address that the query came from, and the port that it names.
    pub address: SocketAddr,
    /// Bytes it lacks.
    pub left: u64,
    /// Bytes it got so far.
    pub downloaded: u64,
    /// Bytes it gave so far.
    pub uploaded: u64,
    /// Why it announces.
    pub event: AnnounceEvent,
    /// Most peers it wants named.
    pub wanted: usize,
}

/// A query that is no announce; the text names what is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the announce is malformed: {0}")]
pub struct MalformedQuery(pub &'static str);

/// A reply that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tracker's reply is malformed")]
pub struct MalformedReply;

/// A tracker's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnnounceReply {
    /// It was taken.
    Peers {
        /// When to announce again.
        interval: Duration,
        /// Whom to connect to.
        peers: Vec<SocketAddr>,
    },
    /// It was refused, for this reason.
    Refused(String),
}

impl AnnounceRequest {
    /// Reads the part of an announce URL behind the `?`. An `ip` in it is never believed.
    pub fn parse(query: &str, from: IpAddr) -> Result<AnnounceRequest, MalformedQuery> {
        if query.len() > QUERY_BYTES_MAX {
            return Err(MalformedQuery("it is too long"));
        }
        let find = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let id =
            |name: &str| find(name).and_then(unescape).and_then(|bytes| <[u8; 20]>::try_from(bytes).ok());
        let number = |name: &str| find(name).and_then(|text| text.parse::<u64>().ok());
        let port = find("port").and_then(|text| text.parse::<u16>().ok()).filter(|&port| port != 0);
        Ok(AnnounceRequest {
            info_hash: InfoHash(id("info_hash").ok_or(MalformedQuery("info_hash is not 20 bytes"))?),
            peer_id: id("peer_id").ok_or(MalformedQuery("peer_id is not 20 bytes"))?,
            address: SocketAddr::new(from, port.ok_or(MalformedQuery("port is not a port"))?),
            left: number("left").ok_or(MalformedQuery("left is not a number"))?,
            downloaded: number("downloaded").unwrap_or(0),
            uploaded: number("uploaded").unwrap_or(0),
            event: match find("event") {
                Some("started") => AnnounceEvent::Started,
                Some("completed") => AnnounceEvent::Completed,
                Some("stopped") => AnnounceEvent::Stopped,
                Some(_) | None => AnnounceEvent::None,
            },
            wanted: number("numwant").and_then(|count| usize::try_from(count).ok()).unwrap_or(WANTED_DEFAULT),
        })
    }

    /// The part of the URL behind the `?`.
    pub fn to_query(&self) -> String {
        let event = match self.event {
            AnnounceEvent::Started => "&event=started",
            AnnounceEvent::Completed => "&event=completed",
            AnnounceEvent::Stopped => "&event=stopped",
            AnnounceEvent::None => "",
        };
        format!(
            "info_hash={}&peer_id={}&port={}&uploaded={}&downloaded={}&left={}&compact=1&numwant={}{event}",
            escape(&self.info_hash.0),
            escape(&self.peer_id),
            self.address.port(),
            self.uploaded,
            self.downloaded,
            self.left,
            self.wanted,
        )
    }
}

impl AnnounceReply {
    /// The body to send.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            AnnounceReply::Refused(reason) => {
                Data::dictionary([("failure reason", Data::text(reason))]).encode()
            }
            AnnounceReply::Peers { interval, peers } => {
                let seconds = i64::try_from(interval.as_secs()).unwrap_or(i64::MAX);
                let (mut v4, mut v6) = (Vec::new(), Vec::new());
                for peer in peers {
                    match peer.ip() {
                        IpAddr::V4(ip) => v4.extend(ip.octets().into_iter().chain(peer.port().to_be_bytes())),
                        IpAddr::V6(ip) => v6.extend(ip.octets().into_iter().chain(peer.port().to_be_bytes())),
                    }
                }
                let mut root = vec![("interval", Data::Integer(seconds)), ("peers", Data::Bytes(v4))];
                root.extend((!v6.is_empty()).then_some(("peers6", Data::Bytes(v6))));
                Data::dictionary(root).encode()
            }
        }
    }

    /// Reads a body: compact peers, or BEP 3's list of dictionaries. At most [`ADDRESSES_MAX`] peers are taken.
    pub fn parse(body: &[u8]) -> Result<AnnounceReply, MalformedReply> {
        let root = Value::parse(body).map_err(|_| MalformedReply)?;
        if let Some(reason) = root.get("failure reason").and_then(Value::bytes) {
            return Ok(AnnounceReply::Refused(String::from_utf8_lossy(reason).chars().take(200).collect()));
        }
        let interval = root.get("interval").and_then(Value::integer).ok_or(MalformedReply)?;
        let interval = Duration::from_secs(u64::try_from(interval).map_err(|_| MalformedReply)?);
        let mut peers = Vec::new();
        if let Some(list) = root.get("peers") {
            match (list.bytes(), list.list()) {
                (Some(bytes), _) => peers.extend(compact::<4, 6>(bytes).map(|(ip, port)| v4(ip, port))),
                (None, Some(list)) => peers.extend(list.iter().filter_map(peer)),
                (None, None) => return Err(MalformedReply),
            }
        }
        if let Some(bytes) = root.get("peers6").and_then(Value::bytes) {
            peers.extend(compact::<16, 18>(bytes).map(|(ip, port)| v6(ip, port)));
        }
        peers.retain(|peer| peer.port() != 0);
        peers.truncate(ADDRESSES_MAX);
        Ok(AnnounceReply::Peers { interval, peers })
    }
}

fn v4(ip: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from(ip).into(), port)
}

fn v6(ip: [u8; 16], port: u16) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::from(ip).into(), port)
}

/// Entries of `ENTRY` bytes: an address of `IP` bytes and a port.
fn compact<const IP: usize, const ENTRY: usize>(bytes: &[u8]) -> impl Iterator<Item = ([u8; IP], u16)> + '_ {
    let (entries, _) = bytes.as_chunks::<ENTRY>();
    entries.iter().filter_map(|entry| {
        let (ip, port) = entry.split_first_chunk::<IP>()?;
        Some((*ip, u16::from_be_bytes(port.try_into().ok()?)))
    })
}

fn peer(entry: &Value<'_>) -> Option<SocketAddr> {
    let ip = std::str::from_utf8(entry.get("ip")?.bytes()?).ok()?.parse().ok()?;
    let port = u16::try_from(entry.get("port")?.integer()?).ok()?;
    Some(SocketAddr::new(ip, port))
}

fn escape(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02X}")).collect()
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let (digits, after) = rest.split_first_chunk::<2>()?;
            let digits = std::str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'))?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = after;
        } else {
            bytes.push(byte);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_announce_survives_its_query(info_hash: [u8; 20], peer_id: [u8; 20], port in 1_u16.., left: u64, which in 0..4) {
            let events = [AnnounceEvent::Started, AnnounceEvent::Completed, AnnounceEvent::Stopped, AnnounceEvent::None];
            let request = AnnounceRequest {
                info_hash: InfoHash(info_hash),
                peer_id,
                address: SocketAddr::from(([10, 0, 0, 1], port)),
                left,
                downloaded: 5,
                uploaded: 6,
                event: events[which as usize],
                wanted: 12,
            };
            prop_assert_eq!(AnnounceRequest::parse(&request.to_query(), request.address.ip()), Ok(request));
        }

        #[test]
        fn a_reply_survives(peers in prop::collection::vec((any::<[u8; 4]>(), 1_u16..), 0..50), seconds in 0_u64..9999) {
            let peers = peers.into_iter().map(|(ip, port)| v4(ip, port)).collect();
            let reply = AnnounceReply::Peers { interval: Duration::from_secs(seconds), peers };
            prop_assert_eq!(AnnounceReply::parse(&reply.encode()), Ok(reply));
        }

        #[test]
        fn any_query_and_any_body_is_taken_or_refused(query in ".{0,80}", body in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = AnnounceRequest::parse(&query, IpAddr::from([10, 0, 0, 1]));
            let _ = AnnounceReply::parse(&body);
        }
    }

    #[test]
    fn both_forms_of_peers_and_ipv6_are_read() {
        let reply = AnnounceReply::parse(b"d8:intervali9e5:peersld2:ip8:10.0.0.94:porti6881eeee").unwrap();
        let expected = vec![SocketAddr::from(([10, 0, 0, 9], 6881))];
        assert_eq!(reply, AnnounceReply::Peers { interval: Duration::from_secs(9), peers: expected });
        let six = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 7);
        let reply = AnnounceReply::Peers { interval: Duration::from_secs(1), peers: vec![six] };
        assert_eq!(AnnounceReply::parse(&reply.encode()), Ok(reply));
    }

    #[test]
    fn a_failure_is_a_refusal_and_garbage_an_error() {
        let refused = AnnounceReply::Refused("no".to_owned());
        assert_eq!(AnnounceReply::parse(&refused.encode()), Ok(refused));
        assert_eq!(AnnounceReply::parse(b"<html>"), Err(MalformedReply));
        assert_eq!(AnnounceReply::parse(b"d8:intervali-1ee"), Err(MalformedReply));
    }
}

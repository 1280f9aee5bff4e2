//! SHA-1 of the pieces of a file, by all processors.

use sha1::{Digest, Sha1};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use swarm::{Geometry, Metainfo, PieceSet};

/// The hash of each piece; none for a piece that goes beyond the end of the file. Blocks. `on_bytes` is told from
/// several threads how many bytes are done with.
pub fn piece_hashes(
    file: &File,
    geometry: Geometry,
    on_bytes: &(dyn Fn(u64) + Sync),
) -> io::Result<Vec<Option<[u8; 20]>>> {
    let present = file.metadata()?.len();
    let next = AtomicU32::new(0);
    let work = || -> io::Result<Vec<(u32, Option<[u8; 20]>)>> {
        let mut hashes = Vec::new();
        let mut buffer = vec![0; geometry.piece_bytes() as usize];
        while let Some(piece) = geometry.piece(next.fetch_add(1, Ordering::Relaxed)) {
            let (offset, bytes) = (geometry.offset(piece), geometry.bytes_of(piece));
            let room = buffer.get_mut(..bytes as usize).unwrap_or_default();
            let mut hash = None;
            if offset + u64::from(bytes) <= present {
                file.read_exact_at(room, offset)?;
                hash = Some(Sha1::digest(room).into());
            }
            hashes.push((piece.get(), hash));
            on_bytes(u64::from(bytes));
        }
        Ok(hashes)
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(geometry.pieces() as usize);
    let mut hashes = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut all = Vec::new();
        for worker in workers {
            all.extend(worker.join().map_err(|_| io::Error::other("a hashing thread ended"))??);
        }
        Ok::<_, io::Error>(all)
    })?;
    hashes.sort_unstable_by_key(|(piece, _)| *piece);
    Ok(hashes.into_iter().map(|(_, hash)| hash).collect())
}

/// The pieces of `file` whose hash is right. As [`piece_hashes`] otherwise.
pub fn verified_pieces(
    file: &File,
    metainfo: &Metainfo,
    on_bytes: &(dyn Fn(u64) + Sync),
) -> io::Result<PieceSet> {
    let geometry = metainfo.geometry().map_err(io::Error::other)?;
    let found = piece_hashes(file, geometry, on_bytes)?;
    let mut have = PieceSet::empty(geometry.pieces());
    for ((piece, found), expected) in (0..).zip(found).zip(&metainfo.pieces) {
        if found.as_ref() == Some(expected) {
            have.insert(piece);
        }
    }
    Ok(have)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn pieces_of_a_file_that_is_too_short_and_damaged() {
        let bytes: Vec<u8> = (0..100_u8).collect();
        let hashes: Vec<[u8; 20]> = bytes.chunks(16).map(|piece| Sha1::digest(piece).into()).collect();
        let torrent = Metainfo::encode_single_file("a", 100, 16, &hashes, None).unwrap();
        let metainfo = Metainfo::parse(&torrent).unwrap();
        let file = tempfile::tempfile().unwrap();
        let done = AtomicU64::new(0);
        let verified = || {
            let count = |bytes| {
                done.fetch_add(bytes, Ordering::Relaxed);
            };
            verified_pieces(&file, &metainfo, &count).unwrap().iter().collect::<Vec<_>>()
        };
        assert_eq!(verified(), Vec::<u32>::new());
        file.write_all_at(&bytes, 0).unwrap();
        assert_eq!(verified(), [0, 1, 2, 3, 4, 5, 6]);
        file.write_all_at(&[0xff], 20).unwrap();
        assert_eq!(verified(), [0, 2, 3, 4, 5, 6]);
        file.set_len(99).unwrap();
        assert_eq!(verified(), [0, 2, 3, 4, 5]);
        assert_eq!(done.into_inner(), 400);
    }
}

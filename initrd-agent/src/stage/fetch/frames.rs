//! Which frames can be written, piece by piece. Never reads a store or writes a file.
//!
//! A frame is ready when the last piece that holds a byte of it is verified; a container is finished when its
//! last frame is written.

use std::ops::Range;

/// Frames of one image, by their number in the table of contents.
#[derive(Debug)]
pub(crate) struct FrameTracker {
    piece_bytes: u64,
    container_bytes: u64,
    /// By number; offsets rise.
    frames: Vec<Frame>,
    /// Frames of each container that are not written.
    unwritten: Vec<u32>,
    verified: Vec<bool>,
}

#[derive(Debug)]
struct Frame {
    range: Range<u64>,
    /// Pieces that are still missing.
    missing: u32,
    written: bool,
}

/// What became of a frame that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// Compressed bytes.
    pub(crate) bytes: u64,
    /// The container, if this was its last frame.
    pub(crate) finished_container: Option<u32>,
}

impl FrameTracker {
    /// `frames` are byte ranges of the image in rising order, none empty.
    pub(crate) fn new(
        frames: impl IntoIterator<Item = Range<u64>>,
        pieces: u32,
        piece_bytes: u64,
        container_bytes: u64,
    ) -> Self {
        let (piece_bytes, container_bytes) = (piece_bytes.max(1), container_bytes.max(1));
        let frames: Vec<Frame> = frames
            .into_iter()
            .map(|range| {
                let touched = range.end.saturating_sub(1) / piece_bytes - range.start / piece_bytes + 1;
                Frame { missing: u32::try_from(touched).unwrap_or(u32::MAX), range, written: false }
            })
            .collect();
        let mut unwritten: Vec<u32> = Vec::new();
        for frame in &frames {
            let container = usize::try_from(frame.range.start / container_bytes).unwrap_or(usize::MAX);
            if unwritten.len() <= container {
                unwritten.resize(container.saturating_add(1), 0);
            }
            if let Some(count) = unwritten.get_mut(container) {
                *count += 1;
            }
        }
        let verified = vec![false; usize::try_from(pieces).unwrap_or_default()];
        Self { piece_bytes, container_bytes, frames, unwritten, verified }
    }

    /// Takes a verified piece and returns the frames that became ready. A piece counts once.
    pub(crate) fn piece_verified(&mut self, piece: u32) -> Vec<u32> {
        let Some(verified) = self.verified.get_mut(usize::try_from(piece).unwrap_or(usize::MAX)) else {
            return Vec::new();
        };
        if std::mem::replace(verified, true) {
            return Vec::new();
        }
        let start = u64::from(piece) * self.piece_bytes;
        let end = start + self.piece_bytes;
        let first = self.frames.partition_point(|frame| frame.range.end <= start);
        let mut ready = Vec::new();
        for (number, frame) in self.frames.iter_mut().enumerate().skip(first) {
            if frame.range.start >= end {
                break;
            }
            frame.missing = frame.missing.saturating_sub(1);
            if frame.missing == 0 {
                ready.extend(u32::try_from(number));
            }
        }
        ready
    }

    /// Takes a frame that was written.
    pub(crate) fn frame_written(&mut self, number: u32) -> Option<Written> {
        let frame = self.frames.get_mut(usize::try_from(number).ok()?)?;
        if std::mem::replace(&mut frame.written, true) {
            return None;
        }
        let bytes = frame.range.end - frame.range.start;
        let container = frame.range.start / self.container_bytes;
        let left = self.unwritten.get_mut(usize::try_from(container).ok()?)?;
        *left = left.saturating_sub(1);
        let finished_container = (*left == 0).then(|| u32::try_from(container).ok()).flatten();
        Some(Written { bytes, finished_container })
    }

    /// How many frames there are.
    pub(crate) fn frames(&self) -> usize {
        self.frames.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frame_across_two_pieces_waits_for_both() {
        let mut tracker = FrameTracker::new([0..10, 10..25, 25..30], 3, 10, 40);
        assert!(tracker.piece_verified(1).is_empty());
        assert_eq!(tracker.piece_verified(0), [0]);
        assert!(tracker.piece_verified(0).is_empty(), "a piece counts once");
        assert_eq!(tracker.piece_verified(2), [1, 2]);
        assert!(tracker.piece_verified(9).is_empty(), "no such piece");
        assert_eq!(tracker.frame_written(1), Some(Written { bytes: 15, finished_container: None }));
        assert_eq!(tracker.frame_written(1), None);
        assert_eq!(tracker.frame_written(0).unwrap().finished_container, None);
        assert_eq!(tracker.frame_written(2).unwrap().finished_container, Some(0));
        assert_eq!(tracker.frame_written(3), None);
    }

    proptest! {
        #[test]
        fn each_frame_is_ready_once_and_not_before_its_pieces(
            lengths in prop::collection::vec((0_u64..30, 1_u64..60), 1..60),
            piece_bytes in 1_u64..40,
            order in any::<prop::sample::Index>(),
        ) {
            let mut end = 0;
            let frames: Vec<Range<u64>> = lengths
                .iter()
                .map(|(gap, length)| {
                    let start = end + gap;
                    end = start + length;
                    start..end
                })
                .collect();
            let pieces = u32::try_from(end.div_ceil(piece_bytes)).unwrap();
            let mut tracker = FrameTracker::new(frames.clone(), pieces, piece_bytes, 64);
            let turn = u32::try_from(order.index(pieces as usize)).unwrap();
            let mut have = BTreeSet::new();
            let mut seen = BTreeSet::new();
            for step in 0..pieces {
                let piece = (step * 7919 + turn) % pieces;
                // Not every step is coprime; what is left over comes below.
                have.insert(piece);
                for ready in tracker.piece_verified(piece) {
                    prop_assert!(seen.insert(ready), "ready twice");
                    let range = &frames[ready as usize];
                    for byte in range.clone() {
                        prop_assert!(have.contains(&u32::try_from(byte / piece_bytes).unwrap()));
                    }
                }
            }
            for piece in 0..pieces {
                for ready in tracker.piece_verified(piece) {
                    prop_assert!(seen.insert(ready));
                }
            }
            prop_assert_eq!(seen.len(), frames.len());
            let mut finished = BTreeSet::new();
            for number in 0..frames.len() {
                let written = tracker.frame_written(u32::try_from(number).unwrap()).unwrap();
                finished.extend(written.finished_container);
            }
            let expected: BTreeSet<u32> =
                frames.iter().map(|range| u32::try_from(range.start / 64).unwrap()).collect();
            prop_assert_eq!(finished, expected);
        }
    }
}

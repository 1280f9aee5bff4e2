//! What a manifest and a table of contents may claim, and what must hold for everything that was taken.
//!
//! Never depends on the fuzzer: the same functions replay the corpora in `crates/image-format/tests/corpus.rs`.

use image_format::{EntryIndex, EntryKind, Header, Toc, TocLimits, Tree, parse_manifest};

/// Small, so that whatever is reserved for a claim shows as memory.
const LIMITS: TocLimits =
    TocLimits { toc_bytes_max: 1 << 20, entries_max: 100_000, frames_max: 100_000, image_bytes: 1 << 40 };

/// What is taken is written again as the same value, and its ranges lie within the file that it names.
pub(crate) fn manifest(data: &[u8]) {
    let Ok(manifest) = parse_manifest(data) else { return };
    if let Ok(bytes) = manifest.to_bytes() {
        assert_eq!(parse_manifest(&bytes).expect("our own bytes"), manifest);
    }
    assert!(manifest.toc_range().end <= manifest.file_size);
    let last = manifest.piece_count - 1;
    assert_eq!(manifest.piece_range(last).expect("the last piece").end, manifest.file_size);
    assert_eq!(manifest.piece_range(manifest.piece_count), None);
    assert!(!manifest.name.contains('/') && !manifest.name.starts_with('.'));
}

/// Frames lie within the file and their container, data within the frames, names within their directories; and a
/// builder would take every entry, by checks written apart from the reader's.
pub(crate) fn toc(data: &[u8]) {
    let _ = Header::parse(data);
    let Ok(toc) = Toc::parse(data, &LIMITS) else { return };
    let mut end = 0;
    for frame in toc.frames() {
        let range = frame.range();
        assert!(range.start >= end && range.end > range.start && range.end <= LIMITS.image_bytes);
        assert_eq!(range.start / toc.container_bytes(), (range.end - 1) / toc.container_bytes());
        end = range.end;
    }
    let mut extents = 0;
    for index in toc.frame_indices() {
        let frame = toc.frame(index).expect("its own index");
        for extent in toc.frame_extents(index) {
            assert_eq!(extent.frame, index);
            assert!(u64::from(extent.frame_offset) + u64::from(extent.len) <= u64::from(frame.raw_len));
            extents += 1;
        }
    }
    assert_eq!(toc.entries().map(|(_, entry)| toc.extents(entry).len()).sum::<usize>(), extents);
    let mut nodes = Vec::new();
    for (index, entry) in toc.entries() {
        let node = toc.node(index).expect("its own index");
        assert!(!node.path.split(|&byte| byte == b'/').any(|name| name == b".." || name == b"."));
        if let EntryKind::HardLink { to } = entry.kind {
            assert!(to < index && to != EntryIndex::ROOT);
        }
        nodes.push(node);
    }
    Tree::new(nodes).expect("the rules of a tree are those of a table");
}

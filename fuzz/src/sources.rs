//! What archives, container images and disks of strangers may claim, and what must hold for everything that was taken.
//!
//! Never depends on the fuzzer: the same functions replay the corpora in `crates/image-source/tests/imports.rs`.

#[path = "sectors.rs"]
mod sectors;

use std::collections::BTreeMap;
use std::io::{self, Read};

use image_format::TarLayout;
use image_source::disk::{Fat, Qcow2, find_partitions, identify, is_disk, parse_fstab};
use image_source::oci::{self, Blobs, Platform, Wanted};
use image_source::{MemberKind, Merge, Over, SourceError, TarReader, unpack};
use sectors::Sectors;

/// Bytes that one input may unpack to.
const UNPACKED_BYTES_MAX: u64 = 1 << 20;
/// Of the disks that are fuzzed: small, so that counts without end show as time.
const DISK_BYTES: u64 = 64 << 20;

/// Reads an archive into a merge; the data of its files must lie in it.
fn read_members(input: impl Read, merge: &mut Merge<u64>) -> Result<(), SourceError> {
    let mut reader = TarReader::new(input);
    while let Some(member) = reader.next_member()? {
        let (kind, place) = (member.kind.clone(), member.data_offset);
        merge.add(member, place)?;
        if let MemberKind::File(content) = kind {
            let mut bytes = 0;
            reader.read_data(&mut |part| {
                bytes += part.len() as u64;
                Ok::<(), SourceError>(())
            })?;
            assert_eq!(bytes, content.data_bytes(), "as much data as the shape says");
        }
    }
    Ok(())
}

/// Whatever a merge took is a tree that an image can hold, or is refused.
fn check(merge: Merge<u64>) {
    let Ok((tree, places)) = merge.into_tree() else { return };
    assert_eq!(tree.nodes().len(), places.len());
    let layout = TarLayout::new(&tree).expect("a checked tree has headers");
    assert!(layout.entries_end() >= tree.nodes().len() as u64);
    for node in tree.nodes() {
        assert!(!node.path.split(|&byte| byte == b'/').any(|name| name == b".."));
    }
}

/// The input is an archive, compressed or not, twice over itself: as it is and as a layer.
pub(crate) fn tar(data: &[u8]) {
    let mut merge = Merge::default();
    for over in [Over::Unpacked, Over::Layer] {
        merge.begin(over);
        let Ok((_, stream)) = unpack(data, 20, UNPACKED_BYTES_MAX) else { return };
        if read_members(stream, &mut merge).is_err() {
            return;
        }
    }
    check(merge);
}

/// Files by their names.
struct Files(BTreeMap<String, Vec<u8>>);

impl Blobs for Files {
    fn open(&self, path: &str) -> io::Result<Option<(u64, Box<dyn Read + '_>)>> {
        let reader = |bytes: &'_ Vec<u8>| bytes.len() as u64;
        Ok(self.0.get(path).map(|bytes| (reader(bytes), Box::new(bytes.as_slice()) as Box<dyn Read + '_>)))
    }
}

/// The input is files: a byte for the name's length, the name, two bytes for the length, the contents. Digests are
/// right if the fuzzer made them so; what is found is read to its end.
pub(crate) fn container(data: &[u8]) {
    let mut files = BTreeMap::new();
    let mut rest = data;
    while let Some((&len, after)) = rest.split_first() {
        let (name, after) = after.split_at(usize::from(len).min(after.len()));
        let Some((&[high, low], after)) = after.split_first_chunk() else { break };
        let (contents, next) = after.split_at(usize::from(u16::from_be_bytes([high, low])).min(after.len()));
        files.insert(String::from_utf8_lossy(name).into_owned(), contents.to_vec());
        rest = next;
    }
    let files = Files(files);
    let wanted = Wanted { reference: None, platform: Platform::of_machine("x86_64") };
    let Ok(image) = oci::find(&files, &wanted) else { return };
    let mut merge = Merge::default();
    for layer in &image.layers {
        merge.begin(Over::Layer);
        let Ok(mut stream) = layer.open(&files, UNPACKED_BYTES_MAX) else { return };
        if read_members(&mut stream, &mut merge).is_err() || stream.finish().is_err() {
            return;
        }
    }
    check(merge);
}

/// The input is a qcow2. Data is given in order, without overlap, within the disk, and read within the file.
pub(crate) fn qcow2(data: &[u8]) {
    let read = |offset: u64, bytes: &mut [u8]| {
        let start = usize::try_from(offset).expect("an offset within the file");
        bytes.copy_from_slice(&data[start..start + bytes.len()]);
        Ok(())
    };
    let Ok(disk) = Qcow2::open(&read, data.len() as u64) else { return };
    let (mut end, mut left) = (0, UNPACKED_BYTES_MAX);
    let _ = disk.read_data(&read, &mut |offset, bytes| {
        assert!(offset >= end && offset + bytes.len() as u64 <= disk.size());
        end = offset + bytes.len() as u64;
        left = left.checked_sub(bytes.len() as u64).ok_or(SourceError::Malformed("enough".into()))?;
        Ok::<(), SourceError>(())
    });
}

/// The input is a disk of zeros with some bytes written to some sectors. No read may lie outside; partitions are within
/// the disk and apart; what a FAT says of its files lies within it.
pub(crate) fn disk(data: &[u8]) {
    let sectors = Sectors::of(data);
    let read = |offset: u64, bytes: &mut [u8]| {
        let end = offset.checked_add(bytes.len() as u64).filter(|&end| end <= DISK_BYTES);
        if end.is_none() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        sectors.read(offset, bytes);
        Ok(())
    };
    let mut head = vec![0; 8192];
    let _ = read(0, &mut head);
    let _ = is_disk(&head);
    let _ = parse_fstab(data);
    let Ok(table) = find_partitions(&read, DISK_BYTES) else { return };
    for partition in &table.partitions {
        assert!(partition.start + partition.len <= DISK_BYTES);
        let inner = |offset: u64, bytes: &mut [u8]| read(partition.start + offset, bytes);
        let _ = identify(&inner, partition.len);
        let Ok(fat) = Fat::open(&inner, partition.len) else { continue };
        let Ok(entries) = fat.entries() else { continue };
        for entry in entries {
            assert!(!entry.names.is_empty());
            let bytes: u64 = entry.data.iter().map(|range| range.end - range.start).sum();
            assert_eq!(bytes, entry.size);
            assert!(entry.data.iter().all(|range| range.end <= partition.len));
        }
    }
}

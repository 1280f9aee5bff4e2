//! qcow2, versions 2 and 3: a virtual disk in clusters (QEMU, docs/interop/qcow2.txt). Reads the active state only;
//! never another file: backing and data files are refused.

use std::collections::HashSet;
use std::io::Read;

use super::fields::{be32, be64};
use crate::blocks::ReadAt;
use crate::error::{At, Result, SourceError, malformed, unsupported};

const MAGIC: &[u8] = b"QFI\xfb";
/// Bytes of the first-level table, as QEMU bounds it: 2 EiB of disk with clusters of 2 MiB.
const L1_BYTES_MAX: u64 = 32 << 20;
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
const INCOMPATIBLE_DIRTY: u64 = 1;
const INCOMPATIBLE_CORRUPT: u64 = 2;
const INCOMPATIBLE_DATA_FILE: u64 = 4;
const INCOMPATIBLE_COMPRESSION: u64 = 8;
const INCOMPATIBLE_EXTENDED_L2: u64 = 16;
/// Where tables and clusters lie, in an entry.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const ENTRY_COMPRESSED: u64 = 1 << 62;
const ENTRY_ZERO: u64 = 1;
const SUBCLUSTERS: u64 = 32;

/// Takes data and where on the disk it lies.
pub type EachData<'a, E> = dyn FnMut(u64, &[u8]) -> std::result::Result<(), E> + 'a;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    Deflate,
    Zstd,
}

/// An opened qcow2.
#[derive(Debug)]
pub struct Qcow2 {
    size: u64,
    cluster_bits: u32,
    extended: bool,
    compression: Compression,
    snapshots: u32,
    /// Where the second-level tables lie; 0 for none.
    l1: Vec<u64>,
    file_bytes: u64,
}

/// Whether a file that begins so is a qcow2.
#[must_use]
pub fn is_qcow2(head: &[u8]) -> bool {
    head.starts_with(MAGIC)
}

impl Qcow2 {
    /// Reads header and first-level table of a file of `file_bytes`.
    ///
    /// # Errors
    /// What is damaged, encrypted, or needs another file.
    pub fn open(read: &ReadAt<'_>, file_bytes: u64) -> Result<Self> {
        let mut header = vec![0; usize::try_from(file_bytes).unwrap_or(usize::MAX).min(112)];
        read(0, &mut header)?;
        if !is_qcow2(&header) || header.len() < 72 {
            return Err(malformed("it is no qcow2, or cut off"));
        }
        let version = be32(&header, 4);
        if !(2..=3).contains(&version) {
            return Err(unsupported(format!("it is a qcow of version {version}; 2 and 3 are read")));
        }
        if be64(&header, 8) != 0 {
            return Err(unsupported(
                "it has a backing file; put both together first: qemu-img convert -O qcow2 FILE WHOLE.qcow2",
            ));
        }
        if be32(&header, 32) != 0 {
            return Err(unsupported("it is encrypted; decrypt it first with qemu-img convert"));
        }
        let incompatible = if version == 3 { be64(&header, 72) } else { 0 };
        check_features(incompatible)?;
        let cluster_bits = be32(&header, 20);
        if !CLUSTER_BITS.contains(&cluster_bits) {
            return Err(malformed(format!("clusters of 2^{cluster_bits} bytes, at byte 20")));
        }
        let compression = match header.get(104) {
            Some(1) if incompatible & INCOMPATIBLE_COMPRESSION != 0 => Compression::Zstd,
            Some(0) | None => Compression::Deflate,
            Some(_) if incompatible & INCOMPATIBLE_COMPRESSION == 0 => Compression::Deflate,
            Some(other) => return Err(unsupported(format!("its clusters are compressed by method {other}"))),
        };
        let extended = incompatible & INCOMPATIBLE_EXTENDED_L2 != 0;
        let size = be64(&header, 24);
        let mut this = Self {
            size,
            cluster_bits,
            extended,
            compression,
            snapshots: be32(&header, 60),
            l1: Vec::new(),
            file_bytes,
        };
        this.l1 = this.read_l1(read, be32(&header, 36), be64(&header, 40))?;
        Ok(this)
    }

    /// Bytes of the disk in it.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// States of the disk that were kept and are not looked at.
    #[must_use]
    pub const fn snapshots(&self) -> u32 {
        self.snapshots
    }

    const fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Entries of a second-level table.
    const fn l2_entries(&self) -> u64 {
        self.cluster() / if self.extended { 16 } else { 8 }
    }

    fn read_l1(&self, read: &ReadAt<'_>, entries: u32, at: u64) -> Result<Vec<u64>> {
        let needed = self.size.div_ceil(self.cluster() * self.l2_entries());
        let bytes = u64::from(entries) * 8;
        if u64::from(entries) < needed {
            return Err(malformed(format!("its first-level table has {entries} entries and needs {needed}")));
        }
        if bytes > L1_BYTES_MAX {
            return Err(SourceError::TooMany { what: "bytes of first-level table", limit: L1_BYTES_MAX });
        }
        let mut table = self.within(at, needed * 8).map(|len| vec![0; len])?;
        read(at, &mut table)?;
        Ok((0..table.len() / 8).map(|entry| be64(&table, entry * 8) & OFFSET_MASK).collect())
    }

    /// Whether these bytes are in the file; their number.
    fn within(&self, at: u64, len: u64) -> Result<usize> {
        match at.checked_add(len) {
            Some(end) if end <= self.file_bytes => Ok(usize::try_from(len).unwrap_or(usize::MAX)),
            _ => Err(malformed(format!("it names bytes at {at}, behind its end: the file is cut off"))),
        }
    }

    /// Calls `each` with all data of the disk and where it lies, ascending. What is not given is zeros.
    ///
    /// # Errors
    /// Damage, named by its place; and what `each` says.
    pub fn read_data<E: From<SourceError>>(
        &self,
        read: &ReadAt<'_>,
        each: &mut EachData<'_, E>,
    ) -> std::result::Result<(), E> {
        let span = self.cluster() * self.l2_entries();
        // A table that serves several places would be read again and again.
        let mut seen = HashSet::new();
        let mut data = Vec::new();
        for (number, &at) in (0_u64..).zip(&self.l1) {
            if at == 0 {
                continue;
            }
            if !seen.insert(at) {
                return Err(malformed(format!("two parts of the disk share the table at byte {at}")).into());
            }
            let len = self.within(at, self.cluster())?;
            let mut table = vec![0; len];
            read(at, &mut table).map_err(SourceError::from)?;
            for entry in 0..self.l2_entries() {
                let offset = number * span + entry * self.cluster();
                if offset >= self.size {
                    break;
                }
                let place = usize::try_from(entry).unwrap_or(usize::MAX);
                let wide = if self.extended { 16 } else { 8 };
                let bitmap = if self.extended { Some(be64(&table, place * 16 + 8)) } else { None };
                let entry = be64(&table, place * wide);
                let found = self.read_cluster(read, entry, bitmap, &mut data);
                if found.at(|| format!("the disk's bytes from {offset} on"))? {
                    let room = usize::try_from(self.size - offset).unwrap_or(usize::MAX);
                    each(offset, data.get(..room).unwrap_or(&data))?;
                }
            }
        }
        Ok(())
    }

    /// One cluster into `data`; whether it holds anything.
    fn read_cluster(
        &self,
        read: &ReadAt<'_>,
        entry: u64,
        bitmap: Option<u64>,
        data: &mut Vec<u8>,
    ) -> Result<bool> {
        let len = usize::try_from(self.cluster()).unwrap_or(usize::MAX);
        data.resize(len, 0);
        if entry & ENTRY_COMPRESSED != 0 {
            self.read_compressed(read, entry, data)?;
            return Ok(true);
        }
        let at = entry & OFFSET_MASK;
        let is_zero = bitmap.is_none() && entry & ENTRY_ZERO != 0;
        if at == 0 || is_zero {
            return Ok(false);
        }
        self.within(at, 1)?;
        // The last cluster of a file may be short; what is missing is zeros.
        let there = usize::try_from(self.file_bytes - at).unwrap_or(usize::MAX).min(len);
        let (known, rest) = data.split_at_mut_checked(there).unwrap_or_default();
        read(at, known)?;
        rest.fill(0);
        if let Some(bitmap) = bitmap {
            if bitmap & u64::from(u32::MAX) == 0 {
                return Ok(false);
            }
            let part = len / usize::try_from(SUBCLUSTERS).unwrap_or(1);
            for (number, subcluster) in data.chunks_mut(part.max(1)).enumerate() {
                if bitmap >> number & 1 == 0 {
                    subcluster.fill(0);
                }
            }
        }
        Ok(true)
    }

    fn read_compressed(&self, read: &ReadAt<'_>, entry: u64, data: &mut [u8]) -> Result<()> {
        let shift = 62 - (self.cluster_bits - 8);
        let at = entry & ((1 << shift) - 1);
        let sectors = (entry & (ENTRY_COMPRESSED - 1)) >> shift;
        let wanted = (sectors + 1) * 512 - (at & 511);
        self.within(at, 1)?;
        let len = self.within(at, wanted.min(self.file_bytes - at))?;
        let mut packed = vec![0; len];
        read(at, &mut packed)?;
        let damaged = || malformed(format!("the compressed cluster at byte {at} of the file is damaged"));
        match self.compression {
            Compression::Deflate => {
                let mut decoder = flate2::Decompress::new(false);
                let result = decoder.decompress(&packed, data, flate2::FlushDecompress::Finish);
                result.map_err(|_| damaged())?;
                if decoder.total_out() != data.len() as u64 {
                    return Err(damaged());
                }
            }
            Compression::Zstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(packed.as_slice());
                let mut decoder = decoder.map_err(|_| damaged())?.single_frame();
                decoder.read_exact(data).map_err(|_| damaged())?;
            }
        }
        Ok(())
    }
}

fn check_features(incompatible: u64) -> Result<()> {
    if incompatible & INCOMPATIBLE_CORRUPT != 0 {
        return Err(malformed("it says of itself that it is corrupt; check it with qemu-img check"));
    }
    if incompatible & INCOMPATIBLE_DATA_FILE != 0 {
        return Err(unsupported(
            "its data is in another file; put both together first: qemu-img convert -O qcow2 FILE WHOLE.qcow2",
        ));
    }
    let known = INCOMPATIBLE_DIRTY | INCOMPATIBLE_COMPRESSION | INCOMPATIBLE_EXTENDED_L2;
    if incompatible & !known != 0 {
        return Err(unsupported(format!(
            "it has features that are not known here: {:#x}",
            incompatible & !known
        )));
    }
    Ok(())
}

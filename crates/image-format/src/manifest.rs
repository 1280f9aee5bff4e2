//! The manifest: a few KB of JSON that are signed and from which everything else in an image is proved.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::container::{CONTAINER_BYTES_MAX, CONTAINER_BYTES_MIN, FORMAT_VERSION, FORMAT_VERSION_OLDEST};
use crate::id::{Hash, ImageId};

/// A manifest is never larger: it travels inside every task.
pub const MANIFEST_BYTES_MAX: usize = 4096;

const FORMAT: &str = "esir-image";
/// Bounds for a piece; BEP 3 asks for a power of two, stock clients refuse more than 16 MiB or so.
const PIECE_BYTES: Range<u64> = 16 << 10..(16 << 20) + 1;

/// Where the compressed table of contents lies in the image file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TocLocation {
    /// First byte.
    pub offset: u64,
    /// Compressed bytes.
    pub len: u64,
    /// Uncompressed bytes.
    pub raw_len: u64,
}

/// How an installed system can be started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// By a PC BIOS: the image has GRUB's `i386-pc` modules.
    pub bios: bool,
    /// By UEFI: the image has a boot loader for it.
    pub uefi: bool,
}

/// What an image is an image of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The files of a root directory, to be written into any file system.
    #[default]
    Files,
    /// The blocks of one partition: the tree has one file, [`crate::PARTITION_FILE`], which is the partition.
    Partition,
    /// What another image has and a third one has not; see [`Delta`].
    Delta,
}

/// What a delta image leads from and to. Its tree: [`DELTA_TABLE`], [`DELTA_MANIFEST`], and below [`DELTA_FILES`] the
/// contents that are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// The image that a node has.
    pub base: ImageId,
    /// The image that it will have.
    pub image: ImageId,
}

/// File of a delta image's tree: the compressed table of contents of the image that it leads to.
pub const DELTA_TABLE: &str = "TOC";
/// File of a delta image's tree: that image's manifest.
pub const DELTA_MANIFEST: &str = "manifest";
/// Directory of a delta image's tree: a file for each contents, called by the index, in eight hex digits, of the first
/// entry that needs it in the table of the image that it leads to.
pub const DELTA_FILES: &str = "files";

/// Which file system the root needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystem {
    /// As in `mkfs.KIND`.
    pub kind: String,
    /// As in `mke2fs -O`: `^name` is one that the image's boot loader or kernel cannot read.
    pub features: Vec<String>,
}

/// One file system of the disk that an image was imported from, as the disk's own system names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFileSystem {
    /// Where its files are in the image: `/`, `/boot`, `/boot/efi`.
    pub mount: String,
    /// As `mount -t` takes it.
    pub kind: String,
    /// As `UUID=` in fstab.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// As `LABEL=` in fstab.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// What is signed. Read-only values; made by a builder, checked by [`parse_manifest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always `esir-image`.
    pub format: String,
    /// Of the whole format; this crate writes 2 and reads 1 too.
    pub version: u32,
    /// What it is an image of; version 1 knew files only.
    #[serde(default)]
    pub mode: Mode,
    /// For a delta image, from what to what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<Delta>,
    /// Name for people; also of the files, without their suffix.
    pub name: String,
    /// BLAKE3 of the uncompressed table of contents.
    pub image_id: ImageId,
    /// Bytes of the image file.
    pub file_size: u64,
    /// Bytes of a piece; the last may be shorter.
    pub piece_size: u64,
    /// How many pieces.
    pub piece_count: u32,
    /// BLAKE3 of the list of the pieces' BLAKE3 hashes.
    pub pieces_hash: Hash,
    /// SHA-1 of the metainfo's `info` value (BEP 3), hex.
    #[serde(with = "hex_info_hash")]
    pub info_hash: [u8; 20],
    /// Where the table of contents lies.
    pub toc: TocLocation,
    /// No frame crosses a multiple of this.
    pub container_bytes: u64,
    /// Names in the tree.
    pub entries: u64,
    /// Bytes of data in files.
    pub content_bytes: u64,
    /// As `uname -m` says it: `x86_64`. `None` when the tree has no program to tell by.
    pub architecture: Option<String>,
    /// `PRETTY_NAME` of `os-release`.
    pub distribution: Option<String>,
    /// Of the newest kernel in `/boot`: `6.1.0-50-amd64`.
    pub kernel: Option<String>,
    /// How it can be started.
    pub boot: Boot,
    /// What the root needs.
    pub root_file_system: FileSystem,
    /// Of an image that was imported from a disk: what the disk's file systems were called. For people and their
    /// boot loader's old configuration; a node gives its file systems identities of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_file_systems: Vec<SourceFileSystem>,
}

/// A manifest that must not be used. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Longer than [`MANIFEST_BYTES_MAX`].
    #[error("the manifest is {0} bytes long; at most {MANIFEST_BYTES_MAX} are accepted")]
    TooLong(usize),
    /// Not JSON, or a value is missing or of the wrong kind.
    #[error("the manifest cannot be read")]
    Json(#[source] serde_json::Error),
    /// Of another program or another time.
    #[error(
        "the manifest is of format {format:?}, version {version}; this program reads {FORMAT:?}, versions \
         {FORMAT_VERSION_OLDEST} to {FORMAT_VERSION}"
    )]
    Version {
        /// As given.
        format: String,
        /// As given.
        version: u32,
    },
    /// Values that contradict each other.
    #[error("the manifest contradicts itself: {0}")]
    Contradiction(&'static str),
}

/// Checks the bytes of a manifest. Verify their signature first.
///
/// # Errors
/// See [`ManifestError`].
pub fn parse_manifest(bytes: &[u8]) -> Result<Manifest, ManifestError> {
    if bytes.len() > MANIFEST_BYTES_MAX {
        return Err(ManifestError::TooLong(bytes.len()));
    }
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
    manifest.check()?;
    Ok(manifest)
}

impl Manifest {
    /// The value of `format` in a manifest of this version.
    #[must_use]
    pub fn format_name() -> String {
        FORMAT.to_owned()
    }

    /// The version that this crate writes.
    #[must_use]
    pub const fn format_version() -> u32 {
        FORMAT_VERSION
    }

    /// The bytes to sign and to serve.
    ///
    /// # Errors
    /// Values that contradict each other, or names so long that they do not fit.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ManifestError> {
        self.check()?;
        let mut bytes = serde_json::to_vec_pretty(self).map_err(ManifestError::Json)?;
        bytes.push(b'\n');
        if bytes.len() > MANIFEST_BYTES_MAX { Err(ManifestError::TooLong(bytes.len())) } else { Ok(bytes) }
    }

    /// The bytes of the image file that [`crate::Toc::from_compressed`] takes.
    #[must_use]
    pub const fn toc_range(&self) -> Range<u64> {
        self.toc.offset..self.toc.offset + self.toc.len
    }

    /// The bytes of piece `index`; `None` behind the last.
    #[must_use]
    pub fn piece_range(&self, index: u32) -> Option<Range<u64>> {
        let start = u64::from(index) * self.piece_size;
        (index < self.piece_count).then(|| start..(start + self.piece_size).min(self.file_size))
    }

    fn check(&self) -> Result<(), ManifestError> {
        let versions = FORMAT_VERSION_OLDEST..=FORMAT_VERSION;
        if self.format != FORMAT || !versions.contains(&self.version) {
            return Err(ManifestError::Version { format: self.format.clone(), version: self.version });
        }
        let wrong = |what| Err(ManifestError::Contradiction(what));
        if self.version == 1 && self.mode != Mode::Files {
            return wrong("it is of version 1, which knew files only");
        }
        if (self.mode == Mode::Delta) != self.delta.is_some() {
            return wrong("a delta image, and no other, says from what to what it leads");
        }
        let name_ok = self.name.chars().all(|c| c.is_ascii_alphanumeric() || "._-+".contains(c));
        if self.name.is_empty() || self.name.len() > 200 || self.name.starts_with('.') || !name_ok {
            return wrong("its name is not made of letters, digits, `.`, `_`, `-` and `+`");
        }
        if !PIECE_BYTES.contains(&self.piece_size) || !self.piece_size.is_power_of_two() {
            return wrong("the piece length is no power of two between 16 KiB and 16 MiB");
        }
        if self.file_size == 0 || self.file_size > i64::MAX.cast_unsigned() {
            return wrong("the file has no possible length");
        }
        if u64::from(self.piece_count) != self.file_size.div_ceil(self.piece_size) {
            return wrong("the number of pieces does not fit the file's length");
        }
        let containers = CONTAINER_BYTES_MIN..=CONTAINER_BYTES_MAX;
        if !containers.contains(&self.container_bytes) || !self.container_bytes.is_power_of_two() {
            return wrong("the container length is no power of two between 64 KiB and 64 MiB");
        }
        let toc_end = self.toc.offset.checked_add(self.toc.len);
        if self.toc.len == 0 || toc_end.is_none_or(|end| end > self.file_size) {
            return wrong("the table of contents lies outside the file");
        }
        Ok(())
    }
}

mod hex_info_hash {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(hash: &[u8; 20], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(hash))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 20], D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut hash = [0; 20];
        hex::decode_to_slice(text, &mut hash)
            .map_err(|_| serde::de::Error::custom("40 hex digits are needed"))?;
        Ok(hash)
    }
}

#[cfg(test)]
mod tests {
    use super::{Delta, Manifest, ManifestError, Mode, parse_manifest};
    use crate::memory::build_in_memory;
    use crate::tree::{Metadata, Node, NodeKind, OwnerNames, Tree};

    fn manifest() -> Manifest {
        let root = Node {
            path: vec![],
            metadata: Metadata::default(),
            names: OwnerNames::default(),
            xattrs: vec![],
            kind: NodeKind::Directory,
        };
        build_in_memory(&Tree::new(vec![root]).unwrap(), &|_| vec![], "tiny").unwrap().manifest
    }

    #[test]
    fn a_manifest_comes_back() {
        let manifest = manifest();
        assert_eq!(parse_manifest(&manifest.to_bytes().unwrap()).unwrap(), manifest);
        // As version 1 wrote it.
        let mut old = serde_json::to_value(&manifest).unwrap();
        old["version"] = 1.into();
        old.as_object_mut().unwrap().remove("mode");
        let old = parse_manifest(old.to_string().as_bytes()).unwrap();
        assert_eq!((old.mode, old.image_id), (Mode::Files, manifest.image_id));
    }

    #[test]
    fn contradictions_are_named() {
        let check = |change: fn(&mut Manifest), expected: &str| {
            let mut manifest = manifest();
            change(&mut manifest);
            let bytes = serde_json::to_vec(&manifest).unwrap();
            let error = parse_manifest(&bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(|m| m.version = 3, "version 3");
        check(|m| (m.version, m.mode) = (1, Mode::Partition), "knew files only");
        check(|m| m.mode = Mode::Delta, "from what to what");
        check(|m| m.delta = Some(Delta { base: m.image_id, image: m.image_id }), "from what to what");
        check(|m| m.piece_count += 1, "number of pieces");
        check(|m| m.piece_size = 300_000, "piece length");
        check(|m| m.toc.offset = u64::MAX, "outside the file");
        check(|m| m.toc.len = m.file_size, "outside the file");
        check(|m| m.container_bytes = 3, "container length");
        check(|m| m.file_size = 0, "no possible length");
        check(|m| m.name = "../../etc/passwd".into(), "name");
        let long = vec![b' '; 5000];
        assert!(matches!(parse_manifest(&long), Err(ManifestError::TooLong(5000))));
        assert!(matches!(parse_manifest(b"{}"), Err(ManifestError::Json(_))));
    }
}

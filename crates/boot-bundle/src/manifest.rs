//! The three manifests: of the bundle (for the server), of the store and of the initrd (for the agent).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::object::{ObjectHash, ObjectRef};

/// Version of all three formats; another one is refused.
pub const FORMAT_VERSION: u32 = 1;

/// Where the initrd holds its [`InitrdManifest`]; the archive's first file.
pub const INITRD_MANIFEST_PATH: &str = "/etc/esir/initrd-manifest.json";

/// Where the initrd holds the hash of `store.json`, hex; what the agent's trust in the store rests on.
pub const STORE_MANIFEST_HASH_PATH: &str = "/etc/esir/store-manifest.blake3";

/// No manifest is larger; that of Debian's whole module tree would have 1 MB.
const MANIFEST_BYTES_MAX: usize = 16 << 20;

/// A manifest that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Larger than any manifest is.
    #[error("a manifest of {0} bytes is too large")]
    TooLarge(usize),
    /// Not the JSON that is expected.
    #[error("reading the manifest's JSON")]
    Json(#[source] serde_json::Error),
    /// Made by another version of `image-tools`.
    #[error("the manifest has format version {0}, this program reads version 1; build the bundle again")]
    Version(u32),
    /// A path that leads out of its root or isn't a plain path.
    #[error("{0:?} is no clean path")]
    Path(String),
    /// The same name twice.
    #[error("{0} occurs twice")]
    Twice(String),
}

/// A file of the bundle's directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRef {
    /// BLAKE3 of the file.
    pub hash: ObjectHash,
    /// Its bytes.
    pub size: u64,
}

impl FileRef {
    /// Describes a file with these contents.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self { hash: ObjectHash::of(bytes), size: bytes.len() as u64 }
    }
}

/// `bundle.json`: what a boot bundle consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleManifest {
    /// [`FORMAT_VERSION`].
    pub version: u32,
    /// `uname -r` of the kernel.
    pub kernel_release: String,
    /// Machine, such as `x86_64`.
    pub architecture: String,
    /// The kernel.
    pub vmlinuz: FileRef,
    /// The initrd, without the site's part.
    pub initrd: FileRef,
    /// `store.json`.
    pub store: FileRef,
}

impl BundleManifest {
    /// Reads and checks `bundle.json`.
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = parse_json(bytes)?;
        check_version(manifest.version)?;
        Ok(manifest)
    }

    /// The bundle's name in boot URLs: the first 16 hex digits of the BLAKE3 of its JSON.
    #[must_use]
    pub fn id(&self) -> String {
        let hash = ObjectHash::of(&to_json(self));
        hash.as_str().get(..16).unwrap_or_default().to_owned()
    }

    /// The bytes of `bundle.json`.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }
}

/// `store.json`: everything that a node may fetch by hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreManifest {
    /// [`FORMAT_VERSION`].
    pub version: u32,
    /// `uname -r` of the kernel that the modules belong to.
    pub kernel_release: String,
    /// Which device needs which module and which module needs which other.
    pub index: StoreIndex,
    /// The modules, sorted by name.
    pub modules: Vec<ModuleEntry>,
    /// The firmware files, sorted by path.
    pub firmware: Vec<FirmwareEntry>,
    /// The tools, sorted by name.
    pub tools: Vec<Tool>,
}

/// The `modules.*` files as objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreIndex {
    /// `modules.alias` of the whole kernel package, so that a node can name a driver that the store lacks.
    pub alias: ObjectRef,
    /// `modules.dep` of the store's modules.
    pub dep: ObjectRef,
    /// `modules.softdep` of the store's modules.
    pub softdep: ObjectRef,
    /// `modules.builtin`.
    pub builtin: ObjectRef,
}

/// One kernel module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleEntry {
    /// Its name with `_`.
    pub name: String,
    /// Path below `/lib/modules/RELEASE`.
    pub path: String,
    /// The module, signature included.
    #[serde(flatten)]
    pub object: ObjectRef,
    /// Firmware that it may ask for, as paths below `/lib/firmware`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub firmware: Vec<String>,
}

/// One firmware file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirmwareEntry {
    /// Path below `/lib/firmware`.
    pub path: String,
    /// Its contents.
    #[serde(flatten)]
    pub object: ObjectRef,
}

/// A program with everything that it needs to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// Name, such as `mke2fs`.
    pub name: String,
    /// The program, its loader, libraries and configuration, sorted by path. Tools share files.
    pub files: Vec<ToolFile>,
}

/// One file of a tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolFile {
    /// Path below `/`, without a leading slash.
    pub path: String,
    /// Permissions, such as `0o755`.
    pub mode: u32,
    /// What is there.
    #[serde(flatten)]
    pub content: ToolContent,
}

/// What a tool's file is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ToolContent {
    /// A regular file.
    File(ObjectRef),
    /// A symbolic link.
    Symlink {
        /// Its target.
        symlink: String,
    },
}

impl StoreManifest {
    /// Reads and checks `store.json`. After this every path is clean and relative, every name unique.
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = parse_json(bytes)?;
        check_version(manifest.version)?;
        let mut names = BTreeSet::new();
        for module in &manifest.modules {
            check_path(&module.path)?;
            check_path(&module.name)?;
            check_unique(&mut names, "module", &module.name)?;
        }
        for firmware in &manifest.firmware {
            check_path(&firmware.path)?;
            check_unique(&mut names, "firmware", &firmware.path)?;
        }
        for tool in &manifest.tools {
            check_unique(&mut names, "tool", &tool.name)?;
            for file in &tool.files {
                check_path(&file.path)?;
            }
        }
        Ok(manifest)
    }

    /// The bytes of `store.json`.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }

    /// The module of this name.
    #[must_use]
    pub fn module(&self, name: &str) -> Option<&ModuleEntry> {
        self.modules.iter().find(|module| module.name == name)
    }

    /// The tool of this name.
    #[must_use]
    pub fn tool(&self, name: &str) -> Option<&Tool> {
        self.tools.iter().find(|tool| tool.name == name)
    }

    /// Every object that the manifest names, each once.
    #[must_use]
    pub fn objects(&self) -> Vec<&ObjectRef> {
        let index = [&self.index.alias, &self.index.dep, &self.index.softdep, &self.index.builtin];
        let tools = self.tools.iter().flat_map(|tool| &tool.files).filter_map(|file| match &file.content {
            ToolContent::File(object) => Some(object),
            ToolContent::Symlink { .. } => None,
        });
        let modules = self.modules.iter().map(|module| &module.object);
        let firmware = self.firmware.iter().map(|firmware| &firmware.object);
        let all = index.into_iter().chain(modules).chain(firmware).chain(tools);
        let by_hash: BTreeMap<&ObjectHash, &ObjectRef> = all.map(|object| (&object.hash, object)).collect();
        by_hash.into_values().collect()
    }
}

/// What the initrd should hold after the kernel has unpacked it. A truncated unpack is not fatal to the
/// kernel, so the agent looks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitrdManifest {
    /// [`FORMAT_VERSION`].
    pub version: u32,
    /// `uname -r` of the kernel that it belongs to.
    pub kernel_release: String,
    /// Every regular file but the manifest itself, by path with a leading slash.
    pub files: BTreeMap<String, InitrdFile>,
}

/// One file of the initrd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitrdFile {
    /// BLAKE3 of its contents.
    pub hash: ObjectHash,
    /// Its bytes.
    pub size: u64,
}

impl InitrdManifest {
    /// Reads and checks the manifest.
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = parse_json(bytes)?;
        check_version(manifest.version)?;
        for path in manifest.files.keys() {
            check_path(path.strip_prefix('/').unwrap_or_default())?;
        }
        Ok(manifest)
    }

    /// The manifest's bytes.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }
}

fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ManifestError> {
    if bytes.len() > MANIFEST_BYTES_MAX {
        return Err(ManifestError::TooLarge(bytes.len()));
    }
    serde_json::from_slice(bytes).map_err(ManifestError::Json)
}

/// Our manifests hold only texts, numbers and text-keyed maps, which always become JSON.
fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

const fn check_version(version: u32) -> Result<(), ManifestError> {
    if version == FORMAT_VERSION { Ok(()) } else { Err(ManifestError::Version(version)) }
}

/// Relative, no empty, `.` or `..` part, no NUL.
fn check_path(path: &str) -> Result<(), ManifestError> {
    let clean = path.split('/').all(|part| !matches!(part, "" | "." | "..")) && !path.contains('\0');
    if clean { Ok(()) } else { Err(ManifestError::Path(path.to_owned())) }
}

fn check_unique<'a>(
    seen: &mut BTreeSet<(&'static str, &'a str)>,
    kind: &'static str,
    name: &'a str,
) -> Result<(), ManifestError> {
    if seen.insert((kind, name)) { Ok(()) } else { Err(ManifestError::Twice(format!("{kind} {name}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(contents: &[u8]) -> ObjectRef {
        ObjectRef::pack(contents, 1).unwrap().0
    }

    fn store() -> StoreManifest {
        let files = vec![
            ToolFile { path: "sbin/mke2fs".into(), mode: 0o755, content: ToolContent::File(object(b"t")) },
            ToolFile {
                path: "sbin/mkfs.ext4".into(),
                mode: 0o777,
                content: ToolContent::Symlink { symlink: "mke2fs".into() },
            },
        ];
        StoreManifest {
            version: FORMAT_VERSION,
            kernel_release: "6.1.0".into(),
            index: StoreIndex {
                alias: object(b"a"),
                dep: object(b"d"),
                softdep: object(b"s"),
                builtin: object(b"b"),
            },
            modules: vec![ModuleEntry {
                name: "e100".into(),
                path: "kernel/drivers/net/ethernet/intel/e100.ko".into(),
                object: object(b"m"),
                firmware: vec!["e100/d102e_ucode.bin".into()],
            }],
            firmware: vec![FirmwareEntry { path: "e100/d102e_ucode.bin".into(), object: object(b"f") }],
            tools: vec![Tool { name: "mke2fs".into(), files }],
        }
    }

    #[test]
    fn the_store_manifest_survives_its_json() {
        let store = store();
        assert_eq!(StoreManifest::parse(&store.to_json()).unwrap(), store);
        assert_eq!(store.objects().len(), 7);
        assert_eq!(store.module("e100").unwrap().firmware, ["e100/d102e_ucode.bin"]);
        assert!(store.tool("mke2fs").is_some() && store.tool("sh").is_none());
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        for path in ["../etc/passwd", "/etc/passwd", "a//b", "a/./b", "", "a/.."] {
            let mut store = store();
            store.firmware[0].path = path.into();
            let error = StoreManifest::parse(&store.to_json()).unwrap_err();
            assert!(matches!(error, ManifestError::Path(_)), "{path}: {error}");
        }
    }

    #[test]
    fn other_versions_and_doubled_names_are_refused() {
        let mut newer = store();
        newer.version = 2;
        assert!(matches!(StoreManifest::parse(&newer.to_json()), Err(ManifestError::Version(2))));
        let mut doubled = store();
        doubled.modules.push(doubled.modules[0].clone());
        assert!(matches!(StoreManifest::parse(&doubled.to_json()), Err(ManifestError::Twice(_))));
        assert!(StoreManifest::parse(b"{}").is_err());
    }

    #[test]
    fn a_bundle_is_named_by_its_contents() {
        let file = FileRef::of(b"x");
        let bundle = BundleManifest {
            version: FORMAT_VERSION,
            kernel_release: "6.1.0".into(),
            architecture: "x86_64".into(),
            vmlinuz: file.clone(),
            initrd: file.clone(),
            store: file,
        };
        assert_eq!(BundleManifest::parse(&bundle.to_json()).unwrap(), bundle);
        let other = BundleManifest { initrd: FileRef::of(b"y"), ..bundle.clone() };
        assert_eq!(bundle.id().len(), 16);
        assert_ne!(bundle.id(), other.id());
    }
}

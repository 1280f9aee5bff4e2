//! The JSON of container images, as far as it is needed: fields that are not named here mean nothing to us.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256, Sha512};

use crate::error::{Result, malformed, printable, unsupported};
use crate::unpack::Hasher;

/// Where a tag is written in an OCI image layout.
const REFERENCE_NAME: &str = "org.opencontainers.image.ref.name";
/// Where containerd and docker write the whole name.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
const INDEX_TYPES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
/// Names listed in a message.
const NAMES_SHOWN: usize = 8;

pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| malformed(format!("it is not what it should be: {error}")))
}

/// `sha256:HEX` or `sha512:HEX`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Digest {
    is_512: bool,
    hex: String,
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        let wrong = || format!("{text:?} is no digest by SHA-256 or SHA-512");
        let (algorithm, hex) = text.split_once(':').ok_or_else(wrong)?;
        let is_512 = algorithm == "sha512";
        let len = if is_512 { 128 } else { 64 };
        let is_hex = hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if (!is_512 && algorithm != "sha256") || hex.len() != len || !is_hex {
            return Err(wrong());
        }
        Ok(Self { is_512, hex: hex.to_owned() })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", if self.is_512 { "sha512" } else { "sha256" }, self.hex)
    }
}

impl Digest {
    /// Its blob in a layout.
    pub(super) fn path(&self) -> String {
        format!("blobs/{}/{}", if self.is_512 { "sha512" } else { "sha256" }, self.hex)
    }

    /// `HEX.json` (docker) or `blobs/sha256/HEX`.
    pub(super) fn of_file_name(path: &str) -> Option<Self> {
        let name = path.rsplit('/').next()?;
        Self::try_from(format!("sha256:{}", name.strip_suffix(".json").unwrap_or(name))).ok()
    }

    pub(super) fn hasher(&self) -> Hasher {
        if self.is_512 { Hasher::Sha512(Box::new(Sha512::new())) } else { Hasher::Sha256(Sha256::new()) }
    }

    pub(super) fn check(&self, bytes: &[u8]) -> Result<()> {
        let mut hasher = self.hasher();
        hasher.update(bytes);
        self.compare(&hasher.hex())
    }

    pub(super) fn compare(&self, hex: &str) -> Result<()> {
        if self.hex == hex {
            return Ok(());
        }
        Err(malformed(format!("its digest is {hex}, not {}: it is damaged, or another one", self.hex)))
    }
}

/// For which machines an image is: `linux/amd64`, `linux/arm64/v8`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// As Go calls it: `amd64`, `arm64`.
    #[serde(default)]
    pub architecture: String,
    /// `v7`, `v8`; empty for any.
    #[serde(default)]
    pub variant: String,
}

impl Platform {
    /// `OS/ARCHITECTURE[/VARIANT]`.
    ///
    /// # Errors
    /// What is wrong, for a person.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            [os, architecture] if !os.is_empty() && !architecture.is_empty() => {
                Ok(Self { os: (*os).to_owned(), architecture: (*architecture).to_owned(), ..Self::default() })
            }
            [os, architecture, variant] if !os.is_empty() && !architecture.is_empty() => Ok(Self {
                os: (*os).to_owned(),
                architecture: (*architecture).to_owned(),
                variant: (*variant).to_owned(),
            }),
            _ => Err(format!("{text:?} is not OS/ARCHITECTURE, like linux/amd64")),
        }
    }

    /// The platform of machines like `machine` (as `uname -m` says it).
    #[must_use]
    pub fn of_machine(machine: &str) -> Self {
        let architecture = match machine {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "i386" | "i486" | "i586" | "i686" | "x86" => "386",
            "armv7l" | "arm" => "arm",
            "powerpc64" | "ppc64le" => "ppc64le",
            other => other,
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: String::new() }
    }

    /// Whether an image of this platform does for `wanted`. What it does not say does.
    pub(super) fn serves(&self, wanted: &Self) -> bool {
        let fits = |mine: &str, theirs: &str| mine.is_empty() || theirs.is_empty() || mine == theirs;
        fits(&self.os, &wanted.os)
            && fits(&self.architecture, &wanted.architecture)
            && fits(&self.variant, &wanted.variant)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(out, "/{}", self.variant) }
    }
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Descriptor {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    platform: Option<Platform>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Descriptor {
    pub(super) fn is_index(&self) -> bool {
        INDEX_TYPES.contains(&self.media_type.as_str())
    }

    /// BuildKit puts notes about an image beside it as an image for no platform.
    fn is_note(&self) -> bool {
        self.annotations.contains_key("vnd.docker.reference.type")
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        [REFERENCE_NAME, CONTAINERD_NAME]
            .into_iter()
            .filter_map(|key| self.annotations.get(key).map(String::as_str))
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Index {
    manifests: Vec<Descriptor>,
}

impl Index {
    /// The one descriptor that is meant.
    pub(super) fn choose(&self, reference: Option<&str>, platform: &Platform) -> Result<&Descriptor> {
        let named = |descriptor: &&Descriptor| {
            !descriptor.is_note()
                && reference.is_none_or(|wanted| descriptor.names().any(|name| is_called(name, wanted)))
        };
        let candidates: Vec<&Descriptor> = self.manifests.iter().filter(named).collect();
        if candidates.is_empty() {
            let wanted = reference.map_or_else(String::new, |name| format!(" called {name:?}"));
            return Err(unsupported(format!("there is no image{wanted}; {}", self.what_there_is())));
        }
        let fits = |descriptor: &&&Descriptor| {
            descriptor.platform.as_ref().is_none_or(|theirs| theirs.serves(platform))
        };
        let mut fitting: Vec<&Descriptor> = candidates.iter().filter(fits).copied().collect();
        // The same image under several names is one image.
        fitting.dedup_by(|a, b| a.digest == b.digest);
        match fitting.as_slice() {
            [one] => Ok(one),
            [] => Err(unsupported(format!("there is no image for {platform}; {}", self.what_there_is()))),
            _ => Err(unsupported(format!(
                "several images fit; choose by --reference; {}",
                self.what_there_is()
            ))),
        }
    }

    fn what_there_is(&self) -> String {
        let name = |descriptor: &Descriptor| {
            let name = descriptor.names().next().unwrap_or("without a name").to_owned();
            let platform = descriptor.platform.as_ref().map_or_else(String::new, |it| format!(" for {it}"));
            format!("{}{platform}", printable(name.as_bytes()))
        };
        let shown = self.manifests.iter().filter(|descriptor| !descriptor.is_note());
        list("it has", shown.map(name).collect())
    }
}

/// `debian:12` is also found as `12` or `docker.io/library/debian:12`.
fn is_called(name: &str, wanted: &str) -> bool {
    name == wanted
        || name.strip_suffix(wanted).is_some_and(|rest| rest.ends_with([':', '/']))
        || wanted.strip_suffix(name).is_some_and(|rest| rest.ends_with([':', '/']))
}

fn list(title: &str, mut names: Vec<String>) -> String {
    let more = names.len().saturating_sub(NAMES_SHOWN);
    names.truncate(NAMES_SHOWN);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    if names.is_empty() { format!("{title} none") } else { format!("{title} {}{rest}", names.join(", ")) }
}

#[derive(Debug, Deserialize)]
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

impl Manifest {
    pub(super) fn refuse_encrypted(&self) -> Result<()> {
        if self.layers.iter().any(|layer| layer.media_type.ends_with("+encrypted")) {
            return Err(unsupported("its layers are encrypted"));
        }
        Ok(())
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Config {
    #[serde(flatten)]
    platform: Platform,
    pub(super) rootfs: RootFileSystem,
}

#[derive(Debug, Deserialize)]
pub(super) struct RootFileSystem {
    #[serde(default)]
    pub(super) diff_ids: Vec<Digest>,
}

impl Config {
    pub(super) fn platform(&self) -> Platform {
        self.platform.clone()
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct DockerManifest {
    #[serde(rename = "Config")]
    pub(super) config: String,
    #[serde(rename = "RepoTags", default)]
    tags: Option<Vec<String>>,
    #[serde(rename = "Layers")]
    pub(super) layers: Vec<String>,
}

/// The one image that is meant.
pub(super) fn choose_docker<'a>(
    images: &'a [DockerManifest],
    reference: Option<&str>,
) -> Result<&'a DockerManifest> {
    let tags = |image: &'a DockerManifest| image.tags.iter().flatten().map(String::as_str);
    let fits = |image: &&DockerManifest| {
        reference.is_none_or(|wanted| image.tags.iter().flatten().any(|tag| is_called(tag, wanted)))
    };
    let fitting: Vec<&DockerManifest> = images.iter().filter(fits).collect();
    match fitting.as_slice() {
        [one] => Ok(one),
        _ => {
            let names = images.iter().flat_map(tags).map(|tag| printable(tag.as_bytes())).collect();
            let what = if fitting.is_empty() {
                "no such image"
            } else {
                "several images fit; choose by --reference"
            };
            Err(unsupported(format!("{what}; {}", list("it has", names))))
        }
    }
}

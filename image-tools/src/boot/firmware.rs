//! Firmware files that the bundle's modules ask for.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};
use boot_bundle::fnmatch;

use super::packages::Packages;

/// Debian's packages with firmware for network cards and disk controllers.
const PACKAGES: [&str; 8] = [
    "firmware-bnx2",
    "firmware-bnx2x",
    "firmware-misc-nonfree",
    "firmware-realtek",
    "firmware-qlogic",
    "firmware-cavium",
    "firmware-netxen",
    "firmware-myricom",
];

/// The component of Debian's archive that they are in since Debian 12.
const COMPONENT: &str = "non-free-firmware";

/// Network drivers whose firmware is put into the initrd: cards that servers boot from and that need it
/// before they have a link. Together 5 MB; the firmware of all network drivers has 41 MB, most of it for
/// accelerators and switches.
pub(super) const INITRD_DRIVERS: [&str; 8] = ["bnx2", "bnx2x", "tg3", "qed", "ice", "r8169", "cxgb4", "e100"];

/// Where firmware comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Debian's packages, fetched with apt.
    Debian,
    /// Nowhere.
    None,
    /// A directory like `/lib/firmware`.
    Directory(PathBuf),
}

impl FromStr for Source {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "debian" => Self::Debian,
            "none" => Self::None,
            directory => Self::Directory(directory.into()),
        })
    }
}

/// Firmware trees that were found, and why others were not.
#[derive(Debug, Default)]
pub(super) struct Firmware {
    trees: Vec<PathBuf>,
    /// One sentence, if there is no firmware at all or not all of it.
    pub(super) note: Option<String>,
}

impl Firmware {
    /// Finds the firmware. Debian's packages may be out of reach: that is said, and no error.
    pub(super) fn open(source: &Source, packages: &Packages) -> Result<Self> {
        match source {
            Source::None => Ok(Self { trees: Vec::new(), note: Some("none was asked for".to_owned()) }),
            Source::Directory(directory) if directory.is_dir() => {
                let tree =
                    directory.canonicalize().with_context(|| format!("finding {}", directory.display()))?;
                Ok(Self { trees: vec![tree], note: None })
            }
            Source::Directory(directory) => {
                bail!(
                    "there is no firmware directory {}; give one, or `debian` or `none`",
                    directory.display()
                )
            }
            Source::Debian => Ok(Self::from_packages(packages)),
        }
    }

    fn from_packages(packages: &Packages) -> Self {
        let known = PACKAGES.iter().all(|package| packages.knows(package));
        let with_component = if known { Ok(packages.clone()) } else { packages.with_component(COMPONENT) };
        let packages = match with_component {
            Ok(packages) => packages,
            Err(error) => {
                let note = format!("none, because apt has no {COMPONENT}: {error:#}");
                return Self { trees: Vec::new(), note: Some(note) };
            }
        };
        let mut firmware = Self::default();
        let mut missing = Vec::new();
        for package in PACKAGES {
            match packages.unpacked(package) {
                Ok(root) => {
                    let trees = ["lib/firmware", "usr/lib/firmware"].map(|path| root.join(path));
                    firmware.trees.extend(trees.into_iter().filter(|tree| tree.is_dir()));
                }
                Err(_) => missing.push(package),
            }
        }
        if !missing.is_empty() {
            firmware.note = Some(format!("apt cannot give {}", missing.join(", ")));
        }
        firmware
    }

    /// The files that modules ask for by these names (which may have wildcards), by path below
    /// `/lib/firmware`.
    pub(super) fn files<'a>(
        &self,
        names: impl Iterator<Item = &'a str>,
    ) -> Result<BTreeMap<String, PathBuf>> {
        let mut files = BTreeMap::new();
        for name in names {
            if name.contains(['*', '?', '[']) {
                files.extend(self.matching(name)?);
            } else if let Some(path) = self.find(name) {
                files.insert(name.to_owned(), path);
            }
        }
        Ok(files)
    }

    fn find(&self, name: &str) -> Option<PathBuf> {
        let clean = name.split('/').all(|part| !matches!(part, "" | "." | ".."));
        self.trees.iter().map(|tree| tree.join(name)).find(|path| clean && path.is_file())
    }

    fn matching(&self, pattern: &str) -> Result<BTreeMap<String, PathBuf>> {
        let (directory, _) = pattern.rsplit_once('/').unwrap_or(("", pattern));
        let mut files = BTreeMap::new();
        for tree in self.trees.iter().filter(|tree| tree.join(directory).is_dir()) {
            let place = tree.join(directory);
            for entry in std::fs::read_dir(&place).with_context(|| format!("listing {}", place.display()))? {
                let path = entry.with_context(|| format!("listing {}", place.display()))?.path();
                let name = relative(tree, &path);
                if path.is_file() && fnmatch(pattern.as_bytes(), name.as_bytes()) {
                    files.insert(name, path);
                }
            }
        }
        Ok(files)
    }
}

fn relative(tree: &Path, path: &Path) -> String {
    path.strip_prefix(tree).unwrap_or(path).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_by_name_and_by_wildcard() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("e100")).unwrap();
        std::fs::write(directory.path().join("e100/d102e_ucode.bin"), "x").unwrap();
        let firmware = Firmware { trees: vec![directory.path().to_owned()], note: None };
        let found = firmware.files(["e100/d102e_ucode.bin", "none.bin", "../secret"].into_iter()).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["e100/d102e_ucode.bin"]);
        assert_eq!(firmware.files(["e100/d10*"].into_iter()).unwrap().len(), 1);
    }
}

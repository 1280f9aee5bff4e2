//! The boot programs that firmware loads before anything of ours runs, held in memory under their names.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use axum::body::Bytes;

use super::policy::FirstLoader;
use super::tftp::FileSource;

/// For BIOS PXE ROMs.
pub(super) const BIOS: &str = "undionly.kpxe";
/// For UEFI PXE: uses the firmware's own NIC driver.
pub(super) const UEFI: &str = "snponly.efi";
/// For UEFI HTTP boot, and for machines where `snponly.efi` does not find its NIC.
pub(super) const UEFI_HTTP: &str = "ipxe.efi";
/// For Secure Boot: signed by Microsoft, starts what the distribution signed.
pub(super) const SHIM: &str = "shimx64.efi";
/// What shim starts; it asks for this name.
pub(super) const GRUB: &str = "grubx64.efi";

/// One boot program that is looked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    /// As firmware asks for it.
    pub(crate) name: &'static str,
    /// For whom it is.
    pub(crate) firmware: &'static str,
    /// The Debian package that has it.
    pub(crate) package: &'static str,
    /// Where that package puts it, if it has another name there.
    debian: Option<&'static str>,
}

/// Every boot program that is looked for.
pub(crate) const KNOWN: [Known; 5] = [
    Known { name: BIOS, firmware: "BIOS PXE ROMs", package: "ipxe", debian: None },
    Known { name: UEFI, firmware: "UEFI PXE", package: "ipxe", debian: None },
    Known { name: UEFI_HTTP, firmware: "UEFI HTTP boot", package: "ipxe", debian: None },
    Known {
        name: SHIM,
        firmware: "Secure Boot",
        package: "shim-signed",
        debian: Some("/usr/lib/shim/shimx64.efi.signed"),
    },
    Known {
        name: GRUB,
        firmware: "Secure Boot",
        package: "grub-efi-amd64-signed",
        debian: Some("/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"),
    },
];
/// Boot programs have at most a few MB; more is something else.
const FILE_BYTES_MAX: u64 = 64 << 20;

impl Known {
    /// Where it is read: in the directory of boot files, or where Debian's package puts it.
    pub(crate) fn path(&self, directory: &Path) -> PathBuf {
        match self.debian {
            // A shim starts only what its own maker signed, so both come from one place.
            Some(debian) if !directory.join(SHIM).exists() => debian.into(),
            _ => directory.join(self.name),
        }
    }

    /// What to do where it is missing.
    pub(crate) fn remedy(&self) -> String {
        format!("install the Debian package `{}`, or name another directory with --boot-files", self.package)
    }
}

/// Boot programs by name. Nothing else can be asked for, so no path leads anywhere.
#[derive(Clone, Debug, Default)]
pub(super) struct BootPrograms {
    files: BTreeMap<String, Bytes>,
}

impl BootPrograms {
    /// Reads what is known from `directory` and from Debian's packages. Also one sentence for each that is missing:
    /// nodes with such firmware get an address and nothing to boot.
    pub(super) fn read(directory: &Path) -> anyhow::Result<(Self, Vec<String>)> {
        let (mut files, mut missing) = (BTreeMap::new(), Vec::new());
        for known in KNOWN {
            let path = known.path(directory);
            match File::open(&path) {
                Ok(file) => {
                    let bytes = read(file).with_context(|| format!("reading {}", path.display()))?;
                    files.insert(known.name.to_owned(), bytes);
                }
                Err(error) => missing.push(format!(
                    "{} cannot be opened ({error}): nodes with {} will not boot from here; {}",
                    path.display(),
                    known.firmware,
                    known.remedy()
                )),
            }
        }
        Ok((Self { files }, missing))
    }

    /// The file with exactly this name.
    pub(super) fn get(&self, name: &str) -> Option<Bytes> {
        self.files.get(name).cloned()
    }

    /// `name`, if there is such a file.
    pub(super) fn name(&self, name: &str) -> Option<String> {
        self.files.contains_key(name).then(|| name.to_owned())
    }

    /// What begins the signed chain, if all of it is there.
    pub(super) fn signed(&self) -> Option<String> {
        self.name(GRUB).and_then(|_| self.name(SHIM))
    }

    #[cfg(test)]
    pub(super) fn of(files: &[(&str, Vec<u8>)]) -> Self {
        Self { files: files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone().into())).collect() }
    }
}

/// What `name` is to x64 UEFI, if that loads it first: Secure Boot may refuse it.
pub(super) fn first_loader(name: &str) -> Option<FirstLoader> {
    match name {
        UEFI | UEFI_HTTP => Some(FirstLoader::Ipxe),
        SHIM => Some(FirstLoader::Shim),
        _ => None,
    }
}

impl FileSource for BootPrograms {
    fn open(&self, name: &str, _node: Ipv4Addr) -> Option<Bytes> {
        self.get(name)
    }
}

fn read(file: File) -> anyhow::Result<Bytes> {
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    anyhow::ensure!(!bytes.is_empty(), "it is empty");
    anyhow::ensure!(
        bytes.len() as u64 <= FILE_BYTES_MAX,
        "it has more than {FILE_BYTES_MAX} bytes, so it is no boot program"
    );
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_files_are_named_with_the_package_that_has_them() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(UEFI), b"MZ").unwrap();
        std::fs::write(directory.path().join(SHIM), b"MZ").unwrap();
        std::fs::write(directory.path().join("secret"), b"no").unwrap();
        let (programs, missing) = BootPrograms::read(directory.path()).unwrap();
        assert_eq!(programs.get(UEFI).as_deref(), Some(&b"MZ"[..]));
        assert_eq!(programs.get("secret"), None);
        assert_eq!(missing.len(), 3, "{missing:?}");
        assert!(missing[0].contains(BIOS) && missing[0].contains("package `ipxe`"), "{}", missing[0]);
        assert_eq!(programs.signed(), None, "half of the chain is none");
    }

    #[test]
    fn shim_and_grub_come_from_one_place() {
        let directory = tempfile::tempdir().unwrap();
        let place =
            |name: &str| KNOWN.iter().find(|known| known.name == name).unwrap().path(directory.path());
        assert!(place(GRUB).starts_with("/usr/lib/grub"));
        std::fs::write(directory.path().join(SHIM), b"MZ").unwrap();
        assert_eq!(place(GRUB), directory.path().join(GRUB));
    }
}

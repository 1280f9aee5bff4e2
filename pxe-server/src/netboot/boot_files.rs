//! The boot programs that firmware loads before anything of ours runs, held in memory under their names.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::Context as _;
use axum::body::Bytes;

use super::tftp::FileSource;

/// For BIOS PXE ROMs.
pub(super) const BIOS: &str = "undionly.kpxe";
/// For UEFI PXE: uses the firmware's own NIC driver.
pub(super) const UEFI: &str = "snponly.efi";
/// For UEFI HTTP boot, and for machines where `snponly.efi` does not find its NIC.
pub(super) const UEFI_HTTP: &str = "ipxe.efi";

/// What is looked for, for whom, and the Debian package that has it.
const KNOWN: [(&str, &str, &str); 3] =
    [(BIOS, "BIOS PXE ROMs", "ipxe"), (UEFI, "UEFI PXE", "ipxe"), (UEFI_HTTP, "UEFI HTTP boot", "ipxe")];
/// Boot programs have at most a few MB; more is something else.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Boot programs by name. Nothing else can be asked for, so no path leads anywhere.
#[derive(Clone, Debug, Default)]
pub(super) struct BootPrograms {
    files: BTreeMap<String, Bytes>,
}

impl BootPrograms {
    /// Reads what is known from `directory`. Also one sentence for each that is missing: nodes with such firmware
    /// get an address and nothing to boot.
    pub(super) fn read(directory: &Path) -> anyhow::Result<(Self, Vec<String>)> {
        let (mut files, mut missing) = (BTreeMap::new(), Vec::new());
        for (name, firmware, package) in KNOWN {
            let path = directory.join(name);
            match File::open(&path) {
                Ok(file) => {
                    files.insert(name.to_owned(), read(file).with_context(|| format!("reading {}", path.display()))?);
                }
                Err(error) => missing.push(format!(
                    "{} cannot be opened ({error}): nodes with {firmware} will not boot from here; the Debian package \
                     `{package}` has the file in /usr/lib/ipxe, or name another directory with --boot-files",
                    path.display()
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

    #[cfg(test)]
    pub(super) fn of(files: &[(&str, Vec<u8>)]) -> Self {
        Self { files: files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone().into())).collect() }
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
        std::fs::write(directory.path().join("secret"), b"no").unwrap();
        let (programs, missing) = BootPrograms::read(directory.path()).unwrap();
        assert_eq!(programs.get(UEFI).as_deref(), Some(&b"MZ"[..]));
        assert_eq!(programs.get("secret"), None);
        assert_eq!(missing.len(), 2);
        assert!(missing[0].contains(BIOS) && missing[0].contains("package `ipxe`"), "{}", missing[0]);
    }
}

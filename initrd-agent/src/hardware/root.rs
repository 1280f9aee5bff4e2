//! Where the files of the kernel and of the initrd are: `/`, or a made-up tree in tests.

use std::path::{Path, PathBuf};

/// No attribute of sysfs that we read is longer than a page.
const ATTRIBUTE_BYTES_MAX: usize = 4096;

/// The tree that holds `sys`, `proc`, `dev` and `lib`.
#[derive(Clone, Debug)]
pub(crate) struct Root(PathBuf);

impl Root {
    /// The machine's own.
    pub(crate) fn real() -> Self {
        Self("/".into())
    }

    #[cfg(test)]
    pub(crate) fn fake(directory: &Path) -> Self {
        Self(directory.to_owned())
    }

    /// A path without a leading slash, below this root.
    pub(crate) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.0.join(path)
    }

    /// `uname -r`.
    pub(crate) fn kernel_release(&self) -> std::io::Result<String> {
        Ok(std::fs::read_to_string(self.at("proc/sys/kernel/osrelease"))?.trim().to_owned())
    }

    /// `lib/modules/RELEASE`.
    pub(crate) fn modules(&self, release: &str) -> PathBuf {
        self.at("lib/modules").join(release)
    }

    /// Whether the kernel has this module, loaded or built in with parameters.
    pub(crate) fn has_module(&self, name: &str) -> bool {
        self.at("sys/module").join(name).exists()
    }
}

/// The text of an attribute, trimmed, without control characters; `None` when absent, unreadable or empty.
pub(crate) fn attribute(path: &Path) -> Option<String> {
    let bytes = std::fs::read(path).ok()?;
    clean_text(bytes.get(..bytes.len().min(ATTRIBUTE_BYTES_MAX))?)
}

/// An attribute that is a number.
pub(crate) fn number(path: &Path) -> Option<u64> {
    attribute(path)?.parse().ok()
}

/// An attribute that is `0` or `1`.
pub(crate) fn flag(path: &Path) -> bool {
    number(path).is_some_and(|number| number != 0)
}

/// What firmware and devices call text: anything up to NULs, padded with spaces.
pub(crate) fn clean_text(bytes: &[u8]) -> Option<String> {
    let text: String =
        String::from_utf8_lossy(bytes).chars().filter(|character| !character.is_control()).collect();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// The last part of what a symbolic link points to: the driver of a device, the module of a driver.
pub(crate) fn link_name(path: &Path) -> Option<String> {
    Some(std::fs::read_link(path).ok()?.file_name()?.to_string_lossy().into_owned())
}

/// Names in a directory, sorted; none if it is not there.
pub(crate) fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

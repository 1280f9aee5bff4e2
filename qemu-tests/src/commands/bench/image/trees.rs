//! The trees that are measured: what they are, not how they are cached.

use std::path::PathBuf;

use anyhow::Result;
use qemu_tests::image::{plain_tree, source_tree};

/// Files of the tree of small files.
const SMALL_FILES: usize = 100_000;

/// One tree.
pub(super) struct Tree {
    pub(super) name: &'static str,
    /// Packages beside the minimal ones.
    packages: &'static [&'static str],
    /// Their sources instead, cut to [`SMALL_FILES`].
    sources: &'static [&'static str],
    pub(super) disk_gib: u64,
}

/// A root that boots nothing, a compute node with compilers, and what is hardest on everything that counts files.
pub(super) const TREES: [Tree; 3] = [
    Tree { name: "minimal", packages: &[], sources: &[], disk_gib: 4 },
    Tree {
        name: "compute",
        packages: &[
            "linux-image-amd64",
            "linux-headers-amd64",
            "initramfs-tools",
            "grub-pc-bin",
            "grub-efi-amd64-bin",
            "grub-efi-amd64-signed",
            "shim-signed",
            "systemd-sysv",
            "openssh-server",
            "build-essential",
            "gfortran",
            "gdb",
            "git",
            "clang",
            "python3-numpy",
            "libopenmpi-dev",
            "openmpi-bin",
            "slurmd",
            "cloud-init",
            "vim",
        ],
        sources: &[],
        disk_gib: 20,
    },
    Tree { name: "small", packages: &[], sources: &["linux-source-6.1", "gcc-12-source"], disk_gib: 8 },
];

impl Tree {
    /// Its directory in the cache; made first if the cache has none.
    pub(super) fn ready(&self) -> Result<PathBuf> {
        match self.sources {
            [] => plain_tree(self.name, self.packages),
            sources => source_tree(self.name, sources, SMALL_FILES),
        }
    }
}

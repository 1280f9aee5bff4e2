//! Assembles the initrd: the agent, network drivers with their firmware, and what they need to be found.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::{Context as _, Result};
use boot_bundle::{
    FORMAT_VERSION, INITRD_MANIFEST_PATH, InitrdFile, InitrdManifest, NewcWriter, ObjectHash,
    STORE_MANIFEST_HASH_PATH,
};

/// zstd level of the initrd: made once, loaded by every node. Its window of 8 MiB is far below the kernel's
/// limit of 128 MiB; the levels above save 1 %.
const LEVEL: i32 = 19;

/// Directories that the agent mounts on or writes to.
const DIRECTORIES: [&str; 10] = ["dev", "etc", "lib", "mnt", "proc", "run", "sbin", "sys", "tmp", "usr"];

/// Regular files of the initrd by path without a leading slash, with permissions and contents.
#[derive(Debug, Default)]
pub(super) struct InitrdFiles {
    files: BTreeMap<String, (u32, Vec<u8>)>,
}

impl InitrdFiles {
    /// Adds a file; a file of the same path is replaced.
    pub(super) fn add(&mut self, path: String, mode: u32, contents: Vec<u8>) {
        self.files.insert(path, (mode, contents));
    }

    /// The archive, packed. The same files give the same bytes.
    ///
    /// Modules lie in it unpacked: one zstd stream over all of them is 1 MB smaller than one per module, which
    /// is what every node loads. They take 40 MB of memory, until the agent has its network and drops them.
    pub(super) fn pack(mut self, kernel_release: &str, store_hash: &ObjectHash) -> Result<Vec<u8>> {
        let hash_path = STORE_MANIFEST_HASH_PATH.trim_start_matches('/').to_owned();
        self.add(hash_path, 0o644, format!("{store_hash}\n").into_bytes());
        let manifest = self.manifest(kernel_release).to_json();
        let mut encoder = zstd::Encoder::new(Vec::new(), LEVEL).context("starting to pack the initrd")?;
        encoder.include_checksum(false).context("starting to pack the initrd")?;
        let archive = self.write(&manifest).context("writing the initrd")?;
        encoder.set_pledged_src_size(Some(archive.len() as u64)).context("starting to pack the initrd")?;
        encoder.write_all(&archive).context("packing the initrd")?;
        encoder.finish().context("packing the initrd")
    }

    fn manifest(&self, kernel_release: &str) -> InitrdManifest {
        let files = self.files.iter().map(|(path, (_, contents))| {
            (format!("/{path}"), InitrdFile { hash: ObjectHash::of(contents), size: contents.len() as u64 })
        });
        InitrdManifest {
            version: FORMAT_VERSION,
            kernel_release: kernel_release.to_owned(),
            files: files.collect(),
        }
    }

    fn write(&self, manifest: &[u8]) -> std::io::Result<Vec<u8>> {
        let manifest_path = INITRD_MANIFEST_PATH.trim_start_matches('/');
        let mut archive = NewcWriter::new(Vec::new());
        // The manifest leads: the kernel unpacks front to back, so what is cut off is known by it.
        for directory in parents(manifest_path) {
            archive.directory(directory, 0o755)?;
        }
        archive.file(manifest_path, 0o644, manifest)?;
        let mut directories: Vec<&str> = DIRECTORIES.to_vec();
        directories.extend(self.files.keys().flat_map(|path| parents(path)));
        directories.sort_unstable();
        directories.dedup();
        for directory in
            directories.iter().filter(|directory| !manifest_path.starts_with(&format!("{directory}/")))
        {
            let mode = if *directory == "tmp" { 0o1777 } else { 0o755 };
            archive.directory(directory, mode)?;
        }
        // Without a console node the kernel starts the agent with no standard output.
        archive.character_device("dev/console", 0o600, 5, 1)?;
        archive.character_device("dev/null", 0o666, 1, 3)?;
        // The kernel runs this for file systems, PHYs and ciphers; the agent answers to the name.
        archive.symlink("sbin/modprobe", "/init")?;
        for (path, (mode, contents)) in &self.files {
            archive.file(path, *mode, contents)?;
        }
        archive.finish()
    }
}

/// `a/b/c` gives `a`, `a/b`.
fn parents(path: &str) -> Vec<&str> {
    path.match_indices('/').filter_map(|(end, _)| path.get(..end)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use boot_bundle::read_newc;

    #[test]
    fn the_manifest_leads_and_names_every_file() {
        let mut files = InitrdFiles::default();
        files.add("lib/modules/6.1/kernel/e1000.ko".into(), 0o644, b"module".to_vec());
        files.add("init".into(), 0o755, b"agent".to_vec());
        let packed = files.pack("6.1", &ObjectHash::of(b"store")).unwrap();
        let archive = zstd::decode_all(packed.as_slice()).unwrap();
        let entries = read_newc(&archive).unwrap();
        let names: Vec<&str> = entries.iter().map(|entry| entry.path).collect();
        assert_eq!(names[..4], ["etc", "etc/esir", "etc/esir/initrd-manifest.json", "dev"]);
        let directory = names.iter().position(|name| *name == "lib/modules/6.1/kernel").unwrap();
        let file = names.iter().position(|name| *name == "lib/modules/6.1/kernel/e1000.ko").unwrap();
        assert!(directory < file);
        let manifest = InitrdManifest::parse(entries[2].data).unwrap();
        let expected = ["/etc/esir/store-manifest.blake3", "/init", "/lib/modules/6.1/kernel/e1000.ko"];
        assert_eq!(manifest.files.keys().collect::<Vec<_>>(), expected);
    }
}

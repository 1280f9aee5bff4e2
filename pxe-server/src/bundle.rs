//! The boot bundle that nodes start from, checked at start, and the site's part of the initrd.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use boot_bundle::{BundleManifest, FileRef, NewcWriter, ObjectHash};
use node_api::{BootFile, SITE_TRUST_PATH, SiteTrust};

/// Where the bundle lies in the state directory.
pub(crate) const DEFAULT_BUNDLE: &str = "bundles/default";
const MANIFEST: &str = "bundle.json";
const VMLINUZ: &str = "vmlinuz";
const INITRD: &str = "initrd.img";
const STORE_MANIFEST: &str = "store.json";

/// A bundle whose files are what its manifest says.
pub(crate) struct Bundle {
    root: PathBuf,
    manifest: BundleManifest,
    /// The site's cpio, padded; goes before the initrd.
    pub(crate) site_cpio: Arc<[u8]>,
    /// Names bundle and site cpio in URLs.
    pub(crate) id: String,
}

impl Bundle {
    /// Opens and checks the bundle in `root`, and makes the site's part.
    pub(crate) fn open(root: &Path, trust: &SiteTrust) -> Result<Self> {
        let manifest = verify(root)?;
        let site_cpio = site_cpio(trust).context("making the site's part of the initrd")?;
        // Two sites with one bundle must not share a cached initrd.
        let both = ObjectHash::of(&[manifest.id().as_bytes(), &site_cpio].concat());
        let id = both.as_str().get(..16).unwrap_or_default().to_owned();
        Ok(Self { root: root.to_owned(), manifest, site_cpio: site_cpio.into(), id })
    }

    /// `uname -r` of its kernel.
    pub(crate) fn kernel_release(&self) -> &str {
        &self.manifest.kernel_release
    }

    /// The kernel.
    pub(crate) fn vmlinuz(&self) -> PathBuf {
        self.root.join(VMLINUZ)
    }

    /// The initrd without the site's part.
    pub(crate) fn initrd(&self) -> PathBuf {
        self.root.join(INITRD)
    }

    /// Kernel and initrd as nodes load them, for those who serve them to others.
    pub(crate) fn boot_files(&self) -> Result<Vec<BootFile>> {
        let (path, kernel) = (self.initrd(), &self.manifest.vmlinuz);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.site_cpio);
        let reading = || format!("reading {}", path.display());
        io::copy(&mut File::open(&path).with_context(reading)?, &mut hasher).with_context(reading)?;
        Ok(vec![
            BootFile { name: VMLINUZ.into(), hash: kernel.hash.as_str().into(), bytes: kernel.size },
            BootFile {
                name: INITRD.into(),
                hash: hasher.finalize().to_hex().to_string(),
                bytes: hasher.count(),
            },
        ])
    }

    /// The file of an object, if the hash is well-formed and the file exists.
    pub(crate) fn object(&self, hash: &str) -> Option<PathBuf> {
        let hash = ObjectHash::try_from(hash.to_owned()).ok()?;
        let path = if hash == self.manifest.store.hash {
            self.root.join(STORE_MANIFEST)
        } else {
            self.root.join(hash.store_path())
        };
        path.is_file().then_some(path)
    }
}

fn check_file(path: &Path, expected: &FileRef) -> Result<()> {
    let reading = || format!("reading {}", path.display());
    let size = std::fs::metadata(path).with_context(reading)?.len();
    let mut hasher = blake3::Hasher::new();
    if size == expected.size {
        io::copy(&mut File::open(path).with_context(reading)?, &mut hasher).with_context(reading)?;
    }
    if size != expected.size || hasher.finalize().to_hex().as_str() != expected.hash.as_str() {
        bail!("{} is not the file that {MANIFEST} names", path.display());
    }
    Ok(())
}

/// Reads the manifest of a bundle and checks its files against the hashes in it.
pub(crate) fn verify(root: &Path) -> Result<BundleManifest> {
    let path = root.join(MANIFEST);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
            "there is no boot bundle in {0}; make one with: image-tools boot build -o {0}",
            root.display()
        ),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let rebuild = || {
        format!("using the boot bundle in {0}; build it again: image-tools boot build -o {0}", root.display())
    };
    let manifest = BundleManifest::parse(&bytes).with_context(rebuild)?;
    let files = [(VMLINUZ, &manifest.vmlinuz), (INITRD, &manifest.initrd), (STORE_MANIFEST, &manifest.store)];
    for (name, expected) in files {
        check_file(&root.join(name), expected).with_context(rebuild)?;
    }
    Ok(manifest)
}

/// An uncompressed newc archive with the site's trust, a multiple of 512 bytes long. It goes first in the initrd:
/// after a zstd archive the kernel ignores it.
fn site_cpio(trust: &SiteTrust) -> Result<Vec<u8>> {
    let path = SITE_TRUST_PATH.trim_start_matches('/');
    let mut archive = NewcWriter::new(Vec::new());
    for (at, _) in path.match_indices('/') {
        archive.directory(path.get(..at).unwrap_or_default(), 0o755)?;
    }
    archive.file(path, 0o644, &serde_json::to_vec_pretty(trust)?)?;
    Ok(archive.finish()?)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn trust() -> SiteTrust {
        SiteTrust {
            site: "lab".into(),
            tls_spki_sha256: "00".repeat(32),
            task_public_key: "11".repeat(32),
            image_public_keys: vec![],
        }
    }

    /// A bundle with tiny files and one object.
    pub(crate) fn make_bundle(root: &Path) -> ObjectHash {
        std::fs::create_dir_all(root).unwrap();
        let write = |name: &str, bytes: &[u8]| {
            std::fs::write(root.join(name), bytes).unwrap();
            FileRef::of(bytes)
        };
        let manifest = BundleManifest {
            version: boot_bundle::FORMAT_VERSION,
            kernel_release: "6.1.0-test".into(),
            architecture: "x86_64".into(),
            vmlinuz: write(VMLINUZ, b"kernel"),
            initrd: write(INITRD, b"initrd"),
            store: write(STORE_MANIFEST, b"{}"),
        };
        std::fs::write(root.join(MANIFEST), manifest.to_json()).unwrap();
        let object = ObjectHash::of(b"object");
        let path = root.join(object.store_path());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"object").unwrap();
        object
    }

    #[test]
    fn missing_bundle_prints_the_command_that_makes_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("bundles/default");
        let message = Bundle::open(&root, &trust()).err().unwrap().to_string();
        assert!(message.ends_with(&format!("image-tools boot build -o {}", root.display())), "{message}");
    }

    #[test]
    fn damaged_kernel_is_found_at_start() {
        let folder = tempfile::tempdir().unwrap();
        make_bundle(folder.path());
        std::fs::write(folder.path().join(VMLINUZ), b"Kernel").unwrap();
        let error = Bundle::open(folder.path(), &trust()).err().unwrap();
        assert!(format!("{error:#}").contains("vmlinuz is not the file"), "{error:#}");
    }

    #[test]
    fn objects_are_found_by_hash_and_by_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let object = make_bundle(folder.path());
        let bundle = Bundle::open(folder.path(), &trust()).unwrap();
        assert!(bundle.object(object.as_str()).unwrap().ends_with(object.store_path()));
        assert!(bundle.object(ObjectHash::of(b"{}").as_str()).unwrap().ends_with(STORE_MANIFEST));
        for wrong in ["", "..", "../bundle.json", &"0".repeat(64), &object.as_str().to_uppercase()] {
            assert_eq!(bundle.object(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn site_cpio_is_padded_and_another_site_has_another_id() {
        let folder = tempfile::tempdir().unwrap();
        make_bundle(folder.path());
        let bundle = Bundle::open(folder.path(), &trust()).unwrap();
        assert_eq!(bundle.site_cpio.len() % 512, 0);
        assert!(bundle.site_cpio.starts_with(b"070701"));
        let text = String::from_utf8_lossy(&bundle.site_cpio).into_owned();
        assert!(text.contains("etc/esir/site.json") && text.contains(&"11".repeat(32)));
        let other = Bundle::open(folder.path(), &SiteTrust { site: "other".into(), ..trust() }).unwrap();
        assert_ne!(bundle.id, other.id);
    }
}

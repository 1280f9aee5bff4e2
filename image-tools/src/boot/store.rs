//! Writes the objects of a bundle's store.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use boot_bundle::{Encoding, ObjectHash, ObjectRef};

/// zstd level of objects: made once, fetched by every node.
const LEVEL: i32 = 19;

/// The directory that holds `store/`.
#[derive(Clone, Debug)]
pub(super) struct StoreWriter {
    bundle: PathBuf,
    /// Packed objects of earlier builds, by the hash of their contents: packing all takes minutes.
    cache: PathBuf,
}

impl StoreWriter {
    /// Writes below `bundle`; what was packed is kept below `cache`.
    pub(super) fn new(bundle: &Path, cache: &Path) -> Self {
        Self { bundle: bundle.to_owned(), cache: cache.join("objects") }
    }

    /// Packs `contents` into an object and writes it unless the store has it.
    pub(super) fn add(&self, contents: &[u8]) -> Result<ObjectRef> {
        let (object, bytes) = self.pack(contents)?;
        let path = self.bundle.join(object.hash.store_path());
        if !path.exists() {
            write_whole(&path, &bytes)?;
        }
        Ok(object)
    }

    fn pack(&self, contents: &[u8]) -> Result<(ObjectRef, Vec<u8>)> {
        let kept = self.cache.join(format!("{}-{LEVEL}", ObjectHash::of(contents)));
        if let Ok(bytes) = std::fs::read(&kept) {
            let object = ObjectRef::packed(&bytes, contents.len() as u64);
            // A damaged cache is no reason for a damaged store.
            if object.unpack(bytes.clone()).is_ok_and(|unpacked| unpacked == contents) {
                return Ok((object, bytes));
            }
        }
        let (object, bytes) = ObjectRef::pack(contents, LEVEL).context("packing an object")?;
        if object.encoding == Encoding::Zstd {
            write_whole(&kept, &bytes)?;
        }
        Ok((object, bytes))
    }
}

/// Writes a file that appears under its name only when it is complete. Two workers may write the same contents:
/// each replaces the name with the same bytes.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let directory = path.parent().context("a file lies in a directory")?;
    std::fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    let worker = format!("{}-{:?}", std::process::id(), std::thread::current().id()).replace(['(', ')'], "");
    let partial = path.with_extension(worker);
    std::fs::write(&partial, bytes).with_context(|| format!("writing {}", partial.display()))?;
    std::fs::rename(&partial, path).with_context(|| format!("naming {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_build_takes_what_the_first_packed_unless_it_is_damaged() {
        let directory = tempfile::tempdir().unwrap();
        let (bundle, cache) = (directory.path().join("bundle"), directory.path().join("cache"));
        let store = StoreWriter::new(&bundle, &cache);
        let contents = [7; 10_000];
        let first = store.add(&contents).unwrap();
        assert_eq!(store.add(&contents).unwrap(), first);
        let kept = std::fs::read_dir(cache.join("objects")).unwrap().next().unwrap().unwrap().path();
        std::fs::write(&kept, "damaged").unwrap();
        assert_eq!(store.add(&contents).unwrap(), first);
        let bytes = std::fs::read(bundle.join(first.hash.store_path())).unwrap();
        assert_eq!(first.unpack(bytes).unwrap(), contents);
    }
}

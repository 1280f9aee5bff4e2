//! What lies beside a site file, from the fuzzer's bytes.

use std::path::Path;

use system_steps::{Source, SourceFile, SourceKind};

/// An overlay of one file, by its path and bytes; the bytes are also every hook and user data.
pub struct Shelf<'a>(pub &'a str, pub &'a [u8]);

impl Source for Shelf<'_> {
    fn folder(&self, _: &Path) -> Result<Vec<SourceFile>, String> {
        let kind = SourceKind::File(self.1.to_vec());
        Ok(vec![SourceFile { path: self.0.to_owned(), mode: 0o644, kind }])
    }

    fn file(&self, _: &Path) -> Result<Vec<u8>, String> {
        Ok(self.1.to_vec())
    }
}

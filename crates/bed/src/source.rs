//! The file that races are about: random bytes, so that nothing can be guessed or compressed.

use std::fs::File;
use std::io::{self, BufReader, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Compared at a time.
const COMPARED_BYTES: usize = 1 << 20;

/// A file of random bytes.
#[derive(Clone, Debug)]
pub struct Source {
    /// Where it lies.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
}

impl Source {
    /// Writes `bytes` random bytes to `path`.
    ///
    /// # Errors
    /// No room in memory.
    pub fn make(path: &Path, bytes: u64) -> Result<Self> {
        let mut file = File::create(path).with_context(|| format!("making {}", path.display()))?;
        io::copy(&mut File::open("/dev/urandom")?.take(bytes), &mut file)
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(Self { path: path.to_owned(), bytes })
    }

    /// Name without directory.
    #[must_use]
    pub fn name(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Piece size for peers that are told one: as our own programs cut it.
    #[must_use]
    pub fn piece_bytes(&self) -> u64 {
        image_format::piece_size_for(self.bytes)
    }

    /// Whether a file holds exactly these bytes.
    ///
    /// # Errors
    /// One of the two cannot be read.
    pub fn equals(&self, path: &Path) -> Result<bool> {
        let open = |path: &Path| File::open(path).with_context(|| format!("opening {}", path.display()));
        let (ours, theirs) = (open(&self.path)?, open(path)?);
        if theirs.metadata()?.len() != self.bytes {
            return Ok(false);
        }
        let mut ours = BufReader::with_capacity(COMPARED_BYTES, ours);
        let mut theirs = BufReader::with_capacity(COMPARED_BYTES, theirs);
        let (mut left, mut right) = (vec![0; COMPARED_BYTES], vec![0; COMPARED_BYTES]);
        let mut rest = self.bytes;
        while rest > 0 {
            let now = usize::try_from(rest).unwrap_or(usize::MAX).min(COMPARED_BYTES);
            let (Some(left), Some(right)) = (left.get_mut(..now), right.get_mut(..now)) else { break };
            ours.read_exact(left)?;
            theirs.read_exact(right)?;
            if left != right {
                return Ok(false);
            }
            rest -= u64::try_from(now).unwrap_or(u64::MAX);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_papers_image_has_pieces_of_half_a_mebibyte() {
        let source = |bytes| Source { path: PathBuf::new(), bytes };
        assert_eq!(source(596 << 20).piece_bytes(), 256 << 10);
        assert_eq!(source(149 << 20).piece_bytes(), 64 << 10);
        assert_eq!(source(32 << 30).piece_bytes(), 4 << 20);
    }
}

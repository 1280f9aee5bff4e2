//! Decompressed frames, the last used ones.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use image_format::FrameIndex;

use crate::image_file::ImageFile;

/// Frames up to so many bytes together.
pub(super) struct Frames {
    bytes_max: u64,
    /// The last used one last.
    held: Mutex<Vec<(FrameIndex, Arc<Vec<u8>>)>>,
}

impl Frames {
    pub(super) const fn new(bytes_max: u64) -> Self {
        Self { bytes_max, held: Mutex::new(Vec::new()) }
    }

    /// A frame's contents, checked.
    pub(super) fn get(&self, image: &ImageFile, index: FrameIndex) -> Result<Arc<Vec<u8>>> {
        {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(place) = held.iter().position(|(held, _)| *held == index) {
                let found = held.remove(place);
                let raw = Arc::clone(&found.1);
                held.push(found);
                return Ok(raw);
            }
        }
        // Two threads may decompress the same frame; neither waits for the other.
        let mut raw = Vec::new();
        image.read_checked(index, &mut raw)?;
        let raw = Arc::new(raw);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|(held, _)| *held != index);
        held.push((index, Arc::clone(&raw)));
        let mut total: u64 = held.iter().map(|(_, raw)| raw.len() as u64).sum();
        while total > self.bytes_max && held.len() > 1 {
            total -= held.remove(0).1.len() as u64;
        }
        Ok(raw)
    }
}

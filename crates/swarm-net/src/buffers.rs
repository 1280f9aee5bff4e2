//! Buffers used again and again: at a gigabyte per second the allocator would see 60,000 requests per second from
//! some threads and as many returns from others.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// The idle buffers of one length. Whoever needs one takes it; a dropped [`Buffer`] comes back by itself.
#[derive(Debug)]
pub(crate) struct Pool {
    idle: Mutex<Vec<Box<[u8]>>>,
    buffer_bytes: usize,
    /// More go back to the allocator.
    idle_max: usize,
}

impl Pool {
    pub(crate) fn new(buffer_bytes: usize, idle_max: usize) -> Arc<Pool> {
        Arc::new(Pool { idle: Mutex::default(), buffer_bytes, idle_max })
    }

    pub(crate) fn take(self: &Arc<Pool>) -> Buffer {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let bytes = idle.unwrap_or_else(|| vec![0; self.buffer_bytes].into_boxed_slice());
        Buffer { bytes, pool: Some(self.clone()) }
    }

    /// Gives the idle ones back to the allocator: the download is over.
    pub(crate) fn release(&self) {
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Vec::new();
    }

    fn put_back(&self, bytes: Box<[u8]>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.idle_max {
            idle.push(bytes);
        }
    }
}

/// Room, with whatever was there before; or, made from a vector, its bytes.
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    pool: Option<Arc<Pool>>,
}

impl Buffer {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Buffer {
        Buffer { bytes: bytes.into_boxed_slice(), pool: None }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            pool.put_back(std::mem::take(&mut self.bytes));
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer of {}", self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_taken_again() {
        let pool = Pool::new(4, 10);
        let mut buffer = pool.take();
        buffer.bytes_mut()[0] = 7;
        drop(buffer);
        assert_eq!(pool.take().bytes()[0], 7);
        drop(Buffer::from(vec![1, 2, 3]));
        let many: Vec<Buffer> = (0..20).map(|_| pool.take()).collect();
        drop(many);
        assert_eq!(pool.idle.lock().unwrap().len(), 10);
        pool.release();
        assert!(pool.idle.lock().unwrap().is_empty());
    }
}

//! Kernel and initrd as nodes get them: the same bytes for all, in memory, at a bounded pace.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};

use super::places::Place;
use crate::netboot::policy::{BootFiles, BootPolicy};

/// A kernel or initrd above this is a mistake, and BIOS machines could not load it.
const OBJECT_BYTES_MAX: u64 = 512 << 20;
/// The kernel wants each archive of an initrd to begin at a multiple of 4; the site's cpio is padded to this.
const CPIO_PAD_BYTES: usize = 512;
/// Handed to the connection at a time: bounds what a slow node holds of its buffer.
const FRAME_BYTES: usize = 64 << 10;
/// A node that reads slower than this (the slowest firmware seen does 1 MB/s) holds up others.
const RATE_MIN_BYTES_PER_S: u64 = 64 << 10;
/// Time that a transfer has in any case.
const TRANSFER_TIME_MIN: Duration = Duration::from_secs(60);

/// What a bundle gives to nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::netboot) enum BootObject {
    /// `vmlinuz`.
    Kernel,
    /// `initrd.img`: the site's cpio, then the bundle's initrd.
    Initrd,
}

impl BootObject {
    /// The object with this file name.
    pub(in crate::netboot) fn from_name(name: &str) -> Option<Self> {
        [Self::Kernel, Self::Initrd].into_iter().find(|object| object.name() == name)
    }

    /// Its file name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kernel => "vmlinuz",
            Self::Initrd => "initrd.img",
        }
    }
}

/// Why an object cannot be served.
#[derive(Debug, thiserror::Error)]
pub(in crate::netboot) enum ObjectError {
    /// Not the bundle in use; whoever asks should fetch a new script.
    #[error("not the bundle in use")]
    OtherBundle,
    /// A file of the bundle cannot be read.
    #[error("reading {} failed", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A file of the bundle is too large.
    #[error("{} has {bytes} bytes; at most {OBJECT_BYTES_MAX} can be booted", path.display())]
    Large { path: PathBuf, bytes: u64 },
}

/// The objects of the bundle in use, read at the first request for it.
#[derive(Debug, Default)]
pub(in crate::netboot) struct Objects {
    loaded: Mutex<Option<Loaded>>,
}

#[derive(Debug)]
struct Loaded {
    from: BootFiles,
    kernel: Bytes,
    initrd: Bytes,
}

impl Objects {
    /// The bytes of `object` of `bundle`. Blocks while it reads; meanwhile others wait instead of reading too.
    pub(in crate::netboot) fn get(
        &self,
        policy: &dyn BootPolicy,
        bundle: &str,
        object: BootObject,
    ) -> Result<Bytes, ObjectError> {
        let files = policy.boot_files();
        if files.bundle_id != bundle {
            return Err(ObjectError::OtherBundle);
        }
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let current = match loaded.take() {
            Some(current) if current.from == files => current,
            Some(_) | None => Loaded::read(files)?,
        };
        let current = loaded.insert(current);
        Ok(match object {
            BootObject::Kernel => current.kernel.clone(),
            BootObject::Initrd => current.initrd.clone(),
        })
    }
}

impl Loaded {
    fn read(from: BootFiles) -> Result<Self, ObjectError> {
        let kernel = read(&from.vmlinuz)?.into();
        let mut initrd = from.site_cpio.to_vec();
        initrd.resize(initrd.len().next_multiple_of(CPIO_PAD_BYTES), 0);
        // QUIRK(kernel): behind a zstd archive it takes nothing for a cpio, so the uncompressed one goes first.
        initrd.extend_from_slice(&read(&from.initrd)?);
        Ok(Self { from, kernel, initrd: initrd.into() })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ObjectError> {
    let failed = |source| ObjectError::Read { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > OBJECT_BYTES_MAX {
        return Err(ObjectError::Large { path: path.to_owned(), bytes });
    }
    std::fs::read(path).map_err(failed)
}

/// Part of an object on its way; holds one place among the large transfers until its last byte is handed over, and ends
/// when it has lost that.
pub(super) struct TransferBody {
    rest: Bytes,
    until: Instant,
    place: Place,
}

impl TransferBody {
    pub(super) fn new(bytes: Bytes, place: Place) -> Self {
        let allowed = TRANSFER_TIME_MIN + Duration::from_secs(bytes.len() as u64 / RATE_MIN_BYTES_PER_S);
        Self { rest: bytes, until: Instant::now() + allowed, place }
    }
}

impl HttpBody for TransferBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let (now, len) = (Instant::now(), self.rest.len().min(FRAME_BYTES));
        if now > self.until || !self.place.took(now, len) {
            return Poll::Ready(Some(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the node reads too slowly",
            ))));
        }
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(len)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

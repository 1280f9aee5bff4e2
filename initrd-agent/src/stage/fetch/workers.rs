//! Threads that turn frames into what is on the disk: one for each processor, fed with frame numbers.

use std::sync::mpsc as blocking;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use image_apply::ApplyError;
use image_format::Toc;
use tokio::sync::mpsc;

use super::writer::Writer;
use crate::pieces::PieceCache;

/// Beyond it the disk is the limit, and each thread holds a frame in memory.
const THREADS_MAX: usize = 16;

/// Why a frame is not on the disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// The piece store.
    #[error("reading frame {frame} from the kept pieces")]
    Read {
        frame: u32,
        #[source]
        source: std::io::Error,
    },
    /// Hash, decompression or disk.
    #[error("writing frame {frame}")]
    Apply {
        frame: u32,
        #[source]
        source: ApplyError,
    },
}

/// The threads. Frames go in with [`Self::push`], outcomes come out of the receiver of [`Self::start`].
pub(crate) struct Workers {
    frames: blocking::Sender<u32>,
    threads: Vec<JoinHandle<()>>,
    writer: Arc<Writer>,
}

struct Worker {
    frames: Arc<Mutex<blocking::Receiver<u32>>>,
    outcomes: mpsc::UnboundedSender<Result<u32, FrameError>>,
    writer: Arc<Writer>,
    toc: Arc<Toc>,
    cache: Arc<PieceCache>,
}

impl Workers {
    /// Both queues are bounded by the number of frames, four bytes each.
    pub(crate) fn start(
        writer: Writer,
        toc: &Arc<Toc>,
        cache: &Arc<PieceCache>,
    ) -> std::io::Result<(Self, mpsc::UnboundedReceiver<Result<u32, FrameError>>)> {
        let (frames, queue) = blocking::channel();
        let (outcomes, receiver) = mpsc::unbounded_channel();
        let queue = Arc::new(Mutex::new(queue));
        let writer = Arc::new(writer);
        let count = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        let mut threads = Vec::with_capacity(count);
        for number in 0..count {
            let worker = Worker {
                frames: Arc::clone(&queue),
                outcomes: outcomes.clone(),
                writer: Arc::clone(&writer),
                toc: Arc::clone(toc),
                cache: Arc::clone(cache),
            };
            let thread = std::thread::Builder::new().name(format!("frames-{number}"));
            threads.push(thread.spawn(move || worker.run())?);
        }
        Ok((Self { frames, threads, writer }, receiver))
    }

    /// Queues a frame whose pieces are all stored.
    pub(crate) fn push(&self, frame: u32) {
        // Fails only when all threads ended, which each reports as an outcome first.
        let _ = self.frames.send(frame);
    }

    /// Waits for the threads and gives the writer back; `None` if a thread still holds it. Blocks.
    pub(crate) fn stop(self) -> Option<Writer> {
        drop(self.frames);
        for thread in self.threads {
            let _ = thread.join();
        }
        Arc::into_inner(self.writer)
    }
}

impl Worker {
    fn run(self) {
        let mut buffer = Vec::new();
        loop {
            let next = self.frames.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(frame) = next else { return };
            let outcome = self.write(frame, &mut buffer);
            let failed = outcome.is_err();
            if self.outcomes.send(outcome.map(|()| frame)).is_err() || failed {
                return;
            }
        }
    }

    fn write(&self, frame: u32, buffer: &mut Vec<u8>) -> Result<(), FrameError> {
        let unknown = || FrameError::Read { frame, source: std::io::ErrorKind::NotFound.into() };
        let index = self.toc.frame_index(frame).ok_or_else(unknown)?;
        let entry = self.toc.frame(index).ok_or_else(unknown)?;
        buffer.resize(usize::try_from(entry.len).map_err(|_| unknown())?, 0);
        self.cache.read(entry.offset, buffer).map_err(|source| FrameError::Read { frame, source })?;
        self.writer.write_frame(index, buffer).map_err(|source| FrameError::Apply { frame, source })
    }
}

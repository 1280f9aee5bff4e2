//! Where the pieces go: a file that has another name until it is complete.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock, fstatvfs};
use swarm_net::{FileStore, Metainfo, PieceSet, PieceStore, verified_pieces};

use super::stores::Mirror;
use super::trust::Companions;
use crate::pending::directory_of;
use crate::{progress, text};

/// An open file for the pieces.
#[derive(Debug)]
pub(super) struct Destination {
    file: File,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// `X.part`, which becomes `X`.
    Partial { part: PathBuf, output: PathBuf },
    /// `X` is there already, and is either right or in the way.
    There { output: PathBuf },
    /// Pieces are not kept.
    Mirror { of: PathBuf },
}

impl Destination {
    /// `output`, or the torrent's name in it if it is a directory, or that name here.
    pub(super) fn file(output: Option<&Path>, metainfo: &Metainfo) -> Result<Self> {
        let output = match output {
            Some(path) if path.is_dir() => path.join(&metainfo.name),
            Some(path) => path.to_owned(),
            None => PathBuf::from(&metainfo.name),
        };
        match File::open(&output) {
            Ok(file) => return Ok(Self { file, kind: Kind::There { output } }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("opening {}", output.display())),
        }
        let mut part = OsString::from(&output);
        part.push(".part");
        let part = PathBuf::from(part);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&part);
        let file = file.with_context(|| format!("creating {}", part.display()))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!("another fetch is writing {}", part.display());
        }
        check_room(&file, &part, metainfo.length)?;
        Ok(Self { file, kind: Kind::Partial { part, output } })
    }

    /// Keeps nothing; others are served from the file at `of`.
    pub(super) fn mirror(of: &Path, metainfo: &Metainfo) -> Result<Self> {
        let opening = || format!("opening {}", of.display());
        let file = File::open(of).with_context(opening)?;
        let length = file.metadata().with_context(opening)?.len();
        ensure!(length == metainfo.length, "{} is not the file of this torrent", of.display());
        Ok(Self { file, kind: Kind::Mirror { of: of.to_owned() } })
    }

    /// Which pieces are here and right, by the torrent and, of an image that must be signed, by its signed hashes.
    pub(super) fn check(&self, metainfo: &Metainfo, companions: Option<&Companions>) -> Result<PieceSet> {
        let pieces = metainfo.geometry()?.pieces();
        let length = self.file.metadata().context("asking for the length of what is there")?.len();
        if matches!(self.kind, Kind::Mirror { .. }) || length == 0 {
            return Ok(PieceSet::empty(pieces));
        }
        let bar = progress::bytes("checking", metainfo.length);
        let have = verified_pieces(&self.file, metainfo, &|bytes| bar.inc(bytes));
        bar.finish_and_clear();
        let mut have = have.context("reading what is there")?;
        if let Some(companions) = companions {
            self.keep_signed(&mut have, metainfo, companions).context("reading what is there")?;
        }
        match &self.kind {
            Kind::There { output } if !have.is_full() || length != metainfo.length => bail!(
                "{} is there already and is not the file of this torrent; remove it, or name another by -o",
                output.display()
            ),
            Kind::There { .. } | Kind::Partial { .. } | Kind::Mirror { .. } => Ok(have),
        }
    }

    /// Drops pieces that only SHA-1 says are right.
    fn keep_signed(&self, have: &mut PieceSet, metainfo: &Metainfo, companions: &Companions) -> Result<()> {
        let geometry = metainfo.geometry()?;
        let mut bytes = Vec::new();
        for (piece, hash) in geometry.all().zip(companions.piece_hashes()) {
            if have.contains(piece.get()) {
                bytes.resize(geometry.bytes_of(piece) as usize, 0);
                self.file.read_exact_at(&mut bytes, geometry.offset(piece))?;
                if *blake3::hash(&bytes).as_bytes() != hash {
                    have.remove(piece.get());
                }
            }
        }
        Ok(())
    }

    /// Where the peer puts and finds pieces.
    pub(super) fn store(&self, piece_bytes: u32) -> Result<Arc<dyn PieceStore>> {
        let file = self.file.try_clone().context("opening the file once more")?;
        let store = FileStore::new(file, piece_bytes);
        Ok(match self.kind {
            Kind::Mirror { .. } => Arc::new(Mirror(store)),
            Kind::Partial { .. } | Kind::There { .. } => Arc::new(store),
        })
    }

    /// Every piece is here: hands them to the disk and gives the file its name, which this returns, and its
    /// companions.
    pub(super) fn finish(self, companions: Option<&Companions>) -> Result<PathBuf> {
        let output = self.give_name()?;
        companions.map_or(Ok(()), |companions| companions.write(&output))?;
        Ok(output)
    }

    fn give_name(self) -> Result<PathBuf> {
        match self.kind {
            Kind::There { output } => Ok(output),
            Kind::Mirror { of } => Ok(of),
            Kind::Partial { part, output } => {
                let named = self
                    .file
                    .sync_all()
                    .and_then(|()| std::fs::rename(&part, &output))
                    .and_then(|()| File::open(directory_of(&output))?.sync_all());
                named.with_context(|| format!("writing {}", output.display()))?;
                Ok(output)
            }
        }
    }
}

/// Better now than after an hour.
fn check_room(file: &File, part: &Path, length: u64) -> Result<()> {
    let asking = || format!("asking for the room beside {}", part.display());
    let space = fstatvfs(file).with_context(asking)?;
    let taken = file.metadata().with_context(asking)?.blocks().saturating_mul(512);
    let room = space.f_bavail.saturating_mul(space.f_frsize).saturating_add(taken);
    ensure!(
        length <= room,
        "the file needs {}, but there is room for {} in {}",
        text::bytes(length),
        text::bytes(room),
        directory_of(part).display()
    );
    // A file from an earlier and longer torrent of this name.
    if file.metadata().with_context(asking)?.len() > length {
        file.set_len(length).with_context(|| format!("shortening {}", part.display()))?;
    }
    Ok(())
}

//! Overlays, hooks and user data from the server's disk.
//!
//! Never follows a link of an overlay.

use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use system_steps::{STEP_BYTES_MAX, Source, SourceFile, SourceKind};

/// Files, links and directories of one overlay; more belongs in the image.
const OVERLAY_FILES_MAX: usize = 4096;

/// What lies beside the site file.
pub(super) struct Beside {
    /// The directory that paths are relative to.
    pub(super) base: PathBuf,
}

impl Source for Beside {
    fn folder(&self, path: &Path) -> Result<Vec<SourceFile>, String> {
        let top = self.base.join(path);
        let (mut found, mut left, mut bytes) = (Vec::new(), vec![top.clone()], 0);
        while let Some(folder) = left.pop() {
            let entries = fs::read_dir(&folder).map_err(|error| failed(&folder, &error))?;
            for entry in entries {
                let at = entry.map_err(|error| failed(&folder, &error))?.path();
                let inside = at.strip_prefix(&top).ok().and_then(Path::to_str);
                let Some(inside) = inside else {
                    return Err(format!("{} is not UTF-8; rename it", at.display()));
                };
                let file = SourceFile { path: format!("/{inside}"), ..look(&at)? };
                match &file.kind {
                    SourceKind::Folder => left.push(at),
                    SourceKind::File(contents) => bytes += contents.len(),
                    SourceKind::Link(_) => {}
                }
                found.push(file);
                if found.len() > OVERLAY_FILES_MAX || bytes > STEP_BYTES_MAX {
                    return Err(format!(
                        "{} has more than {OVERLAY_FILES_MAX} files or {STEP_BYTES_MAX} bytes; put the large ones into \
                         the image",
                        top.display()
                    ));
                }
            }
        }
        Ok(found)
    }

    fn file(&self, path: &Path) -> Result<Vec<u8>, String> {
        read(&self.base.join(path))
    }
}

/// What is at a path of an overlay; links are not followed.
fn look(at: &Path) -> Result<SourceFile, String> {
    let stat = fs::symlink_metadata(at).map_err(|error| failed(at, &error))?;
    let kind = if stat.is_dir() {
        SourceKind::Folder
    } else if stat.is_symlink() {
        let target = fs::read_link(at).map_err(|error| failed(at, &error))?;
        SourceKind::Link(target.into_os_string().into_vec())
    } else if stat.is_file() {
        SourceKind::File(read(at)?)
    } else {
        return Err(format!("{} is neither file, link nor directory; take it away", at.display()));
    };
    Ok(SourceFile { path: String::new(), mode: stat.permissions().mode() & 0o7777, kind })
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let stat = fs::metadata(path).map_err(|error| failed(path, &error))?;
    if stat.len() > STEP_BYTES_MAX as u64 {
        return Err(format!(
            "{} has more than {STEP_BYTES_MAX} bytes; put it into the image",
            path.display()
        ));
    }
    fs::read(path).map_err(|error| failed(path, &error))
}

fn failed(path: &Path, error: &std::io::Error) -> String {
    format!("{} cannot be read: {error}; put it there or correct the name", path.display())
}

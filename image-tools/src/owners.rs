//! What a captured system calls its users and groups: by its own passwd(5) and group(5), not by this machine's.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use anyhow::{Context, Result};
use image_apply::open_file;
use image_format::OwnerNames;

/// Far above a file with every account of a university.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Names by number.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    users: HashMap<u32, Arc<[u8]>>,
    groups: HashMap<u32, Arc<[u8]>>,
}

impl Accounts {
    /// Reads `etc/passwd` and `etc/group` beneath `root`; what is not there has no names.
    pub(crate) fn read(root: BorrowedFd<'_>) -> Result<Self> {
        let read = |path: &str| -> Result<HashMap<u32, Arc<[u8]>>> {
            let Ok(file) = open_file(root, path.as_bytes()).map(File::from) else {
                return Ok(HashMap::new());
            };
            let mut bytes = Vec::new();
            if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
                file.take(FILE_BYTES_MAX)
                    .read_to_end(&mut bytes)
                    .with_context(|| format!("reading /{path}"))?;
            }
            Ok(parse(&bytes))
        };
        Ok(Self { users: read("etc/passwd")?, groups: read("etc/group")? })
    }

    /// The names of an inode's owner and group.
    pub(crate) fn names(&self, uid: u32, gid: u32) -> OwnerNames {
        let name = |names: &HashMap<u32, Arc<[u8]>>, number| names.get(&number).cloned().unwrap_or_default();
        OwnerNames { user: name(&self.users, uid), group: name(&self.groups, gid) }
    }
}

/// `NAME:...:NUMBER:...` per line; of several names of one number the first counts, as for getpwuid(3).
fn parse(bytes: &[u8]) -> HashMap<u32, Arc<[u8]>> {
    let mut names = HashMap::new();
    for line in bytes.split(|&byte| byte == b'\n') {
        let mut fields = line.split(|&byte| byte == b':');
        let (Some(name), Some(number)) = (fields.next(), fields.nth(1)) else { continue };
        let number = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok());
        // `+` and `-` at the beginning mean another source of names (NIS).
        if let Some(number) = number
            && !matches!(name.first(), None | Some(b'+' | b'-' | b'#'))
        {
            let name = OwnerNames::possible(name, b"").user;
            names.entry(number).or_insert(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn first_name_of_a_number_counts() {
        let names =
            parse(b"root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:\n+::1:\nbroken\nwww:x:33:33\nn:x:y:\n");
        assert_eq!(names.len(), 2);
        assert_eq!(names[&0].as_ref(), b"root");
        assert_eq!(names[&33].as_ref(), b"www");
    }
}

//! Users of the installed system by name: whose a file is, and where a home directory is.

use std::path::PathBuf;

use super::tree::{Owner, ROOT, Tree, TreeError};

/// `/etc/passwd` and `/etc/group` of an installed system.
pub(super) struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    pub(super) fn read(tree: &Tree) -> Result<Self, TreeError> {
        Ok(Self { passwd: tree.text("/etc/passwd")?, group: tree.text("/etc/group")? })
    }

    /// `USER`, `USER:GROUP`, numbers, or nothing for root; a user's own group where none is named.
    pub(super) fn owner(&self, text: &str) -> Option<Owner> {
        if text.is_empty() {
            return Some(ROOT);
        }
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let number = |text: &str, field| find(text, user)?.split(':').nth(field)?.parse().ok();
        let uid = user.parse().ok().or_else(|| number(&self.passwd, 2))?;
        let gid = match group {
            Some(group) => {
                let of_name = || find(&self.group, group)?.split(':').nth(2)?.parse().ok();
                group.parse().ok().or_else(of_name)?
            }
            None => number(&self.passwd, 3).unwrap_or(uid),
        };
        Some((uid, gid))
    }

    /// `~NAME/...` below that user's home; any other path as it is.
    pub(super) fn path(&self, path: &str) -> Option<PathBuf> {
        let Some(rest) = path.strip_prefix('~') else { return Some(path.into()) };
        let (user, rest) = rest.split_once('/')?;
        let home = find(&self.passwd, user)?.split(':').nth(5)?;
        home.starts_with('/').then(|| PathBuf::from(home).join(rest))
    }
}

/// The line of a name in a file of fields with colons between them.
fn find<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find(|line| line.split(':').next() == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_and_homes_are_the_images_own() {
        let accounts = Accounts {
            passwd: "root:x:0:0::/root:/bin/sh\nops:x:1500:1600::/srv/ops:/bin/sh\n".into(),
            group: "root:x:0:\nadm:x:4:ops\n".into(),
        };
        assert_eq!(accounts.owner(""), Some((0, 0)));
        assert_eq!(accounts.owner("ops"), Some((1500, 1600)));
        assert_eq!(accounts.owner("ops:adm"), Some((1500, 4)));
        assert_eq!(accounts.owner("7:8"), Some((7, 8)));
        assert_eq!((accounts.owner("nobody"), accounts.owner("ops:none")), (None, None));
        assert_eq!(accounts.path("~ops/.ssh/x"), Some("/srv/ops/.ssh/x".into()));
        assert_eq!(accounts.path("~who/x"), None);
        assert_eq!(accounts.path("/etc/x"), Some("/etc/x".into()));
    }
}

//! Rights are given up in two steps: first the user, then, once the sockets are open, everything.
//!
//! Never goes back: after [`Bound::drop_all`] no thread of this process can have any right of root again.
//!
//! ```text
//! root --become_user--> the user's files, three capabilities --sockets are bound--> drop_all --> nothing
//! ```
//! Between the two steps the real and the saved user stay root: the kernel then takes all capabilities of *every* thread
//! away when the last of the three becomes the user (capabilities(7)), which the runtime's threads need.

use std::os::unix::fs::{MetadataExt as _, lchown};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use nix::unistd::{Gid, Uid, User, geteuid, getgroups, setgroups, setresgid, setresuid};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

/// Sockets on ports below 1024, on one interface, and raw ones for ARP and IPv6; receive buffers beyond the limit.
const NEEDED: CapabilitySet =
    CapabilitySet::NET_BIND_SERVICE.union(CapabilitySet::NET_RAW).union(CapabilitySet::NET_ADMIN);
/// Directories within each other in the state directory; deeper is a loop.
const DEPTH_MAX: usize = 16;

/// The process works as the user and can still bind sockets.
#[derive(Debug)]
#[must_use = "the rights to bind are to be dropped"]
pub(crate) struct Bound {
    user: User,
}

impl Bound {
    /// Gives the state directory to the user and becomes that user, but for the rights to bind sockets. Call it before
    /// there is a second thread.
    pub(crate) fn become_user(name: &str, state: &Path) -> Result<Self> {
        ensure!(
            geteuid().is_root(),
            "--user needs a start as root; remove it to serve with the rights that you have"
        );
        let user = User::from_name(name)?.with_context(|| {
            format!(
                "there is no user `{name}`; make it with `useradd --system --home-dir {} {name}`",
                state.display()
            )
        })?;
        ensure!(!user.uid.is_root(), "--user root would drop nothing; name another user");
        std::fs::create_dir_all(state).with_context(|| format!("making {}", state.display()))?;
        give(state, user.uid, user.gid, 0)
            .with_context(|| format!("giving {} to {name}", state.display()))?;
        setgroups(&[user.gid]).context("leaving root's groups")?;
        setresgid(user.gid, user.gid, user.gid).context("leaving root's group")?;
        setresuid(Uid::from_raw(u32::MAX), user.uid, Uid::from_raw(u32::MAX)).context("becoming the user")?;
        // The kernel has emptied the effective set; what is needed for a while comes back into it.
        let sets =
            CapabilitySets { effective: NEEDED, permitted: NEEDED, inheritable: CapabilitySet::empty() };
        set_capabilities(None, sets).context("keeping the rights to bind sockets")?;
        Ok(Self { user })
    }

    /// Gives up what is left, in every thread.
    pub(crate) fn drop_all(self) -> Result<()> {
        let Self { user } = self;
        setresuid(user.uid, user.uid, user.uid).context("giving up the rights of root")?;
        let left = rustix::thread::capabilities(None).context("asking for the rights that are left")?;
        ensure!(left.effective.is_empty() && left.permitted.is_empty(), "rights were left over: {left:?}");
        ensure!(getgroups()?.iter().all(|group| *group == user.gid), "groups of root were left over");
        tracing::info!(user = user.name, "works without any right of root from now on");
        Ok(())
    }
}

/// Everything below becomes the user's. Links are given, not followed, and no other file system is entered.
fn give(path: &Path, uid: Uid, gid: Gid, depth: usize) -> Result<()> {
    ensure!(depth < DEPTH_MAX, "{} lies too deep", path.display());
    let about = std::fs::symlink_metadata(path)?;
    if about.uid() != uid.as_raw() || about.gid() != gid.as_raw() {
        lchown(path, Some(uid.as_raw()), Some(gid.as_raw()))?;
    }
    if !about.is_dir() {
        return Ok(());
    }
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.metadata()?.dev() == about.dev() {
            give(&entry.path(), uid, gid, depth + 1)?;
        }
    }
    Ok(())
}

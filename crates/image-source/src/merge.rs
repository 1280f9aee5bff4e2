//! Sources in order -> one tree: what comes later replaces, hides or adds.
//!
//! Symbolic links in the middle of a path are followed within the tree, as a writer in a chroot would follow them;
//! they never lead out of it.

use std::collections::{BTreeMap, BTreeSet};

use image_format::{Metadata, Node, NodeKind, OwnerNames, Tree, Xattr};

use crate::error::{At, Result, SourceError, malformed, printable};
use crate::member::{Member, MemberKind, split_path};

/// Mode of a directory that no source names by itself.
const IMPLIED_DIRECTORY_MODE: u32 = 0o755;
/// Members of all sources together: as many as a reader accepts in an image's table.
const MEMBERS_MAX: u64 = 8_000_000;
/// Bytes of paths, link targets, attributes and sparse maps that are held: a hundred times what real systems have.
const HELD_BYTES_MAX: u64 = 2 << 30;
/// Symbolic links followed in one path, as Linux does.
const LINKS_MAX: u32 = 40;

type Path = Vec<Vec<u8>>;

/// How a source goes over those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// As a tar that is unpacked over a system: a directory where a link to a directory is goes through the link, so
    /// that `lib/modules` of a kernel's package ends up in `usr/lib/modules`.
    Unpacked,
    /// As the layer of a container image (OCI image specification, "Applying Changesets"): `.wh.NAME` hides NAME of
    /// the layers below, `.wh..wh..opq` all that its directory had; a directory replaces a link.
    Layer,
}

/// One inode and where its data is.
#[derive(Debug)]
struct Inode<P> {
    metadata: Metadata,
    owner_names: OwnerNames,
    xattrs: Vec<Xattr>,
    kind: NodeKind,
    place: P,
}

/// A name: which inode, and from which source it came.
#[derive(Clone, Copy, Debug)]
struct Slot {
    inode: usize,
    source: u32,
}

/// All names of all sources so far. `P` says where a file's data is.
#[derive(Debug)]
pub struct Merge<P> {
    inodes: Vec<Inode<P>>,
    names: BTreeMap<Path, Slot>,
    source: u32,
    over: Over,
    members: u64,
    held: u64,
    /// What this source has hidden already.
    hidden: BTreeSet<Path>,
}

impl<P: Clone + Default> Default for Merge<P> {
    fn default() -> Self {
        Self {
            inodes: Vec::new(),
            names: BTreeMap::new(),
            source: 0,
            over: Over::Unpacked,
            members: 0,
            held: 0,
            hidden: BTreeSet::new(),
        }
    }
}

impl<P: Clone + Default> Merge<P> {
    /// What is added from now on comes from another source, which goes over what is there.
    pub fn begin(&mut self, over: Over) {
        self.source += 1;
        self.over = over;
        self.hidden.clear();
    }

    /// Whether nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Adds one member, whose data is at `place`.
    ///
    /// # Errors
    /// A hard link to nothing, a path through what is no directory, or more than is accepted.
    pub fn add(&mut self, member: Member, place: P) -> Result<()> {
        let names = member.names.clone();
        self.add_member(member, place).at(|| format!("/{}", printable(&names.join(&b'/'))))
    }

    /// Adds all of another one, as if its sources were one.
    ///
    /// # Errors
    /// As [`Merge::add`].
    pub fn absorb(&mut self, other: Self) -> Result<()> {
        let mut first_names: BTreeMap<usize, Path> = BTreeMap::new();
        for (names, slot) in other.names {
            let Some(inode) = other.inodes.get(slot.inode) else { continue };
            let kind = match first_names.get(&slot.inode) {
                Some(target) => MemberKind::HardLink { target: target.clone() },
                None => MemberKind::of_inode(&inode.kind),
            };
            first_names.entry(slot.inode).or_insert_with(|| names.clone());
            let (metadata, owner_names) = (inode.metadata, inode.owner_names.clone());
            let xattrs = inode.xattrs.clone();
            let member = Member { names, metadata, owner_names, xattrs, kind, data_offset: 0 };
            self.add(member, inode.place.clone())?;
        }
        Ok(())
    }

    /// What is at exactly `path`, and where its data is; links at its end are followed.
    #[must_use]
    pub fn find(&self, path: &[u8]) -> Option<(&NodeKind, &P)> {
        let names = self.follow(&split_path(path).ok()?, true).ok()?;
        let inode = self.inodes.get(self.names.get(&names)?.inode)?;
        Some((&inode.kind, &inode.place))
    }

    /// Removes all beneath the directory `path`, over which another file system is mounted. Links on the way are
    /// followed.
    ///
    /// # Errors
    /// A path that leads through what is no directory.
    pub fn clear_beneath(&mut self, path: &[Vec<u8>]) -> Result<()> {
        let directory = self.resolve(path)?;
        let beneath = self.beneath(&directory, u32::MAX);
        self.remove(&beneath);
        Ok(())
    }

    fn add_member(&mut self, member: Member, place: P) -> Result<()> {
        self.count(&member)?;
        let Some((name, above)) = member.names.split_last() else { return self.add_root(member, place) };
        let mut path = self.resolve(above)?;
        if self.over == Over::Layer
            && let Some(hidden) = name.strip_prefix(b".wh.")
        {
            return self.hide(path, hidden);
        }
        path.push(name.clone());
        if let MemberKind::HardLink { target } = &member.kind {
            let inode = self.link_target(target)?;
            self.replace(path, Slot { inode, source: self.source }, false);
            return Ok(());
        }
        let is_directory = member.kind == MemberKind::Directory;
        if is_directory && self.goes_through_a_link(&path)? {
            return Ok(());
        }
        let slot = self.new_inode(member, place);
        self.replace(path, slot, is_directory);
        Ok(())
    }

    fn add_root(&mut self, member: Member, place: P) -> Result<()> {
        if member.kind != MemberKind::Directory {
            return Err(malformed("the root is not a directory"));
        }
        let slot = self.new_inode(member, place);
        self.replace(Vec::new(), slot, true);
        Ok(())
    }

    fn count(&mut self, member: &Member) -> Result<()> {
        self.members += 1;
        if self.members > MEMBERS_MAX {
            return Err(SourceError::TooMany { what: "entries", limit: MEMBERS_MAX });
        }
        let names: usize = member.names.iter().map(|name| name.len() + size_of::<Vec<u8>>()).sum();
        let xattrs: usize = member.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len()).sum();
        let kind = match &member.kind {
            MemberKind::File(content) => content.extents.len() * 16,
            MemberKind::Symlink { target } => target.len(),
            _ => 0,
        };
        self.held += (names + xattrs + kind) as u64;
        if self.held > HELD_BYTES_MAX {
            return Err(SourceError::TooMany {
                what: "bytes of names and attributes",
                limit: HELD_BYTES_MAX,
            });
        }
        Ok(())
    }

    fn new_inode(&mut self, member: Member, place: P) -> Slot {
        let kind = match member.kind {
            MemberKind::Directory | MemberKind::HardLink { .. } => NodeKind::Directory,
            MemberKind::File(content) => NodeKind::File(content),
            MemberKind::Symlink { target } => NodeKind::Symlink { target },
            MemberKind::CharDevice { major, minor } => NodeKind::CharDevice { major, minor },
            MemberKind::BlockDevice { major, minor } => NodeKind::BlockDevice { major, minor },
            MemberKind::Fifo => NodeKind::Fifo,
            MemberKind::Socket => NodeKind::Socket,
        };
        let Member { metadata, owner_names, xattrs, .. } = member;
        self.inodes.push(Inode { metadata, owner_names, xattrs, kind, place });
        Slot { inode: self.inodes.len() - 1, source: self.source }
    }

    /// The inode that a hard link names: of this source or of those below.
    fn link_target(&self, target: &[Vec<u8>]) -> Result<usize> {
        let missing = || {
            malformed(format!(
                "it is a hard link to {}, which does not come before it",
                printable(&target.join(&b'/'))
            ))
        };
        let (name, above) = target.split_last().ok_or_else(missing)?;
        let mut path = self.resolve(above)?;
        path.push(name.clone());
        let slot = self.names.get(&path).ok_or_else(missing)?;
        match self.kind(*slot) {
            Some(NodeKind::Directory) | None => Err(malformed("it is a hard link to a directory")),
            Some(_) => Ok(slot.inode),
        }
    }

    fn kind(&self, slot: Slot) -> Option<&NodeKind> {
        self.inodes.get(slot.inode).map(|inode| &inode.kind)
    }

    /// Puts a name in its place. What was there goes, and what was beneath it too unless both are directories.
    fn replace(&mut self, path: Path, slot: Slot, is_directory: bool) {
        let was = self.names.get(&path).and_then(|old| self.kind(*old));
        if was == Some(&NodeKind::Directory) && !is_directory {
            let beneath = self.beneath(&path, u32::MAX);
            self.remove(&beneath);
        }
        self.names.insert(path, slot);
    }

    /// Whether a directory of this source stands where an earlier one has a link to a directory.
    fn goes_through_a_link(&self, path: &[Vec<u8>]) -> Result<bool> {
        let Some(slot) = self.names.get(path) else { return Ok(false) };
        let is_link = matches!(self.kind(*slot), Some(NodeKind::Symlink { .. }));
        if self.over == Over::Layer || slot.source == self.source || !is_link {
            return Ok(false);
        }
        let Ok(to) = self.resolve(path) else { return Ok(false) };
        Ok(self.names.get(&to).is_some_and(|slot| self.kind(*slot) == Some(&NodeKind::Directory)))
    }

    /// A whiteout: `name` in `directory` of the layers below is gone.
    fn hide(&mut self, mut directory: Path, name: &[u8]) -> Result<()> {
        let is_opaque = name == b".wh..opq";
        // Other names of this kind are notes of aufs, which no file system shows.
        if !is_opaque && name.starts_with(b".wh.") {
            return Ok(());
        }
        if !is_opaque {
            if [&b""[..], b".", b".."].contains(&name) {
                return Err(malformed("it is a whiteout of no name"));
            }
            directory.push(name.to_vec());
        }
        if !self.hidden.insert(directory.clone()) {
            return Ok(());
        }
        let source = self.source;
        let gone = self.beneath(&directory, source);
        self.remove(&gone);
        if !is_opaque && self.names.get(&directory).is_some_and(|slot| slot.source < source) {
            self.names.remove(&directory);
        }
        Ok(())
    }

    fn remove(&mut self, names: &[Path]) {
        for name in names {
            self.names.remove(name);
        }
    }

    /// The names beneath a directory that came before source `before`.
    fn beneath(&self, directory: &[Vec<u8>], before: u32) -> Vec<Path> {
        self.names
            .range(directory.to_vec()..)
            .take_while(|(name, _)| name.starts_with(directory))
            .filter(|(name, slot)| name.len() > directory.len() && slot.source < before)
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Where the directory `names` really is.
    fn resolve(&self, names: &[Vec<u8>]) -> Result<Path> {
        self.follow(names, false)
    }

    /// Follows all symbolic links; what is at the end may be another thing than a directory if so wanted.
    fn follow(&self, names: &[Vec<u8>], follows_to_file: bool) -> Result<Path> {
        let mut at: Path = Vec::with_capacity(names.len() + 1);
        let mut rest: Vec<Vec<u8>> = names.iter().rev().cloned().collect();
        let mut links = 0;
        while let Some(name) = rest.pop() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    at.pop();
                    continue;
                }
                _ => at.push(name),
            }
            match self.names.get(&at).and_then(|slot| self.kind(*slot)) {
                None | Some(NodeKind::Directory) => {}
                Some(NodeKind::Symlink { target }) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(malformed("too many symbolic links lead to it"));
                    }
                    at.pop();
                    if target.first() == Some(&b'/') {
                        at.clear();
                    }
                    rest.extend(target.split(|&byte| byte == b'/').rev().map(<[u8]>::to_vec));
                }
                Some(_) if rest.is_empty() && follows_to_file => {}
                Some(_) => return Err(malformed("its parent is not a directory")),
            }
        }
        Ok(at)
    }

    /// Leaves out every path that `is_out` says, with all beneath it. Other names of the same inodes stay.
    pub fn leave_out(&mut self, mut is_out: impl FnMut(&[u8]) -> bool) {
        let mut above: Option<Path> = None;
        self.names.retain(|name, _| {
            let goes = above.as_ref().is_some_and(|above| name.starts_with(above));
            if !goes && !name.is_empty() && is_out(&name.join(&b'/')) {
                above = Some(name.clone());
                return false;
            }
            !goes
        });
    }

    /// The tree in an image's order, and by its indices where each file's data is.
    ///
    /// # Errors
    /// What no image can hold; see [`image_format::TreeError`].
    pub fn into_tree(mut self) -> Result<(Tree, Vec<P>)> {
        self.imply_directories();
        let mut nodes: Vec<Node> = Vec::with_capacity(self.names.len());
        let mut places = Vec::with_capacity(self.names.len());
        let mut first_names: BTreeMap<usize, usize> = BTreeMap::new();
        for (names, slot) in &self.names {
            let Some(inode) = self.inodes.get(slot.inode) else { continue };
            let path = names.join(&b'/');
            let node = match first_names.get(&slot.inode) {
                Some(&to) => {
                    let kind = NodeKind::HardLink { to };
                    let (metadata, names) = (Metadata::default(), OwnerNames::default());
                    Node { path, metadata, names, xattrs: Vec::new(), kind }
                }
                None => {
                    let Inode { metadata, owner_names, xattrs, kind, .. } = inode;
                    let (names, xattrs) = (owner_names.clone(), xattrs.clone());
                    Node { path, metadata: *metadata, names, xattrs, kind: kind.clone() }
                }
            };
            first_names.entry(slot.inode).or_insert(nodes.len());
            places.push(inode.place.clone());
            nodes.push(node);
        }
        let tree = Tree::new(nodes).map_err(|error| malformed(format!("the image cannot hold {error}")))?;
        Ok((tree, places))
    }

    /// Directories that are only named as parts of paths.
    fn imply_directories(&mut self) {
        let mut missing: BTreeSet<Path> = BTreeSet::new();
        if !self.names.contains_key(&[][..]) {
            missing.insert(Vec::new());
        }
        for names in self.names.keys() {
            let above = (0..names.len()).rev().filter_map(|depth| names.get(..depth));
            // Where one is there, all above it are there or will be.
            let absent =
                above.take_while(|above| !self.names.contains_key(*above) && !missing.contains(*above));
            let absent: Vec<Path> = absent.map(<[Vec<u8>]>::to_vec).collect();
            missing.extend(absent);
        }
        for names in missing {
            let member = Member {
                names: Vec::new(),
                metadata: Metadata { mode: IMPLIED_DIRECTORY_MODE, ..Metadata::default() },
                owner_names: OwnerNames::default(),
                xattrs: Vec::new(),
                kind: MemberKind::Directory,
                data_offset: 0,
            };
            let slot = self.new_inode(member, P::default());
            self.names.insert(names, slot);
        }
    }
}

#[cfg(test)]
mod tests;

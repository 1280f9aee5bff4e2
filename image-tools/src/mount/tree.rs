//! Who is in which directory, for finding names quickly.

use image_format::{EntryIndex, EntryKind, Toc};

/// The entries of all directories: 12 bytes per entry.
pub(super) struct Children {
    /// Indices of entries, directory by directory, by name.
    all: Vec<u32>,
    /// First of each entry's, and one past the last's.
    first: Vec<u32>,
    /// Names of each inode; of a directory, what stat(2) shows.
    links: Vec<u32>,
}

impl Children {
    pub(super) fn of(toc: &Toc) -> Self {
        let count = toc.entries().len();
        let mut sizes = vec![0_u32; count + 1];
        let mut links = vec![0_u32; count];
        let add = |list: &mut Vec<u32>, index: u32| {
            if let Some(slot) = list.get_mut(index as usize) {
                *slot += 1;
            }
        };
        for (index, entry) in toc.entries() {
            match entry.kind {
                EntryKind::HardLink { to } => add(&mut links, to.get()),
                EntryKind::Directory => {
                    add(&mut links, index.get());
                    // Its own `.`, and its `..` in the one above.
                    add(
                        &mut links,
                        if index == EntryIndex::ROOT { index.get() } else { entry.parent().get() },
                    );
                }
                _ => add(&mut links, index.get()),
            }
            if index != EntryIndex::ROOT {
                add(&mut sizes, entry.parent().get());
            }
            if entry.kind == EntryKind::Directory && index != EntryIndex::ROOT {
                add(&mut links, index.get());
            }
        }
        let mut first = Vec::with_capacity(count + 1);
        let mut at = 0;
        for size in sizes {
            first.push(at);
            at += size;
        }
        let mut next = first.clone();
        let mut all = vec![0; at as usize];
        // Names within a directory ascend in the table.
        for (index, entry) in toc.entries().skip(1) {
            if let Some(place) = next.get_mut(entry.parent().get() as usize) {
                if let Some(slot) = all.get_mut(*place as usize) {
                    *slot = index.get();
                }
                *place += 1;
            }
        }
        Self { all, first, links }
    }

    /// Indices of what is in a directory, by name.
    pub(super) fn of_directory(&self, directory: EntryIndex) -> &[u32] {
        let bound = |at: usize| self.first.get(at).map_or(0, |&at| at as usize);
        let index = directory.get() as usize;
        self.all.get(bound(index)..bound(index + 1)).unwrap_or_default()
    }

    /// What is called `name` in a directory.
    pub(super) fn find(&self, toc: &Toc, directory: EntryIndex, name: &[u8]) -> Option<EntryIndex> {
        let children = self.of_directory(directory);
        let name_of =
            |child| toc.entry_index(child).and_then(|index| toc.entry(index)).map(|it| toc.name(it));
        let place = children.binary_search_by(|&child| name_of(child).unwrap_or_default().cmp(name)).ok()?;
        children.get(place).and_then(|&child| toc.entry_index(child))
    }

    /// Names of an inode.
    pub(super) fn links(&self, index: EntryIndex) -> u32 {
        self.links.get(index.get() as usize).copied().unwrap_or(1)
    }
}

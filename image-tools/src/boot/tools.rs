//! The tools of the store: programs of distribution packages with every library that they load.
//!
//! Libraries come from the packages that the program's package depends on, not from this machine: the store
//! is the same wherever it is built.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use boot_bundle::{ObjectRef, Tool, ToolContent, ToolFile};

use super::elf::{Needs, needs};
use super::packages::Packages;
use super::store::StoreWriter;

/// Where packages have programs; tools lie in the first on the node.
const PROGRAM_DIRECTORIES: [&str; 4] = ["sbin", "usr/sbin", "bin", "usr/bin"];

/// Where packages have libraries; the dynamic loader of Debian looks in the first two by itself.
const LIBRARY_DIRECTORIES: [&str; 6] =
    ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64", "usr/lib64", "lib", "usr/lib"];

/// How far from the program's package a library's package may be in the dependency graph.
const DEPENDENCY_DEPTH_MAX: usize = 4;

/// QUIRK(Debian): the one library package whose name does not begin with `lib` has `libz.so.1`.
const ZLIB: &str = "zlib1g";

/// A program that nodes need.
struct Wanted {
    name: &'static str,
    package: &'static str,
    /// Files of the package that the program reads.
    configuration: &'static [&'static str],
    /// Other names of the program.
    links: &'static [&'static str],
}

impl Wanted {
    /// A program that needs nothing but itself and the libraries that its headers name.
    const fn plain(name: &'static str, package: &'static str) -> Self {
        Self { name, package, configuration: &[], links: &[] }
    }
}

const WANTED: [Wanted; 11] = [
    // Without its configuration mke2fs makes file systems that lack ext4's features.
    Wanted {
        configuration: &["etc/mke2fs.conf"],
        links: &["sbin/mkfs.ext4", "sbin/mkfs.ext3", "sbin/mkfs.ext2"],
        ..Wanted::plain("mke2fs", "e2fsprogs")
    },
    Wanted { links: &["sbin/fsck.ext4"], ..Wanted::plain("e2fsck", "e2fsprogs") },
    Wanted { links: &["sbin/mkfs.vfat"], ..Wanted::plain("mkfs.fat", "dosfstools") },
    Wanted::plain("mkfs.xfs", "xfsprogs"),
    Wanted::plain("mkfs.btrfs", "btrfs-progs"),
    Wanted::plain("btrfs", "btrfs-progs"),
    Wanted::plain("mkswap", "util-linux"),
    Wanted::plain("cryptsetup", "cryptsetup-bin"),
    Wanted::plain("mdadm", "mdadm"),
    Wanted::plain("lvm", "lvm2"),
    Wanted::plain("dmsetup", "dmsetup"),
];

/// Puts every tool into the store.
pub(super) fn collect(packages: &Packages, store: &StoreWriter) -> Result<Vec<Tool>> {
    let mut collector = Collector { packages, store, objects: BTreeMap::new() };
    let mut tools: Vec<Tool> = WANTED
        .iter()
        .map(|wanted| collector.tool(wanted).with_context(|| format!("collecting the tool {}", wanted.name)))
        .collect::<Result<_>>()?;
    tools.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tools)
}

struct Collector<'a> {
    packages: &'a Packages,
    store: &'a StoreWriter,
    /// Tools share most of their libraries.
    objects: BTreeMap<PathBuf, ObjectRef>,
}

impl Collector<'_> {
    fn tool(&mut self, wanted: &Wanted) -> Result<Tool> {
        let root = self.packages.unpacked(wanted.package)?;
        let program = find(&root, &PROGRAM_DIRECTORIES, wanted.name)
            .with_context(|| format!("the package {} has no {}", wanted.package, wanted.name))?;
        let mut files = vec![self.file(&format!("sbin/{}", wanted.name), 0o755, &program)?];
        for path in wanted.configuration {
            files.push(self.file(path, 0o644, &root.join(path))?);
        }
        for link in wanted.links {
            let content = ToolContent::Symlink { symlink: wanted.name.to_owned() };
            files.push(ToolFile { path: (*link).to_owned(), mode: 0o777, content });
        }
        let mut search = LibrarySearch::new(self.packages, wanted.package, &root);
        for (path, library) in search.closure(&program)? {
            files.push(self.file(&path, 0o755, &library)?);
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Tool { name: wanted.name.to_owned(), files })
    }

    fn file(&mut self, path: &str, mode: u32, source: &Path) -> Result<ToolFile> {
        let source = source.canonicalize().with_context(|| format!("finding {}", source.display()))?;
        let object = match self.objects.get(&source) {
            Some(object) => object.clone(),
            None => {
                let contents =
                    std::fs::read(&source).with_context(|| format!("reading {}", source.display()))?;
                let object = self.store.add(&contents)?;
                self.objects.insert(source, object.clone());
                object
            }
        };
        Ok(ToolFile { path: path.to_owned(), mode, content: ToolContent::File(object) })
    }
}

/// Finds libraries in a package and in what it depends on, nearest first.
struct LibrarySearch<'a> {
    packages: &'a Packages,
    /// Unpacked packages, by depth in the dependency graph.
    opened: Vec<(String, usize, PathBuf)>,
    seen: HashSet<String>,
}

impl<'a> LibrarySearch<'a> {
    fn new(packages: &'a Packages, package: &str, root: &Path) -> Self {
        let opened = vec![(package.to_owned(), 0, root.to_owned())];
        Self { packages, opened, seen: HashSet::from([package.to_owned()]) }
    }

    /// Every library that the program needs, with its path on the node.
    fn closure(&mut self, program: &Path) -> Result<BTreeMap<String, PathBuf>> {
        let mut found = BTreeMap::new();
        let mut names = HashSet::new();
        let mut to_read = vec![program.to_owned()];
        while let Some(file) = to_read.pop() {
            let bytes = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
            let Needs { interpreter, libraries } =
                needs(&bytes).with_context(|| format!("reading {}", file.display()))?;
            let loader = interpreter.map(|path| path.trim_start_matches('/').to_owned());
            let loader_name = loader.as_deref().and_then(|path| path.rsplit('/').next()).map(str::to_owned);
            for name in libraries.into_iter().chain(loader_name) {
                if !names.insert(name.clone()) {
                    continue;
                }
                let (directory, path) = self.find(&name)?;
                // The loader is asked for by its full path, libraries by name.
                let place = loader.clone().filter(|path| path.ends_with(&format!("/{name}")));
                found.insert(place.unwrap_or_else(|| format!("{directory}/{name}")), path.clone());
                to_read.push(path);
            }
        }
        Ok(found)
    }

    fn find(&mut self, library: &str) -> Result<(&'static str, PathBuf)> {
        if let Some(found) = self.opened.iter().find_map(|(_, _, root)| find_library(root, library)) {
            return Ok(found);
        }
        if let Some(found) = self.open_until_found(self.likely_packages(library)?, library)? {
            return Ok(found);
        }
        for depth in 0..DEPENDENCY_DEPTH_MAX {
            if let Some(found) = self.open_until_found(self.packages_at(depth)?, library)? {
                return Ok(found);
            }
        }
        bail!("no package that it depends on has the library {library}")
    }

    fn open_until_found(
        &mut self,
        packages: Vec<(usize, String)>,
        library: &str,
    ) -> Result<Option<(&'static str, PathBuf)>> {
        for (depth, package) in packages {
            if !self.seen.insert(package.clone()) {
                continue;
            }
            let root = self.packages.unpacked(&package)?;
            self.opened.push((package, depth, root.clone()));
            if let Some(found) = find_library(&root, library) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Packages that are named after the library, so that usually one is fetched for one library.
    fn likely_packages(&self, library: &str) -> Result<Vec<(usize, String)>> {
        let likely = package_of_soname(library);
        let mut packages = Vec::new();
        for depth in 0..DEPENDENCY_DEPTH_MAX {
            packages.extend(self.packages_at(depth)?);
        }
        packages.retain(|(_, name)| name.trim_end_matches("t64") == likely);
        Ok(packages)
    }

    /// Library packages that those of this depth depend on, with their own depth.
    fn packages_at(&self, depth: usize) -> Result<Vec<(usize, String)>> {
        let mut packages = Vec::new();
        for (package, _, _) in self.opened.iter().filter(|(_, at, _)| *at == depth) {
            let libraries = self
                .packages
                .dependencies(package)?
                .into_iter()
                .filter(|name| name.starts_with("lib") || name == ZLIB);
            packages.extend(libraries.map(|name| (depth + 1, name)));
        }
        Ok(packages)
    }
}

/// Debian names a library's package after its soname: `libcom_err.so.2` is in `libcom-err2`, and
/// `libpcre2-8.so.0` in `libpcre2-8-0`.
fn package_of_soname(soname: &str) -> String {
    if soname == "libz.so.1" {
        return ZLIB.to_owned();
    }
    let (name, version) = soname.split_once(".so.").unwrap_or((soname, ""));
    let dash = if name.ends_with(|end: char| end.is_ascii_digit()) { "-" } else { "" };
    format!("{}{dash}{version}", name.replace('_', "-").to_lowercase())
}

fn find_library(root: &Path, name: &str) -> Option<(&'static str, PathBuf)> {
    LIBRARY_DIRECTORIES.iter().find_map(|directory| {
        let path = root.join(directory).join(name).canonicalize().ok()?;
        (path.starts_with(root) && path.is_file()).then_some((*directory, path))
    })
}

fn find(root: &Path, directories: &[&str], name: &str) -> Option<PathBuf> {
    let places = directories.iter().map(|directory| root.join(directory).join(name));
    places.into_iter().find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_guessed_from_sonames() {
        for (soname, package) in [
            ("libc.so.6", "libc6"),
            ("libz.so.1", "zlib1g"),
            ("libblkid.so.1", "libblkid1"),
            ("libext2fs.so.2", "libext2fs2"),
            ("libcom_err.so.2", "libcom-err2"),
            ("libpcre2-8.so.0", "libpcre2-8-0"),
            ("liburcu.so.8", "liburcu8"),
            ("libdevmapper.so.1.02.1", "libdevmapper1.02.1"),
        ] {
            assert_eq!(package_of_soname(soname), package);
        }
    }
}

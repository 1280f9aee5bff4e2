//! Trees that are only measured: plain Debian, made once and cached. Never deployed, so nothing of ours is in them.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::recipe::SUITE;
use super::{NAME_DIGITS, apt_sources, cache_dir, lock, make_once};
use crate::command::{output, say_and_run};

/// What mmdebstrap writes down of the moment, beneath the tree.
const OF_THE_MOMENT: [&str; 3] = ["var/log", "var/cache/apt", "var/cache/ldconfig"];

/// A minimal Debian 12 and these packages, without package lists, caches and logs.
///
/// # Errors
/// Not root, mmdebstrap is missing, or no mirror answers.
pub fn plain_tree(name: &str, packages: &[&str]) -> Result<PathBuf> {
    cached(name, packages, |tree| {
        bootstrap(tree, "minbase", packages)?;
        for directory in OF_THE_MOMENT {
            remove_files(&tree.join(directory))?;
        }
        Ok(())
    })
}

/// The first `count` files, by path, of these packages' archives of source code.
///
/// # Errors
/// As [`plain_tree`]; or the archives hold fewer files.
pub fn source_tree(name: &str, packages: &[&str], count: usize) -> Result<PathBuf> {
    cached(name, packages, |tree| {
        let extracted = tree.with_extension("extracted");
        bootstrap(&extracted, "extract", packages)?;
        fs::create_dir_all(tree)?;
        let mut find = Command::new("find");
        let found = output(find.arg(extracted.join("usr/src")).args(["-name", "*.tar.xz", "-print"]))?;
        let mut archives: Vec<&str> = found.lines().collect();
        archives.sort_unstable();
        ensure!(!archives.is_empty(), "{packages:?} hold no archives");
        for archive in archives {
            say_and_run(Command::new("tar").args(["-xf", archive, "-C"]).arg(tree))?;
        }
        keep_first(tree, count)?;
        fs::remove_dir_all(&extracted).with_context(|| format!("removing {}", extracted.display()))
    })
}

fn cached(name: &str, packages: &[&str], make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let cache = cache_dir()?;
    let _one_at_a_time = lock(&cache)?;
    let hash = blake3::hash(format!("{SUITE} {packages:?} {OF_THE_MOMENT:?}").as_bytes()).to_hex();
    let dir = cache.join(format!("tree-{name}-{}", hash.get(..NAME_DIGITS).unwrap_or("packages")));
    if !dir.is_dir() {
        make_once(&dir, |partial| make(&partial.join("tree")))?;
    }
    Ok(dir.join("tree"))
}

fn bootstrap(tree: &Path, variant: &str, packages: &[&str]) -> Result<()> {
    let mut command = Command::new("mmdebstrap");
    command.args(["--format=directory", "--mode=root"]).arg(format!("--variant={variant}"));
    if !packages.is_empty() {
        command.arg(format!("--include={}", packages.join(",")));
    }
    say_and_run(command.arg(SUITE).arg(tree).args(apt_sources()?))
}

fn remove_files(directory: &Path) -> Result<()> {
    if !directory.is_dir() {
        return Ok(());
    }
    say_and_run(Command::new("find").arg(directory).args(["-type", "f", "-delete"]))
}

/// Removes all but `count` regular files, and directories that are empty then.
fn keep_first(tree: &Path, count: usize) -> Result<()> {
    let mut find = Command::new("find")
        .arg(tree)
        .args(["-type", "f", "-print0"])
        .stdout(Stdio::piped())
        .spawn()
        .context("running find")?;
    let output = find.stdout.take().context("find has no output")?;
    let mut paths: Vec<Vec<u8>> = BufReader::new(output).split(0).collect::<Result<_, _>>()?;
    ensure!(find.wait()?.success(), "find failed");
    ensure!(paths.len() >= count, "{} holds only {} files", tree.display(), paths.len());
    paths.sort_unstable();
    for path in paths.iter().skip(count) {
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        fs::remove_file(path).with_context(|| format!("removing {}", path.display()))?;
    }
    say_and_run(Command::new("find").arg(tree).args(["-mindepth", "1", "-type", "d", "-empty", "-delete"]))
}

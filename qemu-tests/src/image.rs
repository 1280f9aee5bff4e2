//! The Debian image that stories deploy: made once by mmdebstrap, captured and signed by `image-tools`, cached.
//!
//! Never touches the machine's own root: the tree is a directory in the cache, and its packages come from the
//! Debian mirrors that the machine's apt is configured for.

mod recipe;
mod trees;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use image_format::{Manifest, parse_manifest};
use nix::fcntl::{Flock, FlockArg};

use crate::command::say_and_run;
use crate::programs::Programs;

pub use recipe::{ROOT_PASSWORD, Recipe};
pub use trees::{plain_tree, source_tree};

/// Hex digits of a recipe's hash in directory names.
const NAME_DIGITS: usize = 12;

/// Where downloads, trees and images are kept: `$ESIR_CACHE`, else `~/.cache/esir`.
///
/// # Errors
/// Neither `ESIR_CACHE` nor `HOME` is set, or the directory cannot be made.
pub fn cache_dir() -> Result<PathBuf> {
    let given = std::env::var_os("ESIR_CACHE").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/esir"));
    let dir = given.or_else(home).context("set ESIR_CACHE or HOME: the image cache needs a place")?;
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    Ok(dir)
}

/// A captured, signed image with what it was made from.
#[derive(Clone, Debug)]
pub struct TestImage {
    /// `NAME.esir`; manifest, signature, pieces and metainfo lie beside it.
    pub image: PathBuf,
    /// The tree that was captured.
    pub tree: PathBuf,
    /// Minisign public key that the image is signed with.
    pub public_key: PathBuf,
    /// Its secret half.
    pub secret_key: PathBuf,
    /// SSH key that the image's root lets in.
    pub ssh_key: PathBuf,
}

/// A directory that holds a boot bundle.
#[derive(Clone, Debug)]
pub struct BootBundle {
    /// The directory.
    pub dir: PathBuf,
}

/// The cached Debian 12 image; made first if the cache has none (about two minutes, 1.2 GB).
///
/// # Errors
/// Not root, a tool is missing, no mirror answers, or `image-tools` fails; its own words are on the terminal.
pub fn debian_12(programs: &Programs) -> Result<TestImage> {
    cached(programs, "debian-12", |key| Ok(Recipe::debian_12(key, &apt_sources()?)))
}

/// As [`debian_12`], as the last point release was, without later updates.
///
/// # Errors
/// As [`debian_12`].
pub fn debian_12_point_release(programs: &Programs) -> Result<TestImage> {
    let recipe = |key: &str| Ok(Recipe::debian_12(key, &apt_sources()?).without_updates_of("*"));
    cached(programs, "debian-12-point-release", recipe)
}

/// As [`debian_12`], with the kernel of the last point release.
///
/// # Errors
/// As [`debian_12`].
pub fn debian_12_older_kernel(programs: &Programs) -> Result<TestImage> {
    let recipe = |key: &str| Ok(Recipe::debian_12(key, &apt_sources()?).without_updates_of("linux-image-*"));
    cached(programs, "debian-12-older-kernel", recipe)
}

/// As [`debian_12`], of Debian 13.
///
/// # Errors
/// As [`debian_12`].
pub fn debian_13(programs: &Programs) -> Result<TestImage> {
    cached(programs, "debian-13", |key| Ok(Recipe::debian_13(key)))
}

/// As [`debian_12`], with what Debian's images for clouds have.
///
/// # Errors
/// As [`debian_12`].
pub fn debian_12_cloud(programs: &Programs) -> Result<TestImage> {
    cached(programs, "debian-12-cloud", |key| Ok(Recipe::debian_12_cloud(key, &apt_sources()?)))
}

/// As [`debian_12`], with what RAID, LVM and LUKS need.
///
/// # Errors
/// As [`debian_12`].
pub fn debian_12_storage(programs: &Programs) -> Result<TestImage> {
    cached(programs, "debian-12-storage", |key| Ok(Recipe::debian_12_storage(key, &apt_sources()?)))
}

/// As [`debian_12`], with systemd-boot in GRUB's place.
///
/// # Errors
/// As [`debian_12`].
pub fn debian_12_systemd_boot(programs: &Programs) -> Result<TestImage> {
    cached(programs, "debian-12-systemd-boot", |key| Ok(Recipe::debian_12_systemd_boot(key, &apt_sources()?)))
}

fn cached(programs: &Programs, name: &str, recipe: impl FnOnce(&str) -> Result<Recipe>) -> Result<TestImage> {
    let cache = cache_dir()?;
    let _one_at_a_time = lock(&cache)?;
    let keys = cache.join("keys");
    fs::create_dir_all(&keys)?;
    let ssh_key = ssh_key(&keys)?;
    let (secret_key, public_key) = signing_key(programs, &keys, "image")?;
    let recipe = recipe(&fs::read_to_string(ssh_key.with_extension("pub"))?)?;
    let dir = cache.join(format!("{name}-{}", recipe.hash().get(..NAME_DIGITS).unwrap_or("recipe")));
    let tree = dir.join("tree");
    if !tree.is_dir() {
        make_once(&dir, |partial| recipe.build(&partial.join("tree")))?;
    }
    let image = dir.join(format!("{name}.esir"));
    if !is_current(programs, &image) {
        eprintln!("capturing {} as {}", tree.display(), image.display());
        capture(programs, &tree, &image, &secret_key)?;
    }
    Ok(TestImage { image, tree, public_key, secret_key, ssh_key })
}

/// Captures a tree into a signed image.
///
/// # Errors
/// `image-tools` fails.
pub fn capture(programs: &Programs, tree: &Path, image: &Path, secret_key: &Path) -> Result<()> {
    let words: [&OsStr; 6] = [
        "capture".as_ref(),
        tree.as_ref(),
        "-o".as_ref(),
        image.as_ref(),
        "--sign".as_ref(),
        secret_key.as_ref(),
    ];
    say_and_run(Command::new(&programs.image_tools).args(words))
}

/// The manifest that lies beside an image.
///
/// # Errors
/// There is none, or it is broken.
pub fn read_manifest(image: &Path) -> Result<Manifest> {
    let path = format!("{}.manifest", image.display());
    let bytes = fs::read(&path).with_context(|| format!("reading {path}"))?;
    parse_manifest(&bytes).with_context(|| format!("reading {path}"))
}

/// The cached boot bundle for this build of the agent; made first if the cache has none.
///
/// # Errors
/// `image-tools boot build` fails.
pub fn boot_bundle(programs: &Programs) -> Result<BootBundle> {
    let cache = cache_dir()?;
    let _one_at_a_time = lock(&cache)?;
    let mut hasher = blake3::Hasher::new();
    for program in [&programs.agent, &programs.image_tools] {
        hasher.update(&fs::read(program).with_context(|| format!("reading {}", program.display()))?);
    }
    let hash = hasher.finalize().to_hex();
    let dir = cache.join(format!("bundle-{}", hash.get(..NAME_DIGITS).unwrap_or("agent")));
    if !dir.join("bundle.json").is_file() {
        forget_other_bundles(&cache);
        eprintln!("building the boot bundle in {}", dir.display());
        make_once(&dir, |partial| {
            let mut build = Command::new(&programs.image_tools);
            build.args(["boot", "build", "--agent"]).arg(&programs.agent).arg("-o").arg(partial);
            say_and_run(build.env("ESIR_CACHE", &cache))
        })?;
    }
    Ok(BootBundle { dir })
}

/// A minisign key pair `NAME.key`, `NAME.pub`, made if it is not there.
///
/// # Errors
/// `image-tools keygen` fails.
pub fn signing_key(programs: &Programs, dir: &Path, name: &str) -> Result<(PathBuf, PathBuf)> {
    let secret = dir.join(format!("{name}.key"));
    let public = dir.join(format!("{name}.pub"));
    if !(secret.is_file() && public.is_file()) {
        let words = ["keygen", "--no-password", "-o"];
        say_and_run(Command::new(&programs.image_tools).args(words).arg(dir.join(name)))?;
    }
    Ok((secret, public))
}

/// Forgets the Debian trees, images and bundles of the cache; keys and downloads stay.
///
/// # Errors
/// One of them cannot be removed.
pub fn forget() -> Result<()> {
    let cache = cache_dir()?;
    let _one_at_a_time = lock(&cache)?;
    for entry in fs::read_dir(&cache)?.flatten() {
        let name = entry.file_name();
        if ["debian-12-", "debian-13-", "bundle-", "tree-"]
            .iter()
            .any(|prefix| name.to_string_lossy().starts_with(prefix))
        {
            fs::remove_dir_all(entry.path())
                .with_context(|| format!("removing {}", entry.path().display()))?;
        }
    }
    Ok(())
}

/// Bundles of earlier builds of the agent; each is some 100 MB.
fn forget_other_bundles(cache: &Path) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("bundle-") {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether this build of `image-tools` can read the cached image.
fn is_current(programs: &Programs, image: &Path) -> bool {
    let mut inspect = Command::new(&programs.image_tools);
    inspect.arg("inspect").arg(image).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    image.is_file() && inspect.status().is_ok_and(|status| status.success())
}

/// Makes a directory under another name and renames it when it is complete.
fn make_once(dir: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let partial = dir.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("removing {}", partial.display()))?;
    }
    fs::create_dir_all(&partial).with_context(|| format!("making {}", partial.display()))?;
    make(&partial)?;
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    fs::rename(&partial, dir).with_context(|| format!("renaming {}", partial.display()))
}

/// Two processes make no image at once; the second one waits and then finds it.
fn lock(cache: &Path) -> Result<Flock<fs::File>> {
    let file = fs::File::create(cache.join("lock"))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((file, _)) => {
            eprintln!("waiting for another process that fills {}", cache.display());
            Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, error)| error)
                .context("locking the cache")
        }
    }
}

fn ssh_key(keys: &Path) -> Result<PathBuf> {
    let key = keys.join("ssh");
    if !key.is_file() {
        let words = ["-q", "-t", "ed25519", "-N", "", "-C", "esir-test", "-f"];
        say_and_run(Command::new("ssh-keygen").args(words).arg(&key))?;
    }
    Ok(key)
}

/// The machine's apt source files that name Debian's own suites.
fn apt_sources() -> Result<Vec<PathBuf>> {
    let parts =
        fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = parts.collect();
    files.push("/etc/apt/sources.list".into());
    files.retain(|file| {
        let named = file.extension().is_some_and(|ending| ending == "list" || ending == "sources");
        named && fs::read_to_string(file).is_ok_and(|text| recipe::names_debian_suite(&text))
    });
    files.sort();
    if files.is_empty() {
        bail!("no file in /etc/apt names the suite `bookworm`; add a Debian 12 source to apt first");
    }
    Ok(files)
}

/// Writes a file of the image tree with its mode.
fn write_file(path: &Path, mode: u32, text: &str) -> Result<()> {
    let writing = || format!("writing {}", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(writing)?;
    }
    fs::write(path, text).with_context(writing)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(writing)
}

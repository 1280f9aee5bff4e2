//! A kernel and its modules, as a package or a build leaves them.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use boot_bundle::{IndexTexts, ModuleIndex, OBJECT_BYTES_MAX};

use super::packages::Packages;

/// Where a bzImage says where its version text lies, less 0x200 (kernel: `Documentation/arch/x86/boot.rst`).
const VERSION_POINTER_OFFSET: usize = 0x20e;
const VERSION_POINTER_BASE: usize = 0x200;

/// How distributions pack modules.
const MODULE_SUFFIXES: [&str; 4] = ["", ".xz", ".zst", ".gz"];

/// One kernel with the modules that were built with it.
#[derive(Debug)]
pub(super) struct Kernel {
    /// `uname -r`.
    pub(super) release: String,
    /// The kernel's bytes.
    pub(super) image: Vec<u8>,
    /// What depmod says of the modules; their paths are those of unpacked modules.
    pub(super) index: ModuleIndex,
    /// `modules.alias` of all modules.
    pub(super) alias_text: String,
    /// `lib/modules/RELEASE`.
    directory: PathBuf,
}

impl Kernel {
    /// The kernel of a Debian package, or of the package that it depends on (`linux-image-amd64`).
    pub(super) fn from_package(packages: &Packages, package: &str) -> Result<Self> {
        let dependencies = packages.dependencies(package)?;
        let concrete =
            dependencies.iter().find(|name| name.starts_with("linux-image-")).map_or(package, String::as_str);
        let root = packages.unpacked(concrete)?;
        let modules = ["lib/modules", "usr/lib/modules"]
            .map(|path| root.join(path))
            .into_iter()
            .find(|path| path.exists());
        let modules = modules
            .with_context(|| format!("the package {concrete} has no modules; name a kernel package"))?;
        let release = only_entry(&modules)?;
        let map = root.join(format!("boot/System.map-{release}"));
        run_depmod(&modules.join(&release), &root, &release, &map)?;
        let image = root.join(format!("boot/vmlinuz-{release}"));
        Self::read(&image, &modules.join(&release))
    }

    /// A kernel file and its directory `lib/modules/RELEASE`.
    pub(super) fn from_files(image: &Path, modules: &Path) -> Result<Self> {
        let modules = modules.canonicalize().with_context(|| format!("finding {}", modules.display()))?;
        let release = file_name(&modules)?;
        if !modules.join("modules.dep").exists() {
            let root =
                modules.ancestors().nth(3).filter(|root| root.join("lib/modules").join(&release) == modules);
            let root = root.with_context(|| {
                format!("{} has no modules.dep and is no lib/modules/RELEASE; run depmod", modules.display())
            })?;
            run_depmod(&modules, root, &release, &root.join(format!("boot/System.map-{release}")))?;
        }
        Self::read(image, &modules)
    }

    fn read(image: &Path, directory: &Path) -> Result<Self> {
        let bytes =
            std::fs::read(image).with_context(|| format!("reading the kernel {}", image.display()))?;
        let release = file_name(directory)?;
        let of_image = release_of_image(&bytes)
            .with_context(|| format!("{} is no bootable x86 kernel (bzImage)", image.display()))?;
        if of_image != release {
            bail!(
                "the kernel is {of_image} but the modules are for {release}; they must come from one build"
            );
        }
        let read = |name: &str| {
            let path = directory.join(name);
            std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        let texts = IndexTexts {
            dep: unpacked_names(&read("modules.dep")?),
            softdep: read("modules.softdep")?,
            alias: read("modules.alias")?,
            builtin: read("modules.builtin")?,
        };
        let index = ModuleIndex::parse(&texts);
        Ok(Self { release, image: bytes, index, alias_text: texts.alias, directory: directory.to_owned() })
    }

    /// A module as the kernel takes it: unpacked, its signature in place.
    pub(super) fn module(&self, path: &str) -> Result<Vec<u8>> {
        for suffix in MODULE_SUFFIXES {
            let file = self.directory.join(format!("{path}{suffix}"));
            let bytes = match std::fs::read(&file) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
            };
            return unpack_module(suffix, bytes).with_context(|| format!("unpacking {}", file.display()));
        }
        bail!("{} names {path}, which is not there", self.directory.join("modules.dep").display())
    }
}

fn unpack_module(suffix: &str, bytes: Vec<u8>) -> Result<Vec<u8>> {
    let limit = OBJECT_BYTES_MAX;
    let mut module = Vec::new();
    match suffix {
        "" => module = bytes,
        ".zst" => {
            zstd::stream::read::Decoder::new(bytes.as_slice())?.take(limit).read_to_end(&mut module)?;
        }
        ".xz" => lzma_rs::xz_decompress(&mut bytes.as_slice(), &mut module)
            .map_err(|error| anyhow::anyhow!("{error:?}"))?,
        other => bail!("modules packed as {other} are not read; unpack them with gunzip and run depmod"),
    }
    Ok(module)
}

/// `modules.dep` with the paths that the modules have once they are unpacked.
fn unpacked_names(dep: &str) -> String {
    MODULE_SUFFIXES
        .iter()
        .filter(|suffix| !suffix.is_empty())
        .fold(dep.to_owned(), |text, suffix| text.replace(&format!(".ko{suffix}"), ".ko"))
}

/// A distribution package lacks depmod's files: they are made when it is installed, which we don't do.
fn run_depmod(modules: &Path, root: &Path, release: &str, map: &Path) -> Result<()> {
    if modules.join("modules.dep").exists() {
        return Ok(());
    }
    eprintln!("running depmod for {release}");
    let mut depmod = Command::new("depmod");
    depmod.arg("-b").arg(root);
    if map.exists() {
        depmod.arg("-F").arg(map);
    }
    // depmod lies in /sbin, which is not on everybody's path.
    let path = std::env::var("PATH").unwrap_or_default();
    let status = depmod.arg(release).env("PATH", format!("{path}:/usr/sbin:/sbin")).status();
    let status = status.context("running depmod; it is part of the package kmod")?;
    if !status.success() {
        bail!("depmod failed for {}", modules.display());
    }
    Ok(())
}

/// The release in a bzImage's header: `6.1.0-56-amd64 (debian-kernel@...) #1 ...`.
fn release_of_image(image: &[u8]) -> Option<String> {
    let pointer = image.get(VERSION_POINTER_OFFSET..VERSION_POINTER_OFFSET + 2)?;
    let pointer = usize::from(u16::from_le_bytes(pointer.try_into().ok()?));
    let magic = image.get(0x202..0x206)?;
    let text =
        image.get(pointer + VERSION_POINTER_BASE..)?.split(|byte| *byte == 0 || *byte == b' ').next()?;
    (magic == b"HdrS").then(|| String::from_utf8_lossy(text).into_owned())
}

fn only_entry(directory: &Path) -> Result<String> {
    let entries = std::fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))?;
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    match names.as_slice() {
        [name] => Ok(name.clone()),
        _ => bail!("{} holds {} kernel releases, one was expected", directory.display(), names.len()),
    }
}

fn file_name(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned).with_context(|| format!("{} has no readable name", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_read_from_a_kernel() {
        let mut image = vec![0; 0x1000];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x400_u16.to_le_bytes());
        image[0x600..0x616].copy_from_slice(b"6.1.0-56-amd64 (x) #1\0");
        assert_eq!(release_of_image(&image).as_deref(), Some("6.1.0-56-amd64"));
        assert_eq!(release_of_image(b"short"), None);
        assert_eq!(release_of_image(&vec![0; 0x1000]), None);
    }

    #[test]
    fn packed_modules_have_their_unpacked_names() {
        assert_eq!(unpacked_names("kernel/a.ko.xz: kernel/b.ko.xz\n"), "kernel/a.ko: kernel/b.ko\n");
    }

    #[test]
    fn packed_modules_are_unpacked() {
        let packed = zstd::bulk::compress(b"\x7fELF module", 3).unwrap();
        assert_eq!(unpack_module(".zst", packed).unwrap(), b"\x7fELF module");
        let mut packed = Vec::new();
        lzma_rs::xz_compress(&mut &b"\x7fELF module"[..], &mut packed).unwrap();
        assert_eq!(unpack_module(".xz", packed).unwrap(), b"\x7fELF module");
        assert!(unpack_module(".xz", b"nonsense".to_vec()).is_err());
    }

    #[test]
    fn a_kernel_of_another_build_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let modules = directory.path().join("lib/modules/6.9.9");
        std::fs::create_dir_all(&modules).unwrap();
        std::fs::write(modules.join("modules.dep"), "").unwrap();
        let mut image = vec![0; 0x1000];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x400_u16.to_le_bytes());
        image[0x600..0x606].copy_from_slice(b"6.1.0 ");
        let file = directory.path().join("vmlinuz");
        std::fs::write(&file, image).unwrap();
        let error = Kernel::from_files(&file, &modules).unwrap_err().to_string();
        assert!(error.contains("the kernel is 6.1.0 but the modules are for 6.9.9"), "{error}");
    }
}

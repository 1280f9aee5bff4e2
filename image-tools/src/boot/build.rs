//! Builds a bundle: reads the parts, fills a directory beside the output, and gives it the output's name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use boot_bundle::{
    BundleManifest, FORMAT_VERSION, FileRef, FirmwareEntry, ModuleEntry, ObjectHash, StoreIndex,
    StoreManifest,
};

use super::BuildArguments;
use super::elf;
use super::firmware::{Firmware, INITRD_DRIVERS};
use super::initrd::InitrdFiles;
use super::kernel::Kernel;
use super::packages::Packages;
use super::store::StoreWriter;
use super::{check, sets, tools};
use crate::processors::on_all_processors;

/// Machine that the bundle is for, as `uname -m` says it.
const ARCHITECTURE: &str = "x86_64";

/// The agent is a few megabytes; more is some other program.
const AGENT_BYTES_MAX: usize = 64 << 20;

/// One module with what the bundle needs to know of it.
struct Module {
    name: String,
    path: String,
    contents: Vec<u8>,
    firmware: Vec<String>,
}

/// Builds the bundle that the arguments ask for and prints its sizes.
pub(super) fn build(arguments: &BuildArguments) -> Result<()> {
    let agent = read_agent(&arguments.agent)?;
    let output = Output::begin(&arguments.output)?;
    let cache = cache_directory(arguments.cache.as_deref())?;
    let packages = Packages::new(&cache)?;
    let kernel = match (&arguments.kernel, &arguments.modules) {
        (Some(kernel), Some(modules)) => Kernel::from_files(kernel, modules)?,
        _ => Kernel::from_package(&packages, &arguments.kernel_package)?,
    };
    let firmware = Firmware::open(&arguments.firmware, &packages)?;
    let store_writer = StoreWriter::new(&output.partial, &cache);
    let modules = read_modules(&kernel)?;
    eprintln!("packing {} modules of {}", modules.len(), kernel.release);
    let store = fill_store(&kernel, &modules, &firmware, &packages, &store_writer)?;
    let store_json = store.to_json();

    let nics = kernel.index.closure(sets::nic_roots(&kernel.index));
    let files = initrd_files(&kernel, &nics, &modules, &firmware, agent)?;
    eprintln!("packing the initrd");
    let initrd = files.pack(&kernel.release, &ObjectHash::of(&store_json))?;
    let manifest = BundleManifest {
        version: FORMAT_VERSION,
        kernel_release: kernel.release,
        architecture: ARCHITECTURE.to_owned(),
        vmlinuz: FileRef::of(&kernel.image),
        initrd: FileRef::of(&initrd),
        store: FileRef::of(&store_json),
    };
    output.write("vmlinuz", &kernel.image)?;
    output.write("initrd.img", &initrd)?;
    output.write("store.json", &store_json)?;
    output.write("bundle.json", &manifest.to_json())?;
    let directory = output.finish()?;
    if let Some(note) = firmware.note {
        eprintln!("firmware: {note}");
    }
    check::inspect(&directory)
}

fn read_agent(path: &Path) -> Result<Vec<u8>> {
    let agent = std::fs::read(path).with_context(|| format!("reading the agent {}", path.display()))?;
    if agent.len() > AGENT_BYTES_MAX {
        bail!("{} has {} bytes; that is no agent", path.display(), agent.len());
    }
    let needs = elf::needs(&agent).with_context(|| format!("{} is no program for x86-64", path.display()))?;
    if needs.interpreter.is_some() || !needs.libraries.is_empty() {
        bail!(
            "{} needs shared libraries, which an initrd has not; build it with \
             RUSTFLAGS='-C target-feature=+crt-static' and --target x86_64-unknown-linux-gnu",
            path.display()
        );
    }
    Ok(agent)
}

fn cache_directory(given: Option<&Path>) -> Result<PathBuf> {
    let from_environment = || std::env::var_os("ESIR_CACHE").map(|cache| PathBuf::from(cache).join("boot"));
    let from_home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/esir/boot"));
    let cache = given.map(Path::to_owned).or_else(from_environment).or_else(from_home);
    cache.context("no --cache, ESIR_CACHE or HOME says where downloads may be kept; give --cache DIR")
}

/// The store's modules, which include the initrd's.
fn read_modules(kernel: &Kernel) -> Result<Vec<Module>> {
    let names = kernel.index.closure(sets::store_roots(&kernel.index));
    let mut modules = Vec::with_capacity(names.len());
    for name in names {
        let path = kernel.index.path(name).with_context(|| format!("modules.dep has no {name}"))?;
        let contents = kernel.module(path)?;
        let firmware =
            elf::firmware_of_module(&contents).with_context(|| format!("reading the module {path}"))?;
        modules.push(Module { name: name.to_owned(), path: path.to_owned(), contents, firmware });
    }
    Ok(modules)
}

fn fill_store(
    kernel: &Kernel,
    modules: &[Module],
    firmware: &Firmware,
    packages: &Packages,
    writer: &StoreWriter,
) -> Result<StoreManifest> {
    let entries = on_all_processors(modules, |module| {
        Ok(ModuleEntry {
            name: module.name.clone(),
            path: module.path.clone(),
            object: writer.add(&module.contents)?,
            firmware: module.firmware.clone(),
        })
    })?;
    let names = modules.iter().flat_map(|module| &module.firmware).map(String::as_str);
    let files: Vec<(String, PathBuf)> = firmware.files(names)?.into_iter().collect();
    let firmware = on_all_processors(&files, |(path, source)| {
        let contents = std::fs::read(source).with_context(|| format!("reading {}", source.display()))?;
        Ok(FirmwareEntry { path: path.clone(), object: writer.add(&contents)? })
    })?;
    let wanted: BTreeSet<&str> = modules.iter().map(|module| module.name.as_str()).collect();
    let texts = kernel.index.texts_for(&wanted);
    let index = StoreIndex {
        alias: writer.add(kernel.alias_text.as_bytes())?,
        dep: writer.add(texts.dep.as_bytes())?,
        softdep: writer.add(texts.softdep.as_bytes())?,
        builtin: writer.add(texts.builtin.as_bytes())?,
    };
    Ok(StoreManifest {
        version: FORMAT_VERSION,
        kernel_release: kernel.release.clone(),
        index,
        modules: entries,
        firmware,
        tools: tools::collect(packages, writer)?,
    })
}

fn initrd_files(
    kernel: &Kernel,
    nics: &BTreeSet<&str>,
    modules: &[Module],
    firmware: &Firmware,
    agent: Vec<u8>,
) -> Result<InitrdFiles> {
    let mut files = InitrdFiles::default();
    files.add("init".to_owned(), 0o755, agent);
    let directory = format!("lib/modules/{}", kernel.release);
    for module in modules.iter().filter(|module| nics.contains(module.name.as_str())) {
        files.add(format!("{directory}/{}", module.path), 0o644, module.contents.clone());
    }
    let texts = kernel.index.texts_for(nics);
    for (name, text) in [
        ("modules.dep", texts.dep),
        ("modules.softdep", texts.softdep),
        ("modules.alias", texts.alias),
        ("modules.builtin", texts.builtin),
    ] {
        files.add(format!("{directory}/{name}"), 0o644, text.into_bytes());
    }
    let with_firmware = modules.iter().filter(|module| INITRD_DRIVERS.contains(&module.name.as_str()));
    let names = with_firmware.flat_map(|module| &module.firmware).map(String::as_str);
    let found: BTreeMap<String, PathBuf> = firmware.files(names)?;
    for (path, source) in found {
        let contents = std::fs::read(&source).with_context(|| format!("reading {}", source.display()))?;
        files.add(format!("lib/firmware/{path}"), 0o644, contents);
    }
    Ok(files)
}

/// A directory that appears under its name only when it is complete.
struct Output {
    partial: PathBuf,
    directory: PathBuf,
    finished: bool,
}

impl Output {
    fn begin(directory: &Path) -> Result<Self> {
        let replaceable = !directory.exists()
            || directory.join("bundle.json").exists()
            || std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none());
        if !replaceable {
            bail!("{} exists and is no boot bundle; give another output directory", directory.display());
        }
        let name = directory
            .file_name()
            .with_context(|| format!("{} is no name for a bundle", directory.display()))?;
        let parent =
            directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
        let partial = parent.join(format!(".{}.{}", name.display(), std::process::id()));
        std::fs::create_dir(&partial).with_context(|| format!("making {}", partial.display()))?;
        Ok(Self { partial, directory: directory.to_owned(), finished: false })
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.partial.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))
    }

    /// Swaps the directories in one step, so that whoever reads the name finds a whole bundle, old or new.
    fn finish(mut self) -> Result<PathBuf> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        let naming = || format!("naming {}", self.directory.display());
        if self.directory.exists() {
            renameat_with(CWD, &self.partial, CWD, &self.directory, RenameFlags::EXCHANGE)
                .with_context(naming)?;
            std::fs::remove_dir_all(&self.partial)
                .with_context(|| format!("removing {}", self.partial.display()))?;
        } else {
            std::fs::rename(&self.partial, &self.directory).with_context(naming)?;
        }
        self.finished = true;
        Ok(self.directory.clone())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.finished {
            let _ = std::fs::remove_dir_all(&self.partial);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_no_bundle_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("thesis.tex"), "x").unwrap();
        assert!(Output::begin(directory.path()).is_err());
        assert!(directory.path().join("thesis.tex").exists());
    }

    #[test]
    fn an_older_bundle_is_replaced_whole_and_a_failed_build_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let bundle = directory.path().join("bundle");
        for text in ["old", "new"] {
            let output = Output::begin(&bundle).unwrap();
            output.write("bundle.json", text.as_bytes()).unwrap();
            output.finish().unwrap();
            assert_eq!(std::fs::read_to_string(bundle.join("bundle.json")).unwrap(), text);
        }
        drop(Output::begin(&bundle).unwrap());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_program_with_shared_libraries_is_refused_as_agent() {
        let error = read_agent(Path::new("/proc/self/exe")).unwrap_err().to_string();
        assert!(error.contains("needs shared libraries"), "{error}");
    }
}

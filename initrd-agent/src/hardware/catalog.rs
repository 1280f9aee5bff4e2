//! Where modules and firmware come from: the initrd while there is no network, then the boot bundle's store.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use boot_bundle::{
    FirmwareEntry, INITRD_MANIFEST_PATH, IndexTexts, InitrdManifest, ModuleIndex, ObjectRef, StoreManifest,
    fnmatch,
};

use super::root::Root;

/// Fetches objects of the boot bundle's store by hash. Blocks; has its own deadlines and retries.
pub(crate) trait ObjectSource: Send + Sync {
    /// The bytes of the object with this BLAKE3 hash in hex. The caller checks them.
    fn fetch(&self, hash: &str) -> Result<Vec<u8>>;
}

/// Knows modules and can give them.
pub(crate) trait Catalog: Send {
    /// Names, aliases and dependencies.
    fn index(&self) -> &ModuleIndex;
    /// A module's bytes; whatever it needs beside it (firmware) is in place afterwards.
    fn module(&self, name: &str, objects: Option<&dyn ObjectSource>) -> Result<Vec<u8>>;
}

/// The modules of the initrd.
pub(crate) struct InitrdCatalog {
    directory: PathBuf,
    index: ModuleIndex,
}

impl InitrdCatalog {
    /// Reads the index below `lib/modules/RELEASE`.
    pub(crate) fn open(root: &Root) -> Result<Self> {
        let release = root.kernel_release().context("reading the kernel's release")?;
        let directory = root.modules(&release);
        let read = |name: &str| {
            let path = directory.join(name);
            std::fs::read_to_string(&path).with_context(|| {
                format!("reading {}; kernel and initrd must be of one bundle", path.display())
            })
        };
        let texts = IndexTexts {
            dep: read("modules.dep")?,
            softdep: read("modules.softdep")?,
            alias: read("modules.alias")?,
            builtin: read("modules.builtin")?,
        };
        Ok(Self { index: ModuleIndex::parse(&texts), directory })
    }

    /// Deletes the initrd's modules to give their memory back, and says how many bytes that is. They are in
    /// the store as well. The initrd's manifest no longer lists them, so that the next agent of this boot
    /// finds it whole.
    pub(crate) fn free(root: &Root) -> Result<u64> {
        let catalog = Self::open(root)?;
        let manifest_path = root.at(INITRD_MANIFEST_PATH.trim_start_matches('/'));
        let bytes =
            std::fs::read(&manifest_path).with_context(|| format!("reading {}", manifest_path.display()))?;
        let mut manifest = InitrdManifest::parse(&bytes).context("reading the initrd's manifest")?;
        let directory = format!("/lib/modules/{}/", manifest.kernel_release);
        for (_, path) in catalog.index.modules() {
            manifest.files.remove(&format!("{directory}{path}"));
        }
        write_whole(&manifest_path, &manifest.to_json())?;
        let mut freed = 0;
        for (_, path) in catalog.index.modules() {
            let path = catalog.directory.join(path);
            let bytes = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
            if std::fs::remove_file(&path).is_ok() {
                freed += bytes;
            }
        }
        Ok(freed)
    }
}

impl Catalog for InitrdCatalog {
    fn index(&self) -> &ModuleIndex {
        &self.index
    }

    fn module(&self, name: &str, _: Option<&dyn ObjectSource>) -> Result<Vec<u8>> {
        let path = self.index.path(name).with_context(|| format!("the initrd has no module {name}"))?;
        let path = self.directory.join(path);
        std::fs::read(&path).with_context(|| format!("reading {}", path.display()))
    }
}

/// What the store of the boot bundle offers.
#[derive(Clone)]
pub(crate) struct Store {
    manifest: Arc<StoreManifest>,
    root: Root,
}

impl Store {
    /// Fetches the store's manifest, by the hash that the initrd trusts.
    pub(crate) fn open(root: &Root, manifest_hash: &str, objects: &dyn ObjectSource) -> Result<Self> {
        let manifest = fetch_manifest(manifest_hash, objects)?;
        let release = root.kernel_release().context("reading the kernel's release")?;
        if manifest.kernel_release != release {
            bail!(
                "the store is for kernel {}, but {release} runs; kernel and bundle must be built together",
                manifest.kernel_release
            );
        }
        Ok(Self { manifest: Arc::new(manifest), root: root.clone() })
    }

    /// Reads the store's index, which takes a moment.
    pub(crate) fn catalog(&self, objects: &dyn ObjectSource) -> Result<StoreCatalog> {
        let text = |object: &ObjectRef, name: &str| -> Result<String> {
            let bytes = fetch(objects, object).with_context(|| format!("fetching {name}"))?;
            String::from_utf8(bytes).with_context(|| format!("reading {name}"))
        };
        let index = &self.manifest.index;
        let texts = IndexTexts {
            dep: text(&index.dep, "modules.dep")?,
            softdep: text(&index.softdep, "modules.softdep")?,
            alias: text(&index.alias, "modules.alias")?,
            builtin: text(&index.builtin, "modules.builtin")?,
        };
        let modules = &self.manifest.modules;
        let positions =
            modules.iter().enumerate().map(|(position, module)| (module.name.clone(), position)).collect();
        Ok(StoreCatalog { store: self.clone(), index: ModuleIndex::parse(&texts), positions })
    }

    /// The manifest.
    pub(crate) fn manifest(&self) -> &StoreManifest {
        &self.manifest
    }

    fn install_firmware(&self, pattern: &str, objects: &dyn ObjectSource) -> Result<()> {
        let wanted = |entry: &&FirmwareEntry| fnmatch(pattern.as_bytes(), entry.path.as_bytes());
        for entry in self.manifest.firmware.iter().filter(wanted) {
            let path = self.root.at("lib/firmware").join(&entry.path);
            if path.exists() {
                continue;
            }
            let contents = fetch(objects, &entry.object)
                .with_context(|| format!("fetching the firmware {}", entry.path))?;
            write_whole(&path, &contents)?;
            tracing::info!("firmware {} is in place", entry.path);
        }
        Ok(())
    }
}

/// The modules of the store.
pub(crate) struct StoreCatalog {
    store: Store,
    index: ModuleIndex,
    positions: BTreeMap<String, usize>,
}

impl Catalog for StoreCatalog {
    fn index(&self) -> &ModuleIndex {
        &self.index
    }

    fn module(&self, name: &str, objects: Option<&dyn ObjectSource>) -> Result<Vec<u8>> {
        let objects = objects.context("nobody can fetch it now")?;
        let entry = self.positions.get(name).and_then(|position| self.store.manifest.modules.get(*position));
        let entry = entry.with_context(|| format!("the boot bundle has no module {name}"))?;
        for firmware in &entry.firmware {
            // The driver may do without, or ask for another file; the kernel's log will say.
            if let Err(error) = self.store.install_firmware(firmware, objects) {
                tracing::warn!("module {name}: {error:#}");
            }
        }
        fetch(objects, &entry.object).with_context(|| format!("fetching the module {name}"))
    }
}

fn fetch_manifest(hash: &str, objects: &dyn ObjectSource) -> Result<StoreManifest> {
    let expected =
        hash.trim().parse::<boot_bundle::ObjectHash>().context("reading the store's hash in the initrd")?;
    let bytes = objects.fetch(expected.as_str()).context("fetching the store's manifest")?;
    let found = boot_bundle::ObjectHash::of(&bytes);
    if found != expected {
        bail!("the store's manifest is {found}, but this initrd belongs to {expected}; boot again");
    }
    StoreManifest::parse(&bytes).context("reading the store's manifest")
}

/// Fetches one object and checks it before it is unpacked.
pub(crate) fn fetch(objects: &dyn ObjectSource, object: &ObjectRef) -> Result<Vec<u8>> {
    let bytes = objects.fetch(object.hash.as_str())?;
    Ok(object.unpack(bytes)?)
}

/// Writes a file that appears under its name only when it is complete.
pub(crate) fn write_whole(path: &Path, contents: &[u8]) -> Result<()> {
    let directory = path.parent().context("a file lies in a directory")?;
    std::fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    let partial = path.with_extension("partial");
    std::fs::write(&partial, contents).with_context(|| format!("writing {}", partial.display()))?;
    std::fs::rename(&partial, path).with_context(|| format!("naming {}", path.display()))
}

#[cfg(test)]
pub(crate) mod fake {
    use std::sync::Mutex;

    use boot_bundle::{FORMAT_VERSION, ModuleEntry, ObjectHash, StoreIndex, Tool};

    use super::*;

    /// A store in memory.
    #[derive(Default)]
    pub(crate) struct FakeStore {
        pub(crate) objects: BTreeMap<String, Vec<u8>>,
        pub(crate) fetched: Mutex<Vec<String>>,
    }

    impl FakeStore {
        pub(crate) fn add(&mut self, contents: &[u8]) -> ObjectRef {
            let (object, bytes) = ObjectRef::pack(contents, 1).unwrap();
            self.objects.insert(object.hash.to_string(), bytes);
            object
        }

        pub(crate) fn damage(&mut self, hash: &ObjectHash) {
            self.objects.insert(hash.to_string(), b"damaged".to_vec());
        }

        /// A store with these `modules.dep` and `modules.alias`, every module's bytes being its name; returns
        /// the hash of its manifest.
        pub(crate) fn fill(
            &mut self,
            dep: &str,
            alias: &str,
            firmware: &[(&str, &str)],
            tools: Vec<Tool>,
        ) -> String {
            let index = ModuleIndex::parse(&IndexTexts { dep: dep.into(), ..Default::default() });
            let modules = index.modules().map(|(name, path)| ModuleEntry {
                name: name.to_owned(),
                path: path.to_owned(),
                object: self.add(name.as_bytes()),
                firmware: firmware
                    .iter()
                    .filter(|(module, _)| *module == name)
                    .map(|(_, path)| (*path).into())
                    .collect(),
            });
            let modules: Vec<ModuleEntry> = modules.collect();
            let files = firmware.iter().map(|(_, path)| (*path).to_owned());
            let files: std::collections::BTreeSet<String> = files.collect();
            let entry = |path: String| FirmwareEntry { object: self.add(path.as_bytes()), path };
            let firmware = files.into_iter().map(entry).collect();
            let index = StoreIndex {
                alias: self.add(alias.as_bytes()),
                dep: self.add(dep.as_bytes()),
                softdep: self.add(b""),
                builtin: self.add(b"kernel/virtio.ko\n"),
            };
            let kernel_release = "6.1.0-test".to_owned();
            let manifest =
                StoreManifest { version: FORMAT_VERSION, kernel_release, index, modules, firmware, tools };
            let json = manifest.to_json();
            let hash = ObjectHash::of(&json).to_string();
            self.objects.insert(hash.clone(), json);
            hash
        }
    }

    impl ObjectSource for FakeStore {
        fn fetch(&self, hash: &str) -> Result<Vec<u8>> {
            self.fetched.lock().unwrap().push(hash.to_owned());
            self.objects.get(hash).cloned().context("404")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fake::FakeStore;
    use super::*;

    const DEP: &str = "kernel/e100.ko: kernel/mii.ko\nkernel/mii.ko:\n";

    fn root() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::fake(directory.path());
        std::fs::create_dir_all(root.at("proc/sys/kernel")).unwrap();
        std::fs::write(root.at("proc/sys/kernel/osrelease"), "6.1.0-test\n").unwrap();
        (directory, root)
    }

    #[test]
    fn firmware_is_in_place_before_its_module() {
        let (_directory, root) = root();
        let mut objects = FakeStore::default();
        let hash = objects.fill(DEP, "", &[("e100", "e100/ucode.bin")], vec![]);
        let catalog = Store::open(&root, &format!("{hash}\n"), &objects).unwrap().catalog(&objects).unwrap();
        assert_eq!(catalog.module("mii", Some(&objects)).unwrap(), b"mii");
        assert!(!root.at("lib/firmware/e100/ucode.bin").exists());
        assert_eq!(catalog.module("e100", Some(&objects)).unwrap(), b"e100");
        assert_eq!(std::fs::read(root.at("lib/firmware/e100/ucode.bin")).unwrap(), b"e100/ucode.bin");
        assert!(catalog.module("ahci", Some(&objects)).is_err());
    }

    #[test]
    fn another_manifest_than_the_initrds_and_another_kernel_are_refused() {
        let (_directory, root) = root();
        let mut objects = FakeStore::default();
        let hash = objects.fill(DEP, "", &[], vec![]);
        let other = objects.fill("", "", &[], vec![]);
        let forged = objects.objects.get(&other).unwrap().clone();
        objects.objects.insert(hash.clone(), forged);
        assert!(Store::open(&root, &hash, &objects).is_err());
        assert!(Store::open(&root, &other, &objects).is_ok());
        std::fs::write(root.at("proc/sys/kernel/osrelease"), "6.2.0\n").unwrap();
        let error = Store::open(&root, &other, &objects).err().unwrap().to_string();
        assert!(error.contains("6.2.0 runs"), "{error}");
    }

    #[test]
    fn a_damaged_module_never_reaches_the_kernel() {
        let (_directory, root) = root();
        let mut objects = FakeStore::default();
        let hash = objects.fill(DEP, "", &[], vec![]);
        let module = objects.add(b"mii").hash;
        objects.damage(&module);
        let catalog = Store::open(&root, &hash, &objects).unwrap().catalog(&objects).unwrap();
        let error = format!("{:#}", catalog.module("mii", Some(&objects)).unwrap_err());
        assert!(error.contains("damaged on the way"), "{error}");
    }

    #[test]
    fn freed_modules_are_no_damage_to_the_initrd() {
        let (_directory, root) = root();
        let modules = root.modules("6.1.0-test");
        std::fs::create_dir_all(modules.join("kernel")).unwrap();
        for (name, text) in [("dep", DEP), ("alias", ""), ("softdep", ""), ("builtin", "")] {
            std::fs::write(modules.join(format!("modules.{name}")), text).unwrap();
        }
        std::fs::write(modules.join("kernel/mii.ko"), "12345").unwrap();
        let file = || boot_bundle::InitrdFile { hash: boot_bundle::ObjectHash::of(b"12345"), size: 5 };
        let listed = ["/init".to_owned(), "/lib/modules/6.1.0-test/kernel/mii.ko".to_owned()];
        let files = listed.map(|path| (path, file())).into_iter().collect();
        let manifest = InitrdManifest { version: 1, kernel_release: "6.1.0-test".into(), files };
        std::fs::create_dir_all(root.at("etc/esir")).unwrap();
        let manifest_path = root.at("etc/esir/initrd-manifest.json");
        std::fs::write(&manifest_path, manifest.to_json()).unwrap();
        assert_eq!(InitrdCatalog::free(&root).unwrap(), 5);
        assert!(!modules.join("kernel/mii.ko").exists());
        let left = InitrdManifest::parse(&std::fs::read(&manifest_path).unwrap()).unwrap();
        assert_eq!(left.files.keys().collect::<Vec<_>>(), ["/init"]);
        assert_eq!(InitrdCatalog::free(&root).unwrap(), 0);
    }
}

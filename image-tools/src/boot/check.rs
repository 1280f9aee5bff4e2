//! Looks into bundles: what they hold, and whether it is what the manifests say.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use boot_bundle::{
    BundleManifest, FileRef, INITRD_MANIFEST_PATH, InitrdManifest, NewcEntry, ObjectHash,
    STORE_MANIFEST_HASH_PATH, StoreManifest, read_newc,
};

use super::human;

/// No initrd of ours unpacks to more.
const INITRD_BYTES_MAX: usize = 512 << 20;

/// Problems beyond this are only counted.
const PROBLEMS_SHOWN: usize = 20;

struct Bundle {
    manifest: BundleManifest,
    store: StoreManifest,
}

fn read_bundle(directory: &Path) -> Result<Bundle> {
    let read = |name: &str| {
        let path = directory.join(name);
        std::fs::read(&path).with_context(|| format!("reading {}; is this a boot bundle?", path.display()))
    };
    let manifest = BundleManifest::parse(&read("bundle.json")?).context("reading bundle.json")?;
    let store = StoreManifest::parse(&read("store.json")?).context("reading store.json")?;
    Ok(Bundle { manifest, store })
}

/// Prints what a bundle holds.
pub(super) fn inspect(directory: &Path) -> Result<()> {
    let Bundle { manifest, store } = read_bundle(directory)?;
    let initrd = read_initrd(directory)?;
    let entries = read_newc(&initrd).context("reading the initrd")?;
    let size_of = |wanted: &dyn Fn(&str) -> bool| -> (usize, u64) {
        let files = entries.iter().filter(|entry| wanted(entry.path));
        files.fold((0, 0), |(count, bytes), entry| (count + 1, bytes + entry.data.len() as u64))
    };
    let (_, agent_bytes) = size_of(&|path| path == "init");
    let (nic_modules, nic_bytes) = size_of(&|path| path.ends_with(".ko"));
    let (nic_firmware, nic_firmware_bytes) = size_of(&|path| {
        path.starts_with("lib/firmware/") && entries.iter().any(|e| e.path == path && !e.data.is_empty())
    });
    let module_bytes: u64 = store.modules.iter().map(|module| module.object.size).sum();
    let firmware_bytes: u64 = store.firmware.iter().map(|firmware| firmware.object.size).sum();
    let objects = store.objects();
    let store_bytes: u64 = objects.iter().map(|object| object.size).sum();
    let tools: Vec<&str> = store.tools.iter().map(|tool| tool.name.as_str()).collect();
    println!("bundle    {} for {} {}", manifest.id(), manifest.architecture, manifest.kernel_release);
    println!("vmlinuz   {}", human(manifest.vmlinuz.size));
    println!("initrd    {} (unpacked {})", human(manifest.initrd.size), human(initrd.len() as u64));
    println!("  agent     {}", human(agent_bytes));
    println!("  modules   {nic_modules}, {}", human(nic_bytes));
    println!("  firmware  {nic_firmware}, {}", human(nic_firmware_bytes));
    println!("store     {} in {} objects", human(store_bytes), objects.len());
    println!("  modules   {}, {}", store.modules.len(), human(module_bytes));
    println!("  firmware  {}, {}", store.firmware.len(), human(firmware_bytes));
    println!("  tools     {}", tools.join(" "));
    Ok(())
}

/// Checks every file and object; all problems are printed, and any makes this an error.
pub(super) fn verify(directory: &Path) -> Result<()> {
    let Bundle { manifest, store } = read_bundle(directory)?;
    let mut problems = Vec::new();
    let files =
        [("vmlinuz", &manifest.vmlinuz), ("initrd.img", &manifest.initrd), ("store.json", &manifest.store)];
    for (name, expected) in files {
        match std::fs::read(directory.join(name)) {
            Ok(bytes) if FileRef::of(&bytes) == *expected => {}
            Ok(_) => problems.push(format!("{name} is another than bundle.json says")),
            Err(error) => problems.push(format!("{name} cannot be read: {error}")),
        }
    }
    if store.kernel_release != manifest.kernel_release {
        problems.push(format!(
            "the store is for {}, the kernel is {}",
            store.kernel_release, manifest.kernel_release
        ));
    }
    for object in store.objects() {
        let path = directory.join(object.hash.store_path());
        match std::fs::read(&path) {
            Ok(bytes) => problems.extend(object.unpack(bytes).err().map(|error| error.to_string())),
            Err(error) => problems.push(format!("{} cannot be read: {error}", path.display())),
        }
    }
    match verify_initrd(directory, &manifest) {
        Ok(found) => problems.extend(found),
        Err(error) => problems.push(format!("initrd.img: {error:#}")),
    }
    for problem in problems.iter().take(PROBLEMS_SHOWN) {
        eprintln!("{problem}");
    }
    match problems.len() {
        0 => {
            println!("{} is whole: bundle {}", directory.display(), manifest.id());
            Ok(())
        }
        count => bail!("{} has {count} problems; build it again", directory.display()),
    }
}

fn verify_initrd(directory: &Path, manifest: &BundleManifest) -> Result<Vec<String>> {
    let archive = read_initrd(directory)?;
    let entries = read_newc(&archive).context("reading the archive")?;
    let contents = |path: &str| -> Option<&NewcEntry<'_>> {
        entries.iter().find(|entry| path.strip_prefix('/') == Some(entry.path))
    };
    let listed = contents(INITRD_MANIFEST_PATH).context("it has no manifest")?;
    let listed = InitrdManifest::parse(listed.data).context("reading its manifest")?;
    let mut problems = Vec::new();
    for (path, expected) in &listed.files {
        let same = contents(path).is_some_and(|entry| ObjectHash::of(entry.data) == expected.hash);
        if !same {
            problems.push(format!("{path} in the initrd is missing or another than its manifest says"));
        }
    }
    let store_hash = contents(STORE_MANIFEST_HASH_PATH).context("it does not name its store")?;
    if String::from_utf8_lossy(store_hash.data).trim() != manifest.store.hash.as_str() {
        problems.push("the initrd trusts another store.json".to_owned());
    }
    if listed.kernel_release != manifest.kernel_release {
        problems.push(format!("the initrd is for {}", listed.kernel_release));
    }
    Ok(problems)
}

fn read_initrd(directory: &Path) -> Result<Vec<u8>> {
    use std::io::Read as _;
    let path = directory.join("initrd.img");
    let packed = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let decoder = zstd::Decoder::new(packed.as_slice()).context("unpacking the initrd")?;
    let mut archive = Vec::new();
    decoder.take(INITRD_BYTES_MAX as u64).read_to_end(&mut archive).context("unpacking the initrd")?;
    Ok(archive)
}

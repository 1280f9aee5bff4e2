//! An image file with its companions: right in all that a server looks at, random inside.

use std::path::{Path, PathBuf};

use image_format::{Boot, FileSystem, Hash, Manifest, Mode, TocLocation};
use minisign::KeyPair;
use sha1::{Digest as _, Sha1};
use swarm::Metainfo;

const PIECE: usize = 256 << 10;

/// Three MB of noise as `NAME.esir`; signed if there is a key.
pub(crate) fn make_image(folder: &Path, name: &str, key: Option<&KeyPair>) -> PathBuf {
    let path = folder.join(format!("{name}.esir"));
    let mut data = vec![0; 3_000_000];
    blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut data);
    let pieces: Vec<u8> = data.chunks(PIECE).flat_map(|piece| *blake3::hash(piece).as_bytes()).collect();
    let sha1: Vec<[u8; 20]> = data.chunks(PIECE).map(|piece| Sha1::digest(piece).into()).collect();
    let file_name = format!("{name}.esir");
    let metainfo =
        Metainfo::encode_single_file(&file_name, data.len() as u64, PIECE as u32, &sha1, None).unwrap();
    let manifest = Manifest {
        format: Manifest::format_name(),
        version: Manifest::format_version(),
        mode: Mode::Files,
        delta: None,
        name: name.to_owned(),
        image_id: Hash::of(name.as_bytes()),
        file_size: data.len() as u64,
        piece_size: PIECE as u64,
        piece_count: sha1.len() as u32,
        pieces_hash: Hash::of(&pieces),
        info_hash: Metainfo::parse(&metainfo).unwrap().info_hash.0,
        toc: TocLocation { offset: 64, len: 1000, raw_len: 5000 },
        container_bytes: 4 << 20,
        entries: 10,
        content_bytes: 9_000_000,
        architecture: Some("x86_64".into()),
        distribution: Some("Debian GNU/Linux 12 (bookworm)".into()),
        kernel: Some("6.1.0-50-amd64".into()),
        boot: Boot { bios: true, uefi: true },
        root_file_system: FileSystem { kind: "ext4".into(), features: vec![] },
        source_file_systems: Vec::new(),
    };
    let manifest = manifest.to_bytes().unwrap();
    let companion = |suffix: &str, bytes: &[u8]| {
        std::fs::write(folder.join(format!("{name}.esir.{suffix}")), bytes).unwrap();
    };
    std::fs::write(&path, &data).unwrap();
    companion("pieces", &pieces);
    companion("torrent", &metainfo);
    companion("manifest", &manifest);
    if let Some(key) = key {
        let signature = minisign::sign(Some(&key.pk), &key.sk, &manifest[..], None, None).unwrap();
        companion("manifest.minisig", signature.into_string().as_bytes());
    }
    path
}

/// A key pair and its public key as a `.pub` file in `folder`.
pub(crate) fn make_key(folder: &Path) -> (KeyPair, PathBuf) {
    let key = KeyPair::generate_unencrypted_keypair().unwrap();
    let path = folder.join("site.pub");
    std::fs::write(&path, key.pk.to_box().unwrap().into_string()).unwrap();
    (key, path)
}

/// A boot bundle with tiny files and one object; the object's hash.
pub(crate) fn make_bundle(root: &Path) -> String {
    use boot_bundle::{BundleManifest, FORMAT_VERSION, FileRef, ObjectHash};
    std::fs::create_dir_all(root).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(root.join(name), bytes).unwrap();
        FileRef::of(bytes)
    };
    let manifest = BundleManifest {
        version: FORMAT_VERSION,
        kernel_release: "6.1.0-test".into(),
        architecture: "x86_64".into(),
        vmlinuz: write("vmlinuz", b"kernel"),
        initrd: write("initrd.img", b"initrd"),
        store: write("store.json", b"{}"),
    };
    std::fs::write(root.join("bundle.json"), manifest.to_json()).unwrap();
    let object = ObjectHash::of(b"object");
    let path = root.join(object.store_path());
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, b"object").unwrap();
    object.as_str().to_owned()
}

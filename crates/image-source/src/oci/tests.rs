use std::collections::BTreeMap;
use std::io::{self, Cursor, Read};

use sha2::{Digest as _, Sha256};

use super::{Blobs, Platform, Wanted, find};

/// A layout in memory.
#[derive(Default)]
struct Files(BTreeMap<String, Vec<u8>>);

impl Blobs for Files {
    fn open(&self, path: &str) -> io::Result<Option<(u64, Box<dyn Read + '_>)>> {
        let file = self.0.get(path);
        Ok(file.map(|bytes| (bytes.len() as u64, Box::new(Cursor::new(bytes.clone())) as Box<dyn Read>)))
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

impl Files {
    /// Adds a blob; its descriptor.
    fn blob(&mut self, bytes: &[u8], media_type: &str, more: &str) -> String {
        let name = digest(bytes);
        self.0.insert(format!("blobs/{}", name.replace(':', "/")), bytes.to_vec());
        format!(r#"{{"mediaType":"{media_type}","digest":"{name}","size":{}{more}}}"#, bytes.len())
    }

    /// An image of one layer; its descriptor with `more` in it.
    fn image(&mut self, tar: &[u8], architecture: &str, more: &str) -> String {
        let layer = self.blob(tar, "application/vnd.oci.image.layer.v1.tar", "");
        let config = format!(
            r#"{{"os":"linux","architecture":"{architecture}","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
            digest(tar)
        );
        let config = self.blob(config.as_bytes(), "application/vnd.oci.image.config.v1+json", "");
        let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}]}}"#);
        self.blob(manifest.as_bytes(), "application/vnd.oci.image.manifest.v1+json", more)
    }

    fn index(&mut self, manifests: &[String]) {
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, manifests.join(","));
        self.0.insert("index.json".to_owned(), index.into_bytes());
    }
}

fn wanted(reference: Option<&str>, platform: &str) -> Wanted {
    Wanted { reference: reference.map(str::to_owned), platform: Platform::parse(platform).unwrap() }
}

fn refused(files: &Files, wanted: &Wanted) -> String {
    let mut text = String::new();
    let mut error: &dyn std::error::Error = &find(files, wanted).unwrap_err();
    loop {
        text.push_str(&error.to_string());
        let Some(next) = error.source() else { return text };
        text.push_str(": ");
        error = next;
    }
}

#[test]
fn the_image_of_the_platform_is_found_through_an_inner_index() {
    let mut files = Files::default();
    let platform = |name: &str| format!(r#","platform":{{"os":"linux","architecture":"{name}"}}"#);
    let first = files.image(b"amd", "amd64", &platform("amd64"));
    let second = files.image(b"arm", "arm64", &platform("arm64"));
    let inner = format!(r#"{{"schemaVersion":2,"manifests":[{first},{second}]}}"#);
    let name = r#","annotations":{"org.opencontainers.image.ref.name":"12"}"#;
    let inner = files.blob(inner.as_bytes(), "application/vnd.oci.image.index.v1+json", name);
    files.index(&[inner]);
    let found = find(&files, &wanted(Some("debian:12"), "linux/arm64")).unwrap();
    assert_eq!((found.layers.len(), found.platform.architecture.as_str()), (1, "arm64"));
    let mut out = Vec::new();
    let layer = found.layers.first().unwrap();
    let mut stream = layer.open(&files, 100).unwrap();
    stream.read_to_end(&mut out).unwrap();
    assert_eq!((out.as_slice(), stream.finish().unwrap()), (&b"arm"[..], 3));
    assert!(refused(&files, &wanted(None, "linux/riscv64")).contains("no image for linux/riscv64"));
    assert!(refused(&files, &wanted(Some("13"), "linux/amd64")).contains("it has 12"));
}

#[test]
fn what_does_not_fit_its_digest_is_refused() {
    let mut files = Files::default();
    let image = files.image(b"tar of a layer", "amd64", "");
    files.index(&[image]);
    let wanted = wanted(None, "linux/amd64");
    let names: Vec<String> = files.0.keys().filter(|name| name.starts_with("blobs/")).cloned().collect();
    for name in names {
        let kept = files.0.get(&name).unwrap().clone();
        let mut bad = kept.clone();
        *bad.last_mut().unwrap() ^= 1;
        files.0.insert(name.clone(), bad);
        let is_layer = kept == b"tar of a layer";
        if is_layer {
            let found = find(&files, &wanted).unwrap();
            let stream = found.layers.first().unwrap().open(&files, 1000).unwrap();
            assert!(stream.finish().unwrap_err().to_string().contains("its digest is"));
        } else {
            assert!(refused(&files, &wanted).contains("its digest is"), "{name}");
        }
        files.0.remove(&name);
        if !is_layer {
            assert!(refused(&files, &wanted).contains("missing"), "{name}");
        }
        files.0.insert(name, kept);
    }
    find(&files, &wanted).unwrap();
}

#[test]
fn digests_are_no_paths() {
    let mut files = Files::default();
    let escape = "sha256:../../../../etc/passwd";
    files.index(&[format!(r#"{{"mediaType":"x","digest":"{escape}","size":1}}"#)]);
    assert!(refused(&files, &wanted(None, "linux/amd64")).contains("no digest"));
}

#[test]
fn layers_unpack_to_no_more_than_is_accepted() {
    let mut files = Files::default();
    let image = files.image(&vec![0; 4096], "amd64", "");
    files.index(&[image]);
    let found = find(&files, &wanted(None, "linux/amd64")).unwrap();
    let stream = found.layers.first().unwrap().open(&files, 4095).unwrap();
    assert!(stream.finish().is_err());
}

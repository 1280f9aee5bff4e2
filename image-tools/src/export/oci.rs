//! An OCI image layout (image-spec 1.1) of one layer. The same image gives the same digests.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Compression, Encoder, stream};
use crate::image_file::ImageFile;
use crate::pending::directory_of;
use crate::text;

/// Architectures by what `uname -m` and what Go calls them, with the variant where there are several.
const ARCHITECTURES: [(&str, &str, Option<&str>); 6] = [
    ("x86_64", "amd64", None),
    ("aarch64", "arm64", Some("v8")),
    ("armv7l", "arm", Some("v7")),
    ("i686", "386", None),
    ("riscv64", "riscv64", None),
    ("ppc64le", "ppc64le", None),
];

/// Writes the layout into a new directory.
pub(super) fn export(
    image: &ImageFile,
    output: &Path,
    reference: &str,
    compression: Compression,
) -> Result<()> {
    ensure!(!output.exists(), "{} is there already; name a new directory", output.display());
    refuse_whiteouts(image)?;
    let name = output.file_name().with_context(|| format!("{} is no name", output.display()))?;
    let hidden = format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id());
    let layout = Layout { root: directory_of(output).join(hidden) };
    let result = layout.fill(image, reference, compression);
    let result = result.and_then(|summary| {
        std::fs::rename(&layout.root, output).with_context(|| format!("naming {}", output.display()))?;
        Ok(summary)
    });
    if result.is_err() {
        // The error that brought us here is the one to tell.
        let _ = std::fs::remove_dir_all(&layout.root);
    }
    println!("{}: {}", output.display(), result?);
    Ok(())
}

/// In a layer, names of that kind mean that something is gone.
fn refuse_whiteouts(image: &ImageFile) -> Result<()> {
    for (index, entry) in image.toc.entries() {
        ensure!(
            !image.toc.name(entry).starts_with(b".wh."),
            "/{} is called like a whiteout, so no layer can hold it",
            text::path(&image.toc.path(index))
        );
    }
    Ok(())
}

/// A layout that is being made.
struct Layout {
    root: PathBuf,
}

impl Layout {
    fn fill(&self, image: &ImageFile, reference: &str, compression: Compression) -> Result<String> {
        let blobs = self.root.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).with_context(|| format!("creating {}", blobs.display()))?;
        let (layer, diff_id, summary) = self.layer(image, compression)?;
        let config = self.document(&config(image, &diff_id)?)?;
        let config = descriptor("application/vnd.oci.image.config.v1+json", config);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": [layer],
            "annotations": {
                "org.opencontainers.image.title": image.manifest.as_ref().map(|manifest| manifest.name.clone()),
            },
        });
        let (digest, len) = self.document(&manifest)?;
        let described = json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": format!("sha256:{digest}"),
            "size": len,
            "annotations": { "org.opencontainers.image.ref.name": reference },
        });
        let index = json!({ "schemaVersion": 2, "manifests": [described] });
        self.write("index.json", &serde_json::to_vec(&index)?)?;
        self.write("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(format!("{summary}, image sha256:{digest}"))
    }

    /// The only layer: its descriptor, and the digest of the tar in it.
    fn layer(&self, image: &ImageFile, compression: Compression) -> Result<(Value, String, stream::Summary)> {
        let temporary = self.root.join("layer");
        let file = File::create(&temporary).with_context(|| format!("creating {}", temporary.display()))?;
        let blob = Hashed::new(BufWriter::with_capacity(1 << 20, file));
        let mut tar = Hashed::new(Encoder::new(blob, compression)?);
        let summary = stream::write(image, &mut tar)?;
        let diff_id = tar.hex();
        let mut blob = tar.inner.finish().context("writing the layer")?;
        blob.flush().context("writing the layer")?;
        let (digest, len) = (blob.hex(), blob.bytes);
        std::fs::rename(&temporary, self.root.join("blobs/sha256").join(&digest))
            .context("naming the layer")?;
        let kind = match compression {
            Compression::None => "application/vnd.oci.image.layer.v1.tar",
            Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        };
        Ok((descriptor(kind, (digest, len)), diff_id, summary))
    }

    /// A JSON blob; its digest and length.
    fn document(&self, value: &Value) -> Result<(String, u64)> {
        let bytes = serde_json::to_vec(value)?;
        let digest = hex::encode(Sha256::digest(&bytes));
        self.write(&format!("blobs/sha256/{digest}"), &bytes)?;
        Ok((digest, bytes.len() as u64))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.root.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))
    }
}

fn descriptor(kind: &str, (digest, len): (String, u64)) -> Value {
    json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": len })
}

/// The image's configuration. It has no date, so that equal images have equal digests.
fn config(image: &ImageFile, diff_id: &str) -> Result<Value> {
    let known = image.manifest.as_ref().and_then(|manifest| manifest.architecture.as_deref());
    let known = known.unwrap_or(std::env::consts::ARCH);
    let architecture = ARCHITECTURES.iter().find(|(name, ..)| *name == known);
    let (_, architecture, variant) =
        architecture.with_context(|| format!("no container architecture is known for {known}"))?;
    let mut config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": { "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["/bin/sh"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{diff_id}")] },
        "history": [{ "created_by": format!("image-tools export of image {}", image.toc.image_id()) }],
    });
    if let (Some(variant), Some(fields)) = (variant, config.as_object_mut()) {
        fields.insert("variant".to_owned(), json!(variant));
    }
    Ok(config)
}

/// Hashes and counts what passes.
struct Hashed<W> {
    inner: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W> Hashed<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: Sha256::new(), bytes: 0 }
    }

    fn hex(&self) -> String {
        hex::encode(self.hasher.clone().finalize())
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(bytes.get(..count).unwrap_or_default());
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

//! What an image says about itself.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use image_format::{EntryKind, Mode};
use serde_json::json;

use crate::image_file::{ImageFile, read_companion};
use crate::text;

/// What to inspect.
#[derive(Debug, Args)]
pub(crate) struct InspectArguments {
    /// The image.
    image: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// A minisign public key that may have signed it. May be repeated.
    #[arg(long, value_name = "PUB")]
    trust: Vec<PathBuf>,
}

/// Counts over the table of contents.
#[derive(Debug, Default)]
struct Counts {
    directories: u64,
    files: u64,
    links: u64,
    others: u64,
    content: u64,
    stream: u64,
    compressed: u64,
}

/// Prints it.
pub(crate) fn run(arguments: &InspectArguments) -> Result<()> {
    let image = ImageFile::open(&arguments.image, &arguments.trust)?;
    let counts = count(&image);
    let has_signature = read_companion(&arguments.image, "manifest.minisig")?.is_some();
    let signature = match (has_signature, image.signer) {
        (_, Some(key)) => format!("by trusted key {key}"),
        (true, None) => "there is one; not checked, because no --trust was given".to_owned(),
        (false, None) => "none".to_owned(),
    };
    if arguments.json {
        let value = json!({
            "file": arguments.image.display().to_string(),
            "manifest": image.manifest,
            "image_id": image.toc.image_id(),
            "file_size": image.len,
            "container_bytes": image.header.container_bytes,
            "toc": {"offset": image.header.toc_offset, "len": image.header.toc_len, "raw_len": image.header.toc_raw_len},
            "frames": image.toc.frames().len(),
            "stream_bytes": counts.stream,
            "compressed_bytes": counts.compressed,
            "content_bytes": counts.content,
            "directories": counts.directories,
            "files": counts.files,
            "links": counts.links,
            "others": counts.others,
            "signed": has_signature,
            "trusted_signer": image.signer.map(|key| key.to_string()),
        });
        println!("{}", serde_json::to_string_pretty(&value).context("encoding the answer")?);
    } else {
        print(&image, &counts, &signature);
    }
    Ok(())
}

fn count(image: &ImageFile) -> Counts {
    let mut counts = Counts::default();
    for (_, entry) in image.toc.entries() {
        match entry.kind {
            EntryKind::Directory => counts.directories += 1,
            EntryKind::File { .. } => counts.files += 1,
            EntryKind::Symlink | EntryKind::HardLink { .. } => counts.links += 1,
            _ => counts.others += 1,
        }
        counts.content += image.toc.extents(entry).iter().map(|extent| u64::from(extent.len)).sum::<u64>();
    }
    counts.stream = image.toc.frames().iter().map(|frame| u64::from(frame.raw_len)).sum();
    counts.compressed = image.toc.frames().iter().map(|frame| u64::from(frame.len)).sum();
    counts
}

fn print(image: &ImageFile, counts: &Counts, signature: &str) {
    let show = |key: &str, value: String| println!("{key:14} {value}");
    show("image id", image.toc.image_id().to_string());
    if let Some(manifest) = &image.manifest {
        let or_unknown = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".to_owned());
        show("name", manifest.name.clone());
        if manifest.mode == Mode::Partition {
            let kind = &manifest.root_file_system.kind;
            show("of", format!("a partition with a file system of kind {kind}"));
        }
        show("distribution", or_unknown(&manifest.distribution));
        show("architecture", or_unknown(&manifest.architecture));
        show("kernel", manifest.kernel.clone().unwrap_or_else(|| "none: the image does not boot".to_owned()));
        let boot = match (manifest.boot.bios, manifest.boot.uefi) {
            (true, true) => "BIOS and UEFI",
            (true, false) => "BIOS",
            (false, true) => "UEFI",
            (false, false) => "no boot loader found",
        };
        show("boots by", boot.to_owned());
        for source in &manifest.source_file_systems {
            let name = |key: &str, value: &Option<String>| {
                value
                    .as_ref()
                    .map_or_else(String::new, |value| format!(" {key}={}", text::path(value.as_bytes())))
            };
            let names = name("UUID", &source.uuid) + &name("LABEL", &source.label);
            show("from a disk", format!("{} was {}{names}", source.mount, source.kind));
        }
        show("pieces", format!("{} of {}", manifest.piece_count, text::bytes(manifest.piece_size)));
        show("info-hash", hex::encode(manifest.info_hash));
    } else {
        show("manifest", "none beside the image: nothing proves it".to_owned());
    }
    show("signature", signature.to_owned());
    show("file", text::bytes(image.len));
    show(
        "contents",
        format!(
            "{} in {} files, {} directories, {} links, {} others",
            text::bytes(counts.content),
            counts.files,
            counts.directories,
            counts.links,
            counts.others
        ),
    );
    show(
        "frames",
        format!("{} of at most {}", image.toc.frames().len(), text::bytes(image.header.container_bytes)),
    );
    let table = (text::bytes(image.header.toc_len), text::bytes(image.header.toc_raw_len));
    show("table", format!("{} compressed, {} in memory", table.0, table.1));
    let overhead = image.len.saturating_sub(counts.compressed + image.header.toc_len);
    show("pads", text::bytes(overhead));
}

//! A tree of one image -> a tree of another, by a delta image: what a node does to its old root.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use image_apply::{Redeployment, open_root, read_record, verify_tree};
use image_format::{DELTA_MANIFEST, Toc, parse_manifest};

use crate::extract::write_frames;
use crate::image_file::ImageFile;
use crate::progress;
use crate::text;

/// What to make from what.
#[derive(Debug, Args)]
pub(crate) struct UpdateArguments {
    /// The tree: all of it becomes the new image's, and what that does not have is removed.
    directory: PathBuf,
    /// The delta image.
    #[arg(long, value_name = "FILE")]
    delta: PathBuf,
    /// The image that the tree was made from, for a tree that has no record of it.
    #[arg(long, value_name = "FILE")]
    base: Option<PathBuf>,
    /// The new image, for contents that the tree should have and has not.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// A minisign public key that may have signed the delta image. May be repeated.
    #[arg(long, value_name = "PUB")]
    trust: Vec<PathBuf>,
    /// Do not read back what was made.
    #[arg(long)]
    no_read_back: bool,
}

/// Makes the new tree and reads it back.
pub(crate) fn run(arguments: &UpdateArguments) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "update sets owners and makes devices: run it as root");
    let directory = &arguments.directory;
    let delta = ImageFile::open(&arguments.delta, &arguments.trust)?;
    let leads = delta.require_manifest()?.delta;
    let leads = leads.with_context(|| format!("{} is no delta image", delta.path.display()))?;
    let old = old_table(arguments)?;
    ensure!(
        old.image_id() == leads.base,
        "{} is of image {}, and the delta image is for {}; nothing was changed",
        directory.display(),
        old.image_id(),
        leads.base
    );
    let full = arguments.image.as_deref().map(|path| ImageFile::open(path, &[])).transpose()?;
    ensure!(
        full.as_ref().is_none_or(|full| full.toc.image_id() == leads.image),
        "the delta image leads to another image than the one given; nothing was changed"
    );

    let redeployment = Redeployment::begin(directory)?;
    let staging = redeployment.delta_directory();
    let applier = image_apply::Applier::begin(&staging, Arc::clone(&delta.toc))?;
    write_frames(&applier, &delta, &applier.unwritten())?;
    applier.finish()?;
    let manifest = std::fs::read(staging.join(DELTA_MANIFEST)).context("reading the new image's manifest")?;
    let manifest = parse_manifest(&manifest)?;
    ensure!(manifest.image_id == leads.image, "the delta image contradicts itself");
    let (applier, toc, reused) = redeployment.assemble(&manifest, &delta.toc, Some(&old))?;
    let missing = applier.unwritten();
    match &full {
        Some(full) => write_frames(&applier, full, &missing)?,
        None if missing.is_empty() => {}
        None => bail!(
            "{} had not all that its image has, so it is incomplete now: extract the new image. With --image the missing comes from there",
            directory.display()
        ),
    }
    redeployment.remove()?;
    let written = applier.finish()?;
    if !arguments.no_read_back {
        let bar = progress::bytes("reading back", manifest.content_bytes);
        verify_tree(directory, &toc, &|bytes| bar.inc(bytes))?;
        bar.finish_and_clear();
    }
    println!(
        "{}: {} entries, {} files with {} kept or brought by the delta image, {} from the whole image",
        directory.display(),
        written.entries,
        reused.files,
        text::bytes(reused.bytes),
        text::bytes(written.bytes),
    );
    Ok(())
}

fn old_table(arguments: &UpdateArguments) -> Result<Arc<Toc>> {
    if let Some(base) = &arguments.base {
        return Ok(ImageFile::open(base, &[])?.toc);
    }
    let shown = arguments.directory.display();
    let root = open_root(&arguments.directory).with_context(|| format!("opening {shown}"))?;
    let record = read_record(root.as_fd());
    let table =
        record.with_context(|| format!("{shown} has no record of its image; name that with --base"))?;
    Ok(Arc::new(table))
}

//! Archives, container images, disks, directories, one over the other -> an image.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use image_source::oci::Platform;

use crate::build::{self, BuildOptions};
use crate::exclude::Excludes;
use crate::sources::{SourceOptions, Sources};

/// Bytes that all sources together may unpack to [GiB]: above real systems, below what fills a disk by a mistake.
const LIMIT_GIB: u64 = 64;

/// What to import and where to.
#[derive(Debug, Args)]
pub(crate) struct ImportArguments {
    /// Tar (plain, gzip, zstd), OCI image layout or docker-archive (directory or tar), cloud image (qcow2 or raw disk),
    /// or a directory; known by its contents. `-` for a stream on standard input.
    source: PathBuf,
    /// Lay this source over those before it, as if it were unpacked there. May be repeated.
    #[arg(long = "layer", value_name = "SOURCE")]
    layers: Vec<PathBuf>,
    /// Leave out what matches, with all beneath it: a path from the root, with `*`, `?` and `**`. May be repeated.
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Of a container archive with several images: this name or tag.
    #[arg(long, value_name = "NAME")]
    reference: Option<String>,
    /// Of an image for several platforms: this one, like linux/arm64 [default: this machine's].
    #[arg(long, value_name = "OS/ARCH", value_parser = Platform::parse)]
    platform: Option<Platform>,
    /// Of a disk with several systems: the number of the partition with the root file system.
    #[arg(long, value_name = "NUMBER")]
    root_partition: Option<u32>,
    /// Refuse sources that unpack to more.
    #[arg(long, value_name = "GIB", default_value_t = LIMIT_GIB, value_parser = clap::value_parser!(u64).range(1..1 << 20))]
    limit_gib: u64,
    #[command(flatten)]
    build: BuildOptions,
}

/// Makes the image.
pub(crate) fn run(arguments: &ImportArguments) -> Result<()> {
    let options = SourceOptions {
        reference: arguments.reference.clone(),
        root_partition: arguments.root_partition,
        platform: arguments.platform.clone().unwrap_or_else(|| Platform::of_machine(std::env::consts::ARCH)),
    };
    let mut sources = Sources::new(&arguments.build.output, arguments.limit_gib << 30)?;
    for path in std::iter::once(&arguments.source).chain(&arguments.layers) {
        sources.add(path, &options).with_context(|| format!("importing {}", path.display()))?;
    }
    let excludes = Excludes::given(&arguments.exclude, true);
    let file_systems = sources.file_systems().to_vec();
    let (tree, contents) = sources.into_tree(&excludes)?;
    build::build_from_disk(&tree, &contents, &arguments.build, file_systems)
}

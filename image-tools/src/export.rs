//! An image -> what other programs and machines read: a tar archive, an OCI image layout, or a disk.
//!
//! Never gives a byte whose frame was not checked, and leaves nothing under the output's name until it is complete.

mod disk;
mod oci;
mod stream;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use image_format::Mode;

use crate::image_file::ImageFile;
use crate::pending::Pending;

/// What to export and where to.
#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// The image.
    image: PathBuf,
    /// The archive, the directory of the layout, or the disk to make. `-` writes an archive to standard output.
    #[arg(short, long, value_name = "FILE|DIR")]
    output: PathBuf,
    /// In which form.
    #[arg(long = "as", value_enum, default_value_t = Form::Tar)]
    form: Form,
    /// How the tar stream is compressed [default: not at all in an archive, gzip in a layout].
    #[arg(long, value_enum)]
    compress: Option<Compression>,
    /// The name of the image in the layout (`org.opencontainers.image.ref.name`).
    #[arg(long, value_name = "NAME", default_value = "latest")]
    reference: String,
    /// A minisign public key that may have signed the image. May be repeated.
    #[arg(long, value_name = "PUB")]
    trust: Vec<PathBuf>,
    #[command(flatten)]
    disk: disk::DiskArguments,
}

/// Forms that others read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A pax archive with extended attributes, ACLs, file flags and holes, as GNU tar and bsdtar restore them.
    Tar,
    /// A directory that skopeo, umoci, podman and buildah read: an image of one layer.
    Oci,
    /// A raw disk that a machine starts from: partition table, file systems and boot loaders.
    Disk,
}

/// Of a tar stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

/// Writes it.
pub(crate) fn run(arguments: &ExportArguments) -> Result<()> {
    let image = ImageFile::open(&arguments.image, &arguments.trust)?;
    let is_files = image.manifest.as_ref().is_none_or(|manifest| manifest.mode == Mode::Files);
    ensure!(is_files, "{} is not an image of files", image.path.display());
    match arguments.form {
        Form::Tar => export_tar(&image, arguments),
        Form::Oci => {
            let compression = arguments.compress.unwrap_or(Compression::Gzip);
            oci::export(&image, &arguments.output, &arguments.reference, compression)
        }
        Form::Disk => disk::export(&image, &arguments.output, &arguments.disk),
    }
}

fn export_tar(image: &ImageFile, arguments: &ExportArguments) -> Result<()> {
    let compression = arguments.compress.unwrap_or(Compression::None);
    let summary = if arguments.output == Path::new("-") {
        let mut out = Encoder::new(BufWriter::new(io::stdout().lock()), compression)?;
        let summary = stream::write(image, &mut out)?;
        out.finish()?.flush().context("writing the archive")?;
        summary
    } else {
        let file = Pending::beside(&arguments.output)?;
        let writer: BufWriter<&File> = BufWriter::with_capacity(1 << 20, file.file());
        let mut out = Encoder::new(writer, compression)?;
        let summary = stream::write(image, &mut out)?;
        out.finish()?.flush().context("writing the archive")?;
        file.appear_as(&arguments.output)?;
        summary
    };
    eprintln!("{}: {summary}", arguments.output.display());
    Ok(())
}

/// Compresses what is written to it.
enum Encoder<W: Write> {
    None(W),
    Gzip(flate2::write::GzEncoder<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    fn new(writer: W, compression: Compression) -> Result<Self> {
        Ok(match compression {
            Compression::None => Self::None(writer),
            Compression::Gzip => {
                Self::Gzip(flate2::write::GzEncoder::new(writer, flate2::Compression::default()))
            }
            Compression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(writer, zstd::DEFAULT_COMPRESSION_LEVEL)?;
                encoder.include_checksum(true)?;
                Self::Zstd(encoder)
            }
        })
    }

    fn finish(self) -> io::Result<W> {
        match self {
            Self::None(writer) => Ok(writer),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(writer) => writer.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::None(writer) => writer.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

//! Keys that sign images, in minisign's format: `minisign` itself reads and makes the same files.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use image_format::{Manifest, parse_manifest, verify_signature};
use minisign::{KeyPair, PublicKey, SecretKey, SecretKeyBox};

use crate::pending::{companion, write_whole};

/// Key and signature files are a few lines.
const KEY_BYTES_MAX: u64 = 4096;

/// A new key pair.
#[derive(Debug, Args)]
pub(crate) struct KeygenArguments {
    /// Makes NAME.pub, which servers trust, and NAME.key, which stays secret.
    #[arg(short, long, value_name = "NAME")]
    output: PathBuf,
    /// Keep the secret key without a password: for machines that sign by themselves.
    #[arg(long)]
    no_password: bool,
}

/// What to sign.
#[derive(Debug, Args)]
pub(crate) struct SignArguments {
    /// The image; its manifest is signed.
    image: PathBuf,
    /// The minisign secret key.
    #[arg(short, long)]
    key: PathBuf,
}

/// Makes a key pair; never over an older one.
pub(crate) fn keygen(arguments: &KeygenArguments) -> Result<()> {
    let public = companion(&arguments.output, "pub");
    let secret = companion(&arguments.output, "key");
    for path in [&public, &secret] {
        if path.exists() {
            bail!("{} is there already; choose another name or remove it yourself", path.display());
        }
    }
    let pair = if arguments.no_password {
        KeyPair::generate_unencrypted_keypair()
    } else {
        KeyPair::generate_encrypted_keypair(None)
    };
    let pair = pair.context("making a key pair")?;
    let secret_text =
        pair.sk.to_box(Some("esir image secret key")).context("encoding the secret key")?.into_string();
    let public_text = pair.pk.to_box().context("encoding the public key")?.into_string();
    write_secret(&secret, &secret_text).with_context(|| format!("writing {}", secret.display()))?;
    if let Err(error) = write_whole(&public, public_text.as_bytes()) {
        // A secret key whose public half nobody has is of no use; the error tells the rest.
        let _ = std::fs::remove_file(&secret);
        return Err(error);
    }
    println!("{} (trust this), {} (keep this secret)", public.display(), secret.display());
    Ok(())
}

/// Only its owner can read it, from the first instant.
fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Signs an image's manifest.
pub(crate) fn sign(arguments: &SignArguments) -> Result<()> {
    let path = companion(&arguments.image, "manifest");
    let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let manifest = parse_manifest(&bytes).with_context(|| format!("reading {}", path.display()))?;
    let key = read_secret_key(&arguments.key)?;
    let signature = sign_manifest(&bytes, &manifest, &key)?;
    let output = companion(&arguments.image, "manifest.minisig");
    write_whole(&output, signature.as_bytes())?;
    println!("{}: image {} signed", output.display(), manifest.image_id);
    Ok(())
}

/// The text of the signature file over a manifest's bytes, checked once more.
pub(crate) fn sign_manifest(bytes: &[u8], manifest: &Manifest, key: &SecretKey) -> Result<String> {
    let comment = format!("esir image {} {}", manifest.name, manifest.image_id);
    let signature = minisign::sign(None, key, std::io::Cursor::new(bytes), Some(&comment), None)
        .context("signing the manifest")?
        .into_string();
    let public = PublicKey::from_secret_key(key).context("signing the manifest")?.to_base64();
    verify_signature(bytes, &signature, &[public])?;
    Ok(signature)
}

/// Reads a secret key; asks for its password on the terminal if it has one.
pub(crate) fn read_secret_key(path: &Path) -> Result<SecretKey> {
    let text = read_short(path)?;
    let parse = || {
        SecretKeyBox::from_string(&text)
            .with_context(|| format!("{} is not a minisign secret key", path.display()))
    };
    if let Ok(key) = parse()?.into_unencrypted_secret_key() {
        return Ok(key);
    }
    let wrong = || format!("{} is not a minisign secret key, or the password was wrong", path.display());
    parse()?.into_secret_key(None).with_context(wrong)
}

/// The text of a public key file.
pub(crate) fn read_public_key(path: &Path) -> Result<String> {
    let text = read_short(path)?;
    let line =
        text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with("untrusted comment:"));
    PublicKey::from_base64(line.unwrap_or_default())
        .map_err(|_| anyhow!("{} is not a minisign public key", path.display()))?;
    Ok(text)
}

fn read_short(path: &Path) -> Result<String> {
    let doing = || format!("reading {}", path.display());
    let len = std::fs::metadata(path).with_context(doing)?.len();
    if len > KEY_BYTES_MAX {
        bail!("{} is too long for a key", path.display());
    }
    std::fs::read_to_string(path).with_context(doing)
}

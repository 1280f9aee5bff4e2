//! The site file on disk, with what lies beside it.
//!
//! Never judges it: the crate `site-file` does.

mod overlays;

use std::path::Path;

use anyhow::{Context as _, Result};
use site_file::{Overrides, Site, SiteProblems, SiteText};

use overlays::Beside;

/// A site file is a page or a few thousand nodes; anything larger is another file.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// Reads and checks a site file; without one, the defaults and the command line.
pub(crate) fn read_site(path: Option<&Path>, overrides: &Overrides) -> Result<Site> {
    let Some(path) = path else { return Ok(parse_site("the command line", "", None, overrides)?) };
    let reading = || format!("reading the site file {}", path.display());
    let bytes = std::fs::metadata(path).with_context(reading)?.len();
    anyhow::ensure!(bytes <= FILE_BYTES_MAX, "{} has {bytes} bytes and is no site file", path.display());
    let text = std::fs::read_to_string(path).with_context(reading)?;
    Ok(parse_site(&path.display().to_string(), &text, path.parent(), overrides)?)
}

/// Checks the text of a site file. `file` is its name for messages, `base` what its paths are relative to.
pub(crate) fn parse_site(
    file: &str,
    text: &str,
    base: Option<&Path>,
    overrides: &Overrides,
) -> Result<Site, SiteProblems> {
    let beside = Beside { base: base.map(Path::to_owned).unwrap_or_default() };
    site_file::parse_site(SiteText { file, text, base }, overrides, &beside)
}

#[cfg(test)]
mod tests;

//! The site file: what one installation wants. Raw text -> checked value, all problems at once.
//!
//! Never opens a file, a socket or a clock: what lies beside the text comes through [`Source`].
//!
//! Read first: [`Site`] (what comes of it), [`parse_site`], [`Overrides`] (what the command line says).
//!
//! ```text
//! text --toml, section by section--> RawSite --Checker, Overrides, Source--> Site
//!                                               `-> SiteProblems: file, line, what is wrong, what to write instead
//! ```
#![forbid(unsafe_code)]

mod check;
mod dhcp;
mod menus;
mod network;
mod raw;
mod site;
mod systems;

#[cfg(test)]
mod tests;

use std::path::Path;

use serde::de::DeserializeOwned;
use system_steps::{RawSystem, Source};
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use check::Checker;
use raw::RawSite;

pub use network::{DEFAULT_LEASE, DhcpConfig, DhcpMode, Network};
pub use site::{ApproveRules, Changeable, Overrides, Site, SiteNode, Untrusted};

/// The text of a site file.
#[derive(Clone, Copy, Debug)]
pub struct SiteText<'a> {
    /// Its name for messages.
    pub file: &'a str,
    /// What is in it.
    pub text: &'a str,
    /// What its paths are relative to; `None` leaves them as they are.
    pub base: Option<&'a Path>,
}

/// Everything that is wrong with a site, each with what to write instead.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct SiteProblems(pub Vec<String>);

/// Checks a site file. Overlays, hooks and user data that it names come from `beside`, under their paths as written.
///
/// # Errors
/// All problems at once, one line each.
pub fn parse_site(
    site: SiteText<'_>,
    overrides: &Overrides,
    beside: &dyn Source,
) -> Result<Site, SiteProblems> {
    let mut checker = Checker::new(site.file, site.text);
    let raw = parse_raw(site.text, &mut checker);
    let checked = checker.check(raw, (site.base, beside), overrides);
    if checker.problems.is_empty() { Ok(checked) } else { Err(SiteProblems(checker.problems)) }
}

/// Each section by itself, so that a mistake in one does not hide those in the others.
fn parse_raw(text: &str, checker: &mut Checker<'_>) -> RawSite {
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        checker.problem(error.span(), format!("{}; correct the TOML here", error.message()));
    }
    let mut raw = RawSite::default();
    if !errors.is_empty() {
        return raw;
    }
    for (key, value) in document.into_inner() {
        match key.get_ref().as_ref() {
            "name" => raw.name = section(value, checker),
            "server" => raw.server = section(value, checker).unwrap_or_default(),
            "dhcp" => raw.dhcp = section(value, checker).unwrap_or_default(),
            "image" => raw.image = section(value, checker).unwrap_or_default(),
            "approve" => raw.approve = section(value, checker).unwrap_or_default(),
            "boot" => raw.boot = section(value, checker).unwrap_or_default(),
            "swarm" => raw.swarm = section(value, checker).unwrap_or_default(),
            "layout" => raw.layout = section(value, checker),
            "access" => raw.access = section(value, checker).unwrap_or_default(),
            "deploy" => raw.deploy = section(value, checker).unwrap_or_default(),
            "node" => raw.nodes = section(value, checker).unwrap_or_default(),
            "system" => raw.system = section(value, checker),
            other => {
                let mut value = value;
                if other == "group" {
                    raw.group_systems = group_systems(&mut value, checker);
                }
                if raw.menus.take(other, value).is_some() {
                    checker.problem(
                        Some(key.span()),
                        format!(
                            "there is no section `{other}`; the sections are name, server, dhcp, image, approve, \
                             boot, swarm, layout, access, deploy, node, system, {}",
                            boot_menu::SECTIONS.join(", ")
                        ),
                    );
                }
            }
        }
    }
    raw
}

/// Takes the `system` tables out of `[group.NAME]`; the rest of a group is about menus.
fn group_systems(
    groups: &mut Spanned<DeValue<'_>>,
    checker: &mut Checker<'_>,
) -> Vec<(String, Spanned<RawSystem>)> {
    let DeValue::Table(groups) = groups.get_mut() else { return Vec::new() };
    let mut found = Vec::new();
    for (name, group) in groups.iter_mut() {
        let DeValue::Table(group) = group.get_mut() else { continue };
        if let Some(value) = group.remove("system")
            && let Some(system) = section(value, checker)
        {
            found.push((name.get_ref().clone().into_owned(), system));
        }
    }
    found
}

fn section<T: DeserializeOwned>(value: Spanned<DeValue<'_>>, checker: &mut Checker<'_>) -> Option<T> {
    let span = value.span();
    match T::deserialize(ValueDeserializer::from(value)) {
        Ok(section) => Some(section),
        Err(error) => {
            checker.problem(error.span().or(Some(span)), error.message().to_owned());
            None
        }
    }
}

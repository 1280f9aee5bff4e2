//! The sections as written, each entry by itself, so that a mistake in one hides none in the others.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeValue, ValueDeserializer};

/// The sections of the site file that are about menus.
pub const SECTIONS: [&str; 6] = ["vars", "user", "entry", "menu", "group", "default"];

/// Something wrong, where it is in the text, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Bytes of the text.
    pub span: Option<Range<usize>>,
    /// One sentence.
    pub what: String,
}

/// What the file says, unchecked.
#[derive(Debug, Default)]
pub struct Sections {
    pub(crate) vars: BTreeMap<String, Spanned<String>>,
    pub(crate) users: Named<RawUser>,
    pub(crate) entries: Named<RawEntry>,
    pub(crate) menus: Named<RawMenu>,
    pub(crate) groups: Named<RawGroup>,
    pub(crate) default: Option<RawChoice>,
    pub(crate) problems: Vec<Problem>,
}

pub(crate) type Named<T> = Vec<(String, Range<usize>, T)>;

/// `[user.NAME]`: who may choose protected entries. `pxe-server menu password NAME` prints both lines.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawUser {
    /// MD5 of `NAME:esir:PASSWORD`, hex.
    pub(crate) digest: Spanned<String>,
    /// `grub.pbkdf2.sha512...`; without it GRUB does not show the entries of this user.
    pub(crate) grub: Option<Spanned<String>>,
}

/// `[entry.NAME]`: one thing to boot. Exactly one of `deploy` to `shell` says what.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawEntry {
    /// What people read; default: the name.
    pub(crate) title: Option<Spanned<String>>,
    /// One of a-z and 0-9 that chooses the entry at once.
    pub(crate) key: Option<Spanned<String>>,
    /// Who may choose it, after giving a password. Default: everybody.
    pub(crate) users: Option<Vec<Spanned<String>>>,
    /// `bios`, `uefi`, `secureboot`: where it is shown. Default: wherever it can be booted.
    pub(crate) firmware: Option<Vec<Spanned<String>>>,
    /// What the server has for the node: its deployment, else its own disk.
    pub(crate) deploy: Option<Spanned<bool>>,
    /// The agent without a task: it reports the hardware.
    pub(crate) inventory: Option<Spanned<bool>>,
    /// `auto`, `exit1`, `exit0`, `sanboot` or `ignore`; `auto` takes the group's way.
    pub(crate) local: Option<Spanned<String>>,
    /// A Linux kernel: file or URL.
    pub(crate) kernel: Option<Spanned<String>>,
    /// Its initrds.
    pub(crate) initrd: Option<Vec<Spanned<String>>>,
    /// Its command line.
    pub(crate) args: Option<Spanned<String>>,
    /// A program for bare firmware.
    pub(crate) program: Option<Spanned<RawProgram>>,
    /// Memtest86+ as Debian names its files.
    pub(crate) memtest: Option<Spanned<bool>>,
    /// Another loader's script or program: file or URL.
    pub(crate) chain: Option<Spanned<String>>,
    /// The loader's command line.
    pub(crate) shell: Option<Spanned<bool>>,
}

/// `program = { bios = "a.bin", uefi = "a.efi" }`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawProgram {
    /// In Linux boot format.
    pub(crate) bios: Option<Spanned<String>>,
    /// An EFI program.
    pub(crate) uefi: Option<Spanned<String>>,
    /// A signed EFI program.
    pub(crate) secureboot: Option<Spanned<String>>,
}

/// `[menu.NAME]`: one page of choices.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawMenu {
    /// The page's head; default: the name.
    pub(crate) title: Option<Spanned<String>>,
    /// Seconds until the default is taken, 1 to 3600. Default: never.
    pub(crate) timeout: Option<Spanned<u32>>,
    /// An item, as under `items`. Default: the first.
    pub(crate) default: Option<Spanned<String>>,
    /// `entry`, `>menu`, or `-- a heading`.
    pub(crate) items: Vec<Spanned<String>>,
}

/// `[group.NAME]`: nodes with something in common.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawGroup {
    /// Who is in it. Nodes can also name the group themselves.
    #[serde(default, rename = "match")]
    pub(crate) select: RawMatch,
    pub(crate) menu: Option<Spanned<String>>,
    pub(crate) boot: Option<Spanned<String>>,
    pub(crate) once: Option<Spanned<String>>,
    pub(crate) then: Option<Spanned<String>>,
    pub(crate) local: Option<Spanned<String>>,
    pub(crate) secure_boot: Option<bool>,
    #[serde(default)]
    pub(crate) vars: BTreeMap<String, Spanned<String>>,
}

/// `match = { ... }`: a node that any of these means is in the group.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawMatch {
    pub(crate) mac: OneOrMore,
    pub(crate) serial: OneOrMore,
    pub(crate) uuid: OneOrMore,
    pub(crate) hosts: OneOrMore,
    pub(crate) subnet: OneOrMore,
    pub(crate) relay: OneOrMore,
}

/// `"a"` or `["a", "b"]`.
#[derive(Debug, Default, Deserialize)]
#[serde(from = "OneOrMoreForms")]
pub struct OneOrMore(pub Vec<String>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMoreForms {
    One(String),
    More(Vec<String>),
}

impl From<OneOrMoreForms> for OneOrMore {
    fn from(forms: OneOrMoreForms) -> Self {
        match forms {
            OneOrMoreForms::One(one) => Self(vec![one]),
            OneOrMoreForms::More(more) => Self(more),
        }
    }
}

/// What a rule gives its nodes: `[default]`, and the same words in `[group.NAME]` and `[[node]]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawChoice {
    /// The menu that is shown.
    pub menu: Option<Spanned<String>>,
    /// The entry that is booted without a menu.
    pub boot: Option<Spanned<String>>,
    /// An entry, or `>menu`, for the next boot only; the server remembers which nodes had it.
    pub once: Option<Spanned<String>>,
    /// An entry, or `>menu`, after `once`. Default: `menu` or `boot`.
    pub then: Option<Spanned<String>>,
    /// `auto`, `exit1`, `exit0`, `sanboot` or `ignore`: how these nodes get to their own disk.
    pub local: Option<Spanned<String>>,
    /// Whether UEFI gets only loaders that are signed: shim and GRUB instead of iPXE. Default: found out.
    pub secure_boot: Option<bool>,
    /// Variables.
    #[serde(default)]
    pub vars: BTreeMap<String, Spanned<String>>,
}

impl Sections {
    /// Takes a section of the file, if it is one of [`SECTIONS`]; otherwise gives it back.
    pub fn take<'i>(&mut self, key: &str, value: Spanned<DeValue<'i>>) -> Option<Spanned<DeValue<'i>>> {
        let problems = &mut self.problems;
        match key {
            "vars" => self.vars = section(value, problems).unwrap_or_default(),
            "default" => self.default = section(value, problems),
            "user" => self.users = named(key, value, problems),
            "entry" => self.entries = named(key, value, problems),
            "menu" => self.menus = named(key, value, problems),
            "group" => self.groups = named(key, value, problems),
            _ => return Some(value),
        }
        None
    }
}

fn section<T: DeserializeOwned>(value: Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<T> {
    let span = value.span();
    match T::deserialize(ValueDeserializer::from(value)) {
        Ok(section) => Some(section),
        Err(error) => {
            let what = format!("{}; correct it or remove it", error.message());
            problems.push(Problem { span: error.span().or(Some(span)), what });
            None
        }
    }
}

fn named<T: DeserializeOwned>(
    key: &str,
    value: Spanned<DeValue<'_>>,
    problems: &mut Vec<Problem>,
) -> Named<T> {
    let span = value.span();
    let DeValue::Table(table) = value.into_inner() else {
        problems
            .push(Problem { span: Some(span), what: format!("`{key}` must have names; write [{key}.NAME]") });
        return Vec::new();
    };
    let mut found = Vec::new();
    for (name, value) in table {
        let span = name.span();
        if let Some(section) = section(value, problems) {
            found.push((name.into_inner().into_owned(), span, section));
        }
    }
    found
}

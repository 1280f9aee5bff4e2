//! The checked model. What is in here holds together: every name that is used exists.

use std::collections::{BTreeMap, BTreeSet};

use dhcp_wire::MacAddr;

use crate::select::Match;
use crate::text::{Location, Template};

/// Everything that a site says about menus.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Menus {
    pub(crate) vars: BTreeMap<String, String>,
    pub(crate) users: BTreeMap<String, User>,
    pub(crate) entries: BTreeMap<String, Entry>,
    pub(crate) menus: BTreeMap<String, Menu>,
    pub(crate) groups: Vec<Group>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) default: Choice,
}

/// What a node starts from, as far as loaders differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Firmware {
    /// PC BIOS; the loader is iPXE.
    Bios,
    /// UEFI; the loader is iPXE.
    Uefi,
    /// UEFI with Secure Boot; the loader is a signed GRUB.
    SecureBoot,
}

impl Firmware {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Bios, Self::Uefi, Self::SecureBoot];

    /// As in the site file and on the command line.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Bios => "bios",
            Self::Uefi => "uefi",
            Self::SecureBoot => "secureboot",
        }
    }
}

/// A person who may choose protected entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// MD5 of `NAME:esir:PASSWORD`, 32 hex digits: what HTTP Digest calls HA1 (RFC 7616 section 3.4.2).
    pub digest: String,
    /// `grub.pbkdf2.sha512...`; without it the entries are not shown by GRUB.
    pub grub: Option<String>,
}

/// One thing that a node can boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub(crate) title: Template,
    pub(crate) key: Option<char>,
    pub(crate) users: Vec<String>,
    pub(crate) firmware: Vec<Firmware>,
    pub(crate) kind: Kind,
}

impl Entry {
    /// Who may choose it; empty: everybody.
    #[must_use]
    pub fn users(&self) -> &[String] {
        &self.users
    }

    /// What it boots.
    #[must_use]
    pub fn kind(&self) -> &Kind {
        &self.kind
    }
}

/// What an entry boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What the server has for the node: a deployment that is owed to it, else its own disk.
    Deploy,
    /// The agent, which reports the node's hardware and gets no task in this boot.
    Inventory,
    /// The node's own disk; `None`: as its group says.
    Local(Option<Local>),
    /// A Linux kernel.
    Kernel {
        /// File or URL.
        kernel: Template,
        /// Files or URLs, in order.
        initrd: Vec<Template>,
        /// Kernel command line.
        args: Template,
    },
    /// A program for bare firmware, such as memtest.
    Program(Program),
    /// Another loader's script or program.
    Chain(Template),
    /// The loader's own command line.
    Shell,
}

/// One program in a form for each firmware.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// In Linux boot format.
    pub bios: Option<Template>,
    /// An EFI program.
    pub uefi: Option<Template>,
    /// A signed EFI program.
    pub secureboot: Option<Template>,
}

/// How a node gets to its own disk. Firmware differs in what it understands by an ended network boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// The first disk on BIOS, the next boot entry on UEFI.
    Auto,
    /// End the loader with an error: most UEFI firmware tries its next boot entry.
    Exit1,
    /// End the loader without one: for firmware that stops at an error.
    Exit0,
    /// Start the first disk's boot sector.
    Sanboot,
    /// Leave the node's DHCP unanswered while its own disk is what it gets, so that its firmware never begins a network
    /// boot. A loader that runs already is told what [`Local::Auto`] says.
    Ignore,
}

/// One page of choices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Menu {
    pub(crate) title: Template,
    pub(crate) timeout_s: Option<u32>,
    pub(crate) default: Option<Start>,
    pub(crate) items: Vec<Item>,
}

/// One line of a menu.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// Text that cannot be chosen.
    Heading(Template),
    /// An entry or another menu.
    Start(Start),
}

/// Where a node can go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Start {
    /// An entry, by name.
    Entry(String),
    /// A menu, by name.
    Menu(String),
}

/// What a group, a node or the default says. What is absent comes from the next rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) start: Option<Start>,
    pub(crate) once: Option<Start>,
    pub(crate) then: Option<Start>,
    pub(crate) local: Option<Local>,
    pub(crate) secure_boot: Option<bool>,
    pub(crate) vars: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) select: Match,
    pub(crate) choice: Choice,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) mac: MacAddr,
    pub(crate) name: String,
    pub(crate) group: Option<String>,
    pub(crate) choice: Choice,
}

impl Menus {
    /// Whether the site says nothing about menus: then every node gets what the server has for it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let says = |choice: &Choice| choice.start.is_some() || choice.once.is_some();
        !says(&self.default)
            && !self.groups.iter().any(|group| says(&group.choice))
            && !self.nodes.iter().any(|node| says(&node.choice))
    }

    /// As [`Self::is_empty`], and it leaves no node alone that boots from its own disk.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        let alone = |choice: &Choice| choice.local == Some(Local::Ignore);
        self.is_empty()
            && !self.says_secure_boot()
            && !alone(&self.default)
            && !self.groups.iter().any(|group| alone(&group.choice))
            && !self.nodes.iter().any(|node| alone(&node.choice))
    }

    /// Whether any rule says which loaders nodes get.
    #[must_use]
    pub fn says_secure_boot(&self) -> bool {
        let of_groups = self.groups.iter().map(|group| &group.choice);
        let mut all = of_groups.chain(self.nodes.iter().map(|node| &node.choice)).chain([&self.default]);
        all.any(|choice| choice.secure_boot.is_some())
    }

    /// Names of all entries, then of all menus.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().chain(self.menus.keys()).map(String::as_str)
    }

    /// An entry by name.
    #[must_use]
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// A user by name.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name)
    }

    /// Every file that an entry names without variables, with the entry.
    #[must_use]
    pub fn files(&self) -> Vec<(&str, String)> {
        let nothing = BTreeMap::new();
        let of = |entry: &Entry| -> Vec<Template> {
            match &entry.kind {
                Kind::Kernel { kernel, initrd, .. } => {
                    std::iter::once(kernel).chain(initrd).cloned().collect()
                }
                Kind::Program(program) => [&program.bios, &program.uefi, &program.secureboot]
                    .into_iter()
                    .flatten()
                    .cloned()
                    .collect(),
                Kind::Chain(to) => vec![to.clone()],
                Kind::Deploy | Kind::Inventory | Kind::Local(_) | Kind::Shell => Vec::new(),
            }
        };
        let file = |template: &Template| match Location::parse(&template.fill(&nothing).ok()?)? {
            Location::File(file) => Some(file),
            Location::Url { .. } => None,
        };
        let entries = self.entries.iter();
        entries
            .flat_map(|(name, entry)| {
                of(entry).iter().filter_map(file).map(|file| (name.as_str(), file)).collect::<Vec<_>>()
            })
            .collect()
    }

    /// The name that the site gives a NIC.
    #[must_use]
    pub fn node_name(&self, mac: MacAddr) -> Option<&str> {
        self.nodes.iter().find(|node| node.mac == mac).map(|node| node.name.as_str())
    }

    /// Every variable that anybody sets.
    #[must_use]
    pub fn variable_names(&self) -> BTreeSet<String> {
        let of_rules =
            self.groups.iter().map(|group| &group.choice).chain(self.nodes.iter().map(|node| &node.choice));
        let of_rules = of_rules.chain([&self.default]).flat_map(|choice| choice.vars.keys());
        self.vars.keys().chain(of_rules).cloned().collect()
    }

    /// Hardware addresses and names of the nodes that the site names.
    pub fn nodes(&self) -> impl Iterator<Item = (MacAddr, &str)> {
        self.nodes.iter().map(|node| (node.mac, node.name.as_str()))
    }
}

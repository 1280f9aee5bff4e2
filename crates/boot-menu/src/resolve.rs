//! What one node gets in one boot.
//!
//! Precedence: its own address (a `[[node]]`, then patterns, the longer first) > serial number > UUID > group (hosts,
//! subnet, relay, or named by the node) > `[default]`. Each setting comes from the first rule that has it; variables are
//! taken one by one. Of two rules of the same rank a node goes before a group, and groups go by name.

use std::collections::BTreeMap;

use crate::Server;
use crate::model::Firmware;
use crate::model::{Choice, Entry, Item, Kind, Local, Menu, Menus, Start};
use crate::select::{Facts, Rank};
use crate::text::{Location, Template, fact};

/// Longest address of 17 characters, one more than any pattern has.
const NODE_RANK: Rank = Rank::Mac(18);

/// What a node gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan<'a> {
    /// Where it begins.
    pub start: Start,
    /// Names the `once` rule that made it so; the server writes it down before it answers.
    pub once: Option<String>,
    pub(crate) menus: &'a Menus,
    pub(crate) values: BTreeMap<String, String>,
    pub(crate) local: Local,
    pub(crate) firmware: Firmware,
}

/// An entry with everything filled in for one node, or why it cannot be booted there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// One line for people.
    pub title: String,
    /// The key that chooses it.
    pub key: Option<char>,
    /// Who may choose it; empty: everybody.
    pub users: Vec<String>,
    /// What is done.
    pub step: Step,
}

/// What is done to boot an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The server is asked, because it decides or because it makes a token for this boot.
    Ask,
    /// The node's own disk.
    Local(Local),
    /// A Linux kernel.
    Kernel {
        /// Where it is.
        kernel: Location,
        /// Where its initrds are.
        initrd: Vec<Location>,
        /// Words of the command line.
        args: Vec<String>,
    },
    /// A program for bare firmware.
    Program(Location),
    /// Another loader.
    Chain(Location),
    /// The loader's command line.
    Shell,
}

impl Menus {
    /// What a node gets; `None` if the site says nothing about it. `had` says whether the node has had a `once` already.
    #[must_use]
    pub fn resolve<'a>(
        &'a self,
        facts: &Facts,
        server: &Server,
        had: impl Fn(&str) -> bool,
    ) -> Option<Plan<'a>> {
        let rules = self.rules(facts);
        let (start, once) = first_start(&rules, had)?;
        let local = rules.iter().find_map(|(_, choice)| choice.local).unwrap_or(Local::Auto);
        Some(Plan {
            start: start.clone(),
            once,
            menus: self,
            values: self.values(facts, server, &rules),
            local,
            firmware: facts.firmware,
        })
    }

    /// How a node gets to its own disk, if that is what it gets without anybody's choice; `owes_nothing` says whether the
    /// server has nothing else for it. `None`: it gets something else, or a menu.
    #[must_use]
    pub fn own_disk(&self, facts: &Facts, owes_nothing: bool, had: impl Fn(&str) -> bool) -> Option<Local> {
        let rules = self.rules(facts);
        let local = rules.iter().find_map(|(_, choice)| choice.local).unwrap_or(Local::Auto);
        let by_server = owes_nothing.then_some(local);
        match first_start(&rules, had) {
            None => by_server,
            Some((Start::Menu(_), _)) => None,
            Some((Start::Entry(name), _)) => {
                // On other firmware such an entry says that it is not for this machine.
                let entry = self.entries.get(name).filter(|entry| entry.firmware.is_empty())?;
                match &entry.kind {
                    Kind::Local(style) => Some(style.unwrap_or(local)),
                    Kind::Deploy => by_server,
                    _ => None,
                }
            }
        }
    }

    /// An entry alone, as [`Menus::resolve`] would give it as the start: for one that was chosen from a menu.
    #[must_use]
    pub fn resolve_entry<'a>(&'a self, facts: &Facts, server: &Server, entry: &str) -> Option<Plan<'a>> {
        self.entries.get(entry)?;
        self.plan_of(facts, server, Start::Entry(entry.to_owned()))
    }

    /// A menu alone, likewise.
    #[must_use]
    pub fn resolve_menu<'a>(&'a self, facts: &Facts, server: &Server, menu: &str) -> Option<Plan<'a>> {
        self.menus.get(menu)?;
        self.plan_of(facts, server, Start::Menu(menu.to_owned()))
    }

    /// How a node gets to its own disk.
    #[must_use]
    pub fn local(&self, facts: &Facts) -> Local {
        self.rules(facts).iter().find_map(|(_, choice)| choice.local).unwrap_or(Local::Auto)
    }

    /// Whether a node's UEFI gets only loaders that are signed; `None`: the site leaves it to what is found out.
    #[must_use]
    pub fn secure_boot(&self, facts: &Facts) -> Option<bool> {
        self.rules(facts).iter().find_map(|(_, choice)| choice.secure_boot)
    }

    /// Names of the rules that hold for a node, the first one winning: `node.NAME`, `group.NAME`, `default`.
    #[must_use]
    pub fn rule_names(&self, facts: &Facts) -> Vec<String> {
        self.rules(facts).into_iter().map(|(name, _)| name).collect()
    }

    /// A node's variables, the built-in ones among them.
    #[must_use]
    pub fn variables(&self, facts: &Facts, server: &Server) -> BTreeMap<String, String> {
        self.values(facts, server, &self.rules(facts))
    }

    fn plan_of<'a>(&'a self, facts: &Facts, server: &Server, start: Start) -> Option<Plan<'a>> {
        let rules = self.rules(facts);
        let local = rules.iter().find_map(|(_, choice)| choice.local).unwrap_or(Local::Auto);
        let values = self.values(facts, server, &rules);
        Some(Plan { start, once: None, menus: self, values, local, firmware: facts.firmware })
    }

    /// The rules that hold for a node, the first one winning.
    fn rules(&self, facts: &Facts) -> Vec<(String, &Choice)> {
        let node = self.nodes.iter().find(|node| node.mac == facts.mac);
        let named = node.and_then(|node| node.group.as_deref());
        let mut rules: Vec<(Rank, String, &Choice)> = Vec::new();
        rules.extend(node.map(|node| (NODE_RANK, format!("node.{}", node.name), &node.choice)));
        for group in &self.groups {
            let by_name = (named == Some(group.name.as_str())).then_some(Rank::Group);
            let by_match = if group.select.is_empty() { None } else { group.select.rank(facts) };
            if let Some(rank) = by_name.max(by_match) {
                rules.push((rank, format!("group.{}", group.name), &group.choice));
            }
        }
        rules.push((Rank::Default, "default".to_owned(), &self.default));
        // Stable: equals stay in the order of their names.
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.0));
        rules.into_iter().map(|(_, name, choice)| (name, choice)).collect()
    }

    fn values(
        &self,
        facts: &Facts,
        server: &Server,
        rules: &[(String, &Choice)],
    ) -> BTreeMap<String, String> {
        let mut values = self.vars.clone();
        for (_, choice) in rules.iter().rev() {
            values.extend(choice.vars.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        let known = |text: Option<&str>| {
            text.map(fact).filter(|text| !text.is_empty()).unwrap_or_else(|| "unknown".to_owned())
        };
        let address = facts.address.map(|address| address.to_string());
        for (name, value) in [
            ("server", server.authority()),
            ("mac", facts.mac.to_string()),
            ("uuid", known(facts.uuid.as_deref())),
            ("serial", known(facts.serial.as_deref())),
            ("name", known(Some(&facts.name))),
            ("address", known(address.as_deref())),
            ("firmware", facts.firmware.word().to_owned()),
        ] {
            values.insert(name.to_owned(), value);
        }
        values
    }
}

/// What a node starts with, and the `once` rule that made it so.
fn first_start<'a>(
    rules: &[(String, &'a Choice)],
    had: impl Fn(&str) -> bool,
) -> Option<(&'a Start, Option<String>)> {
    rules.iter().find_map(|(name, choice)| {
        let once = choice.once.as_ref().map(|once| (once, once_id(name, once)));
        match once.filter(|(_, id)| !had(id)) {
            Some((once, id)) => Some((once, Some(id))),
            None => choice.then.as_ref().or(choice.start.as_ref()).map(|start| (start, None)),
        }
    })
}

/// A rule that is changed in the file is a new one, and every node has it once more.
fn once_id(rule: &str, once: &Start) -> String {
    match once {
        Start::Entry(name) => format!("{rule}:{name}"),
        Start::Menu(name) => format!("{rule}:>{name}"),
    }
}

impl<'a> Plan<'a> {
    /// The menu with this name.
    pub(crate) fn menu(&self, name: &str) -> Option<&'a Menu> {
        self.menus.menus.get(name)
    }

    /// The menus that can be reached, the first first.
    pub(crate) fn reachable(&self) -> Vec<&'a str> {
        let Start::Menu(first) = &self.start else { return Vec::new() };
        let mut found: Vec<&str> =
            self.menus.menus.get_key_value(first).map(|(name, _)| name.as_str()).into_iter().collect();
        let mut at = 0;
        while let Some(name) = found.get(at) {
            for item in self.menus.menus.get(*name).map(|menu| menu.items.as_slice()).unwrap_or_default() {
                if let Item::Start(Start::Menu(next)) = item
                    && let Some((next, _)) = self.menus.menus.get_key_value(next)
                    && !found.contains(&next.as_str())
                {
                    found.push(next);
                }
            }
            at += 1;
        }
        found
    }

    /// A heading or a menu's title.
    pub(crate) fn title(&self, title: &Template) -> String {
        title.fill_title(&self.values)
    }

    /// An entry for this node, or one sentence why it is not for it.
    ///
    /// # Errors
    /// The entry is not for this firmware, or its text cannot be used with this node's values.
    pub fn ready(&self, name: &str) -> Result<Ready, String> {
        let entry = self.menus.entries.get(name).ok_or("there is no such entry")?;
        if !entry.firmware.is_empty() && !entry.firmware.contains(&self.firmware) {
            return Err(format!("it is not for {}", self.firmware.word()));
        }
        let step = self.step(entry)?;
        Ok(Ready { title: self.title(&entry.title), key: entry.key, users: entry.users.clone(), step })
    }

    fn step(&self, entry: &Entry) -> Result<Step, String> {
        Ok(match &entry.kind {
            Kind::Deploy | Kind::Inventory => Step::Ask,
            Kind::Local(style) => Step::Local(style.unwrap_or(self.local)),
            Kind::Kernel { kernel, initrd, args } => Step::Kernel {
                kernel: self.location(kernel)?,
                initrd: initrd.iter().map(|initrd| self.location(initrd)).collect::<Result<_, _>>()?,
                args: self.fill(args)?.split_ascii_whitespace().map(str::to_owned).collect(),
            },
            Kind::Program(program) => {
                let template = match self.firmware {
                    Firmware::Bios => &program.bios,
                    Firmware::Uefi => &program.uefi,
                    Firmware::SecureBoot => &program.secureboot,
                };
                let template = template
                    .as_ref()
                    .ok_or_else(|| format!("it has no program for {}", self.firmware.word()))?;
                Step::Program(self.location(template)?)
            }
            Kind::Chain(to) => Step::Chain(self.location(to)?),
            Kind::Shell => Step::Shell,
        })
    }

    fn fill(&self, template: &Template) -> Result<String, String> {
        template.fill(&self.values).map_err(|unfit| unfit.to_string())
    }

    fn location(&self, template: &Template) -> Result<Location, String> {
        let text = self.fill(template)?;
        Location::parse(&text).ok_or_else(|| format!("{text} is neither a file nor a URL"))
    }

    /// What is the default of a menu: its own, if it is shown; else the first that is and asks for no password.
    pub(crate) fn default_of(&self, menu: &Menu, shown: &[&Start]) -> Option<Start> {
        let wanted = menu.default.as_ref().filter(|default| shown.contains(default));
        let free = |start: &&&Start| match start {
            Start::Entry(name) => self.menus.entry(name).is_some_and(|entry| entry.users.is_empty()),
            Start::Menu(_) => true,
        };
        wanted.or_else(|| shown.iter().find(free).or(shown.first()).copied()).cloned()
    }
}

//! Raw sections become the model. Every problem is found in one pass, each with what to write instead.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use dhcp_wire::MacAddr;
use toml::Spanned;

use crate::model::{
    Choice, Entry, Firmware, Group, Item, Kind, Local, Menu, Menus, Node, Program, Start, User,
};
use crate::raw::{
    OneOrMore, Problem, RawChoice, RawEntry, RawGroup, RawMatch, RawMenu, RawProgram, RawUser, Sections,
};
use crate::select::{Glob, Match};
use crate::text::{
    BUILT_IN, Location, Template, Unfit, VALUE_BYTES_MAX, has_operator, is_harmless, is_name,
    is_variable_name,
};

/// Lines of one menu; more fit no screen and no patience.
const ITEMS_MAX: usize = 100;
/// Entries, menus, groups or users of one site.
const NAMES_MAX: usize = 1000;
/// Initrds of one entry.
const INITRDS_MAX: usize = 16;
/// Longer, and the node might as well wait for ever.
const TIMEOUT_S_MAX: u32 = 3600;
/// Where Debian's package `memtest86+` puts these under `/boot`.
const MEMTEST_BIOS: &str = "memtest86+x64.bin";
const MEMTEST_UEFI: &str = "memtest86+x64.efi";

/// A node that the site names, with what it says about its boot.
#[derive(Debug)]
pub struct NodeRule {
    /// The NIC that boots.
    pub mac: MacAddr,
    /// Its name.
    pub name: String,
    /// The group that it is in, whatever that group's `match` says.
    pub group: Option<Spanned<String>>,
    /// Its own wishes.
    pub choice: RawChoice,
}

/// Checks the sections. The model is good only if there is no problem.
#[must_use]
pub fn check(mut sections: Sections, nodes: Vec<NodeRule>) -> (Menus, Vec<Problem>) {
    let problems = std::mem::take(&mut sections.problems);
    let mut checker = Checker {
        entries: sections.entries.iter().map(|(name, ..)| name.clone()).collect(),
        protected: sections
            .entries
            .iter()
            .filter(|(_, _, entry)| entry.users.as_ref().is_some_and(|users| !users.is_empty()))
            .map(|(name, ..)| name.clone())
            .collect(),
        menus: sections.menus.iter().map(|(name, ..)| name.clone()).collect(),
        users: sections.users.iter().map(|(name, ..)| name.clone()).collect(),
        groups: sections.groups.iter().map(|(name, ..)| name.clone()).collect(),
        variables: variables(&sections, &nodes),
        problems,
    };
    let menus = checker.menus(sections, nodes);
    (menus, checker.problems)
}

/// Every variable that anybody sets.
fn variables(sections: &Sections, nodes: &[NodeRule]) -> BTreeSet<String> {
    let of_nodes = nodes.iter().flat_map(|node| node.choice.vars.keys());
    let of_groups = sections.groups.iter().flat_map(|(_, _, group)| group.vars.keys());
    let of_default = sections.default.iter().flat_map(|choice| choice.vars.keys());
    let own = sections.vars.keys().chain(of_nodes).chain(of_groups).chain(of_default).cloned();
    own.chain(BUILT_IN.map(str::to_owned)).collect()
}

struct Checker {
    entries: BTreeSet<String>,
    /// Entries that ask for a password.
    protected: BTreeSet<String>,
    menus: BTreeSet<String>,
    users: BTreeSet<String>,
    groups: BTreeSet<String>,
    variables: BTreeSet<String>,
    problems: Vec<Problem>,
}

type Text<'a> = Option<&'a Spanned<String>>;

impl Checker {
    fn problem(&mut self, span: impl Into<Option<Range<usize>>>, what: impl Into<String>) {
        self.problems.push(Problem { span: span.into(), what: what.into() });
    }

    fn menus(&mut self, sections: Sections, nodes: Vec<NodeRule>) -> Menus {
        for (kind, names) in
            [("entry", &self.entries), ("menu", &self.menus), ("group", &self.groups), ("user", &self.users)]
        {
            if names.len() > NAMES_MAX {
                let what = format!(
                    "there are {} sections [{kind}.NAME]; at most {NAMES_MAX} can be used",
                    names.len()
                );
                self.problems.push(Problem { span: None, what });
            }
        }
        let default = sections.default.unwrap_or_default();
        let mut menus = Menus {
            vars: self.vars(&sections.vars),
            default: self.choice(&default, "default"),
            ..Menus::default()
        };
        for (name, span, user) in sections.users {
            let (named, user) = (self.name("user", &name, &span), self.user(&user));
            menus.users.extend(named.then_some((name, user)));
        }
        for (name, span, entry) in sections.entries {
            let (named, entry) = (self.name("entry", &name, &span), self.entry(&name, &span, &entry));
            menus.entries.extend(entry.filter(|_| named).map(|entry| (name, entry)));
        }
        for (name, span, menu) in &sections.menus {
            let (named, menu) = (self.name("menu", name, span), self.menu(name, span, menu));
            menus.menus.extend(named.then(|| (name.clone(), menu)));
        }
        for (name, span, group) in sections.groups {
            self.name("group", &name, &span);
            let group = self.group(name, &group);
            menus.groups.push(group);
        }
        for rule in nodes {
            let node = self.node(rule);
            menus.nodes.push(node);
        }
        self.keys(&menus, &sections.menus);
        menus
    }

    /// Whether something can be named so; what cannot never gets into the model, since names get into scripts.
    fn name(&mut self, kind: &str, name: &str, span: &Range<usize>) -> bool {
        if !is_name(name) {
            let what = format!(
                "{kind} `{name}` cannot be named so; write up to 40 of a-z, 0-9, - and _, a letter or digit first"
            );
            self.problem(span.clone(), what);
        }
        is_name(name)
    }

    fn vars(&mut self, vars: &BTreeMap<String, Spanned<String>>) -> BTreeMap<String, String> {
        for (name, value) in vars {
            if !is_variable_name(name) || BUILT_IN.contains(&name.as_str()) {
                let what = format!(
                    "variable `{name}` cannot be named so; write up to 40 of a-z, 0-9 and _, and none of {}",
                    BUILT_IN.join(", ")
                );
                self.problem(value.span(), what);
            }
            if let Some(symbol) = value.get_ref().chars().find(|symbol| !is_harmless(*symbol)) {
                let what = format!(
                    "variable `{name}` has {symbol:?}, which a boot script cannot carry; write it without, or as %XX in a URL"
                );
                self.problem(value.span(), what);
            }
            if has_operator(value.get_ref()) {
                self.problem(value.span(), format!("variable `{name}`: {}", Unfit::Operator));
            }
            if value.get_ref().len() > VALUE_BYTES_MAX {
                self.problem(
                    value.span(),
                    format!("variable `{name}` is longer than {VALUE_BYTES_MAX} bytes; shorten it"),
                );
            }
        }
        vars.iter().map(|(name, value)| (name.clone(), value.get_ref().clone())).collect()
    }

    fn template(&mut self, text: &Spanned<String>, field: &str) -> Template {
        match Template::parse(text.get_ref()) {
            Ok(template) => {
                let unknown =
                    template.variables().find(|name| !self.variables.contains(*name)).map(str::to_owned);
                if let Some(name) = unknown {
                    let what = format!(
                        "{field}: nobody sets the variable `{name}`; set it under [vars], or use one of {}",
                        BUILT_IN.join(", ")
                    );
                    self.problem(text.span(), what);
                }
                template
            }
            Err(unfit) => {
                self.problem(text.span(), format!("{field}: {unfit}"));
                Template::default()
            }
        }
    }

    /// A file or URL. What begins with a variable is looked at only when its value is known.
    fn location(&mut self, text: &Spanned<String>, field: &str) -> Template {
        let template = self.template(text, field);
        let shape = template.variables().count() > 0 || Location::parse(text.get_ref()).is_some();
        if !shape {
            let what = format!(
                "{field} = \"{}\" is neither a file nor a URL; write a file of the directory `boot.menu_files` such as \
                 debian/linux, or http://HOST/PATH",
                text.get_ref()
            );
            self.problem(text.span(), what);
        }
        template
    }

    fn user(&mut self, user: &RawUser) -> User {
        let digest = user.digest.get_ref();
        if digest.len() != 32 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let what = "user.digest must be 32 hex digits; `pxe-server menu password NAME` prints it";
            self.problem(user.digest.span(), what);
        }
        if let Some(grub) = user.grub.as_ref().filter(|grub| !is_grub_hash(grub.get_ref())) {
            let what =
                "user.grub must begin with grub.pbkdf2.sha512; `pxe-server menu password NAME` prints it";
            self.problem(grub.span(), what);
        }
        let grub = user.grub.as_ref().map(|grub| grub.get_ref().clone());
        User { digest: digest.to_ascii_lowercase(), grub: grub.filter(|hash| is_grub_hash(hash)) }
    }

    fn entry(&mut self, name: &str, span: &Range<usize>, raw: &RawEntry) -> Option<Entry> {
        let title = raw.title.clone().unwrap_or_else(|| Spanned::new(span.clone(), name.to_owned()));
        let title = self.template(&title, "entry.title");
        let key = raw.key.as_ref().and_then(|key| self.key(key));
        let users = self.users_of(raw.users.as_deref());
        let firmware = raw.firmware.iter().flatten().filter_map(|word| self.firmware(word)).collect();
        let kinds = self.kinds(raw);
        if kinds.len() != 1 {
            let what = format!(
                "entry `{name}` must have exactly one of deploy, inventory, local, kernel, program, memtest, chain and shell; \
                 it has {}",
                kinds.len()
            );
            self.problem(span.clone(), what);
        }
        if raw.kernel.is_none() && (raw.initrd.is_some() || raw.args.is_some()) {
            let what = format!("entry `{name}` has initrd or args but no kernel; write `kernel = \"FILE\"`");
            self.problem(span.clone(), what);
        }
        let kind = kinds.into_iter().next()?;
        Some(Entry { title, key, users: users?, firmware, kind })
    }

    fn kinds(&mut self, raw: &RawEntry) -> Vec<Kind> {
        let mut kinds = Vec::new();
        for (flag, kind, word) in [
            (&raw.deploy, Kind::Deploy, "deploy"),
            (&raw.inventory, Kind::Inventory, "inventory"),
            (&raw.shell, Kind::Shell, "shell"),
        ] {
            kinds.extend(self.flag(flag.as_ref(), word).then_some(kind));
        }
        if let Some(text) = &raw.local {
            let style = self.local(text);
            kinds.push(Kind::Local(style.filter(|style| *style != Local::Auto)));
        }
        if let Some(kernel) = &raw.kernel {
            let kernel = self.location(kernel, "entry.kernel");
            let initrd: Vec<Template> =
                raw.initrd.iter().flatten().map(|initrd| self.location(initrd, "entry.initrd")).collect();
            if initrd.len() > INITRDS_MAX {
                let span = raw.kernel.as_ref().map(Spanned::span);
                self.problem(
                    span,
                    format!("entry.initrd has {} files; at most {INITRDS_MAX} can be loaded", initrd.len()),
                );
            }
            let args = raw.args.as_ref().map(|args| self.template(args, "entry.args")).unwrap_or_default();
            kinds.push(Kind::Kernel { kernel, initrd, args });
        }
        if let Some(program) = &raw.program {
            kinds.push(Kind::Program(self.program(program)));
        }
        if self.flag(raw.memtest.as_ref(), "memtest") {
            let of = |name: &str| Template::parse(name).ok();
            kinds.push(Kind::Program(Program {
                bios: of(MEMTEST_BIOS),
                uefi: of(MEMTEST_UEFI),
                secureboot: None,
            }));
        }
        if let Some(chain) = &raw.chain {
            kinds.push(Kind::Chain(self.location(chain, "entry.chain")));
        }
        kinds
    }

    fn flag(&mut self, flag: Option<&Spanned<bool>>, word: &str) -> bool {
        let Some(flag) = flag else { return false };
        if !flag.get_ref() {
            self.problem(
                flag.span(),
                format!("entry.{word} = false says nothing; write true, or remove the line"),
            );
        }
        true
    }

    fn program(&mut self, raw: &Spanned<RawProgram>) -> Program {
        let span = raw.span();
        let raw = raw.get_ref();
        if raw.bios.is_none() && raw.uefi.is_none() && raw.secureboot.is_none() {
            self.problem(span, "entry.program names no file; write { bios = \"FILE\", uefi = \"FILE\" }");
        }
        let mut of = |text: Text<'_>, field: &str| text.map(|text| self.location(text, field));
        Program {
            bios: of(raw.bios.as_ref(), "entry.program.bios"),
            uefi: of(raw.uefi.as_ref(), "entry.program.uefi"),
            secureboot: of(raw.secureboot.as_ref(), "entry.program.secureboot"),
        }
    }

    fn key(&mut self, text: &Spanned<String>) -> Option<char> {
        let mut symbols = text.get_ref().chars();
        let key = symbols.next().filter(|symbol| symbol.is_ascii_lowercase() || symbol.is_ascii_digit());
        if key.is_none() || symbols.next().is_some() {
            self.problem(
                text.span(),
                format!("entry.key = \"{}\" is no key; write one of a-z or 0-9", text.get_ref()),
            );
        }
        key
    }

    fn firmware(&mut self, text: &Spanned<String>) -> Option<Firmware> {
        let found = Firmware::ALL.into_iter().find(|firmware| firmware.word() == text.get_ref());
        if found.is_none() {
            let what =
                format!("entry.firmware: `{}` is unknown; write bios, uefi or secureboot", text.get_ref());
            self.problem(text.span(), what);
        }
        found
    }

    fn local(&mut self, text: &Spanned<String>) -> Option<Local> {
        let found = match text.get_ref().as_str() {
            "auto" => Some(Local::Auto),
            "exit1" => Some(Local::Exit1),
            "exit0" => Some(Local::Exit0),
            "sanboot" => Some(Local::Sanboot),
            "ignore" => Some(Local::Ignore),
            _ => None,
        };
        if found.is_none() {
            let what = format!(
                "local = \"{}\" is unknown; write auto, exit1, exit0, sanboot or ignore",
                text.get_ref()
            );
            self.problem(text.span(), what);
        }
        found
    }

    /// `None` if one of them is no name: without it the entry would be everybody's.
    fn users_of(&mut self, names: Option<&[Spanned<String>]>) -> Option<Vec<String>> {
        for name in names.unwrap_or_default() {
            if !self.users.contains(name.get_ref()) {
                let what = format!(
                    "entry.users: there is no [user.{}]; `pxe-server menu password {0}` prints the section",
                    name.get_ref()
                );
                self.problem(name.span(), what);
            }
        }
        let all = names.unwrap_or_default();
        all.iter().map(|name| Some(name.get_ref().clone()).filter(|name| is_name(name))).collect()
    }

    fn menu(&mut self, name: &str, span: &Range<usize>, raw: &RawMenu) -> Menu {
        let title = raw.title.clone().unwrap_or_else(|| Spanned::new(span.clone(), name.to_owned()));
        let title = self.template(&title, "menu.title");
        let items: Vec<Item> = raw.items.iter().filter_map(|item| self.item(item)).collect();
        let starts: Vec<&Start> = items
            .iter()
            .filter_map(|item| match item {
                Item::Start(start) => Some(start),
                Item::Heading(_) => None,
            })
            .collect();
        if starts.is_empty() || items.len() > ITEMS_MAX {
            self.problem(
                span.clone(),
                format!("menu `{name}` must have 1 to {ITEMS_MAX} items; write items = [\"ENTRY\", ...]"),
            );
        }
        let default = raw.default.as_ref().and_then(|default| {
            let start = self.unattended(default, "menu.default")?;
            if !starts.contains(&&start) {
                let what = format!(
                    "menu.default = \"{}\" is not among the items; add it or name one of them",
                    default.get_ref()
                );
                self.problem(default.span(), what);
            }
            Some(start)
        });
        if let Some(timeout) =
            raw.timeout.as_ref().filter(|timeout| !(1..=TIMEOUT_S_MAX).contains(timeout.get_ref()))
        {
            let what = format!(
                "menu.timeout = {} is out of range; write 1 to {TIMEOUT_S_MAX} seconds, or remove it",
                timeout.get_ref()
            );
            self.problem(timeout.span(), what);
        }
        let free = |start: &&&Start| !matches!(start, Start::Entry(name) if self.protected.contains(name));
        let first = starts.iter().find(free).copied();
        if first.is_none() && raw.timeout.is_some() && !starts.is_empty() {
            let what = format!(
                "menu `{name}` has a timeout, but all its items ask for a password; remove the timeout"
            );
            self.problem(span.clone(), what);
        }
        let default = default.or_else(|| first.or(starts.first().copied()).cloned());
        Menu { title, timeout_s: raw.timeout.as_ref().map(|timeout| *timeout.get_ref()), default, items }
    }

    fn item(&mut self, text: &Spanned<String>) -> Option<Item> {
        if let Some(heading) = text.get_ref().strip_prefix("--") {
            let heading = Spanned::new(text.span(), heading.trim().to_owned());
            return Some(Item::Heading(self.template(&heading, "menu.items")));
        }
        self.start(text, "menu.items").map(Item::Start)
    }

    /// `entry`, or `>menu`.
    fn start(&mut self, text: &Spanned<String>, field: &str) -> Option<Start> {
        let name = text.get_ref();
        let (known, start, section) = match name.strip_prefix('>') {
            Some(menu) => (self.menus.contains(menu), Start::Menu(menu.to_owned()), format!("menu.{menu}")),
            None => (self.entries.contains(name), Start::Entry(name.clone()), format!("entry.{name}")),
        };
        if !known {
            let other = if self.menus.contains(name) {
                format!("; write \">{name}\" for the menu")
            } else {
                String::new()
            };
            self.problem(
                text.span(),
                format!("{field}: there is no section [{section}]; add it or correct the name{other}"),
            );
        }
        known.then_some(start).filter(|_| is_name(name.trim_start_matches('>')))
    }

    /// Where a node goes by itself: not to a prompt.
    fn unattended(&mut self, text: &Spanned<String>, field: &str) -> Option<Start> {
        let start = self.start(text, field);
        if self.protected.contains(text.get_ref()) {
            let what = format!(
                "{field} names `{}`, which asks for a password: the node would wait for a person; put it into a menu",
                text.get_ref()
            );
            self.problem(text.span(), what);
        }
        start
    }

    fn choice(&mut self, raw: &RawChoice, place: &str) -> Choice {
        let menu = raw.menu.as_ref().and_then(|menu| {
            let pointed = Spanned::new(menu.span(), format!(">{}", menu.get_ref().trim_start_matches('>')));
            self.start(&pointed, &format!("{place}.menu"))
        });
        let boot = raw.boot.as_ref().and_then(|boot| self.unattended(boot, &format!("{place}.boot")));
        if let (Some(_), Some(boot)) = (&raw.menu, &raw.boot) {
            self.problem(
                boot.span(),
                format!(
                    "{place} has both menu and boot; remove one: a node gets a menu or boots an entry at once"
                ),
            );
        }
        if let (None, Some(then)) = (&raw.once, &raw.then) {
            self.problem(
                then.span(),
                format!("{place}.then has no `once` before it; write boot = \"{}\" instead", then.get_ref()),
            );
        }
        Choice {
            start: menu.or(boot),
            once: raw.once.as_ref().and_then(|once| self.unattended(once, &format!("{place}.once"))),
            then: raw.then.as_ref().and_then(|then| self.unattended(then, &format!("{place}.then"))),
            local: raw.local.as_ref().and_then(|local| self.local(local)),
            secure_boot: raw.secure_boot,
            vars: self.vars(&raw.vars),
        }
    }

    fn group(&mut self, name: String, raw: &RawGroup) -> Group {
        let select = self.select(&name, &raw.select);
        let raw = RawChoice {
            menu: raw.menu.clone(),
            boot: raw.boot.clone(),
            once: raw.once.clone(),
            then: raw.then.clone(),
            local: raw.local.clone(),
            secure_boot: raw.secure_boot,
            vars: raw.vars.clone(),
        };
        let choice = self.choice(&raw, "group");
        Group { name, select, choice }
    }

    fn select(&mut self, group: &str, raw: &RawMatch) -> Match {
        Match {
            mac: self.all(group, "mac", &raw.mac, "an address or a pattern such as 52:54:00:*", |text| {
                text.parse().ok()
            }),
            serial: self.all(
                group,
                "serial",
                &raw.serial,
                "a serial number or a pattern such as SN-4*",
                Glob::new,
            ),
            uuid: self.all(
                group,
                "uuid",
                &raw.uuid,
                "a UUID such as 01234567-89ab-cdef-0123-456789abcdef",
                uuid,
            ),
            hosts: self.all(group, "hosts", &raw.hosts, "names such as n[001-512]", |text| text.parse().ok()),
            subnet: self
                .all(group, "subnet", &raw.subnet, "a network such as 10.0.0.0/22", |text| text.parse().ok()),
            relay: self
                .all(group, "relay", &raw.relay, "an address such as 10.0.0.254", |text| text.parse().ok()),
        }
    }

    fn all<T>(
        &mut self,
        group: &str,
        field: &str,
        raw: &OneOrMore,
        wanted: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Vec<T> {
        let mut values = Vec::new();
        for text in &raw.0 {
            match parse(text) {
                Some(value) => values.push(value),
                None => self.problem(
                    None,
                    format!("group.{group}.match.{field}: \"{text}\" cannot be read; write {wanted}"),
                ),
            }
        }
        values
    }

    fn node(&mut self, rule: NodeRule) -> Node {
        let group = rule.group.and_then(|group| {
            let known = self.groups.contains(group.get_ref());
            if !known {
                let what = format!(
                    "node.group: there is no section [group.{}]; add it or correct the name",
                    group.get_ref()
                );
                self.problem(group.span(), what);
            }
            known.then(|| group.into_inner())
        });
        Node { mac: rule.mac, name: rule.name, group, choice: self.choice(&rule.choice, "node") }
    }

    /// One key chooses one thing.
    fn keys(&mut self, menus: &Menus, raw: &crate::raw::Named<RawMenu>) {
        for (name, span, _) in raw {
            let items = menus.menus.get(name).map(|menu| menu.items.as_slice()).unwrap_or_default();
            let mut taken: BTreeMap<char, &str> = BTreeMap::new();
            for item in items {
                let Item::Start(Start::Entry(entry_name)) = item else { continue };
                let Some(key) = menus.entries.get(entry_name).and_then(|entry| entry.key) else { continue };
                if let Some(other) = taken.insert(key, entry_name).filter(|other| other != entry_name) {
                    let what = format!(
                        "menu `{name}`: `{other}` and `{entry_name}` have the same key `{key}`; change one"
                    );
                    self.problem(span.clone(), what);
                }
            }
        }
    }
}

fn is_grub_hash(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.';
    text.starts_with("grub.pbkdf2.sha512.") && text.bytes().all(plain)
}

fn uuid(text: &str) -> Option<String> {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    let good =
        lengths == [8, 4, 4, 4, 12] && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    good.then(|| text.to_ascii_lowercase())
}

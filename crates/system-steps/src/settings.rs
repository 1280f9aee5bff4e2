//! Checked settings: one [`Settings`] for each table of the site, and how several become one.

use std::collections::BTreeMap;

use node_api::BootOrder;

use crate::template::Template;

/// Every `[system]` table of a site, by the rule that it belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Systems(BTreeMap<String, Settings>);

impl Systems {
    /// Adds the table of a rule: `default` for `[system]`, `group.NAME`, `node.NAME`.
    pub fn add(&mut self, rule: impl Into<String>, settings: Settings) {
        self.0.insert(rule.into(), settings);
    }

    /// What holds for a node of these rules, of which the first wins.
    pub(crate) fn of(&self, rules: &[String]) -> Settings {
        let mut merged = Settings::default();
        for settings in rules.iter().rev().filter_map(|rule| self.0.get(rule)) {
            merged.take(settings.clone());
        }
        merged
    }
}

/// One table, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    pub(crate) domain: Option<String>,
    pub(crate) boot_order: Option<BootOrder>,
    pub(crate) network: Network,
    pub(crate) users: BTreeMap<String, User>,
    /// By path.
    pub(crate) files: BTreeMap<String, File>,
    pub(crate) attributes: BTreeMap<String, Attributes>,
    pub(crate) units: BTreeMap<String, Unit>,
    pub(crate) hooks: Vec<Hook>,
    pub(crate) user_data: Option<Body>,
    pub(crate) cloud_init: Option<bool>,
}

impl Settings {
    /// Lays a more special table over this one.
    fn take(&mut self, over: Self) {
        self.domain = over.domain.or(self.domain.take());
        self.boot_order = over.boot_order.or(self.boot_order);
        self.network.take(over.network);
        self.users.extend(over.users);
        self.files.extend(over.files);
        self.attributes.extend(over.attributes);
        self.units.extend(over.units);
        self.hooks.extend(over.hooks);
        self.user_data = over.user_data.or(self.user_data.take());
        self.cloud_init = over.cloud_init.or(self.cloud_init);
    }
}

/// `[system.network]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) method: Option<Method>,
    pub(crate) nic: Nic,
    pub(crate) dns: Vec<Template>,
    pub(crate) search: Vec<Template>,
    pub(crate) others: Vec<(Template, Nic)>,
}

impl Network {
    fn take(&mut self, over: Self) {
        fn replace<T>(here: &mut Vec<T>, over: Vec<T>) {
            if !over.is_empty() {
                *here = over;
            }
        }
        self.method = over.method.or(self.method);
        replace(&mut self.nic.address, over.nic.address);
        replace(&mut self.nic.gateway, over.nic.gateway);
        self.nic.mtu = over.nic.mtu.or(self.nic.mtu);
        replace(&mut self.dns, over.dns);
        replace(&mut self.search, over.search);
        replace(&mut self.others, over.others);
    }
}

/// Where addresses come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Dhcp,
    Static,
    Image,
}

/// One NIC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nic {
    pub(crate) address: Vec<Template>,
    pub(crate) gateway: Vec<Template>,
    pub(crate) mtu: Option<u32>,
}

/// `[system.user.NAME]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: Option<u32>,
    pub(crate) groups: Vec<String>,
    pub(crate) shell: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) keys: Vec<String>,
    pub(crate) sudo: bool,
}

/// A file, link or directory of an overlay, or one that is written in the site file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) mode: u32,
    pub(crate) body: Body,
}

/// What is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Plain(Vec<u8>),
    Filled(Template),
    Link(Vec<u8>),
    Folder,
}

/// `[system.file."/PATH"]` beside the contents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) owner: Option<String>,
    pub(crate) mode: Option<u32>,
}

/// What becomes of a unit at the system's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Enable,
    Disable,
    Mask,
}

/// A program that is run inside the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    pub(crate) name: String,
    pub(crate) body: Body,
    pub(crate) limit_s: u64,
}

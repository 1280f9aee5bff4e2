//! From a table as written to checked settings. Each problem says where it is, what is wrong and what to write instead.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use boot_menu::{OneOrMore, Problem};
use toml::Spanned;

use crate::raw::{RawCloudInit, RawFile, RawInterface, RawNetwork, RawSystem, RawUser};
use crate::settings::{Attributes, Body, File, Hook, Method, Network, Nic, Settings, Unit, User};
use crate::template::Template;

/// Files whose names end so are templates; the installed system's have the name without it.
const TEMPLATE_SUFFIX: &str = ".tmpl";
/// Long enough to install packages from a near mirror, short enough that nobody waits an hour for a prompt.
const HOOK_LIMIT_S: u64 = 300;
const HOOK_LIMIT_S_MAX: u64 = 3600;
/// The smallest that every IPv4 host takes (RFC 791 section 3.1), and what the field of a packet's length holds.
const MTU: std::ops::RangeInclusive<u32> = 576..=65_535;

/// Where overlays, hooks and user data come from: the server's disk, or a test's own memory.
pub trait Source {
    /// Everything below a directory; why it cannot be had.
    ///
    /// # Errors
    /// One sentence with what to do.
    fn folder(&self, path: &Path) -> Result<Vec<SourceFile>, String>;

    /// One file's bytes; why it cannot be had.
    ///
    /// # Errors
    /// One sentence with what to do.
    fn file(&self, path: &Path) -> Result<Vec<u8>, String>;
}

/// One thing in an overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// In the installed system: absolute, without `..`.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// What it is.
    pub kind: SourceKind,
}

/// What a [`SourceFile`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// With its bytes.
    File(Vec<u8>),
    /// With its target.
    Link(Vec<u8>),
    /// A directory.
    Folder,
}

/// A table's settings, and everything that is wrong with it.
#[derive(Debug, Default)]
pub struct Checked {
    /// As far as they could be made; only good without a problem.
    pub settings: Settings,
    /// All at once.
    pub problems: Vec<Problem>,
}

/// Checks one table. `variables` are those of the site; `source` reads what the table names.
#[must_use]
pub fn check(raw: Spanned<RawSystem>, variables: &BTreeSet<String>, source: &dyn Source) -> Checked {
    let mut checker = Checker { span: raw.span(), variables, source, problems: Vec::new() };
    let settings = checker.system(raw.into_inner());
    Checked { settings, problems: checker.problems }
}

struct Checker<'a> {
    /// The whole table, for what has no place of its own.
    span: Range<usize>,
    variables: &'a BTreeSet<String>,
    source: &'a dyn Source,
    problems: Vec<Problem>,
}

impl Checker<'_> {
    fn problem(&mut self, span: Range<usize>, what: impl Into<String>) {
        self.problems.push(Problem { span: Some(span), what: what.into() });
    }

    fn system(&mut self, raw: RawSystem) -> Settings {
        let limit_s = self.hook_limit(raw.hook_limit_s);
        let mut settings = Settings {
            domain: raw.domain.and_then(|domain| self.domain(domain)),
            boot_order: raw.boot_order,
            network: self.network(raw.network),
            ..Settings::default()
        };
        for (name, user) in raw.user {
            if let Some(user) = self.user(&name, user) {
                settings.users.insert(name.into_inner(), user);
            }
        }
        for folder in raw.files {
            self.overlay(&folder, &mut settings);
        }
        for (path, file) in raw.file {
            self.file(path, file, &mut settings);
        }
        for (units, state) in
            [(raw.enable, Unit::Enable), (raw.disable, Unit::Disable), (raw.mask, Unit::Mask)]
        {
            for unit in units {
                self.unit(unit, state, &mut settings);
            }
        }
        for hook in raw.hooks {
            settings.hooks.extend(self.hook(&hook, limit_s));
        }
        let RawCloudInit { user_data, run } = raw.cloud_init;
        settings.cloud_init = run;
        settings.user_data = user_data.and_then(|path| self.read_body(&path));
        settings
    }

    fn domain(&mut self, domain: Spanned<String>) -> Option<String> {
        let good = domain.get_ref().len() <= 190 && domain.get_ref().split('.').all(node_api::is_host_label);
        if !good {
            let what = format!(
                "system.domain = \"{}\" is no domain; write one such as cluster.example",
                domain.get_ref()
            );
            self.problem(domain.span(), what);
        }
        good.then(|| domain.into_inner())
    }

    fn network(&mut self, raw: RawNetwork) -> Network {
        let method = raw.method.and_then(|method| match method.get_ref().as_str() {
            "dhcp" => Some(Method::Dhcp),
            "static" => Some(Method::Static),
            "image" => Some(Method::Image),
            other => {
                let what = format!("network.method = \"{other}\" is unknown; write dhcp, static or image");
                self.problem(method.span(), what);
                None
            }
        });
        let nic = self.nic(&raw.address, &raw.gateway, raw.mtu);
        if method == Some(Method::Dhcp) && !nic.address.is_empty() {
            self.problem(
                self.span.clone(),
                "network: an address is given beside method = \"dhcp\"; remove one of the two",
            );
        }
        let mut others = Vec::new();
        for RawInterface { mac, address, gateway, mtu } in raw.interface {
            let nic = self.nic(&address, &gateway, mtu);
            others.extend(self.template(mac.span(), "interface.mac", mac.get_ref()).map(|mac| (mac, nic)));
        }
        let dns = self.templates("network.dns", &raw.dns);
        Network { method, nic, dns, search: self.templates("network.search", &raw.search), others }
    }

    fn nic(&mut self, address: &OneOrMore, gateway: &OneOrMore, mtu: Option<Spanned<u32>>) -> Nic {
        if let Some(wrong) = mtu.as_ref().filter(|mtu| !MTU.contains(mtu.get_ref())) {
            let what = format!("network.mtu = {}; write {} to {}", wrong.get_ref(), MTU.start(), MTU.end());
            self.problem(wrong.span(), what);
        }
        Nic {
            address: self.templates("network.address", address),
            gateway: self.templates("network.gateway", gateway),
            mtu: mtu.map(Spanned::into_inner),
        }
    }

    fn templates(&mut self, field: &str, texts: &OneOrMore) -> Vec<Template> {
        let span = self.span.clone();
        texts.0.iter().filter_map(|text| self.template(span.clone(), field, text)).collect()
    }

    fn template(&mut self, span: Range<usize>, what: &str, text: &str) -> Option<Template> {
        match Template::parse(text, self.variables) {
            Ok(template) => Some(template),
            Err(problem) => {
                self.problem(span, format!("{what}: {problem}"));
                None
            }
        }
    }

    fn user(&mut self, name: &Spanned<String>, raw: RawUser) -> Option<User> {
        if !is_account(name.get_ref()) {
            let what = format!(
                "user.{} cannot be a user; write up to 32 of a-z, 0-9, _ and -, a letter first",
                name.get_ref()
            );
            self.problem(name.span(), what);
            return None;
        }
        let is_root = name.get_ref() == "root";
        if is_root && (raw.uid.is_some() || !raw.groups.is_empty() || raw.sudo) {
            self.problem(name.span(), "user.root has only password, keys and shell; remove the rest");
        }
        for group in raw.groups.iter().filter(|group| !is_account(group.get_ref())) {
            self.problem(group.span(), format!("user.groups: `{}` cannot be a group", group.get_ref()));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte);
        let shells = raw.shell.iter();
        for shell in
            shells.filter(|path| !path.get_ref().starts_with('/') || !path.get_ref().bytes().all(plain))
        {
            let what =
                format!("user.shell = \"{}\" is no path; write one such as /bin/bash", shell.get_ref());
            self.problem(shell.span(), what);
        }
        for password in raw.password.iter().filter(|password| !is_hash(password.get_ref())) {
            // Not shown: it may be the password itself.
            self.problem(
                password.span(),
                "user.password is no hash of a password; write what `openssl passwd -6` prints",
            );
        }
        let is_line = |key: &str| !key.trim().is_empty() && !key.chars().any(char::is_control);
        for key in raw.keys.iter().filter(|key| !is_line(key.get_ref())) {
            let what = "user.keys has an entry that is no line; write one `ssh-ed25519 AAAA... name` each";
            self.problem(key.span(), what);
        }
        let all = |texts: Vec<Spanned<String>>| texts.into_iter().map(Spanned::into_inner).collect();
        Some(User {
            uid: raw.uid.map(Spanned::into_inner),
            groups: all(raw.groups),
            shell: raw.shell.map(Spanned::into_inner),
            password: raw.password.map(Spanned::into_inner),
            keys: all(raw.keys),
            sudo: raw.sudo,
        })
    }

    fn overlay(&mut self, folder: &Spanned<std::path::PathBuf>, settings: &mut Settings) {
        let files = match self.source.folder(folder.get_ref()) {
            Ok(files) => files,
            Err(problem) => return self.problem(folder.span(), format!("system.files: {problem}")),
        };
        for SourceFile { path, mode, kind } in files {
            if !is_path(&path) {
                self.problem(
                    folder.span(),
                    format!("system.files: {path:?} cannot be a path; rename the file"),
                );
                continue;
            }
            let (path, body) = match kind {
                SourceKind::Link(target) => (path, Body::Link(target)),
                SourceKind::Folder => (path, Body::Folder),
                SourceKind::File(bytes) => match path.strip_suffix(TEMPLATE_SUFFIX) {
                    None => (path, Body::Plain(bytes)),
                    Some(name) => {
                        let Some(body) = self.filled(folder.span(), &path, bytes) else { continue };
                        (name.to_owned(), body)
                    }
                },
            };
            settings.files.insert(path, File { mode, body });
        }
    }

    fn filled(&mut self, span: Range<usize>, what: &str, bytes: Vec<u8>) -> Option<Body> {
        let Ok(text) = String::from_utf8(bytes) else {
            self.problem(
                span,
                format!("{what} is a template and not UTF-8; take {TEMPLATE_SUFFIX} off its name"),
            );
            return None;
        };
        self.template(span, what, &text).map(Body::Filled)
    }

    fn file(&mut self, path: Spanned<String>, raw: RawFile, settings: &mut Settings) {
        if !is_path(path.get_ref()) {
            let what = format!("file.\"{}\" is no path; write one such as /etc/motd", path.get_ref());
            return self.problem(path.span(), what);
        }
        let mode = raw.mode.and_then(|mode| {
            let parsed = u32::from_str_radix(mode.get_ref(), 8).ok().filter(|mode| *mode <= 0o7777);
            if parsed.is_none() {
                let what = format!("file.mode = \"{}\" is no mode; write one such as 0640", mode.get_ref());
                self.problem(mode.span(), what);
            }
            parsed
        });
        let owner = raw.owner.and_then(|owner| {
            let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            let good = |part: &str| is_account(part) || number(part);
            let parts: Vec<&str> = owner.get_ref().split(':').collect();
            if parts.len() > 2 || !parts.into_iter().all(good) {
                let what = format!("file.owner = \"{}\"; write USER or USER:GROUP", owner.get_ref());
                self.problem(owner.span(), what);
                return None;
            }
            Some(owner.into_inner())
        });
        if let Some(content) = raw.content
            && let Some(template) = self.template(content.span(), "file.content", content.get_ref())
        {
            let file = File { mode: 0o644, body: Body::Filled(template) };
            settings.files.insert(path.get_ref().clone(), file);
        }
        settings.attributes.insert(path.into_inner(), Attributes { owner, mode });
    }

    fn unit(&mut self, unit: Spanned<String>, state: Unit, settings: &mut Settings) {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"@:-_.\\".contains(&byte);
        let name = unit.get_ref();
        if name.is_empty() || name.starts_with('-') || !name.bytes().all(plain) {
            let what = format!("system: `{name}` is no unit; write a name such as ssh.service");
            return self.problem(unit.span(), what);
        }
        let name = if name.contains('.') { name.clone() } else { format!("{name}.service") };
        if settings.units.insert(name.clone(), state).is_some_and(|before| before != state) {
            let what = format!("system: `{name}` is in two of enable, disable and mask; keep one");
            self.problem(unit.span(), what);
        }
    }

    fn hook_limit(&mut self, limit: Option<Spanned<u64>>) -> u64 {
        let Some(limit) = limit else { return HOOK_LIMIT_S };
        if !(1..=HOOK_LIMIT_S_MAX).contains(limit.get_ref()) {
            let what = format!("system.hook_limit_s = {}; write 1 to {HOOK_LIMIT_S_MAX}", limit.get_ref());
            self.problem(limit.span(), what);
        }
        limit.into_inner()
    }

    fn hook(&mut self, path: &Spanned<std::path::PathBuf>, limit_s: u64) -> Option<Hook> {
        let name = path.get_ref().file_name().unwrap_or_default().to_string_lossy();
        let name = name.strip_suffix(TEMPLATE_SUFFIX).unwrap_or(&name).to_owned();
        let bytes = self.read(path)?;
        // What the kernel starts by itself (execve(2)); anything else would be run by whatever shell is at hand.
        if !bytes.starts_with(b"#!") && !bytes.starts_with(b"\x7fELF") {
            let what = format!("hook {name} is no program; begin it with a line such as #!/bin/sh");
            self.problem(path.span(), what);
            return None;
        }
        Some(Hook { name, body: self.body(path, bytes)?, limit_s })
    }

    fn read_body(&mut self, path: &Spanned<std::path::PathBuf>) -> Option<Body> {
        let bytes = self.read(path)?;
        self.body(path, bytes)
    }

    fn body(&mut self, path: &Spanned<std::path::PathBuf>, bytes: Vec<u8>) -> Option<Body> {
        let name = path.get_ref().display().to_string();
        if name.ends_with(TEMPLATE_SUFFIX) {
            self.filled(path.span(), &name, bytes)
        } else {
            Some(Body::Plain(bytes))
        }
    }

    fn read(&mut self, path: &Spanned<std::path::PathBuf>) -> Option<Vec<u8>> {
        match self.source.file(path.get_ref()) {
            Ok(bytes) => Some(bytes),
            Err(problem) => {
                self.problem(path.span(), problem);
                None
            }
        }
    }
}

/// A user or group as useradd(8) takes it.
fn is_account(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
    (1..=32).contains(&name.len())
        && name.bytes().all(inner)
        && name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
}

/// crypt(5): `$ID$...`, or `*` for no password.
fn is_hash(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"./$=,+_-".contains(&byte);
    text == "*" || (text.starts_with('$') && text.len() >= 20 && text.bytes().all(plain))
}

/// Absolute, in its shortest form, and nothing that stops a line.
pub(crate) fn is_path(path: &str) -> bool {
    let inner = path.strip_prefix('/').unwrap_or_default();
    !inner.is_empty()
        && path.len() < 4096
        && !path.chars().any(char::is_control)
        && inner.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

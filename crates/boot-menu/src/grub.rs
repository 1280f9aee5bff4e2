//! GRUB configurations of a plan, for nodes that Secure Boot leaves no other loader.
//!
//! Never carries a token: what needs one is read when it is chosen. Everything of the site stands in single quotes.
//!
//! GRUB asks by names, so a node's configuration has some: [`Name`] reads them.

use std::fmt::Write as _;

use dhcp_wire::MacAddr;

use crate::Server;
use crate::model::{Firmware, Item, Local, Menu, Start};
use crate::names::{More, node};
use crate::resolve::{Plan, Ready, Step};
use crate::text::{Location, title};

/// Time to read why an entry did not boot.
const FAILED_S: u32 = 5;
/// Where every GRUB looks first.
const ROOT: &str = "grub/grub.cfg";

/// What GRUB asks for under `grub/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// `grub/grub.cfg`: sends each node to its own.
    Root,
    /// `grub/grub.cfg-01-52-54-00-aa-bb-cc` as GRUB looks for by itself, or `grub/by-mac/52:54:00:aa:bb:cc`.
    Node(MacAddr),
    /// `grub/menu/MAC/NAME`: a menu behind another.
    Menu(MacAddr, String),
    /// `grub/item/MAC/NAME`: an entry that was chosen.
    Item(MacAddr, String),
}

impl Name {
    /// Reads a file name without leading slash; `None` for files that are none of ours.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        if name == ROOT {
            return Some(Self::Root);
        }
        // The hardware type of Ethernet goes before the address, as in PXELINUX.
        if let Some(mac) =
            name.strip_prefix("grub/grub.cfg-01-").or_else(|| name.strip_prefix("grub/by-mac/"))
        {
            return node(mac).map(Self::Node);
        }
        Some(match More::parse(name.strip_prefix("grub/")?)? {
            More::Menu(mac, name) => Self::Menu(mac, name),
            More::Item(mac, name) => Self::Item(mac, name),
        })
    }
}

/// `grub/grub.cfg` for everybody: GRUB knows its own hardware address and nothing else of use.
#[must_use]
pub fn root() -> String {
    format!(
        "# Each node has a configuration of its own.\n\
         if [ -n \"$net_default_mac\" ]; then\n  configfile \"/grub/by-mac/$net_default_mac\"\nfi\n\
         echo 'ESIR: this loader does not say which network card it uses'\nsleep {FAILED_S}\nexit\n"
    )
}

/// The configuration of a plan. Files of ours come from `server`.
#[must_use]
pub fn config(plan: &Plan<'_>, server: &Server, mac: MacAddr) -> String {
    let mut config = Config { text: String::new(), plan, device: server.grub_device(), mac };
    match &plan.start {
        Start::Menu(name) => config.menu(name),
        Start::Entry(name) => config.entry_alone(name),
    }
    config.text
}

/// Starts our agent: the kernel and initrd of a bundle with a command line for this boot.
/// `None` if a word could break out of its quotes.
#[must_use]
pub fn agent(bundle: &str, arguments: &[String], server: &Server) -> Option<String> {
    let harmless = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\'' && byte != b'\\')
    };
    if !harmless(bundle) || bundle.contains('/') || !arguments.iter().all(|word| harmless(word)) {
        return None;
    }
    let (kernel, initrd) = (format!("/boot/{bundle}/vmlinuz"), format!("/boot/{bundle}/initrd.img"));
    let linux = linux(server.grub_device().as_deref(), &kernel, &[initrd], arguments);
    Some(format!("echo 'ESIR: starting the agent'\n{linux}"))
}

/// Loads a kernel and starts it, if all of it came. Over HTTP from `device` where GRUB can: its TFTP asks for one KiB at a
/// time and waits for each. A signed GRUB has its module for HTTP or never gets it, and says which at once.
fn linux(device: Option<&str>, kernel: &str, initrd: &[String], words: &[String]) -> String {
    let words: String = words.iter().map(|word| format!(" '{word}'")).collect();
    let load = |device: &str| {
        let at = |path: &str| match path.strip_prefix('/') {
            Some(path) => format!("'{device}/{path}'"),
            None => format!("'{path}'"),
        };
        let mut commands = vec![format!("linux {}{words}", at(kernel))];
        if !initrd.is_empty() {
            let files: Vec<String> = initrd.iter().map(|path| at(path)).collect();
            commands.push(format!("initrd {}", files.join(" ")));
        }
        // Each goes on only if the one before it did what it should.
        commands.iter().rev().fold("boot\n".to_owned(), |inner, command| {
            format!("if {command}; then\n{}fi\n", indented(&inner))
        })
    };
    let ours = initrd.iter().map(String::as_str).chain([kernel]).any(|path| path.starts_with('/'));
    let over_http = device.filter(|_| ours).map(load).map(|lines| indented(&lines));
    let over_http = over_http.map(|lines| format!("if insmod http; then\n{lines}fi\n")).unwrap_or_default();
    over_http + &load("")
}

fn indented(lines: &str) -> String {
    lines.lines().map(|line| format!("  {line}\n")).collect()
}

/// Says something on the console and goes back to the firmware.
#[must_use]
pub fn message(text: &str) -> String {
    format!("echo 'ESIR: {}'\nsleep {FAILED_S}\nexit\n", title(text))
}

/// Boots from the node's own disk.
#[must_use]
pub fn local(firmware: Firmware, style: Local) -> String {
    let mut text = String::from("echo 'ESIR: booting from the local disk'\n");
    match (firmware, style) {
        (Firmware::Bios, Local::Auto | Local::Sanboot | Local::Ignore) => {
            text.push_str("set root='(hd0)'\nchainloader +1\nboot\n")
        }
        // An ended GRUB leaves it to the firmware what comes next, and some firmware stops; the disk's own loader does not.
        (Firmware::Uefi | Firmware::SecureBoot, Local::Auto | Local::Sanboot | Local::Ignore) => text
            .push_str(
                "if search --no-floppy --set=root --file /EFI/BOOT/BOOTX64.EFI; then\n  \
             chainloader /EFI/BOOT/BOOTX64.EFI\n  boot\nfi\n",
            ),
        (_, Local::Exit0 | Local::Exit1) => {}
    }
    text.push_str("exit\n");
    text
}

/// An entry as GRUB shows it, or one sentence why it does not.
pub(crate) fn ready(plan: &Plan<'_>, name: &str) -> Result<Ready, String> {
    // Neither whose configuration it is nor where from makes a difference to that.
    Config { text: String::new(), plan, device: None, mac: MacAddr([0; 6]) }
        .entry(name)
        .map(|(ready, _)| ready)
}

struct Config<'a> {
    text: String,
    plan: &'a Plan<'a>,
    device: Option<String>,
    mac: MacAddr,
}

impl Config<'_> {
    fn line(&mut self, text: impl std::fmt::Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{text}");
    }

    fn menu(&mut self, name: &str) {
        let Some(menu) = self.plan.menu(name) else { return self.line("exit") };
        let mut shown: Vec<(&Start, Option<(Ready, String)>)> = Vec::new();
        for item in &menu.items {
            let Item::Start(start) = item else { continue };
            match start {
                Start::Menu(_) => shown.push((start, None)),
                Start::Entry(name) => match self.entry(name) {
                    Ok(entry) => shown.push((start, Some(entry))),
                    Err(reason) => self.line(format_args!("# {name} is left out: {}", title(&reason))),
                },
            }
        }
        let starts: Vec<&Start> = shown.iter().map(|(start, _)| *start).collect();
        let Some(default) = self.plan.default_of(menu, &starts) else {
            self.text.push_str(&message("nothing in this menu is for this machine"));
            return;
        };
        self.head(menu, &default, &shown);
        for item in &menu.items {
            match item {
                Item::Heading(heading) => {
                    let heading = self.plan.title(heading);
                    self.line(format_args!("menuentry '-- {heading} --' --unrestricted {{ true; }}"));
                }
                Item::Start(start) => {
                    if let Some((_, entry)) = shown.iter().find(|(known, _)| *known == start) {
                        self.item(start, entry.as_ref());
                    }
                }
            }
        }
    }

    fn head(&mut self, menu: &Menu, default: &Start, shown: &[(&Start, Option<(Ready, String)>)]) {
        let users: std::collections::BTreeSet<&String> = shown
            .iter()
            .filter_map(|(_, entry)| entry.as_ref())
            .flat_map(|(ready, _)| &ready.users)
            .collect();
        if !users.is_empty() {
            // With nobody as superuser, entries cannot be edited and there is no command line.
            self.line("set superusers=''");
            for name in users {
                if let Some(hash) = self.plan.menus.user(name).and_then(|user| user.grub.as_ref()) {
                    self.line(format_args!("password_pbkdf2 '{name}' '{hash}'"));
                }
            }
        }
        self.line(format_args!("# {}", self.plan.title(&menu.title)));
        self.line(format_args!("set timeout={}", menu.timeout_s.map_or(-1, i64::from)));
        self.line(format_args!("set default='{}'", id(default)));
    }

    fn item(&mut self, start: &Start, entry: Option<&(Ready, String)>) {
        let mac = self.mac;
        match (start, entry) {
            (Start::Menu(name), _) => {
                let title = self.plan.menu(name).map(|menu| self.plan.title(&menu.title)).unwrap_or_default();
                self.line(format_args!("menuentry '{title} ...' --id '{}' --unrestricted {{", id(start)));
                self.line(format_args!("  configfile '/grub/menu/{mac}/{name}'"));
            }
            (Start::Entry(_), Some((ready, body))) => {
                let key = ready.key.map(|key| format!(" --hotkey={key}")).unwrap_or_default();
                let shown = ready.key.map(|key| format!("({key}) ")).unwrap_or_default();
                let who = match ready.users.as_slice() {
                    [] => "--unrestricted".to_owned(),
                    users => format!("--users '{}'", users.join(",")),
                };
                self.line(format_args!(
                    "menuentry '{shown}{}' --id '{}'{key} {who} {{",
                    ready.title,
                    id(start)
                ));
                self.text.push_str(&indented(body));
            }
            (Start::Entry(_), None) => return,
        }
        self.line("}");
    }

    fn entry_alone(&mut self, name: &str) {
        match self.plan.ready(name).and_then(|ready| self.body(name, &ready)) {
            Ok(body) => {
                self.text.push_str(&body);
                self.line(format_args!(
                    "echo 'ESIR: that did not boot, back to the firmware in {FAILED_S} s'"
                ));
                self.line(format_args!("sleep {FAILED_S}"));
                self.line("exit");
            }
            Err(reason) => self.text.push_str(&message(&format!("{name} cannot be booted here: {reason}"))),
        }
    }

    fn entry(&self, name: &str) -> Result<(Ready, String), String> {
        let ready = self.plan.ready(name)?;
        let hashed = |user: &String| self.plan.menus.user(user).is_some_and(|user| user.grub.is_some());
        if !ready.users.iter().all(hashed) {
            return Err("not all of its users have a password for GRUB".to_owned());
        }
        let body = self.body(name, &ready)?;
        Ok((ready, body))
    }

    fn body(&self, name: &str, ready: &Ready) -> Result<String, String> {
        let mut text = String::new();
        match &ready.step {
            // GRUB reads the file when the entry is chosen, so that its token is of this boot.
            Step::Ask => text = format!("source '/grub/item/{}/{name}'\n", self.mac),
            Step::Local(style) => text = local(self.plan.firmware, *style),
            Step::Kernel { kernel, initrd, args } => {
                let initrd: Vec<String> = initrd.iter().map(path).collect::<Result<_, _>>()?;
                let _ = writeln!(text, "echo 'ESIR: booting {}'", ready.title);
                text.push_str(&linux(self.device.as_deref(), &path(kernel)?, &initrd, args));
            }
            Step::Program(file) if self.plan.firmware == Firmware::Bios => {
                let _ = writeln!(text, "linux '{}'\nboot", path(file)?);
            }
            Step::Program(file) => {
                let _ = writeln!(text, "chainloader '{}'\nboot", path(file)?);
            }
            Step::Chain(to) => {
                let path = path(to)?;
                let command = match path.rsplit_once('.').map(|(_, end)| end) {
                    Some("efi") => "chainloader",
                    Some("cfg") => "configfile",
                    _ => return Err("GRUB can chain only to .efi and .cfg files".to_owned()),
                };
                let _ = writeln!(text, "{command} '{path}'");
                if command == "chainloader" {
                    text.push_str("boot\n");
                }
            }
            Step::Shell => return Err("GRUB has its command line behind the key c".to_owned()),
        }
        Ok(text)
    }
}

fn path(location: &Location) -> Result<String, String> {
    match location {
        Location::File(path) => Ok(format!("/files/{path}")),
        Location::Url { scheme, host, path } if scheme != "https" && !host.contains(':') => {
            Ok(format!("({scheme},{host}){path}"))
        }
        Location::Url { .. } => {
            Err("GRUB reads from http and tftp servers on their usual ports only".to_owned())
        }
    }
}

fn id(start: &Start) -> String {
    match start {
        Start::Entry(name) => format!("e-{name}"),
        Start::Menu(name) => format!("m-{name}"),
    }
}

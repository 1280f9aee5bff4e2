//! PXELINUX configurations of a plan, for BIOS nodes whose firmware is given PXELINUX by somebody else.
//!
//! Never needs more than `pxelinux.0` and `ldlinux.c32`: a menu is text above a prompt. Never carries a token: what needs
//! one is a configuration of its own, read when it is chosen. What PXELINUX cannot do is left out, with the reason in a
//! comment: passwords, another loader's scripts.

use std::fmt::Write as _;

use dhcp_wire::MacAddr;

use crate::model::{Item, Local, Menu, Start};
use crate::names::{More, node};
use crate::resolve::{Plan, Ready, Step};
use crate::text::{Location, title};

/// Time to read why an entry did not boot, in tenths of a second as PXELINUX counts.
const FAILED_DS: u32 = 50;
/// The most that PXELINUX waits.
const TIMEOUT_DS_MAX: u32 = 35_996;
/// From the root of the TFTP server that the node was sent to. QUIRK(PXELINUX 6): a leading slash does not say that, the
/// place of PXELINUX itself is put before it.
const HOME: &str = "::";
/// Width of the names before the titles.
const NAME_WIDTH: usize = 20;

/// What PXELINUX asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// `pxelinux.cfg/01-52-54-00-aa-bb-cc`: hardware type and address.
    Node(MacAddr),
    /// `pxelinux/menu/MAC/NAME`: a menu behind another.
    Menu(MacAddr, String),
    /// `pxelinux/item/MAC/NAME`: an entry that was chosen.
    Item(MacAddr, String),
}

impl Name {
    /// Reads a file name without leading slash; `None` for files that are none of ours.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        if let Some(mac) = name.strip_prefix("pxelinux.cfg/01-") {
            return node(mac).map(Self::Node);
        }
        Some(match More::parse(name.strip_prefix("pxelinux/")?)? {
            More::Menu(mac, name) => Self::Menu(mac, name),
            More::Item(mac, name) => Self::Item(mac, name),
        })
    }
}

/// The configuration of a plan.
#[must_use]
pub fn config(plan: &Plan<'_>, mac: MacAddr) -> String {
    let mut config = Config { text: String::new(), plan, mac };
    match &plan.start {
        Start::Menu(name) => config.menu(name),
        Start::Entry(name) => config.entry_alone(name),
    }
    config.text
}

/// Starts our agent: the kernel and initrd of a bundle with a command line for this boot.
/// `None` if a word could mean something else.
#[must_use]
pub fn agent(bundle: &str, arguments: &[String]) -> Option<String> {
    let harmless = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if !harmless(bundle) || bundle.contains(['/', ',']) || !arguments.iter().all(|word| harmless(word)) {
        return None;
    }
    let files = format!("{HOME}boot/{bundle}");
    Some(alone(
        "agent",
        "ESIR: starting the agent",
        &linux(&format!("{files}/vmlinuz"), &[format!("{files}/initrd.img")], arguments),
    ))
}

/// Says something on the console and goes back to the firmware.
#[must_use]
pub fn message(text: &str) -> String {
    format!(
        "SAY ESIR: {}\nDEFAULT back\nPROMPT 1\nTIMEOUT {FAILED_DS}\nIMPLICIT 0\nALLOWOPTIONS 0\nLABEL back\n  LOCALBOOT -1\n",
        title(text)
    )
}

/// Boots from the node's own disk.
#[must_use]
pub fn local(style: Local) -> String {
    alone("local", "ESIR: booting from the local disk", &local_boot(style))
}

/// One label that is booted at once.
fn alone(label: &str, says: &str, body: &str) -> String {
    format!("SAY {says}\nDEFAULT {label}\nPROMPT 0\nIMPLICIT 0\nALLOWOPTIONS 0\nLABEL {label}\n{body}")
}

fn local_boot(style: Local) -> String {
    match style {
        // An error to the firmware: the next device in its order.
        Local::Exit1 => "  LOCALBOOT -1\n".to_owned(),
        Local::Auto | Local::Sanboot | Local::Exit0 | Local::Ignore => "  LOCALBOOT 0\n".to_owned(),
    }
}

fn linux(kernel: &str, initrd: &[String], arguments: &[String]) -> String {
    let mut text = format!("  LINUX {kernel}\n");
    if !initrd.is_empty() {
        let _ = writeln!(text, "  INITRD {}", initrd.join(","));
    }
    // QUIRK(SYSLINUX): it takes `initrd=` among the arguments for its own order to load that file.
    let words: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|word| !word.starts_with("initrd=")).collect();
    if !words.is_empty() {
        let _ = writeln!(text, "  APPEND {}", words.join(" "));
    }
    text
}

struct Config<'a> {
    text: String,
    plan: &'a Plan<'a>,
    mac: MacAddr,
}

impl Config<'_> {
    fn line(&mut self, text: impl std::fmt::Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{text}");
    }

    fn menu(&mut self, name: &str) {
        let Some(menu) = self.plan.menu(name) else {
            self.text.push_str(&message("there is no such menu"));
            return;
        };
        let shown = self.shown(menu);
        let starts: Vec<&Start> = shown.iter().map(|(start, ..)| *start).collect();
        let Some(default) = self.plan.default_of(menu, &starts) else {
            self.text.push_str(&message("nothing in this menu is for this machine"));
            return;
        };
        self.line(format_args!("SAY {}", self.plan.title(&menu.title)));
        for item in &menu.items {
            match item {
                Item::Heading(heading) => {
                    self.line(format_args!("SAY -- {} --", self.plan.title(heading)));
                }
                Item::Start(start) => {
                    if let Some((_, title, _)) = shown.iter().find(|(known, ..)| *known == start) {
                        self.line(format_args!("SAY   {:NAME_WIDTH$} {title}", label(start)));
                    }
                }
            }
        }
        let default = label(&default);
        self.line(format_args!("SAY Type a name, or nothing for {default}"));
        let timeout = menu.timeout_s.map_or(0, |seconds| seconds.saturating_mul(10).min(TIMEOUT_DS_MAX));
        self.line(format_args!("DEFAULT {default}\nPROMPT 1\nTIMEOUT {timeout}\nIMPLICIT 0\nALLOWOPTIONS 0"));
        for (start, _, body) in shown {
            self.line(format_args!("LABEL {}", label(start)));
            self.text.push_str(&body);
        }
    }

    /// What of a menu can be chosen on this node, each once, with title and body.
    fn shown<'m>(&mut self, menu: &'m Menu) -> Vec<(&'m Start, String, String)> {
        let mut shown: Vec<(&Start, String, String)> = Vec::new();
        for item in &menu.items {
            let Item::Start(start) = item else { continue };
            if shown.iter().any(|(known, ..)| *known == start) {
                continue;
            }
            match start {
                Start::Menu(name) => {
                    let title =
                        self.plan.menu(name).map(|menu| self.plan.title(&menu.title)).unwrap_or_default();
                    let body = format!("  CONFIG {HOME}pxelinux/menu/{}/{name}\n", self.mac);
                    shown.push((start, format!("{title} ..."), body));
                }
                Start::Entry(name) => match self.entry(name) {
                    Ok((ready, body)) => shown.push((start, ready.title, body)),
                    Err(reason) => self.line(format_args!("# {name} is left out: {}", title(&reason))),
                },
            }
        }
        shown
    }

    fn entry_alone(&mut self, name: &str) {
        let text = match self.entry(name) {
            Ok((ready, body)) => alone(name, &format!("ESIR: booting {}", ready.title), &body),
            Err(reason) => message(&format!("{name} cannot be booted here: {reason}")),
        };
        self.text.push_str(&text);
    }

    fn entry(&self, name: &str) -> Result<(Ready, String), String> {
        let ready = self.plan.ready(name)?;
        if !ready.users.is_empty() {
            return Err("PXELINUX cannot ask for its password".to_owned());
        }
        let body = self.body(name, &ready)?;
        Ok((ready, body))
    }

    fn body(&self, name: &str, ready: &Ready) -> Result<String, String> {
        Ok(match &ready.step {
            // PXELINUX reads the file when the entry is chosen, so that its token is of this boot.
            Step::Ask => format!("  CONFIG {HOME}pxelinux/item/{}/{name}\n", self.mac),
            Step::Local(style) => local_boot(*style),
            Step::Kernel { kernel, initrd, args } => {
                let initrd: Vec<String> = initrd.iter().map(path).collect::<Result<_, _>>()?;
                linux(&path(kernel)?, &initrd, args)
            }
            Step::Program(file) => linux(&path(file)?, &[], &[]),
            Step::Chain(to) => {
                let path = path(to)?;
                let end = path.rsplit_once('.').map(|(_, end)| end);
                if !matches!(end, Some("0" | "kpxe" | "kkpxe" | "pxe")) {
                    return Err(
                        "PXELINUX can chain only to network boot programs (.0, .kpxe, .pxe)".to_owned()
                    );
                }
                format!("  PXE {path}\n")
            }
            Step::Shell => return Err("PXELINUX has no command line of its own".to_owned()),
        })
    }
}

fn path(location: &Location) -> Result<String, String> {
    let text = match location {
        Location::File(path) => format!("{HOME}files/{path}"),
        Location::Url { scheme, host, path } if scheme != "https" => format!("{scheme}://{host}{path}"),
        Location::Url { .. } => {
            return Err("PXELINUX reads from tftp and, as lpxelinux.0, http servers only".into());
        }
    };
    // Commas part the names of initrds.
    if text.contains(',') { Err("PXELINUX reads no file with a comma in its name".into()) } else { Ok(text) }
}

/// What a person types. Names have no dot, so menus cannot be mistaken for entries.
fn label(start: &Start) -> String {
    match start {
        Start::Entry(name) => name.clone(),
        Start::Menu(name) => format!("menu.{name}"),
    }
}

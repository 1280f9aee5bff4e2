//! iPXE scripts of a plan. Every way through a script ends in a boot, in the firmware, or in the menu again.
//!
//! Never carries a secret: protected entries and those with a token are asked for when they are chosen.

use std::fmt::Write as _;

use crate::Server;
use crate::model::{Firmware, Item, Local, Menu, Start};
use crate::resolve::{Plan, Ready, Step};
use crate::text::{Location, title};

/// Time to read why an entry did not boot.
const FAILED_S: u32 = 5;
/// QUIRK(iPXE): it keeps what was typed, shows it to whoever has a command line, and the next form begins with it.
const FORGET: &str = "clear password ||";
/// Between two tries of a node that has no menu to go back to.
const RETRY_S: u32 = 10;

/// The script of a plan. `authorised`: whoever asks has given the password of the entry that the plan starts with.
#[must_use]
pub fn script(plan: &Plan<'_>, server: &Server, authorised: bool) -> String {
    let mut script = Script { text: "#!ipxe\n".to_owned(), plan, server };
    script.line(FORGET);
    match &plan.start {
        Start::Menu(_) => script.menus(),
        Start::Entry(name) => script.entry_alone(name, authorised),
    }
    script.text
}

struct Script<'a> {
    text: String,
    plan: &'a Plan<'a>,
    server: &'a Server,
}

impl Script<'_> {
    fn line(&mut self, text: impl std::fmt::Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{text}");
    }

    fn menus(&mut self) {
        let names = self.plan.reachable();
        let Some(first) = names.first().copied() else { return self.line("exit 1") };
        let mut entries: Vec<(&str, Ready)> = Vec::new();
        for name in &names {
            let Some(menu) = self.plan.menu(name) else { continue };
            let shown = self.shown(menu, &mut entries);
            self.menu(name, menu, &shown, &entries, first);
        }
        for (name, entry) in &entries {
            self.line(format_args!(":e-{name}"));
            if entry.users.is_empty() {
                self.step(name, &entry.step, &entry.title);
            } else {
                self.login(name);
            }
        }
        self.line(":failed");
        self.line(FORGET);
        self.line(format_args!("echo ESIR: that did not boot, back to the menu in {FAILED_S} s"));
        self.line("imgfree ||");
        self.line(format_args!("sleep {FAILED_S}"));
        self.line(format_args!("goto m-{first}"));
    }

    /// What of a menu can be chosen on this node; new entries go to `entries`.
    fn shown<'m>(&mut self, menu: &'m Menu, entries: &mut Vec<(&'m str, Ready)>) -> Vec<&'m Start> {
        let mut shown = Vec::new();
        for item in &menu.items {
            let Item::Start(start) = item else { continue };
            if let Start::Entry(name) = start
                && !entries.iter().any(|(known, _)| known == name)
            {
                match self.plan.ready(name) {
                    Ok(ready) => entries.push((name, ready)),
                    Err(reason) => {
                        self.line(format_args!("# {name} is left out: {}", title(&reason)));
                        continue;
                    }
                }
            }
            shown.push(start);
        }
        shown
    }

    fn menu(&mut self, name: &str, menu: &Menu, shown: &[&Start], entries: &[(&str, Ready)], first: &str) {
        self.line(format_args!(":m-{name}"));
        let Some(default) = self.plan.default_of(menu, shown) else {
            self.line("echo ESIR: nothing in this menu is for this machine");
            self.line(format_args!("sleep {FAILED_S}"));
            return self.line(if name == first { "exit 1".to_owned() } else { format!("goto m-{first}") });
        };
        self.line(format_args!("menu {}", self.plan.title(&menu.title)));
        for item in &menu.items {
            match item {
                Item::Heading(heading) => {
                    self.line(format_args!("item --gap -- {}", self.plan.title(heading)))
                }
                Item::Start(start) if !shown.contains(&start) => {}
                Item::Start(Start::Menu(to)) => {
                    let title =
                        self.plan.menu(to).map(|menu| self.plan.title(&menu.title)).unwrap_or_default();
                    self.line(format_args!("item m-{to} {title} ..."));
                }
                Item::Start(Start::Entry(to)) => {
                    let Some((_, ready)) = entries.iter().find(|(name, _)| name == to) else { continue };
                    match ready.key {
                        Some(key) => {
                            self.line(format_args!("item --key {key} e-{to} ({key}) {}", ready.title))
                        }
                        None => self.line(format_args!("item e-{to} {}", ready.title)),
                    }
                }
            }
        }
        let timeout = menu.timeout_s.map(|seconds| format!("--timeout {} ", u64::from(seconds) * 1000));
        // Escape leads to the first menu, where the time starts again: no node stays at a prompt for ever.
        self.line(format_args!(
            "choose {}--default {} chosen && goto ${{chosen}} || goto m-{first}",
            timeout.unwrap_or_default(),
            label(&default)
        ));
    }

    fn entry_alone(&mut self, name: &str, authorised: bool) {
        match self.plan.ready(name) {
            Ok(entry) if entry.users.is_empty() || authorised => self.step(name, &entry.step, &entry.title),
            Ok(_) => self.login(name),
            Err(reason) => {
                self.line(format_args!("echo ESIR: {name} cannot be booted here"));
                self.line(format_args!("echo {}", title(&reason)));
            }
        }
        self.line(":failed");
        self.line(FORGET);
        self.line(format_args!("echo ESIR: that did not boot, asking the server again in {RETRY_S} s"));
        self.line("imgfree ||");
        self.line(format_args!("sleep {RETRY_S}"));
        self.line(format_args!("chain --replace {} || goto failed", self.server.script_url));
    }

    /// iPXE asks for name and password and proves them by HTTP Digest; neither is in any script.
    fn login(&mut self, name: &str) {
        let url = format!("{}&item={name}", self.server.script_url);
        let url = url.replacen("http://", "http://${username:uristring}:${password:uristring}@", 1);
        self.line("login || goto failed");
        self.line(format_args!("chain --replace {url} || goto failed"));
    }

    fn step(&mut self, name: &str, step: &Step, title: &str) {
        match step {
            Step::Ask => self
                .line(format_args!("chain --replace {}&item={name} || goto failed", self.server.script_url)),
            Step::Local(style) => self.local(*style),
            Step::Kernel { kernel, initrd, args } => {
                self.line(format_args!("echo ESIR: booting {title}"));
                let names: Vec<String> =
                    (0..initrd.len()).map(|number| format!("initrd{number}.img")).collect();
                // QUIRK(iPXE before 2023): under UEFI the kernel finds its initrds only if the command line names them.
                let mut words: Vec<String> = names.iter().map(|name| format!("initrd={name}")).collect();
                words.extend(args.iter().cloned());
                let mut kernel = format!("kernel {}", self.url(kernel));
                for word in words {
                    kernel.push(' ');
                    kernel.push_str(&word);
                }
                self.line(format_args!("{kernel} || goto failed"));
                for (name, initrd) in names.iter().zip(initrd) {
                    self.line(format_args!("initrd --name {name} {} || goto failed", self.url(initrd)));
                }
                self.line("boot || goto failed");
                self.line("goto failed");
            }
            Step::Program(file) => {
                self.line(format_args!("echo ESIR: starting {title}"));
                // Memtest and its like are Linux-format on BIOS and come back nowhere.
                if self.plan.firmware == Firmware::Bios {
                    self.line(format_args!("kernel {} || goto failed", self.url(file)));
                    self.line("boot || goto failed");
                } else {
                    self.line(format_args!("chain {} || goto failed", self.url(file)));
                }
                self.line("goto failed");
            }
            Step::Chain(to) => {
                self.line(format_args!("chain --autofree {} || goto failed", self.url(to)));
                self.line("goto failed");
            }
            Step::Shell => {
                self.line("echo ESIR: type exit to come back");
                self.line("shell");
                self.line("goto failed");
            }
        }
    }

    fn local(&mut self, style: Local) {
        self.line("echo ESIR: booting from the local disk");
        let sanboot = match style {
            Local::Sanboot => true,
            Local::Auto | Local::Ignore => self.plan.firmware == Firmware::Bios,
            Local::Exit0 | Local::Exit1 => false,
        };
        if sanboot {
            self.line("sanboot --no-describe --drive 0x80 || echo ESIR: the first disk does not boot, back to the firmware");
        }
        // QUIRK(UEFI): `exit 1` goes on to the next boot entry; `exit 0` ends in the setup menu on OVMF.
        self.line(if style == Local::Exit0 { "exit 0" } else { "exit 1" });
    }

    fn url(&self, location: &Location) -> String {
        match location {
            Location::File(path) => format!("{}/files/{path}", self.server.base()),
            Location::Url { scheme, host, path } => format!("{scheme}://{host}{path}"),
        }
    }
}

fn label(start: &Start) -> String {
    match start {
        Start::Entry(name) => format!("e-{name}"),
        Start::Menu(name) => format!("m-{name}"),
    }
}

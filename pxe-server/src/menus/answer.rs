//! From what a node asks to what it gets: one path for the server and for the command line.

use boot_menu::{Facts, Firmware, Kind, Local, Menus, Plan, Server, Start, grub, ipxe, pxelinux};
use node_api::{FirmwareKind, Identity};

use crate::netboot::{Asks, BootRequest, Loader};

/// What the site's menus say about one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// What the node gets.
    pub(crate) give: Give,
    /// How it gets to its own disk, if that is what it gets.
    pub(crate) local: Local,
    /// The rule by which it gets this only once.
    pub(crate) once: Option<String>,
}

/// What a node gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Give {
    /// What the server has for it: its deployment, else its own disk.
    Task,
    /// The agent without a task.
    Inventory,
    /// This, in the language of its loader.
    Script(String),
    /// Nothing before it proved a password.
    Login,
}

/// A node as the menus see it. What firmware does not say now, it said when the agent enrolled.
pub(crate) fn facts(request: &BootRequest, name: String, known: Option<Identity>) -> Facts {
    let known = known.unwrap_or_default();
    let firmware = match (request.loader, request.platform) {
        (Loader::Grub, _) => Firmware::SecureBoot,
        (Loader::Pxelinux, _) => Firmware::Bios,
        (Loader::Ipxe, FirmwareKind::Uefi) => Firmware::Uefi,
        (Loader::Ipxe, FirmwareKind::Bios) => Firmware::Bios,
    };
    Facts {
        mac: request.mac,
        name,
        serial: request.serial.clone().or(known.serial),
        uuid: request.uuid.clone().or(known.uuid),
        address: Some(request.address),
        relay: None,
        firmware,
    }
}

/// What the menus say. `had` knows which rules the node has had in earlier boots.
pub(crate) fn answer(
    menus: &Menus,
    facts: &Facts,
    server: &Server,
    request: &BootRequest,
    had: impl Fn(&str) -> bool,
) -> Answer {
    let local = menus.local(facts);
    let by_task = || Answer { give: Give::Task, local, once: None };
    let (plan, chosen) = match &request.asks {
        Asks::Start => (menus.resolve(facts, server, had), false),
        Asks::Menu(name) => (menus.resolve_menu(facts, server, name), false),
        Asks::Item(name) => (menus.resolve_entry(facts, server, name), true),
    };
    // The menu from which it was chosen may be of yesterday's file.
    let Some(plan) = plan else { return by_task() };
    let once = plan.once.clone();
    let Start::Entry(name) = &plan.start else {
        return Answer { give: Give::Script(render(&plan, request, server, false)), local, once };
    };
    let Some(entry) = menus.entry(name) else { return by_task() };
    let proved = request.user.as_ref().is_some_and(|user| entry.users().contains(user));
    // GRUB asks for the password itself and cannot say so; the item carries no right beyond its token.
    let at_grub = request.loader == Loader::Grub;
    if chosen && !entry.users().is_empty() && !proved && !at_grub {
        return Answer { give: Give::Login, local, once };
    }
    let give = match entry.kind() {
        // An entry that is not for this machine is not booted on it by asking for it.
        _ if plan.ready(name).is_err() => Give::Script(render(&plan, request, server, proved)),
        Kind::Deploy if entry.users().is_empty() || proved || at_grub => Give::Task,
        Kind::Inventory if entry.users().is_empty() || proved || at_grub => Give::Inventory,
        _ => Give::Script(render(&plan, request, server, proved)),
    };
    Answer { give, local, once }
}

fn render(plan: &Plan<'_>, request: &BootRequest, server: &Server, authorised: bool) -> String {
    match request.loader {
        Loader::Grub => grub::config(plan, server, request.mac),
        Loader::Pxelinux => pxelinux::config(plan, request.mac),
        Loader::Ipxe => ipxe::script(plan, server, authorised),
    }
}

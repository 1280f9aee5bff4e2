//! A plan as a picture for the terminal: what a person at the node's console would see.

use std::fmt::Write as _;

use crate::grub;
use crate::model::{Firmware, Item, Menu, Start};
use crate::resolve::{Plan, Ready, Step};

/// Inner width of the frame; a console of 80 columns holds it.
const WIDTH: usize = 74;

/// Draws what a plan starts with, and every menu behind it.
#[must_use]
pub fn draw(plan: &Plan<'_>) -> String {
    let mut text = String::new();
    match &plan.start {
        Start::Entry(name) => {
            let _ = writeln!(text, "no menu: {} is booted at once", describe(plan, name));
        }
        Start::Menu(_) => {
            for name in plan.reachable() {
                if let Some(menu) = plan.menu(name) {
                    draw_menu(plan, menu, &mut text);
                }
            }
        }
    }
    if let Some(once) = &plan.once {
        let _ = writeln!(text, "for the next boot only, by the rule {once}");
    }
    text
}

/// As the loader of this firmware shows it.
fn ready(plan: &Plan<'_>, name: &str) -> Result<Ready, String> {
    match plan.firmware {
        Firmware::SecureBoot => grub::ready(plan, name),
        Firmware::Bios | Firmware::Uefi => plan.ready(name),
    }
}

fn describe(plan: &Plan<'_>, name: &str) -> String {
    match ready(plan, name) {
        Ok(ready) => format!("{name} ({})", ready.title),
        Err(reason) => format!("{name} cannot be booted: {reason}; it"),
    }
}

fn draw_menu(plan: &Plan<'_>, menu: &Menu, text: &mut String) {
    let mut left_out = Vec::new();
    let shown: Vec<&Start> = menu
        .items
        .iter()
        .filter_map(|item| match item {
            Item::Heading(_) => None,
            Item::Start(start) => match start {
                Start::Menu(_) => Some(start),
                Start::Entry(name) => match ready(plan, name) {
                    Ok(_) => Some(start),
                    Err(reason) => {
                        left_out.push(format!("{name} is left out: {reason}"));
                        None
                    }
                },
            },
        })
        .collect();
    let default = plan.default_of(menu, &shown);
    let rule = format!("+{}+\n", "-".repeat(WIDTH + 2));
    text.push_str(&rule);
    let mut row = |line: &str| {
        let line: String = line.chars().take(WIDTH).collect();
        let _ = writeln!(text, "| {line}{} |", " ".repeat(WIDTH.saturating_sub(line.chars().count())));
    };
    row(&plan.title(&menu.title));
    row("");
    for item in &menu.items {
        match item {
            Item::Heading(heading) => row(&format!("    -- {}", plan.title(heading))),
            Item::Start(start) if shown.contains(&start) => {
                let mark = if default.as_ref() == Some(start) { ">" } else { " " };
                row(&format!("  {mark} {}", line(plan, start)));
            }
            Item::Start(_) => {}
        }
    }
    row("");
    row(&match menu.timeout_s {
        Some(seconds) => format!("> is taken after {seconds} s"),
        None => "waits for a choice".to_owned(),
    });
    text.push_str(&rule);
    for reason in left_out {
        let _ = writeln!(text, "  {reason}");
    }
    text.push('\n');
}

fn line(plan: &Plan<'_>, start: &Start) -> String {
    match start {
        Start::Menu(name) => {
            let title = plan.menu(name).map(|menu| plan.title(&menu.title)).unwrap_or_default();
            format!("{title} ...")
        }
        Start::Entry(name) => match ready(plan, name) {
            Ok(ready) => {
                let key = ready.key.map(|key| format!("({key}) ")).unwrap_or_default();
                let lock = if ready.users.is_empty() { "" } else { "  [password]" };
                let asks = if ready.step == Step::Ask { "  [the server decides]" } else { "" };
                format!("{key}{}{lock}{asks}", ready.title)
            }
            Err(reason) => reason,
        },
    }
}

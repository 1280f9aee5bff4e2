//! Users of the installed system, made by its own useradd so that its own rules hold.

use std::collections::BTreeMap;

use node_api::{Contents, Step, StepFile, StepFileKind};

use crate::settings::User;
use crate::steps::{file, script};

/// useradd and usermod take a moment; a large skeleton takes seconds.
const LIMIT_S: u64 = 120;

/// One step for each user.
pub(crate) fn steps(users: &BTreeMap<String, User>) -> Vec<Step> {
    users
        .iter()
        .filter(|(name, user)| *name != "root" || changes_root(user))
        .map(|(name, user)| step(name, user))
        .collect()
}

/// Root's keys go another way, beside those of the site.
fn changes_root(user: &User) -> bool {
    user.password.is_some() || user.shell.is_some()
}

/// What is put into the script was checked: no name, path or hash has a quote in it.
fn step(name: &str, user: &User) -> Step {
    let mut lines = Vec::new();
    for group in &user.groups {
        lines.push(format!("grep -q '^{group}:' /etc/group || groupadd '{group}'"));
    }
    if name != "root" {
        let uid = user.uid.map(|uid| format!(" --uid {uid}")).unwrap_or_default();
        let shell = match &user.shell {
            Some(shell) => shell.clone(),
            None => "$([ -x /bin/bash ] && echo /bin/bash || echo /bin/sh)".to_owned(),
        };
        // A password of `*` fits none; that of an account that is locked would also keep keys out at some sshd.
        lines.push(format!(
            "id -u '{name}' >/dev/null 2>&1 || useradd --create-home --password '*'{uid} --shell \"{shell}\" '{name}'"
        ));
    }
    if let Some(uid) = user.uid {
        lines.push(format!(
            "[ \"$(id -u '{name}')\" = {uid} ] || {{ echo \"{name} has the number $(id -u '{name}') in the image, not {uid}\"; exit 1; }}"
        ));
    }
    if !user.groups.is_empty() {
        lines.push(format!("usermod --append --groups '{}' '{name}'", user.groups.join(",")));
    }
    if let Some(shell) = &user.shell {
        lines.push(format!("usermod --shell '{shell}' '{name}'"));
    }
    if let Some(password) = &user.password {
        lines.push(format!("usermod --password '{password}' '{name}'"));
    }
    let mut files = Vec::new();
    if user.sudo {
        lines.push(format!(
            "[ -x /usr/bin/sudo ] || {{ echo 'the image has no sudo, which {name} is to have'; exit 1; }}"
        ));
        let ask = if user.password.as_deref().is_some_and(|hash| hash != "*") { "" } else { "NOPASSWD: " };
        let rule = format!("{name} ALL=(ALL:ALL) {ask}ALL\n");
        files.push(file(format!("/etc/sudoers.d/esir-{name}"), 0o440, rule));
    }
    if name != "root" && !user.keys.is_empty() {
        let owned = |path: &str, kind, mode, text: String| StepFile {
            path: format!("~{name}/{path}"),
            kind,
            mode,
            owner: name.to_owned(),
            contents: Contents(text.into_bytes()),
        };
        files.push(owned(".ssh", StepFileKind::Folder, 0o700, String::new()));
        files.push(owned(".ssh/authorized_keys", StepFileKind::File, 0o600, user.keys.join("\n") + "\n"));
    }
    Step { name: format!("user {name}"), program: Some(script(&lines, LIMIT_S)), files, ..Step::default() }
}

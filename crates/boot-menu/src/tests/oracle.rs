//! Reads scripts as the loaders do, and says what in them was not ours. Written apart from the renderers.

/// What an iPXE script of ours may do.
const IPXE: [&str; 17] = [
    "menu", "item", "choose", "goto", "echo", "sleep", "imgfree", "kernel", "initrd", "boot", "chain",
    "login", "exit", "sanboot", "shell", "", "clear",
];
/// Settings that iPXE fills in.
const SETTINGS: [&str; 7] = [
    "${chosen}",
    "${mac:hexhyp}",
    "${uuid}",
    "${platform}",
    "${serial:uristring}",
    "${username:uristring}",
    "${password:uristring}",
];
/// What a GRUB configuration of ours may do.
const GRUB: [&str; 18] = [
    "set",
    "if",
    "fi",
    "menuentry",
    "linux",
    "initrd",
    "boot",
    "chainloader",
    "configfile",
    "source",
    "echo",
    "sleep",
    "exit",
    "password_pbkdf2",
    "}",
    "true;",
    "search",
    "",
];

/// iPXE cuts a line at blanks, ends commands at `||` and `&&`, and knows no quotes.
pub(crate) fn judge_ipxe(script: &str) -> Result<(), String> {
    let mut lines = script.lines();
    if lines.next() != Some("#!ipxe") || !script.ends_with('\n') {
        return Err("it does not begin with #!ipxe or has no end".into());
    }
    let labels: Vec<&str> = script.lines().filter_map(|line| line.strip_prefix(':')).collect();
    let known =
        |label: &str| label == "${chosen}" || labels.iter().filter(|known| **known == label).count() == 1;
    let mut last = "";
    for line in lines {
        let wrong = |what: &str| Err(format!("{what}: {line}"));
        if line.len() > 4000 || !line.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return wrong("not printable, or too long");
        }
        if line.starts_with('#') || line.starts_with(':') {
            continue;
        }
        let mut bare = line.to_owned();
        for setting in SETTINGS {
            bare = bare.replace(setting, "");
        }
        if bare.contains('$') {
            return wrong("a setting that is not ours");
        }
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        if words.iter().any(|word| word.starts_with('#')) {
            return wrong("a comment within a line");
        }
        let commands: Vec<&[&str]> = words.split(|word| *word == "||" || *word == "&&").collect();
        for (number, command) in commands.iter().enumerate() {
            let name = command.first().copied().unwrap_or_default();
            if !IPXE.contains(&name) || (number > 0 && !["goto", "echo", ""].contains(&name)) {
                return wrong("a command that is not ours");
            }
            let label = match (name, *command) {
                ("goto", [_, label]) => Some(*label),
                ("item", [_, "--gap", "--", ..]) => None,
                ("item", [_, "--key", _, label, ..]) | ("item", [_, label, ..]) => Some(*label),
                ("choose", [.., "--default", label, "chosen"]) => Some(*label),
                ("goto" | "item" | "choose", _) => return wrong("a jump that cannot be read"),
                _ => None,
            };
            if label.is_some_and(|label| !known(label)) {
                return wrong("a jump to nowhere");
            }
            last = name;
        }
    }
    if ["exit", "goto"].contains(&last) { Ok(()) } else { Err(format!("it ends with `{last}`")) }
}

/// GRUB: within single quotes nothing means anything; outside of them stands nothing of the site.
pub(crate) fn judge_grub(config: &str) -> Result<(), String> {
    let mut depth = 0_i32;
    for line in config.lines() {
        let wrong = |what: &str| Err(format!("{what}: {line}"));
        if line.len() > 4000 || !line.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return wrong("not printable, or too long");
        }
        if line.starts_with('#') {
            continue;
        }
        let parts: Vec<&str> = line.split('\'').collect();
        if parts.len().is_multiple_of(2) {
            return wrong("an open quote");
        }
        let outside: String = parts.iter().step_by(2).copied().collect::<Vec<_>>().join("Q");
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b" -_=/.{};+".contains(&byte);
        if !outside.bytes().all(plain) {
            return wrong("something unquoted");
        }
        if !GRUB.contains(&outside.split_ascii_whitespace().next().unwrap_or_default()) {
            return wrong("a command that is not ours");
        }
        for byte in outside.bytes() {
            depth += i32::from(byte == b'{') - i32::from(byte == b'}');
        }
        if !(0..=1).contains(&depth) {
            return wrong("a brace too many");
        }
    }
    if depth == 0 { Ok(()) } else { Err("a brace that is not closed".into()) }
}

/// PXELINUX: each line is one word of its language, and everything that is jumped to is there.
pub(crate) fn judge_pxelinux(config: &str) -> Result<(), String> {
    let labels: Vec<&str> = config.lines().filter_map(|line| line.strip_prefix("LABEL ")).collect();
    let mut boots = 0;
    for line in config.lines() {
        let wrong = |what: &str| Err(format!("{what}: {line}"));
        if line.len() > 2000 || !line.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return wrong("not printable, or too long");
        }
        let (word, rest) = line.trim_start().split_once(' ').unwrap_or((line.trim_start(), ""));
        let is_in_label = line.starts_with("  ");
        match word {
            "#" | "SAY" if !is_in_label => {}
            "LABEL" if !is_in_label && labels.iter().filter(|label| **label == rest).count() == 1 => {}
            "DEFAULT" if !is_in_label && labels.contains(&rest) => {}
            "PROMPT" | "TIMEOUT" | "IMPLICIT" | "ALLOWOPTIONS"
                if !is_in_label && rest.parse::<u32>().is_ok() => {}
            "LINUX" | "CONFIG" | "PXE" if is_in_label && !rest.is_empty() && !rest.contains([' ', ',']) => {
                boots += 1
            }
            "INITRD" if is_in_label && !rest.is_empty() && !rest.contains(' ') => {}
            "APPEND" if is_in_label && !rest.split(' ').any(|word| word.starts_with("initrd=")) => {}
            "LOCALBOOT" if is_in_label && ["0", "-1"].contains(&rest) => boots += 1,
            _ => return wrong("a word that is not ours"),
        }
    }
    if boots == labels.len() && boots > 0 { Ok(()) } else { Err("a label that boots nothing".into()) }
}

//! The site file's `[system]` tables, and every step that can come of them.
//!
//! Never depends on the fuzzer: the same function replays the corpus in `crates/system-steps/tests/corpus.rs`.

mod shelf;

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use system_steps::{Node, RawSystem, STEP_BYTES_MAX, Systems, check};
use toml::Spanned;

use shelf::Shelf;

#[derive(Deserialize)]
struct File {
    system: Spanned<RawSystem>,
}

/// The table up to a NUL, a path of the overlay up to the next, the file's bytes. Whatever is taken, no file of a step
/// leaves its place and no word of a script ends the quotes around it.
pub fn systems(data: &[u8]) {
    let mut parts = data.splitn(3, |byte| *byte == 0);
    let table = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let path = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let Ok(File { system }) = toml::from_str(&table) else { return };
    let variables = BTreeSet::from(["rack".to_owned()]);
    let checked = check(system, &variables, &Shelf(&path, parts.next().unwrap_or_default()));
    for problem in &checked.problems {
        assert!(!problem.what.is_empty() && problem.span.as_ref().is_none_or(|span| span.end <= table.len()));
    }
    if !checked.problems.is_empty() {
        return;
    }
    let mut systems = Systems::default();
    systems.add("default", checked.settings);
    let values = [("name", "n1"), ("mac", "52:54:00:00:00:01"), ("address", "10.77.0.9"), ("rack", "r1")];
    let values: BTreeMap<String, String> = values.map(|(name, value)| (name.into(), value.into())).into();
    let node = Node { rules: vec!["default".into()], values, machine_id: "0".repeat(32) };
    let Ok(made) = systems.steps(&node) else { return };
    let mut bytes = 0;
    for step in &made.steps {
        for file in &step.files {
            let inside = file.path.strip_prefix('~').unwrap_or(&file.path);
            assert!(inside.contains('/') && !inside.split('/').any(|part| part == ".."), "{}", file.path);
            assert!(!file.path.contains(['\0', '\n']), "{:?}", file.path);
            bytes += file.contents.0.len();
        }
        let Some(program) = &step.program else { continue };
        bytes += program.contents.0.len();
        if !step.name.starts_with("hook ") {
            // Ours: a line is a command, and its quotes are closed.
            let script = String::from_utf8_lossy(&program.contents.0);
            assert!(script.lines().all(|line| line.matches('\'').count() % 2 == 0), "{script}");
        }
    }
    assert!(bytes <= STEP_BYTES_MAX);
    let _ = format!("{made:#}");
}

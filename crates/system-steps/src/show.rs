//! Steps as text, for a person who looks before a machine does.

use std::fmt;

use node_api::{BootOrder, Step, StepFile, StepFileKind};

use crate::steps::Made;

impl fmt::Display for Made {
    /// One paragraph for each step; with `{:#}` each file and program is printed whole.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(domain) = &self.domain {
            writeln!(f, "domain      {domain}")?;
        }
        let order = match self.boot_order {
            BootOrder::NetworkFirst => "network first, then the disk",
            BootOrder::DiskFirst => "the disk first",
            BootOrder::Untouched => "as the firmware has it",
        };
        writeln!(f, "boot order  {order}")?;
        for key in &self.root_keys {
            writeln!(f, "root's key  {key}")?;
        }
        self.steps.iter().try_for_each(|step| show(f, step))
    }
}

fn show(f: &mut fmt::Formatter<'_>, step: &Step) -> fmt::Result {
    writeln!(f, "\n{}", step.name)?;
    if !step.if_any.is_empty() {
        writeln!(f, "    if the image has {}", step.if_any.join(" or "))?;
    }
    if !step.unless_any.is_empty() {
        writeln!(f, "    unless it has {}", step.unless_any.join(" or "))?;
    }
    if !step.one_of.is_empty() {
        writeln!(f, "    only the first of its kind that applies: {}", step.one_of)?;
    }
    if let Some(program) = &step.program {
        writeln!(f, "    run     {} bytes, at most {} s", program.contents.0.len(), program.limit_s)?;
        contents(f, &program.contents.0)?;
    }
    for file in &step.files {
        show_file(f, file)?;
    }
    Ok(())
}

fn show_file(f: &mut fmt::Formatter<'_>, file: &StepFile) -> fmt::Result {
    let StepFile { path, mode, .. } = file;
    let owner = if file.owner.is_empty() { "root" } else { &file.owner };
    match file.kind {
        StepFileKind::Absent => writeln!(f, "    remove  {path}"),
        StepFileKind::Link => {
            writeln!(f, "    link    {path} -> {}", String::from_utf8_lossy(&file.contents.0))
        }
        StepFileKind::Folder => writeln!(f, "    folder  {path}, {mode:04o}, {owner}'s"),
        StepFileKind::File => {
            writeln!(f, "    write   {path}, {mode:04o}, {owner}'s, {} bytes", file.contents.0.len())?;
            contents(f, &file.contents.0)
        }
    }
}

fn contents(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    if !f.alternate() {
        return Ok(());
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => text.lines().try_for_each(|line| writeln!(f, "            | {line}")),
        Err(_) => writeln!(f, "            | (no text)"),
    }
}

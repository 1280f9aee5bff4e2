//! The little that we ask of ELF files: what a program links to, which firmware a module wants.

use anyhow::{Context as _, Result};
use object::Endianness;
use object::elf::{DT_NEEDED, FileHeader64};
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _, SectionHeader as _};

/// What a program needs to start.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// The loader, such as `/lib64/ld-linux-x86-64.so.2`; `None` for a static program and for a library.
    pub(super) interpreter: Option<String>,
    /// Shared libraries by name, such as `libc.so.6`.
    pub(super) libraries: Vec<String>,
}

fn header(bytes: &[u8]) -> Result<&FileHeader64<Endianness>> {
    FileHeader64::<Endianness>::parse(bytes).context("reading an ELF header")
}

/// What the program or library in these bytes needs.
pub(super) fn needs(bytes: &[u8]) -> Result<Needs> {
    let header = header(bytes)?;
    let endian = header.endian()?;
    let mut needs = Needs::default();
    for segment in header.program_headers(endian, bytes)? {
        if let Some(interpreter) = segment.interpreter(endian, bytes)? {
            needs.interpreter = Some(String::from_utf8_lossy(interpreter).into_owned());
        }
    }
    let sections = header.sections(endian, bytes)?;
    for section in sections.iter() {
        let Some((entries, strings)) = section.dynamic(endian, bytes)? else { continue };
        let strings = sections.strings(endian, bytes, strings)?;
        for entry in entries.iter().filter(|entry| entry.tag(endian) == DT_NEEDED) {
            needs.libraries.push(String::from_utf8_lossy(entry.string(endian, strings)?).into_owned());
        }
    }
    Ok(needs)
}

/// The firmware files that a module's `.modinfo` names, sorted, each once.
pub(super) fn firmware_of_module(bytes: &[u8]) -> Result<Vec<String>> {
    let header = header(bytes)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, bytes)?;
    let Some((_, section)) = sections.section_by_name(endian, b".modinfo") else { return Ok(Vec::new()) };
    let info = section.data(endian, bytes)?;
    let fields = info.split(|byte| *byte == 0).filter_map(|field| field.strip_prefix(b"firmware="));
    let mut names: Vec<String> = fields.map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

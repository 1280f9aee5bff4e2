//! What an image says about itself beside its files: architecture, distribution, kernel, how it boots.

use anyhow::Result;
use image_format::{Boot, NodeKind, Tree};

use crate::contents::Contents;

/// More of a file is never looked at.
const FACT_BYTES_MAX: usize = 64 << 10;
/// Symbolic links followed to a file: `/bin -> usr/bin`, `sh -> dash` and a few more.
const LINKS_MAX: usize = 16;
/// Programs that tell a system's architecture; one of them is in every image that boots.
const PROGRAMS: [&str; 5] = ["bin/sh", "usr/bin/env", "sbin/init", "usr/lib/systemd/systemd", "bin/busybox"];

/// See the fields of the same names of `image_format::Manifest`.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) architecture: Option<String>,
    pub(crate) distribution: Option<String>,
    pub(crate) kernel: Option<String>,
    pub(crate) boot: Boot,
}

/// Looks them up.
pub(crate) fn find(tree: &Tree, contents: &dyn Contents) -> Result<Facts> {
    let mut architecture = None;
    for program in PROGRAMS {
        if architecture.is_none() {
            architecture =
                head(tree, contents, program)?.and_then(|bytes| elf_machine(&bytes)).map(str::to_owned);
        }
    }
    let mut distribution = None;
    for path in ["etc/os-release", "usr/lib/os-release"] {
        if distribution.is_none() {
            distribution = head(tree, contents, path)?.and_then(|bytes| pretty_name(&bytes));
        }
    }
    let has = |prefix: &[u8], suffix: &[u8]| {
        tree.nodes().iter().any(|node| node.path.starts_with(prefix) && node.path.ends_with(suffix))
    };
    let boot = Boot {
        bios: has(b"usr/lib/grub/i386-pc/", b"boot.img") || has(b"boot/grub/i386-pc/", b"core.img"),
        uefi: has(b"usr/lib/grub/", b"-efi/modinfo.sh")
            || has(b"usr/lib/grub/", b".efi.signed")
            || has(b"usr/lib/systemd/boot/efi/", b".efi")
            || has(b"boot/efi/EFI/", b".efi")
            || has(b"boot/efi/EFI/", b".EFI"),
    };
    Ok(Facts { architecture, distribution, kernel: newest_kernel(tree), boot })
}

/// The first bytes of the file at `path`, through symbolic links.
fn head(tree: &Tree, contents: &dyn Contents, path: &str) -> Result<Option<Vec<u8>>> {
    let Some(index) = resolve(tree, path.as_bytes()) else { return Ok(None) };
    let Some(node) = tree.nodes().get(index) else { return Ok(None) };
    let NodeKind::File(content) = &node.kind else { return Ok(None) };
    let mut bytes = Vec::new();
    contents.read(index, node, content, &mut |part| {
        let room = FACT_BYTES_MAX.saturating_sub(bytes.len());
        bytes.extend_from_slice(part.get(..room).unwrap_or(part));
        Ok(())
    })?;
    Ok(Some(bytes))
}

/// The index of the inode that `path` leads to within the tree.
fn resolve(tree: &Tree, path: &[u8]) -> Option<usize> {
    let mut rest: Vec<Vec<u8>> = path.split(|&byte| byte == b'/').rev().map(<[u8]>::to_vec).collect();
    let mut at: Vec<Vec<u8>> = Vec::new();
    let mut found = 0;
    let mut links = 0;
    while let Some(name) = rest.pop() {
        match name.as_slice() {
            b"" | b"." => continue,
            b".." => {
                at.pop();
                continue;
            }
            _ => at.push(name),
        }
        let (index, node) = tree.find(&at.join(&b'/'))?;
        found = index;
        match &node.kind {
            NodeKind::Symlink { target } => {
                links += 1;
                if links > LINKS_MAX {
                    return None;
                }
                at.pop();
                if target.first() == Some(&b'/') {
                    at.clear();
                }
                rest.extend(target.split(|&byte| byte == b'/').rev().map(<[u8]>::to_vec));
            }
            NodeKind::HardLink { to } => found = *to,
            _ => {}
        }
    }
    Some(found)
}

/// `uname -m` for an ELF file's machine (ELF specification, `e_machine` at byte 18).
fn elf_machine(bytes: &[u8]) -> Option<&'static str> {
    let is_elf = bytes.starts_with(b"\x7fELF");
    let machine: [u8; 2] = bytes.get(18..20)?.try_into().ok()?;
    match u16::from_le_bytes(machine) {
        _ if !is_elf => None,
        62 => Some("x86_64"),
        3 => Some("i686"),
        183 => Some("aarch64"),
        40 => Some("armv7l"),
        243 => Some("riscv64"),
        21 => Some("ppc64le"),
        _ => None,
    }
}

/// `PRETTY_NAME` of os-release(5).
fn pretty_name(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let value = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    let value = value.trim().trim_matches(['"', '\'']);
    (!value.is_empty()).then(|| value.chars().filter(|c| !c.is_control()).take(100).collect())
}

/// The release of the newest `boot/vmlinuz-RELEASE`, numbers compared as numbers.
fn newest_kernel(tree: &Tree) -> Option<String> {
    let release = |path: &[u8]| {
        let release = path.strip_prefix(b"boot/vmlinuz-")?;
        String::from_utf8(release.to_vec())
            .ok()
            .filter(|release| !release.contains('/') && release.len() < 100)
    };
    tree.nodes().iter().filter_map(|node| release(&node.path)).max_by_key(|release| version_key(release))
}

fn version_key(release: &str) -> Vec<(u64, String)> {
    release
        .split(['.', '-', '+', '_'])
        .map(|part| {
            let digits = part.chars().take_while(char::is_ascii_digit).count();
            let (number, rest) = part.split_at_checked(digits).unwrap_or((part, ""));
            (number.parse().unwrap_or(0), rest.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{elf_machine, pretty_name, version_key};

    #[test]
    fn facts_are_read_from_their_files() {
        let text = b"NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
        assert_eq!(pretty_name(text).as_deref(), Some("Debian GNU/Linux 12 (bookworm)"));
        assert_eq!(pretty_name(b"NAME=x\n"), None);
        let mut elf = b"\x7fELF".to_vec();
        elf.resize(18, 0);
        elf.extend([62, 0]);
        assert_eq!(elf_machine(&elf), Some("x86_64"));
        assert_eq!(elf_machine(b"#!/bin/sh\n.............."), None);
        assert!(version_key("6.1.0-50-amd64") > version_key("6.1.0-9-amd64"));
        assert!(version_key("6.10.0") > version_key("6.9.12"));
    }
}

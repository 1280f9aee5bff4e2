//! PID 1 of the boot environment: drives the hardware, fetches the image, installs it.
//!
//! Never runs a shell, never opens a disk for writing before a signed task named it, never exits.
//!
//! Read first: [`life`] (the stages in order), [`supervise`] (PID 1), [`stage`] (one file each).
#![deny(unsafe_code)]

mod api;
mod boot_share;
mod console;
mod deploy;
mod entropy;
mod failure;
mod hardware;
mod image;
mod life;
mod net;
mod objects;
mod peer;
mod pieces;
mod report;
mod secrets;
mod stage;
mod supervise;
#[allow(unsafe_code, reason = "the one place for calls that have no safe wrapper")]
mod sys;

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

/// What this process is for; the binary is all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Supervisor,
    Agent,
    Modprobe,
    Chroot,
    Unknown,
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    match role(std::process::id(), &arguments) {
        Role::Supervisor => supervise::run(),
        Role::Agent => life::run(),
        Role::Modprobe => exit_code(hardware::modprobe(&arguments)),
        Role::Chroot => exit_code(system_apply::enter(arguments.into_iter().skip(2))),
        Role::Unknown => {
            eprintln!(
                "initrd-agent {}: the init of the boot environment; not to be run",
                env!("CARGO_PKG_VERSION")
            );
            ExitCode::from(2)
        }
    }
}

fn role(process: u32, arguments: &[OsString]) -> Role {
    let words: Vec<&OsStr> = arguments.iter().map(OsString::as_os_str).collect();
    let program = words.first().map(std::path::Path::new).and_then(std::path::Path::file_name);
    if process == 1 {
        return Role::Supervisor;
    }
    if program == Some(OsStr::new("modprobe")) {
        return Role::Modprobe;
    }
    match words.get(1).and_then(|word| word.to_str()) {
        Some(supervise::AGENT_ARGUMENT) => Role::Agent,
        // The kernel calls its helper so (kernel/module/kmod.c).
        Some("-q") => Role::Modprobe,
        Some(system_apply::ENTER) => Role::Chroot,
        _ => Role::Unknown,
    }
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(process: u32, line: &str, expected: Role) {
        let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        assert_eq!(role(process, &arguments), expected, "{process} {line}");
    }

    #[test]
    fn one_binary_knows_from_its_name_and_arguments_what_it_is() {
        check(1, "/init", Role::Supervisor);
        check(1, "/init splash agent", Role::Supervisor);
        check(70, "/init agent", Role::Agent);
        check(70, "/init -q -- fs-vfat", Role::Modprobe);
        check(70, "/sbin/modprobe nls_utf8", Role::Modprobe);
        check(70, "/proc/self/exe enter-root /mnt/root ssh-keygen -A", Role::Chroot);
        check(70, "initrd-agent --help", Role::Unknown);
    }
}

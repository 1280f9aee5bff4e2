//! What belongs to one machine and not to an image: rules by name, shown with what they meet.
//!
//! They work on what is taken, never on the system that it is taken from.

use std::cell::RefCell;
use std::fmt;

use anyhow::{Result, bail};
use clap::Args;

use crate::exclude::Excludes;
use crate::text;

/// Paths of a rule that are shown.
const SHOWN_MAX: usize = 3;

/// One rule.
#[derive(Debug)]
struct Rule {
    name: &'static str,
    /// Files, links and all that is no directory: left out.
    left_out: &'static [&'static str],
    /// Files: kept empty.
    emptied: &'static [&'static str],
}

const RULES: [Rule; 12] = [
    Rule {
        name: "machine-id",
        left_out: &["var/lib/dbus/machine-id"],
        // Empty and there: systemd makes a new one without taking the boot for the very first.
        emptied: &["etc/machine-id"],
    },
    Rule { name: "ssh-host-keys", left_out: &["etc/ssh/ssh_host_*"], emptied: &[] },
    Rule {
        name: "logs",
        left_out: &["var/log/**"],
        // What login(1) and last(1) expect to be there.
        emptied: &["var/log/wtmp", "var/log/btmp", "var/log/lastlog"],
    },
    Rule {
        name: "leases",
        left_out: &[
            "var/lib/dhcp/*",
            "var/lib/dhcpcd/*",
            "var/lib/dhclient/*",
            "var/lib/NetworkManager/*.lease",
            "var/lib/NetworkManager/secret_key",
            "var/lib/NetworkManager/timestamps",
            "var/lib/systemd/network/**",
        ],
        emptied: &[],
    },
    Rule {
        name: "network-names",
        left_out: &[
            "etc/udev/rules.d/70-persistent-net.rules",
            "etc/udev/rules.d/75-persistent-net-generator.rules",
        ],
        emptied: &[],
    },
    Rule {
        name: "random-seed",
        left_out: &["var/lib/systemd/random-seed", "var/lib/random-seed", "var/lib/urandom/random-seed"],
        emptied: &[],
    },
    Rule {
        name: "caches",
        left_out: &[
            "var/cache/dnf/**",
            "var/cache/yum/**",
            "var/cache/zypp/**",
            "var/cache/pacman/pkg/*",
            "var/cache/apt/archives/**.deb",
            "var/cache/man/**",
            "root/.cache/**",
            "home/*/.cache/**",
        ],
        emptied: &[],
    },
    Rule {
        name: "crashes",
        left_out: &["var/crash/**", "var/lib/systemd/coredump/**", "var/spool/abrt/**"],
        emptied: &[],
    },
    Rule {
        name: "history",
        left_out: &[
            "root/.*_history",
            "home/*/.*_history",
            "root/.lesshst",
            "root/.viminfo",
            "home/*/.viminfo",
        ],
        emptied: &[],
    },
    Rule {
        name: "cloud-init",
        left_out: &[
            "var/lib/cloud/instance",
            "var/lib/cloud/instances/**",
            "var/lib/cloud/sem/**",
            "var/lib/cloud/data/**",
        ],
        emptied: &[],
    },
    Rule {
        name: "lvm",
        left_out: &[
            "etc/lvm/devices/system.devices",
            "etc/lvm/archive/**",
            "etc/lvm/backup/**",
            "etc/lvm/cache/**",
        ],
        emptied: &[],
    },
    Rule {
        name: "account-backups",
        left_out: &["etc/passwd-", "etc/shadow-", "etc/group-", "etc/gshadow-", "etc/subuid-", "etc/subgid-"],
        emptied: &[],
    },
];

/// Which rules.
#[derive(Clone, Debug, Args)]
pub(crate) struct CleanArguments {
    /// Leave out what belongs to one machine: its id, host keys, logs, leases, ... (`--host` does so by itself).
    #[arg(long, conflicts_with = "no_clean")]
    pub(crate) clean: bool,
    /// Take everything.
    #[arg(long)]
    pub(crate) no_clean: bool,
    /// Do not use this cleaning rule; `--dry-run` lists them. May be repeated.
    #[arg(long, value_name = "RULE")]
    pub(crate) keep: Vec<String>,
    /// Say what would be left out, and take nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// What a rule does to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    LeaveOut,
    Empty,
}

/// A rule at work.
#[derive(Debug)]
struct Active {
    name: &'static str,
    left_out: Excludes,
    emptied: Excludes,
    met: RefCell<Met>,
}

/// What a rule has met.
#[derive(Debug, Default)]
struct Met {
    paths: Vec<String>,
    count: u64,
    bytes: u64,
}

/// The rules at work.
#[derive(Debug, Default)]
pub(crate) struct Cleaning {
    rules: Vec<Active>,
}

impl Cleaning {
    /// All rules but those in `keep`.
    pub(crate) fn new(keep: &[String]) -> Result<Self> {
        if let Some(unknown) = keep.iter().find(|name| RULES.iter().all(|rule| rule.name != name.as_str())) {
            let names: Vec<&str> = RULES.iter().map(|rule| rule.name).collect();
            bail!("there is no cleaning rule {unknown:?}; there are {}", names.join(", "));
        }
        let active = |rule: &Rule| Active {
            name: rule.name,
            left_out: excludes(rule.left_out),
            emptied: excludes(rule.emptied),
            met: RefCell::default(),
        };
        let rules = RULES.iter().filter(|rule| !keep.iter().any(|name| name == rule.name)).map(active);
        Ok(Self { rules: rules.collect() })
    }

    /// What is to be done with a path that is no directory; remembered for [`Cleaning`]'s plan.
    pub(crate) fn apply(&self, path: &[u8], is_file: bool, bytes: u64) -> Option<Action> {
        for rule in &self.rules {
            let action = match path {
                path if is_file && rule.emptied.matches(path) => Action::Empty,
                path if rule.left_out.matches(path) => Action::LeaveOut,
                _ => continue,
            };
            let mut met = rule.met.borrow_mut();
            met.count += 1;
            met.bytes += if is_file { bytes } else { 0 };
            if met.paths.len() < SHOWN_MAX {
                let how = if action == Action::Empty { " (emptied)" } else { "" };
                met.paths.push(format!("/{}{how}", text::path(path)));
            }
            return Some(action);
        }
        None
    }
}

fn excludes(patterns: &[&str]) -> Excludes {
    let mut excludes = Excludes::default();
    patterns.iter().for_each(|pattern| excludes.add(pattern));
    excludes
}

/// The plan: one line per rule.
impl fmt::Display for Cleaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for rule in &self.rules {
            let met = rule.met.borrow();
            write!(f, "  {:15} {:>6} files {:>12}", rule.name, met.count, text::bytes(met.bytes))?;
            let more = met.count.saturating_sub(met.paths.len() as u64);
            if !met.paths.is_empty() {
                write!(f, "  {}", met.paths.join(" "))?;
            }
            if more > 0 {
                write!(f, " and {more} more")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Action, Cleaning};

    #[test]
    fn rules_meet_what_belongs_to_one_machine() {
        let cleaning = Cleaning::new(&["lvm".to_owned()]).unwrap();
        let check = |path: &str, expected| {
            assert_eq!(cleaning.apply(path.as_bytes(), true, 10), expected, "{path}");
        };
        check("etc/machine-id", Some(Action::Empty));
        check("etc/ssh/ssh_host_ed25519_key", Some(Action::LeaveOut));
        check("etc/ssh/sshd_config", None);
        check("var/log/journal/x/system.journal", Some(Action::LeaveOut));
        check("var/log/wtmp", Some(Action::Empty));
        check("etc/lvm/archive/vg_0.vg", None);
        check("root/.bash_history", Some(Action::LeaveOut));
        let plan = cleaning.to_string();
        assert!(plan.contains("/etc/machine-id (emptied)") && !plan.contains("lvm "), "{plan}");
        assert!(Cleaning::new(&["lmv".to_owned()]).is_err());
    }
}

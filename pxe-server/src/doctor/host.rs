//! The host: interface, ports, neighbour table, firewall, boot files, clock, disk.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::ifaddrs::InterfaceAddress;
use nix::net::if_::InterfaceFlags;

use super::Finding;
use crate::netboot::{BOOT_PROGRAMS, BootProgram, port_user};

/// Ports that nodes are answered on: protocol, number, for what.
const PORTS: [(&str, u16, &str); 3] = [("UDP", 67, "DHCP"), ("UDP", 69, "TFTP"), ("UDP", 4011, "PXE")];
/// Nodes on one network that a server should have room for in the neighbour table without being told.
const NODES: u32 = 1000;
/// A state directory grows by leases and records; below this SQLite soon cannot write.
const FREE_BYTES_MIN: u64 = 1 << 30;
/// This program is younger than any right clock: 2024-01-01.
const CLOCK_MIN_UNIX_S: u64 = 1_704_067_200;

/// What to look at.
#[derive(Clone, Debug)]
pub(crate) struct HostSetup {
    /// The interface that faces the nodes, if it is known.
    pub(crate) interface: Option<String>,
    /// The server's address on it, if it is known.
    pub(crate) address: Option<Ipv4Addr>,
    /// TCP port of boot files.
    pub(crate) http_port: u16,
    /// TCP port of the agent API.
    pub(crate) agent_port: u16,
    /// Directory of boot programs.
    pub(crate) boot_files: PathBuf,
    /// State directory.
    pub(crate) state: PathBuf,
    /// Files that menus name.
    pub(crate) menu_files: Vec<PathBuf>,
}

/// Looks at everything; nothing is left out because something before it was bad.
pub(crate) fn check_host(setup: &HostSetup) -> Vec<Finding> {
    let mut findings = vec![interface(setup)];
    findings.extend(ports(setup));
    findings
        .push(neighbours(fs::read_to_string("/proc/sys/net/ipv4/neigh/default/gc_thresh3").ok().as_deref()));
    findings.push(firewall(nft_rules().as_deref(), setup));
    findings.extend(boot_files(&setup.boot_files));
    findings.extend(menu_files(&setup.menu_files));
    findings.extend(bundle(&setup.state));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    findings.push(clock(now));
    findings.extend(disk(&setup.state));
    findings
}

fn interface(setup: &HostSetup) -> Finding {
    let Some(name) = &setup.interface else {
        return Finding::doubt(
            "no interface is named, so none was looked at",
            "give --interface NAME, or name it in the site file",
        );
    };
    // Asked of the kernel and not read below /sys, which in a container may be another network's.
    let Ok(all) = nix::ifaddrs::getifaddrs() else {
        return Finding::doubt("the network interfaces cannot be listed", "run this as root");
    };
    let entries: Vec<InterfaceAddress> = all.filter(|entry| entry.interface_name == *name).collect();
    let Some(flags) = entries.first().map(|entry| entry.flags) else {
        return Finding::bad(format!("there is no interface {name}"), "`ip link` lists those that there are");
    };
    if !flags.contains(InterfaceFlags::IFF_UP) {
        return Finding::bad(format!("interface {name} is down"), format!("`ip link set {name} up`"));
    }
    if !flags.contains(InterfaceFlags::IFF_RUNNING) {
        return Finding::bad(
            format!("interface {name} is up and has no link"),
            "see to its cable and to the port of its switch",
        );
    }
    let has: Vec<Ipv4Addr> =
        entries.iter().filter_map(|entry| Some(entry.address.as_ref()?.as_sockaddr_in()?.ip())).collect();
    addresses(name, setup.address, &has)
}

/// The addresses that an interface has against the one that nodes would use.
pub(super) fn addresses(name: &str, wanted: Option<Ipv4Addr>, has: &[Ipv4Addr]) -> Finding {
    let all = has.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match (wanted, has.first()) {
        (Some(wanted), _) if has.contains(&wanted) => {
            Finding::good(format!("interface {name} is up and has the address {wanted}"))
        }
        (None, Some(first)) => Finding::good(format!(
            "interface {name} is up; nodes are answered from its first address, {first}"
        )),
        (Some(wanted), Some(_)) => Finding::bad(
            format!("interface {name} has {all}, and the site file says server.address = \"{wanted}\""),
            format!(
                "`ip address add {wanted}/24 dev {name}` (with its network's length), or correct the site file"
            ),
        ),
        (wanted, None) => Finding::bad(
            format!("interface {name} has no IPv4 address, so nodes cannot be answered"),
            format!(
                "`ip address add {}/24 dev {name}` (with its network's length)",
                wanted.unwrap_or(Ipv4Addr::new(10, 77, 0, 1))
            ),
        ),
    }
}

fn ports(setup: &HostSetup) -> Vec<Finding> {
    let tcp = [("TCP", setup.http_port, "boot files"), ("TCP", setup.agent_port, "agent API")];
    let one = |(protocol, port, what): (&str, u16, &str)| match port_user(protocol == "TCP", port) {
        None => Finding::good(format!("{protocol} port {port} ({what}) is free")),
        Some(user) if user.starts_with("pxe-server ") => {
            Finding::good(format!("{protocol} port {port} ({what}) is held by {user}"))
        }
        Some(user) => Finding::bad(
            format!("{protocol} port {port} ({what}) is in use by {user}"),
            "stop that program, or have it listen on another interface",
        ),
    };
    PORTS.into_iter().chain(tcp).map(one).collect()
}

pub(super) fn neighbours(limit: Option<&str>) -> Finding {
    match limit.and_then(|text| text.trim().parse::<u32>().ok()) {
        None => Finding::doubt(
            "the neighbour table's limit cannot be seen from here, as from within every network namespace or container",
            "ask the host: `sysctl net.ipv4.neigh.default.gc_thresh3` should say at least twice the number of nodes",
        ),
        Some(limit) if limit < NODES * 2 => Finding::doubt(
            format!(
                "the neighbour table holds {limit} machines, for all networks together: beyond it answers are lost without a word"
            ),
            format!(
                "for {NODES} nodes: `sysctl -w net.ipv4.neigh.default.gc_thresh1={0} net.ipv4.neigh.default.gc_thresh2={1} \
                 net.ipv4.neigh.default.gc_thresh3={1}`",
                NODES * 2,
                NODES * 4
            ),
        ),
        Some(limit) => Finding::good(format!("the neighbour table holds {limit} machines")),
    }
}

fn nft_rules() -> Option<String> {
    let output = Command::new("nft").args(["list", "ruleset"]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Says only what can be said by reading: whether packets to this machine are refused unless a rule names their port.
pub(super) fn firewall(rules: Option<&str>, setup: &HostSetup) -> Finding {
    let Some(rules) = rules else {
        return Finding::doubt(
            "the firewall cannot be read (no `nft`, or no right to)",
            "run this as root, with nftables installed",
        );
    };
    let mut drops = false;
    let mut in_input = false;
    for line in rules.lines().map(str::trim) {
        if line.starts_with("chain ") {
            in_input = false;
        }
        in_input |= line.contains("hook input");
        drops |= in_input && (line.contains("policy drop") || line == "drop" || line.starts_with("reject"));
    }
    if !drops {
        return Finding::good("no firewall rule of this machine refuses what comes in by default");
    }
    let (udp, tcp) = ([67, 69, 4011], [setup.http_port, setup.agent_port]);
    let named = |port: &u16| {
        let text = port.to_string();
        rules.split(|symbol: char| !symbol.is_ascii_alphanumeric()).any(|word| {
            word == text
                || matches!(
                    (port, word),
                    (67, "bootps") | (69, "tftp") | (80, "http") | (8443, "pcsync-https")
                )
        })
    };
    let missing: Vec<String> =
        udp.iter().chain(&tcp).filter(|port| !named(port)).map(ToString::to_string).collect();
    if missing.is_empty() {
        return Finding::good("the firewall refuses by default and has rules that name our ports");
    }
    Finding::bad(
        format!("the firewall refuses what comes in, and no rule names port {}", missing.join(", ")),
        format!(
            "`nft add rule inet filter input udp dport {{ 67, 69, 4011 }} accept` and the same for tcp {}, {} and 6881; TFTP \
             answers from other ports, so its transfers need `ct state established,related accept` too",
            setup.http_port, setup.agent_port
        ),
    )
}

fn boot_files(directory: &Path) -> Vec<Finding> {
    let one = |program: BootProgram| {
        let (path, firmware) = (program.path(directory), program.firmware);
        match fs::read(&path) {
            Ok(bytes) if bytes.is_empty() => Finding::bad(
                format!("{} is empty", path.display()),
                format!("install the Debian package `{}` again", program.package),
            ),
            Ok(bytes) => Finding::good(format!(
                "{} for {firmware}: {} bytes, blake3 {}",
                path.display(),
                bytes.len(),
                blake3::hash(&bytes).to_hex()
            )),
            Err(error) => Finding::doubt(
                format!("{} cannot be read ({error}): nodes with {firmware} will not boot", path.display()),
                program.remedy(),
            ),
        }
    };
    BOOT_PROGRAMS.into_iter().map(one).collect()
}

fn menu_files(files: &[PathBuf]) -> Vec<Finding> {
    let absent = files.iter().filter(|file| !file.is_file());
    absent
        .map(|file| {
            Finding::bad(
                format!("a menu names {}, which is not there", file.display()),
                "put it there, or correct the site file",
            )
        })
        .collect()
}

/// The bundle's files against the hashes that its manifest names.
fn bundle(state: &Path) -> Vec<Finding> {
    let root = state.join(crate::bundle::DEFAULT_BUNDLE);
    match crate::bundle::verify(&root) {
        Ok(_) => vec![Finding::good(format!("the boot bundle in {} is whole", root.display()))],
        Err(_) if !root.exists() => vec![Finding::bad(
            format!("there is no boot bundle in {}, so no node gets an agent", root.display()),
            format!("`image-tools boot build -o {}`, or name another directory with --state", root.display()),
        )],
        Err(error) => vec![Finding::bad(
            format!("the boot bundle cannot be used: {error:#}"),
            format!("`image-tools boot build -o {}`", root.display()),
        )],
    }
}

pub(super) fn clock(now_unix_s: u64) -> Finding {
    if now_unix_s < CLOCK_MIN_UNIX_S {
        return Finding::bad(
            "the clock is years behind: leases and tokens would be over before they begin",
            "set it: `timedatectl set-ntp true`",
        );
    }
    let day = now_unix_s / 86_400;
    let (hours, minutes) = (now_unix_s / 3600 % 24, now_unix_s / 60 % 60);
    let (year, month, day) = date(day);
    Finding::good(format!(
        "the clock says {year}-{month:02}-{day:02} {hours:02}:{minutes:02} UTC; see that it is right"
    ))
}

/// Year, month and day of the Gregorian calendar for a day since 1970, counted in years that begin in March.
fn date(day: u64) -> (u64, u64, u64) {
    let day = day + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let is_next_year = u64::from(month >= 10);
    (era * 400 + year + is_next_year, month + 3 - 12 * is_next_year, of_year - (153 * month + 2) / 5 + 1)
}

fn disk(state: &Path) -> Option<Finding> {
    let existing = state.ancestors().find(|path| path.is_dir())?;
    let about = nix::sys::statvfs::statvfs(existing).ok()?;
    let free = about.blocks_available().saturating_mul(about.fragment_size());
    let text = format!("{} has {} MB free", existing.display(), free / 1_000_000);
    Some(if free < FREE_BYTES_MIN {
        Finding::bad(text, format!("make room: leases and nodes are stored in {}", state.display()))
    } else {
        Finding::good(text)
    })
}

//! The network in the words of whatever manages it in the image; the first that the image has gets its own.

use std::net::IpAddr;

use node_api::{Step, StepFile, StepFileKind};

use crate::settings::{Method, Network, Nic};
use crate::steps::{StepsError, file};
use crate::template::{Template, Values};

/// Steps of which only the first is done that applies.
const ONE_OF: &str = "network";
const NETPLAN: [&str; 2] = ["/usr/sbin/netplan", "/usr/bin/netplan"];
const NETWORK_MANAGER: [&str; 2] = ["/usr/sbin/NetworkManager", "/usr/bin/NetworkManager"];
/// Left by `systemctl enable systemd-networkd`.
const NETWORKD_ENABLED: [&str; 2] = [
    "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service",
    "/etc/systemd/system/dbus-org.freedesktop.network1.service",
];
const NETWORKD_WANTED: &str = "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service";
const NETWORKD: [&str; 2] = ["/usr/lib/systemd/systemd-networkd", "/lib/systemd/systemd-networkd"];
const IFUPDOWN: [&str; 2] = ["/sbin/ifup", "/usr/sbin/ifup"];
const INTERFACES: &str = "/etc/network/interfaces";
/// Managers for which nothing is written: the image's own settings have to do.
const UNKNOWN: [&str; 4] =
    ["/usr/sbin/wicked", "/usr/sbin/connmand", "/usr/sbin/dhcpcd", "/etc/sysconfig/network-scripts"];
/// What writes `/etc/resolv.conf` by itself.
const RESOLVERS: [&str; 4] = [
    "/usr/lib/systemd/systemd-resolved",
    "/lib/systemd/systemd-resolved",
    "/sbin/resolvconf",
    "/usr/sbin/resolvconf",
];

/// A NIC with everything filled in.
struct Interface {
    /// Names it in files; the installed system may call the NIC anything.
    id: String,
    mac: String,
    /// Empty: by DHCP.
    addresses: Vec<(IpAddr, u8)>,
    gateways: Vec<IpAddr>,
    mtu: Option<u32>,
}

/// Name servers and domains, filled in.
struct Names {
    dns: Vec<IpAddr>,
    search: Vec<String>,
}

/// The network of one node.
pub(crate) fn steps(network: &Network, values: &Values) -> Result<Vec<Step>, StepsError> {
    if network.method == Some(Method::Image) {
        return Ok(Vec::new());
    }
    if network.method == Some(Method::Static) && network.nic.address.is_empty() {
        return Err(StepsError::NoAddress);
    }
    let own = values.get("mac").cloned().unwrap_or_default();
    let mut interfaces = vec![interface("boot0", own, &network.nic, values)?];
    for (number, (mac, nic)) in (1..).zip(&network.others) {
        let mac = fill("network.interface.mac", mac, values)?.to_ascii_lowercase();
        let hex = |part: &str| part.len() == 2 && u8::from_str_radix(part, 16).is_ok();
        if mac.split(':').count() != 6 || !mac.split(':').all(hex) {
            let (place, wanted) = ("network.interface.mac", "hardware address such as 52:54:00:aa:bb:cc");
            return Err(StepsError::Malformed { place, text: mac, wanted });
        }
        interfaces.push(interface(&format!("nic{number}"), mac, nic, values)?);
    }
    let names = Names {
        dns: addresses("network.dns", &network.dns, values)?,
        search: search(&network.search, values)?,
    };
    Ok(all_managers(&interfaces, &names))
}

fn all_managers(interfaces: &[Interface], names: &Names) -> Vec<Step> {
    let networkd: Vec<StepFile> = interfaces.iter().map(|one| networkd(one, names)).collect();
    let enable = StepFile {
        path: NETWORKD_WANTED.into(),
        kind: StepFileKind::Link,
        contents: node_api::Contents(b"/lib/systemd/system/systemd-networkd.service".to_vec()),
        ..StepFile::default()
    };
    let no_interfaces = Step {
        name: "network for ifupdown: its first file".into(),
        if_any: paths(&IFUPDOWN),
        unless_any: [&[INTERFACES][..], &NETPLAN, &NETWORK_MANAGER, &NETWORKD_ENABLED]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect(),
        files: vec![file(
            INTERFACES,
            0o644,
            "source /etc/network/interfaces.d/*\n\nauto lo\niface lo inet loopback\n",
        )],
        ..Step::default()
    };
    let mut steps = vec![
        manager(
            "netplan",
            &NETPLAN,
            vec![file("/etc/netplan/60-esir.yaml", 0o600, netplan(interfaces, names))],
        ),
        manager(
            "NetworkManager",
            &NETWORK_MANAGER,
            interfaces.iter().map(|one| keyfile(one, names)).collect(),
        ),
        manager("systemd-networkd", &NETWORKD_ENABLED, networkd.clone()),
        no_interfaces,
        manager("ifupdown", &IFUPDOWN, ifupdown(interfaces, names)),
        Step {
            unless_any: paths(&UNKNOWN),
            ..manager(
                "systemd-networkd, now enabled",
                &NETWORKD,
                networkd.into_iter().chain([enable]).collect(),
            )
        },
    ];
    if !names.dns.is_empty() {
        let search = if names.search.is_empty() {
            String::new()
        } else {
            format!("search {}\n", names.search.join(" "))
        };
        let servers: String = names.dns.iter().map(|server| format!("nameserver {server}\n")).collect();
        steps.push(Step {
            name: "name servers".into(),
            unless_any: [&NETWORK_MANAGER[..], &RESOLVERS].concat().into_iter().map(str::to_owned).collect(),
            files: vec![file(
                "/etc/resolv.conf",
                0o644,
                format!("# Written at deployment.\n{search}{servers}"),
            )],
            ..Step::default()
        });
    }
    steps
}

fn manager(name: &str, if_any: &[&str], files: Vec<StepFile>) -> Step {
    Step {
        name: format!("network for {name}"),
        one_of: ONE_OF.into(),
        if_any: paths(if_any),
        files,
        ..Step::default()
    }
}

fn paths(paths: &[&str]) -> Vec<String> {
    paths.iter().map(|path| (*path).to_owned()).collect()
}

/// netplan warns about files that others can read, as they may hold secrets; hence their mode.
fn netplan(interfaces: &[Interface], names: &Names) -> String {
    let mut text = "# Written at deployment.\nnetwork:\n  version: 2\n  ethernets:\n".to_owned();
    for one in interfaces {
        text += &format!("    {}:\n      match:\n        macaddress: \"{}\"\n", one.id, one.mac);
        if one.addresses.is_empty() {
            text += "      dhcp4: true\n      dhcp-identifier: mac\n";
        } else {
            let addresses = one.addresses.iter().map(|(address, prefix)| format!("\"{address}/{prefix}\""));
            text += &format!("      addresses: [{}]\n", list(addresses));
        }
        if !one.gateways.is_empty() {
            text += "      routes:\n";
        }
        for gateway in &one.gateways {
            let everywhere = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            text += &format!("        - to: \"{everywhere}\"\n          via: \"{gateway}\"\n");
        }
        if one.is_first() && !(names.dns.is_empty() && names.search.is_empty()) {
            text += "      nameservers:\n";
            text += &format!(
                "        addresses: [{}]\n",
                list(names.dns.iter().map(|server| format!("\"{server}\"")))
            );
            text += &format!(
                "        search: [{}]\n",
                list(names.search.iter().map(|name| format!("\"{name}\"")))
            );
        }
        text += &one.mtu.map(|mtu| format!("      mtu: {mtu}\n")).unwrap_or_default();
    }
    text
}

/// A keyfile of NetworkManager (nm-settings-keyfile(5)), which takes only those that nobody else can read.
fn keyfile(one: &Interface, names: &Names) -> StepFile {
    let mut text = format!(
        "# Written at deployment.\n[connection]\nid=esir-{0}\ntype=ethernet\n\n[ethernet]\nmac-address={1}\n{2}",
        one.id,
        one.mac,
        one.mtu.map(|mtu| format!("mtu={mtu}\n")).unwrap_or_default(),
    );
    for (family, v4) in [("ipv4", true), ("ipv6", false)] {
        text += &format!("\n[{family}]\n");
        let addresses: Vec<_> = one.addresses.iter().filter(|(address, _)| address.is_ipv4() == v4).collect();
        let automatic = if v4 && !one.addresses.is_empty() { "disabled" } else { "auto" };
        text += &format!("method={}\n", if addresses.is_empty() { automatic } else { "manual" });
        if v4 && one.addresses.is_empty() {
            text += "dhcp-client-id=mac\n";
        }
        for (number, (address, prefix)) in (1..).zip(addresses) {
            text += &format!("address{number}={address}/{prefix}\n");
        }
        for gateway in one.gateways.iter().filter(|gateway| gateway.is_ipv4() == v4) {
            text += &format!("gateway={gateway}\n");
        }
        if one.is_first() {
            let dns: String =
                names.dns.iter().filter(|dns| dns.is_ipv4() == v4).map(|dns| format!("{dns};")).collect();
            text += &if dns.is_empty() { String::new() } else { format!("dns={dns}\n") };
            let search: String = names.search.iter().map(|name| format!("{name};")).collect();
            text += &if search.is_empty() || !v4 { String::new() } else { format!("dns-search={search}\n") };
        }
    }
    let name = if one.is_first() { "esir".to_owned() } else { format!("esir-{}", one.id) };
    file(format!("/etc/NetworkManager/system-connections/{name}.nmconnection"), 0o600, text)
}

/// systemd.network(5).
fn networkd(one: &Interface, names: &Names) -> StepFile {
    let mut text = format!("# Written at deployment.\n[Match]\nMACAddress={}\n", one.mac);
    text += &one.mtu.map(|mtu| format!("\n[Link]\nMTUBytes={mtu}\n")).unwrap_or_default();
    text += "\n[Network]\n";
    if one.addresses.is_empty() {
        text += "DHCP=yes\n";
    }
    for (address, prefix) in &one.addresses {
        text += &format!("Address={address}/{prefix}\n");
    }
    for gateway in &one.gateways {
        text += &format!("Gateway={gateway}\n");
    }
    if one.is_first() {
        text += &names.dns.iter().map(|dns| format!("DNS={dns}\n")).collect::<String>();
        text += &names.search.iter().map(|name| format!("Domains={name}\n")).collect::<String>();
    }
    if one.addresses.is_empty() {
        text += "\n[DHCPv4]\nClientIdentifier=mac\nUseDomains=yes\n";
    }
    let name = if one.is_first() { "10-esir".to_owned() } else { format!("10-esir-{}", one.id) };
    file(format!("/etc/systemd/network/{name}.network"), 0o644, text)
}

/// ifupdown names interfaces, so each gets a name of its own by its address (systemd.link(5)).
fn ifupdown(interfaces: &[Interface], names: &Names) -> Vec<StepFile> {
    let mut text = "# Written at deployment.\n".to_owned();
    let mut files = Vec::new();
    for one in interfaces {
        let id = &one.id;
        let link = format!("[Match]\nMACAddress={}\n\n[Link]\nName={id}\n", one.mac);
        let name = if one.is_first() { "10-esir".to_owned() } else { format!("10-esir-{id}") };
        files.push(file(format!("/etc/systemd/network/{name}.link"), 0o644, link));
        text += &format!("auto {id}\n");
        if one.addresses.is_empty() {
            text += &format!("iface {id} inet dhcp\n");
        }
        for (address, prefix) in &one.addresses {
            let family = if address.is_ipv4() { "inet" } else { "inet6" };
            text += &format!("iface {id} {family} static\n    address {address}/{prefix}\n");
            let first = one.addresses.iter().find(|(other, _)| other.is_ipv4() == address.is_ipv4());
            if first.is_some_and(|(first, _)| first == address) {
                let gateways = one.gateways.iter().filter(|gateway| gateway.is_ipv4() == address.is_ipv4());
                text += &gateways.map(|gateway| format!("    gateway {gateway}\n")).collect::<String>();
            }
            text += &one.mtu.map(|mtu| format!("    mtu {mtu}\n")).unwrap_or_default();
        }
        if one.is_first() && !names.dns.is_empty() {
            // For resolvconf, where the image has it.
            text += &format!("    dns-nameservers {}\n", join(names.dns.iter().map(ToString::to_string)));
            let search = names.search.join(" ");
            text += &if search.is_empty() { search } else { format!("    dns-search {search}\n") };
        }
    }
    files.push(file("/etc/network/interfaces.d/esir", 0o644, text));
    files
}

impl Interface {
    /// The one that booted.
    fn is_first(&self) -> bool {
        self.id == "boot0"
    }
}

fn interface(id: &str, mac: String, nic: &Nic, values: &Values) -> Result<Interface, StepsError> {
    let mut found = Vec::new();
    for template in &nic.address {
        let text = fill("network.address", template, values)?;
        let parts = text.split_once('/');
        let parsed = parts.and_then(|(address, prefix)| Some((address.parse().ok()?, prefix.parse().ok()?)));
        let limit = |address: IpAddr| if address.is_ipv4() { 32 } else { 128 };
        match parsed {
            Some((address, prefix)) if prefix <= limit(address) => found.push((address, prefix)),
            _ => {
                let (place, wanted) = ("network.address", "address with its prefix, such as 10.77.0.11/24");
                return Err(StepsError::Malformed { place, text, wanted });
            }
        }
    }
    let gateways = addresses("network.gateway", &nic.gateway, values)?;
    Ok(Interface { id: id.to_owned(), mac, addresses: found, gateways, mtu: nic.mtu })
}

fn addresses(
    place: &'static str,
    templates: &[Template],
    values: &Values,
) -> Result<Vec<IpAddr>, StepsError> {
    let parsed = templates.iter().map(|template| {
        let text = fill(place, template, values)?;
        text.parse().map_err(|_| StepsError::Malformed { place, text, wanted: "address such as 10.77.0.1" })
    });
    parsed.collect()
}

fn search(templates: &[Template], values: &Values) -> Result<Vec<String>, StepsError> {
    let filled = templates.iter().map(|template| {
        let text = fill("network.search", template, values)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        let good = !text.is_empty() && text.bytes().all(plain);
        let (place, wanted) = ("network.search", "domain such as cluster.example");
        if good { Ok(text) } else { Err(StepsError::Malformed { place, text, wanted }) }
    });
    filled.collect()
}

fn fill(place: &str, template: &Template, values: &Values) -> Result<String, StepsError> {
    template.fill(values).map_err(|name| StepsError::Unset { place: place.to_owned(), name })
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

fn join(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(" ")
}

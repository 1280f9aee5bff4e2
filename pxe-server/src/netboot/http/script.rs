//! Boot scripts in iPXE's language. Every way through a script ends in a boot, in the firmware, or in another try:
//! a node never stops at a prompt.

use std::fmt::Write as _;
use std::net::SocketAddrV4;

use boot_menu::Local;
use dhcp_wire::MacAddr;
use node_api::FirmwareKind;

/// Where scripts are.
pub(super) const SCRIPT_PATH: &str = "/boot.ipxe";
/// What iPXE fills in: hyphens and percent signs where a URL needs them.
const SCRIPT_QUERY: &str = "mac=${mac:hexhyp}&uuid=${uuid}&platform=${platform}&serial=${serial:uristring}";
/// Time between tries; short enough for people, long enough for a server with a thousand nodes.
const RETRY_S: u32 = 10;

/// Where the server is, as nodes reach it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) http: SocketAddrV4,
    pub(super) agent: SocketAddrV4,
}

/// A value that would change the meaning of the script or of the kernel command line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {0} has characters that a boot script cannot carry")]
pub(super) struct UnsafeText(&'static str);

/// The URL that iPXE is given by DHCP; it replaces the settings in it.
pub(crate) fn script_url(http: SocketAddrV4) -> String {
    format!("{}{SCRIPT_PATH}?{SCRIPT_QUERY}", base(http))
}

/// The URL of a boot program, for UEFI HTTP boot.
pub(in crate::netboot) fn file_url(http: SocketAddrV4, name: &str) -> String {
    format!("{}/{name}", base(http))
}

/// The kernel command line of the agent.
pub(super) fn agent_arguments(
    place: &Place,
    mac: MacAddr,
    token: &str,
    extra_arguments: &str,
) -> Result<String, UnsafeText> {
    if !is_word(token) {
        return Err(UnsafeText("token"));
    }
    // The site's check has said so already, with the line; what it let through is looked at once more.
    if boot_menu::kernel_words_problem(extra_arguments).is_some() {
        return Err(UnsafeText("kernel command line"));
    }
    // QUIRK(iPXE before 2023): under UEFI the kernel finds its initrd only if the command line names it.
    let mut arguments = format!(
        "initrd=initrd.img esir.server={} esir.token={token} BOOTIF=01-{} console=tty0 console=ttyS0,115200 panic=10 \
         loglevel=4",
        place.agent,
        mac.hyphenated()
    );
    if !extra_arguments.trim().is_empty() {
        arguments.push(' ');
        arguments.push_str(extra_arguments.trim());
    }
    Ok(arguments)
}

/// Starts the agent, and asks for another script when that fails.
pub(super) fn agent(
    place: &Place,
    bundle: &str,
    mac: MacAddr,
    token: &str,
    extra_arguments: &str,
) -> Result<String, UnsafeText> {
    if !is_word(bundle) {
        return Err(UnsafeText("bundle's name"));
    }
    let arguments = agent_arguments(place, mac, token, extra_arguments)?;
    let files = format!("{}{}/{bundle}", base(place.http), node_api::paths::BOOT);
    let mac_hyphenated = mac.hyphenated();
    let mut script = begin(&format!("starting the agent on {mac}"));
    // A peer that the server sent the node to may have gone; the server then sends the file itself.
    for (command, file, rest) in [
        ("kernel", "vmlinuz", format!(" {arguments}")),
        ("initrd --name initrd.img", "initrd.img", String::new()),
    ] {
        let url = format!("{files}/{file}?mac={mac_hyphenated}");
        line(&mut script, &format!("{command} {url}{rest} || {command} {url}&failed=1{rest} || goto again"));
    }
    line(&mut script, "boot || goto again");
    again(&mut script, place);
    Ok(script)
}

/// Boots from the node's own disk.
pub(super) fn local(platform: FirmwareKind, style: Local) -> String {
    let mut script = begin("booting from the local disk");
    let sanboot = match style {
        Local::Auto | Local::Ignore => platform == FirmwareKind::Bios,
        Local::Sanboot => true,
        Local::Exit0 | Local::Exit1 => false,
    };
    if sanboot {
        line(&mut script, "sanboot --no-describe --drive 0x80 || goto firmware");
        line(&mut script, ":firmware");
        line(&mut script, "echo ESIR: the first disk does not boot, back to the firmware");
    }
    // QUIRK(UEFI): `exit 1` goes on to the next boot entry; `exit 0` ends in the setup menu, except where it doesn't.
    line(&mut script, if style == Local::Exit0 { "exit 0" } else { "exit 1" });
    script
}

/// Goes back to the firmware.
pub(super) fn ignore() -> String {
    let mut script = begin("nothing to boot from this server");
    line(&mut script, "exit 1");
    script
}

/// For whoever asked without saying who it is.
pub(super) fn ask_again(place: &Place) -> String {
    let mut script = begin("asking again with the hardware address");
    // Should it still be missing then, the server is not asked without a pause.
    line(&mut script, "sleep 2");
    line(&mut script, &chain(place));
    line(&mut script, "exit 1");
    script
}

/// Tells the console what is wrong at the server, and tries again.
pub(super) fn try_later(place: &Place, reason: &str) -> String {
    let mut script = begin(reason);
    again(&mut script, place);
    script
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn again(script: &mut String, place: &Place) {
    line(script, ":again");
    line(script, &format!("echo ESIR: that did not work, asking the server again in {RETRY_S} s"));
    line(script, "imgfree ||");
    line(script, &format!("sleep {RETRY_S}"));
    line(script, &format!("{} || goto again", chain(place)));
}

fn chain(place: &Place) -> String {
    format!("chain --replace {}", script_url(place.http))
}

fn begin(what: &str) -> String {
    let mut script = String::from("#!ipxe\n");
    line(&mut script, &format!("echo ESIR: {what}"));
    script
}

fn line(script: &mut String, text: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(script, "{text}");
}

/// Port 80 goes without saying: some old iPXE builds want it so, and the URL stays short.
fn base(http: SocketAddrV4) -> String {
    match http.port() {
        80 => format!("http://{}", http.ip()),
        port => format!("http://{}:{port}", http.ip()),
    }
}

//! Everything that can be made of a plan, read as the loaders do.

use boot_menu::{Plan, Server, grub, ipxe, preview, pxelinux};
use dhcp_wire::MacAddr;

#[path = "../../crates/boot-menu/src/tests/oracle.rs"]
mod oracle;

/// Whatever is in the site file stays in its place in every script.
pub fn plan(plan: &Plan<'_>, server: &Server, mac: MacAddr) {
    for authorised in [false, true] {
        oracle::judge_ipxe(&ipxe::script(plan, server, authorised)).expect("an iPXE script of ours");
    }
    oracle::judge_grub(&grub::config(plan, server, mac)).expect("a GRUB configuration of ours");
    oracle::judge_pxelinux(&pxelinux::config(plan, mac)).expect("a PXELINUX configuration of ours");
    let _ = preview::draw(plan);
}

//! An admin at the serial console: a command line by its key, a menu behind the menu, a password.

use std::time::Duration;

use anyhow::{Result, ensure};
use qemu_tests::console::keys::{ENTER, ESCAPE};
use qemu_tests::{Console, FirmwareKind, Lab, Nic, Node, Stage};

use super::{MEMORY_MIB, is_as_kept, lab, names, types_line};

const GOLDEN: (&str, &str) =
    ("menu", "SeaBIOS, a menu: a protected entry is chosen with a wrong password, then with the right one");
/// From power to the menu.
const MENU_MAX: Duration = Duration::from_secs(120);
/// From a key to what it does; a failure is shown for five seconds.
const KEY_MAX: Duration = Duration::from_secs(40);
/// Return and keys of entries lead everywhere: of an arrow key's bytes the first reaches a slow machine as Escape
/// (SeaBIOS tells the two apart by time). The digest is that of `admin:esir:secret`.
const SITE: &str = "
    [user.admin]
    digest = '11f3f67a677a2f4bb854b22a0fdb4c81'
    [entry.disk]
    title = 'Boot from the local disk'
    key = 'l'
    local = 'auto'
    [entry.line]
    title = 'Command line'
    key = 'c'
    shell = true
    [entry.hardware]
    title = 'Report the hardware'
    key = 'h'
    inventory = true
    users = ['admin']
    [menu.main]
    title = 'First menu'
    timeout = 600
    default = '>tools'
    items = ['disk', 'line', '-- More', '>tools']
    [menu.tools]
    title = 'Second menu'
    items = ['hardware', '>main']
    [default]
    menu = 'main'
";
const PASSWORD: &str = "secret";

pub(crate) async fn tell() -> Result<()> {
    let lab = lab(SITE).await?;
    let node = lab.node("menu").firmware(FirmwareKind::Bios).nic(Nic::E1000);
    let node = node.memory_mib(MEMORY_MIB).build()?;
    let recorder = node.record()?;
    node.power_on()?;
    let told = chooses(&lab, &node).await;
    is_as_kept(&lab, recorder, GOLDEN, &names(&node), told)
}

async fn chooses(lab: &Lab, node: &Node) -> Result<()> {
    let console = node.console();
    console.wait_for(&["Second menu ..."], MENU_MAX).await?;
    lab.note("the menu is shown; its key opens the command line");
    console.types(&["c"]).await?;
    console.wait_for(&["iPXE>"], KEY_MAX).await?;
    console.types(&["e", "x", "i", "t", ENTER]).await?;
    console.wait_for(&["that did not boot"], KEY_MAX).await?;
    console.wait_for(&["Second menu ..."], KEY_MAX).await?;

    lab.note("to the second menu, and back by Escape");
    console.types(&[ENTER]).await?;
    console.wait_for(&["Report the hardware"], KEY_MAX).await?;
    console.types(&[ESCAPE]).await?;
    console.wait_for(&["Second menu ..."], KEY_MAX).await?;

    lab.note("a protected entry with a wrong password");
    logs_in(console, "admin", "wrong").await?;
    console.wait_for(&["that did not boot"], KEY_MAX).await?;
    console.wait_for(&["Second menu ..."], KEY_MAX).await?;
    ensure!(node.stage_on_console().is_none(), "the agent runs although the password was wrong");

    lab.note("and with the right one; the name still stands in the form");
    logs_in(console, "", PASSWORD).await?;
    node.reaches(Stage::Await).await?;
    ensure!(!console.text().contains(PASSWORD), "the password is on the screen");
    Ok(())
}

/// From the first menu to the protected entry in the second, and through its question.
async fn logs_in(console: &Console, name: &str, password: &str) -> Result<()> {
    console.types(&[ENTER]).await?;
    console.wait_for(&["Report the hardware"], KEY_MAX).await?;
    console.types(&["h"]).await?;
    console.wait_for(&["assword"], KEY_MAX).await?;
    for text in [name, password] {
        types_line(console, text).await?;
    }
    Ok(())
}

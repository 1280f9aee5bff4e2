//! The file names by which GRUB and PXELINUX ask for more of a node's configuration: `KIND/MAC/NAME`.
//!
//! Never knows where such names begin: each loader has a directory of its own.

use dhcp_wire::MacAddr;

/// What a loader that runs already asks for.
pub(crate) enum More {
    /// `menu/MAC/NAME`: a menu behind another.
    Menu(MacAddr, String),
    /// `item/MAC/NAME`: an entry that was chosen.
    Item(MacAddr, String),
}

impl More {
    /// Reads what follows the loader's directory.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (kind, rest) = name.split_once('/')?;
        let (mac, name) = rest.split_once('/')?;
        let (mac, name) = (node(mac)?, name.to_owned());
        match kind {
            "menu" => Some(Self::Menu(mac, name)),
            "item" => Some(Self::Item(mac, name)),
            _ => None,
        }
    }
}

/// A node's hardware address as loaders write it.
pub(crate) fn node(text: &str) -> Option<MacAddr> {
    text.parse::<MacAddr>().ok().filter(|mac| mac.is_unicast())
}

//! A `[system]` table as written.

use std::collections::BTreeMap;
use std::path::PathBuf;

use boot_menu::OneOrMore;
use node_api::BootOrder;
use serde::Deserialize;
use toml::Spanned;

/// `[system]`, and the same words in `[group.NAME.system]` and `[node.system]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawSystem {
    /// Domain of the host name. Default: none.
    pub(crate) domain: Option<Spanned<String>>,
    /// `network_first` (default), `disk_first` or `untouched`.
    pub(crate) boot_order: Option<BootOrder>,
    /// How the system reaches the network. Default: DHCP on the NIC that booted.
    #[serde(default)]
    pub(crate) network: RawNetwork,
    /// `[system.user.NAME]`: accounts.
    #[serde(default)]
    pub(crate) user: BTreeMap<Spanned<String>, RawUser>,
    /// Directories whose contents are laid over the system's root, the later over the earlier.
    #[serde(default)]
    pub(crate) files: Vec<Spanned<PathBuf>>,
    /// `[system.file."/PATH"]`: owner and mode of one file, or the file itself.
    #[serde(default)]
    pub(crate) file: BTreeMap<Spanned<String>, RawFile>,
    /// Units that start with the system.
    #[serde(default)]
    pub(crate) enable: Vec<Spanned<String>>,
    /// Units that don't.
    #[serde(default)]
    pub(crate) disable: Vec<Spanned<String>>,
    /// Units that nothing may start.
    #[serde(default)]
    pub(crate) mask: Vec<Spanned<String>>,
    /// Programs that are run inside the system, in order, after everything else.
    #[serde(default)]
    pub(crate) hooks: Vec<Spanned<PathBuf>>,
    /// Seconds that a hook of this table may take, 1 to 3600. Default 300.
    pub(crate) hook_limit_s: Option<Spanned<u64>>,
    /// For images with cloud-init.
    #[serde(default)]
    pub(crate) cloud_init: RawCloudInit,
}

/// `[system.network]`. Each value may have `${variables}`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawNetwork {
    /// `dhcp`, `static`, or `image`: what the image brings stays. Default: `static` with an address, else `dhcp`.
    pub(crate) method: Option<Spanned<String>>,
    /// `ADDRESS/PREFIX`, one or several, of the NIC that booted.
    #[serde(default)]
    pub(crate) address: OneOrMore,
    /// Default routers, one for each family at most.
    #[serde(default)]
    pub(crate) gateway: OneOrMore,
    /// Name servers.
    #[serde(default)]
    pub(crate) dns: OneOrMore,
    /// Domains in which names are looked for.
    #[serde(default)]
    pub(crate) search: OneOrMore,
    /// Bytes, 576 to 65535.
    pub(crate) mtu: Option<Spanned<u32>>,
    /// `[[system.network.interface]]`: other NICs.
    #[serde(default)]
    pub(crate) interface: Vec<RawInterface>,
}

/// A NIC that the node did not boot from.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawInterface {
    /// Its hardware address.
    pub(crate) mac: Spanned<String>,
    /// As above; none: DHCP.
    #[serde(default)]
    pub(crate) address: OneOrMore,
    /// As above.
    #[serde(default)]
    pub(crate) gateway: OneOrMore,
    /// As above.
    pub(crate) mtu: Option<Spanned<u32>>,
}

/// `[system.user.NAME]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawUser {
    /// Default: the next that is free in the image.
    pub(crate) uid: Option<Spanned<u32>>,
    /// Groups beside the user's own; those that the image does not have are made.
    #[serde(default)]
    pub(crate) groups: Vec<Spanned<String>>,
    /// Default: bash where the image has it, else sh.
    pub(crate) shell: Option<Spanned<String>>,
    /// Hash of the password, as `openssl passwd -6` prints it. Default: no login by password.
    pub(crate) password: Option<Spanned<String>>,
    /// Lines of `authorized_keys`: these and no others. Root's are added to `access.authorized_keys`.
    #[serde(default)]
    pub(crate) keys: Vec<Spanned<String>>,
    /// May do everything by sudo: after giving the password if there is one, else without. Default false.
    #[serde(default)]
    pub(crate) sudo: bool,
}

/// `[system.file."/PATH"]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawFile {
    /// `USER` or `USER:GROUP` of the installed system. Default: root.
    pub(crate) owner: Option<Spanned<String>>,
    /// Octal, such as `"0640"`. Default: that of the overlay's file, else `"0644"`.
    pub(crate) mode: Option<Spanned<String>>,
    /// The text of the file, with `${variables}`.
    pub(crate) content: Option<Spanned<String>>,
}

/// `[system.cloud_init]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawCloudInit {
    /// File with the user data of the `NoCloud` seed. Default: none.
    pub(crate) user_data: Option<Spanned<PathBuf>>,
    /// `false`: cloud-init of the image does nothing. Default true.
    pub(crate) run: Option<bool>,
}

//! What is in the Debian test image, as data.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::write_file;
use crate::command::say_and_run;
use crate::vm::FIXED_ADDRESSES;

/// Password of root on the serial console.
pub const ROOT_PASSWORD: &str = "esir";

pub(super) const SUITE: &str = "bookworm";
/// Debian 13. Its packages come from Debian's own mirror, because a machine with Debian 12 has no source of them.
const SUITE_13: &str = "trixie";
const SOURCE_13: &str = "deb http://deb.debian.org/debian trixie main";

/// A server that is small but real: kernel, init, network, ssh.
const PACKAGES: [&str; 9] = [
    "linux-image-amd64",
    "initramfs-tools",
    "zstd", // initramfs-tools compresses with it, and the kernel unpacks it fastest
    "systemd-sysv",
    "dbus", // networkd and logind speak over it
    "libpam-systemd",
    "login",
    "iproute2",
    "openssh-server",
];
/// Both boot loaders as Debian signs them.
const GRUB: [&str; 5] =
    ["grub2-common", "grub-pc-bin", "grub-efi-amd64-bin", "grub-efi-amd64-signed", "shim-signed"];

const DHCP_EVERYWHERE: &str = "etc/systemd/network/80-dhcp.network";
const GRUB_DEFAULTS: &str = "etc/default/grub";

/// Units that a minimal Debian leaves off.
const UNITS: [&str; 2] = ["systemd-networkd.service", "serial-getty@ttyS0.service"];

/// Files that mmdebstrap takes from this machine or makes for it; a node gets its own.
const OF_ONE_MACHINE: [&str; 4] =
    ["etc/resolv.conf", "etc/hostname", "var/lib/dbus/machine-id", "var/lib/systemd/random-seed"];

/// One image tree to build.
#[derive(Clone, Debug)]
pub struct Recipe {
    suite: &'static str,
    packages: Vec<&'static str>,
    files: Vec<(&'static str, u32, String)>,
    sources: Vec<PathBuf>,
    /// Packages that stay as the last point release has them, by apt's patterns.
    unchanged: Option<&'static str>,
}

impl Recipe {
    /// Debian 12 with a serial console, DHCP on every wired card, and `ssh_key` let in as root.
    #[must_use]
    pub fn debian_12(ssh_key: &str, sources: &[PathBuf]) -> Self {
        let network = "[Match]\nType=ether\n\n[Network]\nDHCP=yes\n";
        let grub = format!(
            "GRUB_DEFAULT=0\nGRUB_TIMEOUT=1\nGRUB_DISTRIBUTOR=Debian\nGRUB_CMDLINE_LINUX_DEFAULT=\"\"\n\
             GRUB_CMDLINE_LINUX=\"console=tty0 console=ttyS0,115200 {FIXED_ADDRESSES}\"\n\
             GRUB_TERMINAL=\"console serial\"\nGRUB_SERIAL_COMMAND=\"serial --unit=0 --speed=115200\"\n"
        );
        let files = vec![
            (DHCP_EVERYWHERE, 0o644, network.to_owned()),
            (GRUB_DEFAULTS, 0o644, grub),
            ("root/.ssh/authorized_keys", 0o600, ssh_key.to_owned()),
            (
                "etc/hosts",
                0o644,
                "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n".to_owned(),
            ),
            ("etc/fstab", 0o644, String::new()),
            ("etc/machine-id", 0o444, String::new()),
        ];
        let packages = [&PACKAGES[..], &GRUB, &["e2fsprogs"]].concat();
        Self { suite: SUITE, packages, files, sources: sources.to_vec(), unchanged: None }
    }

    /// Debian 13 in the same shape, with sudo and what btrfs needs.
    #[must_use]
    pub fn debian_13(ssh_key: &str) -> Self {
        let mut recipe = Self::debian_12(ssh_key, &[SOURCE_13.into()]);
        recipe.suite = SUITE_13;
        recipe.packages.extend(["sudo", "btrfs-progs"]);
        recipe
    }

    /// Without the updates of these packages since the last point release; `*` is all.
    #[must_use]
    pub fn without_updates_of(mut self, packages: &'static str) -> Self {
        self.unchanged = Some(packages);
        self
    }

    /// What Debian's images for clouds are beside that: cloud-init, netplan and sudo.
    #[must_use]
    pub fn debian_12_cloud(ssh_key: &str, sources: &[PathBuf]) -> Self {
        let mut recipe = Self::debian_12(ssh_key, sources);
        recipe.packages.extend(["cloud-init", "netplan.io", "sudo"]);
        // Without it cloud-init makes a locale, for which a minimal system lacks the sources.
        recipe.files.push(("etc/default/locale", 0o644, "LANG=C.UTF-8\n".to_owned()));
        // Theirs have no network of their own: cloud-init makes it.
        recipe.files.retain(|(path, ..)| *path != DHCP_EVERYWHERE);
        recipe
    }

    /// Able to assemble RAID, open LUKS containers and activate LVM before there is a root.
    #[must_use]
    pub fn debian_12_storage(ssh_key: &str, sources: &[PathBuf]) -> Self {
        let mut recipe = Self::debian_12(ssh_key, sources);
        recipe.packages.extend(["mdadm", "lvm2", "cryptsetup-initramfs"]);
        recipe
    }

    /// Started by systemd-boot, without GRUB, also from xfs.
    #[must_use]
    pub fn debian_12_systemd_boot(ssh_key: &str, sources: &[PathBuf]) -> Self {
        let mut recipe = Self::debian_12(ssh_key, sources);
        recipe.packages.retain(|package| !GRUB.contains(package));
        recipe.packages.extend(["systemd-boot", "xfsprogs"]);
        recipe.files.retain(|(path, ..)| *path != GRUB_DEFAULTS);
        let words = "root=UUID=00000000-0000-4000-8000-000000000000 ro console=tty0 console=ttyS0,115200";
        recipe.files.push(("etc/kernel/cmdline", 0o644, format!("{words} {FIXED_ADDRESSES}\n")));
        recipe
    }

    /// Changes with everything that decides the tree but the mirror's state, hex.
    #[must_use]
    pub fn hash(&self) -> String {
        let Self { suite, packages, files, sources: _, unchanged } = self;
        let unchanged = unchanged.unwrap_or_default();
        let text =
            format!("{suite} {packages:?} {UNITS:?} {OF_ONE_MACHINE:?} {ROOT_PASSWORD} {files:?}{unchanged}");
        blake3::hash(text.as_bytes()).to_hex().to_string()
    }

    /// Makes the tree.
    ///
    /// # Errors
    /// Not root, mmdebstrap is missing, or no mirror answers.
    pub(super) fn build(&self, tree: &Path) -> Result<()> {
        let mut bootstrap = Command::new("mmdebstrap");
        bootstrap.args(["--variant=minbase", "--format=directory", "--mode=root"]);
        bootstrap.arg(format!("--include={}", self.packages.join(",")));
        if let Some(packages) = self.unchanged {
            bootstrap.args(pin(packages, self.suite));
        }
        bootstrap.arg(self.suite).arg(tree).args(&self.sources);
        say_and_run(&mut bootstrap)?;
        for (path, mode, text) in &self.files {
            write_file(&tree.join(path), *mode, text)?;
        }
        fs::set_permissions(tree.join("root/.ssh"), std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        say_and_run(Command::new("chroot").arg(tree).args(["systemctl", "--quiet", "enable"]).args(UNITS))?;
        set_password(tree)?;
        remove_what_is_of_one_machine(tree)
    }
}

/// Holds packages at the release itself while the tree is made (apt_preferences(5)).
fn pin(packages: &str, suite: &str) -> [String; 2] {
    let place = "\"$1\"/etc/apt/preferences.d/esir";
    let text = format!("Package: {packages}\\nPin: release n={suite}\\nPin-Priority: 1001\\n");
    [format!("--setup-hook=printf '{text}' >{place}"), format!("--customize-hook=rm {place}")]
}

/// Whether an apt source file names the suite itself (and not only, say, `cloud-sdk-bookworm`).
pub(super) fn names_debian_suite(text: &str) -> bool {
    let words = |line: &str| line.split_whitespace().any(|word| word == SUITE);
    text.lines().filter(|line| !line.trim_start().starts_with('#')).any(words)
}

fn set_password(tree: &Path) -> Result<()> {
    let mut chpasswd = Command::new("chroot")
        .arg(tree)
        .arg("chpasswd")
        .stdin(Stdio::piped())
        .spawn()
        .context("running chpasswd")?;
    if let Some(mut input) = chpasswd.stdin.take() {
        writeln!(input, "root:{ROOT_PASSWORD}")?;
    }
    let status = chpasswd.wait()?;
    if !status.success() {
        bail!("setting root's password in {}: {status}", tree.display());
    }
    Ok(())
}

/// Two nodes must not share host keys, names or identities: the agent gives each its own.
fn remove_what_is_of_one_machine(tree: &Path) -> Result<()> {
    for path in OF_ONE_MACHINE {
        let path = tree.join(path);
        if path.symlink_metadata().is_ok() {
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    for entry in fs::read_dir(tree.join("etc/ssh"))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ssh_host_")) {
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sources_of_debian_itself_are_taken() {
        assert!(names_debian_suite("Types: deb\nURIs: http://mirror\nSuites: bookworm bookworm-updates\n"));
        assert!(names_debian_suite("deb http://mirror bookworm main\n"));
        assert!(!names_debian_suite("deb https://packages cloud-sdk-bookworm main\n"));
        assert!(!names_debian_suite("# deb http://mirror bookworm main\n"));
    }

    #[test]
    fn a_new_ssh_key_makes_a_new_image() {
        assert_ne!(Recipe::debian_12("a", &[]).hash(), Recipe::debian_12("b", &[]).hash());
        assert_eq!(Recipe::debian_12("a", &[]).hash(), Recipe::debian_12("a", &[]).hash());
        assert_ne!(
            Recipe::debian_12("a", &[]).without_updates_of("*").hash(),
            Recipe::debian_12("a", &[]).hash()
        );
    }
}

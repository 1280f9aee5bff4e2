//! `start`: mounts, kernel settings, command line, site file, and whether the initrd is whole.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use boot_bundle::{INITRD_MANIFEST_PATH, InitrdManifest, ObjectHash, STORE_MANIFEST_HASH_PATH};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use node_api::{
    BootArguments, BootArgumentsError, FirmwareKind, Lockdown, Recovery, SITE_TRUST_PATH, SiteTrust,
    VerifyingKey,
};

use super::Done;
use crate::api::KeyPin;
use crate::failure::StageError;
use crate::secrets::{BootSecrets, RUN_DIRECTORY};
use crate::supervise::AGENT_PATH;

/// Says to later agents of this boot that the initrd was whole, and of how many files.
const CHECKED_FILE: &str = "initrd-checked";
/// Errors and worse on the console, the rest in the log.
const PRINTK_LEVELS: &str = "4 4 1 7";
/// Where the kernel says what it keeps even root from doing.
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

/// What every later stage may rely on.
pub(crate) struct Started {
    pub(crate) server: SocketAddr,
    pub(crate) token: String,
    pub(crate) boot_mac: Option<[u8; 6]>,
    pub(crate) site: String,
    pub(crate) server_key: KeyPin,
    pub(crate) task_key: VerifyingKey,
    pub(crate) image_keys: Vec<String>,
    pub(crate) secrets: BootSecrets,
    pub(crate) firmware: FirmwareKind,
    pub(crate) lockdown: Option<Lockdown>,
    pub(crate) store_manifest: String,
}

/// Why the node cannot begin. Nothing was touched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// Files are missing or damaged, which a kernel does not notice (it stops unpacking and goes on).
    #[error(
        "the initrd is damaged or the memory too small: {0}; boot again, with more memory if it happens again"
    )]
    Initrd(String),
    /// A file cannot be read.
    #[error("{path} cannot be read; boot this initrd through pxe-server, which adds it")]
    Read {
        path: &'static str,
        #[source]
        source: std::io::Error,
    },
    /// A file that cannot be understood.
    #[error("{path} is no site file of this version")]
    SiteFile {
        path: &'static str,
        #[source]
        source: serde_json::Error,
    },
    /// A key in the site file is malformed.
    #[error("{SITE_TRUST_PATH}: {0} is not 64 hex digits of a key")]
    Key(&'static str),
    /// The kernel command line is wrong.
    #[error("the kernel command line is wrong")]
    Arguments(#[from] BootArgumentsError),
    /// An argument is missing.
    #[error("the kernel command line has no {0}; boot through pxe-server")]
    Missing(&'static str),
    /// PID 1 could not make nonce and key.
    #[error("this boot has no nonce and key: {0}")]
    Secrets(String),
}

impl StageError for StartError {
    fn code(&self) -> &'static str {
        match self {
            Self::Initrd(_) => "initrd-damaged",
            Self::Read { .. } | Self::SiteFile { .. } | Self::Key(_) => "site-file",
            Self::Arguments(_) | Self::Missing(_) => "boot-arguments",
            Self::Secrets(_) => "boot-secrets",
        }
    }

    fn recovery(&self) -> Recovery {
        // Everything here came with the boot; only another boot brings something else.
        Recovery::Reboot
    }
}

/// Mounts what the kernel offers, so that even PID 1 can speak. What is mounted already stays.
/// Returns one sentence for each mount that failed.
pub(crate) fn mount_basics() -> Vec<String> {
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    let device = MsFlags::MS_NOSUID;
    [
        ("proc", "/proc", plain, None),
        ("sysfs", "/sys", plain, None),
        ("devtmpfs", "/dev", device, Some("mode=0755")),
        ("tmpfs", "/run", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0755")),
    ]
    .into_iter()
    .filter_map(|(kind, place, flags, options)| mount_one(kind, place, flags, options).err())
    .collect()
}

fn mount_rest() -> Vec<String> {
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    [
        ("devpts", "/dev/pts", MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, Some("mode=0620,ptmxmode=0666")),
        ("tmpfs", "/tmp", plain, Some("mode=1777")),
        ("securityfs", "/sys/kernel/security", plain | MsFlags::MS_NOEXEC, None),
    ]
    .into_iter()
    .filter_map(|(kind, place, flags, options)| mount_one(kind, place, flags, options).err())
    .collect()
}

fn mount_one(kind: &str, place: &str, flags: MsFlags, options: Option<&str>) -> Result<(), String> {
    // An earlier agent of this boot may have done it.
    if is_mounted(&fs::read_to_string("/proc/self/mounts").unwrap_or_default(), place) {
        return Ok(());
    }
    fs::create_dir_all(place).map_err(|error| format!("making {place}: {error}"))?;
    match mount(Some(kind), place, Some(kind), flags, options) {
        // EBUSY: the kernel itself mounted devtmpfs.
        Ok(()) | Err(Errno::EBUSY) => Ok(()),
        Err(error) => Err(format!("mounting {kind} on {place}: {error}")),
    }
}

fn is_mounted(mounts: &str, place: &str) -> bool {
    mounts.lines().any(|line| line.split(' ').nth(1) == Some(place))
}

/// Mounts the firmware's variables; needs a module, so it is tried again when all modules are there.
pub(crate) fn mount_efivarfs() -> Result<(), String> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    mount_one("efivarfs", "/sys/firmware/efi/efivars", flags, None)
}

/// Prepares the boot environment and reads what the boot chain handed over.
pub(crate) fn run() -> Result<Done<Started>, StartError> {
    for problem in mount_basics().into_iter().chain(mount_rest()) {
        tracing::warn!("{problem}");
    }
    for (path, value) in [
        ("/proc/sys/kernel/printk", PRINTK_LEVELS),
        // Without it the kernel drops our lines when there are many.
        ("/proc/sys/kernel/printk_devkmsg", "on"),
        ("/proc/sys/kernel/modprobe", AGENT_PATH),
    ] {
        if let Err(error) = fs::write(path, value) {
            tracing::warn!("setting {path}: {error}");
        }
    }
    let files = check_initrd()?;
    let command_line = read("/proc/cmdline")?;
    let arguments = BootArguments::parse(&command_line)?;
    let site: SiteTrust = serde_json::from_str(&read(SITE_TRUST_PATH)?)
        .map_err(|source| StartError::SiteFile { path: SITE_TRUST_PATH, source })?;
    let secrets = BootSecrets::make_or_read(Path::new(RUN_DIRECTORY))
        .map_err(|error| StartError::Secrets(format!("{error:#}")))?;
    let efi = Path::new("/sys/firmware/efi").exists();
    let firmware = if efi { FirmwareKind::Uefi } else { FirmwareKind::Bios };
    let lockdown = fs::read_to_string(LOCKDOWN).ok().and_then(|text| Lockdown::parse(&text));
    let platform = Platform { firmware, lockdown };
    let started =
        check(arguments, site, secrets, platform, fs::read_to_string(STORE_MANIFEST_HASH_PATH).ok())?;
    let locked = lockdown.map(|lockdown| format!(", kernel lockdown {lockdown}")).unwrap_or_default();
    let detail = format!("{firmware}{locked}, site {}, {files} files in the initrd are whole", started.site);
    Ok(Done { value: started, detail })
}

/// What firmware and kernel are.
#[derive(Clone, Copy)]
struct Platform {
    firmware: FirmwareKind,
    lockdown: Option<Lockdown>,
}

fn check(
    arguments: BootArguments,
    site: SiteTrust,
    secrets: BootSecrets,
    Platform { firmware, lockdown }: Platform,
    store_manifest: Option<String>,
) -> Result<Started, StartError> {
    let task_key = hex::decode(&site.task_public_key)
        .ok()
        .and_then(|key| <[u8; 32]>::try_from(key).ok())
        .and_then(|key| VerifyingKey::from_bytes(&key))
        .ok_or(StartError::Key("task_public_key"))?;
    Ok(Started {
        server: arguments.server.ok_or(StartError::Missing("esir.server"))?,
        token: arguments.token.ok_or(StartError::Missing("esir.token"))?,
        boot_mac: arguments.boot_mac,
        site: site.site,
        server_key: KeyPin::parse(&site.tls_spki_sha256).ok_or(StartError::Key("tls_spki_sha256"))?,
        task_key,
        image_keys: site.image_public_keys,
        secrets,
        firmware,
        lockdown,
        store_manifest: store_manifest.unwrap_or_default().trim().to_owned(),
    })
}

/// Compares every file with the manifest that was packed first, once per boot: later the modules are deleted to
/// free their memory. Returns the number of files.
fn check_initrd() -> Result<usize, StartError> {
    let checked = Path::new(RUN_DIRECTORY).join(CHECKED_FILE);
    if let Some(files) = fs::read_to_string(&checked).ok().and_then(|text| text.parse().ok()) {
        return Ok(files);
    }
    let manifest = InitrdManifest::parse(read(INITRD_MANIFEST_PATH)?.as_bytes())
        .map_err(|error| StartError::Initrd(format!("{INITRD_MANIFEST_PATH}: {error}")))?;
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    if manifest.kernel_release != release {
        return Err(StartError::Initrd(format!(
            "it is for kernel {}, this is {release}",
            manifest.kernel_release
        )));
    }
    match first_damaged(Path::new("/"), &manifest) {
        None => {
            // Best effort: without it the next agent of this boot finds missing modules and boots again.
            let _ = fs::create_dir_all(RUN_DIRECTORY)
                .and_then(|()| fs::write(checked, manifest.files.len().to_string()));
            Ok(manifest.files.len())
        }
        Some(problem) => Err(StartError::Initrd(problem)),
    }
}

fn first_damaged(root: &Path, manifest: &InitrdManifest) -> Option<String> {
    manifest.files.iter().find_map(|(path, expected)| {
        match fs::read(root.join(path.trim_start_matches('/'))) {
            Ok(bytes) => {
                (ObjectHash::of(&bytes) != expected.hash).then(|| format!("{path} is not what was packed"))
            }
            Err(error) => Some(format!("{path}: {error}")),
        }
    })
}

fn read(path: &'static str) -> Result<String, StartError> {
    fs::read_to_string(path).map_err(|source| StartError::Read { path, source })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use boot_bundle::InitrdFile;

    use super::*;

    fn site() -> SiteTrust {
        let key = node_api::SigningKey::from_bytes(&[3; 32]);
        SiteTrust {
            site: "lab".into(),
            tls_spki_sha256: "ab".repeat(32),
            task_public_key: hex::encode(key.verifying_key().to_bytes()),
            image_public_keys: vec!["RWQ".into()],
        }
    }

    fn check_line(command_line: &str, site: SiteTrust) -> Result<Started, String> {
        let directory = tempfile::tempdir().unwrap();
        let secrets = BootSecrets::make_or_read(directory.path()).unwrap();
        let arguments = BootArguments::parse(command_line).map_err(|error| error.to_string())?;
        let platform = Platform { firmware: FirmwareKind::Bios, lockdown: None };
        check(arguments, site, secrets, platform, Some("cd\n".into())).map_err(|error| error.to_string())
    }

    #[test]
    fn complete_boot_gives_everything_that_later_stages_need() {
        let line = "esir.server=10.77.0.1:8443 esir.token=t BOOTIF=01-52-54-00-00-00-01";
        let started = check_line(line, site()).unwrap();
        assert_eq!(started.server.port(), 8443);
        assert_eq!(started.store_manifest, "cd");
        assert_eq!(started.boot_mac, Some([0x52, 0x54, 0, 0, 0, 1]));
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = |line, site| check_line(line, site).err().unwrap();
        assert!(error("esir.token=t", site()).contains("no esir.server"));
        assert!(error("esir.server=10.77.0.1:8443", site()).contains("no esir.token"));
        let broken = SiteTrust { tls_spki_sha256: "ab".into(), ..site() };
        assert!(error("esir.server=10.77.0.1:8443 esir.token=t", broken).contains("tls_spki_sha256"));
    }

    #[test]
    fn initrd_that_was_cut_off_is_noticed() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a"), b"one").unwrap();
        let file = |bytes: &[u8]| InitrdFile { hash: ObjectHash::of(bytes), size: 3 };
        let mut manifest =
            InitrdManifest { version: 1, kernel_release: "6.1".into(), files: BTreeMap::default() };
        manifest.files.insert("/a".into(), file(b"one"));
        assert_eq!(first_damaged(root.path(), &manifest), None);
        manifest.files.insert("/lib/modules/x.ko".into(), file(b"two"));
        assert!(first_damaged(root.path(), &manifest).unwrap().starts_with("/lib/modules/x.ko"));
        manifest.files.remove("/lib/modules/x.ko");
        manifest.files.insert("/a".into(), file(b"other"));
        assert_eq!(first_damaged(root.path(), &manifest).unwrap(), "/a is not what was packed");
    }

    #[test]
    fn mount_points_are_compared_whole() {
        let mounts = "proc /proc proc rw 0 0\ntmpfs /run/esir tmpfs rw 0 0\n";
        assert!(is_mounted(mounts, "/proc"));
        assert!(!is_mounted(mounts, "/run"));
    }
}

//! What lies between partitions and file systems: RAID1 by mdadm, LUKS2 by cryptsetup, LVM by lvm.
//!
//! Nothing of it is assembled by itself in this environment: there is no udev, and md and device-mapper are loaded only
//! when a plan asks for them. So what is up was made here, and [`stop_all`] may stop it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use disk_layout::{Layer, mdadm_uuid};
use node_api::DiskKey;

use super::cleared::{Partitioned, wipe_device};
use super::tool::{self, ToolError};

/// KB/s that a new array may spend on making its halves alike while an image is written to it; the installed system
/// goes on with it.
const RESYNC_KB_S: &str = "1000";
/// Keys are 16 random bytes or more, which no guessing reaches: stretching them would only cost each start its time,
/// and a node of 512 MiB its memory (cryptsetup's own least).
const KEY_ITERATIONS: &str = "1000";
/// LVM without udev, locks on disk, backups or anything that it would talk to; `filter` lets it see our devices only.
const LVM_CONFIG: &str = "devices/obtain_device_list_from_udev=0 devices/use_devicesfile=0 activation/udev_sync=0 \
    activation/udev_rules=0 activation/monitoring=0 backup/backup=0 backup/archive=0 global/use_lvmpolld=0";
/// A device is busy for a moment after its last user left.
const STOP_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);

/// An array, container or volume that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// A tool failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The new device refuses writes.
    #[error("wiping what was in the place of /dev/{device}")]
    Wipe {
        /// Name of the device, without `/dev/`.
        device: String,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The task has no key for it. Nothing was written.
    #[error("the task has no key for the LUKS container {0}; the server is older than its layout")]
    NoKey(String),
}

/// The tools that layers need, each once, as the boot bundle names them.
pub(super) fn tools(layers: &[Layer]) -> Vec<&'static str> {
    layers.iter().flat_map(|layer| needs(layer).0).copied().collect()
}

/// The kernel modules that layers need.
pub(super) fn modules(layers: &[Layer]) -> Vec<&'static str> {
    layers.iter().flat_map(|layer| needs(layer).1).copied().collect()
}

const fn needs(layer: &Layer) -> (&'static [&'static str], &'static [&'static str]) {
    match layer {
        Layer::Raid { .. } => (&["mdadm"], &["raid1"]),
        // What the kernel would ask for by itself, which cannot reach the store.
        Layer::Luks { .. } => (
            &["cryptsetup", "dmsetup"],
            &["dm_mod", "dm_crypt", "algif_skcipher", "aes_generic", "xts", "ecb", "sha256_generic"],
        ),
        Layer::Group { .. } | Layer::Volume { .. } => (&["lvm", "dmsetup"], &["dm_mod"]),
    }
}

/// Whether the task has a key for every container.
///
/// # Errors
/// [`StackError::NoKey`].
pub fn check_keys(layers: &[Layer], keys: &[DiskKey]) -> Result<(), StackError> {
    let containers = layers.iter().filter_map(|layer| match layer {
        Layer::Luks { name, .. } => Some(name),
        _ => None,
    });
    containers.into_iter().try_for_each(|name| key(keys, name).map(drop))
}

fn key<'k>(keys: &'k [DiskKey], name: &str) -> Result<&'k DiskKey, StackError> {
    keys.iter().find(|key| key.name == name).ok_or_else(|| StackError::NoKey(name.to_owned()))
}

/// Makes every layer of the plan, in its order.
pub(super) async fn make(partitioned: &Partitioned, keys: &[DiskKey]) -> Result<(), StackError> {
    for layer in partitioned.plan.layers() {
        make_one(layer, partitioned.plan.layers(), keys).await?;
        tracing::info!("{layer}");
    }
    Ok(())
}

async fn make_one(layer: &Layer, layers: &[Layer], keys: &[DiskKey]) -> Result<(), StackError> {
    match layer {
        Layer::Raid { device, name, metadata, uuid, members } => {
            // Absent until md is loaded, and only a wish.
            let _ = fs::write("/proc/sys/dev/raid/speed_limit_max", RESYNC_KB_S);
            let path = dev(device);
            let words = [
                format!("--name={name}"),
                format!("--metadata={}", metadata.word()),
                format!("--uuid={}", mdadm_uuid(*uuid)),
                format!("--raid-devices={}", members.len()),
            ];
            let members: Vec<String> = members.iter().map(|member| dev(member)).collect();
            let mut arguments =
                vec!["--create", &path, "--run", "--level=1", "--bitmap=internal", "--homehost=any"];
            arguments.extend(words.iter().chain(&members).map(String::as_str));
            tool::run("mdadm", &arguments, device, None).await?;
            wipe(device).await
        }
        Layer::Luks { device, name, uuid, below, .. } => {
            let key = key(keys, name)?.secret.as_bytes();
            let (below, uuid) = (dev(below), uuid.to_string());
            let format = ["luksFormat", "--batch-mode", "--type=luks2", "--uuid", &uuid, "--pbkdf=pbkdf2"];
            let format: Vec<&str> = format
                .into_iter()
                .chain(["--pbkdf-force-iterations", KEY_ITERATIONS, "--key-file=-", &below])
                .collect();
            tool::run("cryptsetup", &format, device, Some(key)).await?;
            let open = ["open", "--allow-discards", "--key-file=-", &below, name];
            tool::run("cryptsetup", &open, device, Some(key)).await?;
            wipe(device).await
        }
        Layer::Group { name, members } => {
            let config = lvm_config(members);
            let members: Vec<String> = members.iter().map(|member| dev(member)).collect();
            let mut arguments = vec!["vgcreate", "--yes", "--config", &config, name];
            arguments.extend(members.iter().map(String::as_str));
            Ok(tool::run("lvm", &arguments, name, None).await?)
        }
        Layer::Volume { device, group, name, size_mib } => {
            let config = lvm_config(members_of(layers, group));
            let size = size_mib.map(|mib| format!("{mib}m"));
            let mut arguments =
                vec!["lvcreate", "--yes", "--config", &config, "--wipesignatures=n", "--zero=n"];
            match &size {
                Some(size) => arguments.extend(["--size", size]),
                None => arguments.extend(["--extents", "100%FREE"]),
            }
            arguments.extend(["--name", name, group]);
            tool::run("lvm", &arguments, device, None).await?;
            wipe(device).await
        }
    }
}

fn members_of<'l>(layers: &'l [Layer], group: &str) -> &'l [String] {
    let members = layers.iter().find_map(|layer| match layer {
        Layer::Group { name, members } if name == group => Some(members.as_slice()),
        _ => None,
    });
    members.unwrap_or_default()
}

/// Other disks may hold a group of the same name; they are none of ours and stay unseen.
fn lvm_config(members: &[String]) -> String {
    let accept: String = members.iter().map(|member| format!("\"a|^/dev/{member}$|\",")).collect();
    format!("{LVM_CONFIG} devices/filter=[{accept}\"r|.*|\"]")
}

fn dev(device: &str) -> String {
    format!("/dev/{device}")
}

/// What earlier systems left inside would be found again by the installed one.
async fn wipe(device: &str) -> Result<(), StackError> {
    let name = device.to_owned();
    let wiped = tokio::task::spawn_blocking(move || wipe_device(&name)).await;
    let wiped = wiped.unwrap_or_else(|stopped| Err(std::io::Error::other(stopped)));
    wiped.map_err(|source| StackError::Wipe { device: device.to_owned(), source })
}

/// Stops every array, container and volume, those on top first; what stays is named by whoever then finds the disk in
/// use.
pub(super) fn stop_all(class_block: &Path) {
    let deadline = Instant::now() + STOP_LIMIT;
    loop {
        let up: Vec<_> =
            fs::read_dir(class_block).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        let mut left = false;
        for place in up {
            left |= stop(&place) == Some(false);
        }
        if !left || Instant::now() >= deadline {
            return;
        }
        std::thread::sleep(POLL);
    }
}

/// Whether a device is stopped now; `None` if there is nothing to stop.
fn stop(place: &Path) -> Option<bool> {
    let array_state = place.join("md/array_state");
    let mapped = fs::read_to_string(place.join("dm/name")).ok();
    if mapped.is_none() && !array_state.exists() {
        return None;
    }
    let held = fs::read_dir(place.join("holders")).is_ok_and(|mut holders| holders.next().is_some());
    if held {
        return Some(false);
    }
    Some(match mapped {
        Some(name) => tool::run_blocking("dmsetup", &["remove", name.trim()]),
        // A device that is gone between two looks is stopped too.
        None => fs::write(&array_state, "clear").is_ok() || !array_state.exists(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lvm_sees_the_disks_of_the_plan_and_no_other() {
        let config = lvm_config(&["md0".to_owned(), "sdb3".to_owned()]);
        assert!(
            config.ends_with("devices/filter=[\"a|^/dev/md0$|\",\"a|^/dev/sdb3$|\",\"r|.*|\"]"),
            "{config}"
        );
    }

    #[test]
    fn what_is_held_is_not_stopped_before_its_holder() {
        let class = tempfile::tempdir().unwrap();
        for (name, holder) in [("md0", Some("dm-0")), ("sda", None)] {
            let place = class.path().join(name);
            fs::create_dir_all(place.join("holders")).unwrap();
            if let Some(holder) = holder {
                fs::create_dir_all(place.join("md")).unwrap();
                fs::write(place.join("md/array_state"), "clean").unwrap();
                fs::write(place.join("holders").join(holder), "").unwrap();
            }
        }
        assert_eq!(stop(&class.path().join("sda")), None);
        assert_eq!(stop(&class.path().join("md0")), Some(false));
        fs::remove_file(class.path().join("md0/holders/dm-0")).unwrap();
        assert_eq!(stop(&class.path().join("md0")), Some(true));
        assert_eq!(fs::read_to_string(class.path().join("md0/md/array_state")).unwrap(), "clear");
    }
}

//! What an installed system has to know and to have to assemble what lies below its file systems.

use disk_layout::{Layer, Plan};

use super::initramfs;
use super::tree::{Tree, TreeError};

/// Of Debian's mdadm; its initramfs gets a copy.
const MDADM: &str = "/etc/mdadm/mdadm.conf";
/// Words of `mdadm.conf` for whoever is told of a failed disk; without one of them its monitor does not start.
const TELLS: [&str; 2] = ["MAILADDR", "PROGRAM"];
/// Names the disks of the machine that the image comes from; LVM would see no others (lvmdevices(8)).
const LVM_DEVICES: &str = "/etc/lvm/devices/system.devices";

/// An image that can't start from this layout.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    #[error(transparent)]
    File(#[from] TreeError),
    #[error("the image has no {file}, which its start from this layout needs; add {package} to the image")]
    Lacks { file: &'static str, package: &'static str },
    #[error(
        "the image builds no initramfs by initramfs-tools, which RAID, LVM and LUKS need; add it, or use partitions \
         alone"
    )]
    NoBuilder,
}

/// Checks that the image has what the plan's layers need, and writes down the arrays in place of its own.
///
/// True if an initramfs may have been built with what was replaced. One that knows of no machine assembles arrays and
/// volumes by what is written on the disks themselves.
pub(super) fn write(tree: &mut Tree, plan: &Plan) -> Result<bool, StackError> {
    if !plan.is_stacked() {
        return Ok(false);
    }
    for (file, package) in plan.layers().iter().map(needs) {
        if !tree.exists(file) {
            return Err(StackError::Lacks { file, package });
        }
    }
    if !initramfs::assembles(tree) {
        return Err(StackError::NoBuilder);
    }
    let mut built_in = tree.exists(LVM_DEVICES);
    tree.remove(LVM_DEVICES)?;
    let arrays = plan.mdadm_arrays();
    if !arrays.is_empty() {
        let of_image = tree.text(MDADM)?;
        built_in |= of_image.lines().any(|line| word(line) == "ARRAY");
        tree.write(MDADM, with_arrays(&of_image, &arrays).as_bytes(), 0o644)?;
    }
    Ok(built_in)
}

/// What assembles a layer, and Debian's package of it: a hook of initramfs-tools where the root lies above.
const fn needs(layer: &Layer) -> (&'static str, &'static str) {
    match layer {
        Layer::Raid { .. } => ("/usr/share/initramfs-tools/hooks/mdadm", "mdadm"),
        Layer::Luks { holds_root: true, .. } => {
            ("/usr/share/initramfs-tools/hooks/cryptroot", "cryptsetup-initramfs")
        }
        Layer::Luks { .. } => ("/sbin/cryptsetup", "cryptsetup"),
        Layer::Group { .. } | Layer::Volume { .. } => ("/usr/share/initramfs-tools/hooks/lvm2", "lvm2"),
    }
}

/// `mdadm.conf` with these arrays in place of those of the machine that the image comes from.
fn with_arrays(of_image: &str, arrays: &str) -> String {
    // A line that begins with a blank goes on with the one before it (mdadm.conf(5)).
    let mut in_array = false;
    let mut text = String::new();
    for line in of_image.lines() {
        let goes_on = line.starts_with([' ', '\t']);
        in_array = if goes_on { in_array } else { word(line) == "ARRAY" };
        if !in_array {
            text.push_str(line);
            text.push('\n');
        }
    }
    if !text.lines().any(|line| TELLS.contains(&word(line))) {
        text.push_str("MAILADDR root\n");
    }
    text + arrays
}

/// What a line of `mdadm.conf` is about.
fn word(line: &str) -> &str {
    line.split_whitespace().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use disk_layout::{Chosen, Layout, Seeds};

    use super::*;

    const RAID: &str = r#"{ "disk": { "count": 2 },
        "partition": [{ "raid": "system" }],
        "raid": [{ "name": "system", "lvm": "vg0" }],
        "volume": [{ "group": "vg0", "name": "root", "role": "root" }] }"#;

    fn plan(layout: &str) -> Plan {
        let layout: Layout = serde_json::from_str(layout).unwrap();
        Plan::on(&layout, &Chosen::roomy(&layout), &Seeds::default()).unwrap()
    }

    /// The tree of an image that has these hooks of initramfs-tools and these programs.
    fn image(hooks: &[&str], programs: &[&str]) -> (tempfile::TempDir, Tree) {
        let root = tempfile::tempdir().unwrap();
        let mut tree = Tree::open(root.path()).unwrap();
        for hook in hooks {
            tree.write(format!("/usr/share/initramfs-tools/hooks/{hook}"), b"", 0o755).unwrap();
        }
        for program in programs {
            tree.write(format!("/usr/sbin/{program}"), b"", 0o755).unwrap();
        }
        (root, tree)
    }

    /// What is wrong with such an image, and what becomes of its `mdadm.conf`.
    fn check(hooks: &[&str], programs: &[&str], layout: &str) -> (Option<String>, String) {
        let (_root, mut tree) = image(hooks, programs);
        tree.write(LVM_DEVICES, b"", 0o600).unwrap();
        let written = write(&mut tree, &plan(layout));
        assert_ne!(written.as_ref().ok(), Some(&(layout == "{}")), "it knew of disks");
        let problem = written.err().map(|error| error.to_string());
        assert_eq!(tree.exists(LVM_DEVICES), problem.is_some() || layout == "{}");
        (problem, tree.text(MDADM).unwrap())
    }

    #[test]
    fn an_image_without_the_programs_of_the_layout_is_named_with_the_remedy() {
        let (problem, _) = check(&["lvm2"], &["update-initramfs"], RAID);
        assert_eq!(
            problem.unwrap(),
            "the image has no /usr/share/initramfs-tools/hooks/mdadm, which its start from this layout needs; add \
             mdadm to the image"
        );
        let (problem, _) = check(&["mdadm"], &["update-initramfs"], RAID);
        assert!(problem.unwrap().ends_with("add lvm2 to the image"));
        let (problem, _) = check(&["mdadm", "lvm2"], &["update-initramfs", "dracut"], RAID);
        assert!(problem.unwrap().contains("initramfs-tools"));
        assert_eq!(check(&[], &[], "{}"), (None, String::new()), "plain partitions need nothing");
    }

    #[test]
    fn arrays_are_written_down_once_and_those_of_the_golden_node_go() {
        let golden = "HOMEHOST <system>\nARRAY /dev/md/old metadata=1.2\n   UUID=1:2:3:4\nMAILADDR ops\n";
        let ours = "ARRAY /dev/md/system metadata=1.2 UUID=5:6:7:8\n";
        let written = with_arrays(golden, ours);
        assert_eq!(written, format!("HOMEHOST <system>\nMAILADDR ops\n{ours}"));
        assert_eq!(with_arrays(&written, ours), written, "a second time nothing changes");
        assert_eq!(with_arrays("", ours), format!("MAILADDR root\n{ours}"));
        let (problem, written) = check(&["mdadm", "lvm2"], &["update-initramfs"], RAID);
        assert_eq!((problem, written), (None, format!("MAILADDR root\n{}", plan(RAID).mdadm_arrays())));
    }

    #[test]
    fn an_initramfs_is_outdated_if_it_was_built_for_other_disks() {
        let (_root, mut tree) = image(&["mdadm", "lvm2"], &["update-initramfs"]);
        assert!(!write(&mut tree, &plan(RAID)).unwrap(), "of no machine");
        assert!(write(&mut tree, &plan(RAID)).unwrap(), "of the one before");
    }
}

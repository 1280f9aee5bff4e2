//! Load orders, and the differential test against `modprobe`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use super::*;

fn sample() -> ModuleIndex {
    ModuleIndex::parse(&IndexTexts {
        dep: "kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/fs/mbcache.ko kernel/lib/crc16.ko\n\
              kernel/fs/jbd2/jbd2.ko:\n\
              kernel/fs/mbcache.ko:\n\
              kernel/lib/crc16.ko:\n\
              kernel/crypto/crc32c_generic.ko:\n\
              kernel/arch/x86/crypto/crc32c-intel.ko:\n\
              kernel/drivers/net/ethernet/realtek/r8169.ko: kernel/drivers/net/phy/mdio_devres.ko kernel/drivers/net/phy/libphy.ko\n\
              kernel/drivers/net/phy/libphy.ko:\n\
              kernel/drivers/net/phy/mdio_devres.ko: kernel/drivers/net/phy/libphy.ko\n\
              kernel/drivers/net/phy/realtek.ko: kernel/drivers/net/phy/libphy.ko\n\
              kernel/a.ko:\nkernel/b.ko:\n"
            .into(),
        softdep: "# comment\n\
              softdep ext4 pre: crypto-crc32c\n\
              softdep jbd2 pre: crypto-crc32c\n\
              softdep r8169 pre: realtek\n\
              softdep a pre: b post: no-such-module\n\
              softdep b pre: a\n\
              softdep cifs gcm\n"
            .into(),
        alias: "alias crypto-crc32c crc32c_intel\n\
              alias crypto-crc32c crc32c_generic\n\
              alias fs-ext4 ext4\n\
              alias pci:v000010ECd00008168sv*sd*bc*sc*i* r8169\n\
              alias pci:v0000FFFFd*sv*sd*bc*sc*i* elsewhere\n"
            .into(),
        builtin: "kernel/drivers/virtio/virtio.ko\nkernel/net/af-packet.ko\n".into(),
    })
}

fn order(module: &str) -> String {
    let index = sample();
    let steps = index.load_order(module).unwrap();
    let words: Vec<String> =
        steps.iter().map(|step| format!("{}{}", step.module, if step.required { "" } else { "?" })).collect();
    words.join(" ")
}

#[test]
fn dependencies_load_right_to_left_with_their_soft_ones_before_them() {
    assert_eq!(order("ext4"), "crc16 mbcache crc32c_intel? crc32c_generic? jbd2 ext4");
}

#[test]
fn a_nic_gets_its_phy_first() {
    assert_eq!(order("r8169"), "libphy mdio_devres realtek? r8169");
}

#[test]
fn soft_circles_end_and_unknown_ones_are_ignored() {
    assert_eq!(order("a"), "b? a");
    assert_eq!(order("b"), "a? b");
}

#[test]
fn names_come_before_aliases_and_builtins_last() {
    let index = sample();
    assert_eq!(index.lookup("fs-ext4"), Lookup::Modules(vec!["ext4"]));
    assert_eq!(index.lookup("crc32c-intel"), Lookup::Modules(vec!["crc32c_intel"]));
    assert_eq!(index.lookup("crypto-crc32c"), Lookup::Modules(vec!["crc32c_intel", "crc32c_generic"]));
    assert_eq!(index.lookup("af_packet"), Lookup::Builtin);
    assert_eq!(index.lookup("fs-none"), Lookup::Unknown);
    assert_eq!(index.lookup("pci:v0000FFFFd0sv0sd0bc0sc0i0"), Lookup::Modules(vec!["elsewhere"]));
    assert!(!index.contains("elsewhere"));
}

#[test]
fn a_part_of_the_index_says_the_same_of_its_modules() {
    let index = sample();
    let wanted = index.closure(["r8169", "ext4"]);
    let part = ModuleIndex::parse(&index.texts_for(&wanted));
    assert_eq!(part.load_order("ext4"), index.load_order("ext4"));
    assert_eq!(part.load_order("r8169"), index.load_order("r8169"));
    assert_eq!(part.modules().count(), wanted.len());
    assert!(!part.contains("a"));
    assert_eq!(part.lookup("af_packet"), Lookup::Builtin);
}

/// The module tree of the machine, or of an unpacked kernel package named by `ESIR_MODULE_ROOT` (the
/// directory that holds `lib/modules/RELEASE`).
fn module_tree() -> Option<(PathBuf, String)> {
    let root = PathBuf::from(std::env::var_os("ESIR_MODULE_ROOT").unwrap_or_else(|| "/".into()));
    let mut releases: Vec<String> = std::fs::read_dir(root.join("lib/modules"))
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|release| root.join("lib/modules").join(release).join("modules.dep.bin").exists())
        .collect();
    releases.sort();
    Some((root, releases.pop()?))
}

fn read_index(root: &std::path::Path, release: &str) -> (IndexTexts, ModuleIndex) {
    let directory = root.join("lib/modules").join(release);
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap_or_default();
    let texts = IndexTexts {
        dep: read("modules.dep"),
        softdep: read("modules.softdep"),
        alias: read("modules.alias"),
        builtin: read("modules.builtin"),
    };
    let index = ModuleIndex::parse(&texts);
    (texts, index)
}

/// One device for every `STEP`th pattern: wildcards filled with plausible text.
fn synthetic_devices(alias_text: &str, step: usize) -> Vec<String> {
    let patterns = alias_text.lines().filter_map(|line| line.split(' ').nth(1));
    let filled = patterns.step_by(step).map(|pattern| {
        let mut device = String::new();
        let mut characters = pattern.chars();
        while let Some(character) = characters.next() {
            match character {
                '*' => device.push_str("0A/-b"),
                '?' => device.push('1'),
                '[' => {
                    device.extend(characters.next());
                    let _ = characters.by_ref().find(|character| *character == ']');
                }
                other => device.push(other),
            }
        }
        device
    });
    filled.filter(|device| !device.contains(['[', ']'])).collect()
}

#[test]
fn the_same_modules_as_modprobe_for_thousands_of_devices() {
    let Some((root, release)) = module_tree() else {
        println!(
            "skipped: no module tree with modules.dep.bin; set ESIR_MODULE_ROOT to an unpacked kernel package"
        );
        return;
    };
    let (texts, index) = read_index(&root, &release);
    let devices = synthetic_devices(&texts.alias, 9);
    let mut compared = 0;
    for device in &devices {
        let asked =
            Command::new("modprobe").args(["-R", "-d"]).arg(&root).args(["-S", &release, device]).output();
        let Ok(answer) = asked else {
            println!("skipped: modprobe is not installed");
            return;
        };
        let expected: BTreeSet<String> =
            String::from_utf8_lossy(&answer.stdout).lines().map(|line| line.replace('-', "_")).collect();
        let found: BTreeSet<String> = match index.lookup(device) {
            Lookup::Modules(modules) => modules.into_iter().map(str::to_owned).collect(),
            Lookup::Builtin | Lookup::Unknown => BTreeSet::new(),
        };
        assert_eq!(found, expected, "modules for {device}");
        compared += 1;
    }
    println!("{compared} devices compared with modprobe of {release}");
    assert!(compared > 100);
}

#[test]
fn every_load_order_of_a_real_tree_has_dependencies_first() {
    let Some((root, release)) = module_tree() else {
        println!("skipped: no module tree; set ESIR_MODULE_ROOT to an unpacked kernel package");
        return;
    };
    let (_, index) = read_index(&root, &release);
    for (name, _) in index.modules() {
        let order: Vec<&str> = index.load_order(name).unwrap().iter().map(|step| step.module).collect();
        for (position, module) in order.iter().enumerate() {
            for dependency in &index.modules[*module].dependencies {
                let at = order.iter().position(|other| other == dependency);
                assert!(
                    at.is_some_and(|at| at < position),
                    "{dependency} before {module} on the way to {name}"
                );
            }
        }
    }
}

//! Dependencies between our packages point one way: programs -> drivers -> engines -> formats.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

/// The layer of each package, lowest first. A package may depend on its own layer's lower neighbours only by
/// being named in a lower layer; drivers, engines and formats never name a program.
const LAYERS: [(&str, u8); 23] = [
    ("disk-layout", 0),
    ("image-format", 0),
    ("boot-bundle", 0),
    ("dhcp-wire", 0),
    ("boot-menu", 1),
    ("node-api", 1),
    ("dhcp-engine", 1),
    ("image-source", 1),
    ("swarm", 1),
    ("tftp", 1),
    ("system-steps", 2),
    ("site-file", HIGHEST_ENGINE),
    ("image-apply", 4),
    ("store", 4),
    ("swarm-net", 4),
    ("lab", 4),
    ("disk-apply", 5),
    ("system-apply", 6),
    ("initrd-agent", 7),
    ("pxe-server", 7),
    ("image-tools", 7),
    ("bed", 7),
    ("qemu-tests", 8),
];

/// Drivers begin above it.
const HIGHEST_ENGINE: u8 = 3;

/// Formats and engines stay free of I/O: they never name these.
const INPUT_OUTPUT: [&str; 7] = ["tokio", "nix", "rustix", "libc", "socket2", "hyper", "rusqlite"];

#[test]
fn dependencies_point_one_way_and_engines_do_no_io() {
    let packages = our_packages();
    let layers = BTreeMap::from(LAYERS);
    for (package, dependencies) in &packages {
        let layer = *layers
            .get(package.as_str())
            .unwrap_or_else(|| panic!("{package} has no layer in this test: decide"));
        for dependency in dependencies {
            if let Some(&below) = layers.get(dependency.as_str()) {
                assert!(
                    below < layer,
                    "{package} (layer {layer}) must not depend on {dependency} (layer {below})"
                );
            }
            if layer <= HIGHEST_ENGINE {
                assert!(
                    !INPUT_OUTPUT.contains(&dependency.as_str()),
                    "{package} is free of I/O but names {dependency}"
                );
            }
        }
    }
}

/// Each workspace package with the names of its normal dependencies.
fn our_packages() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    let metadata: Value =
        output.map(|output| serde_json::from_slice(&output.stdout).unwrap_or_default()).unwrap_or_default();
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let name = |value: &Value| value.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let packages = list(metadata.get("packages"));
    assert!(!packages.is_empty(), "cargo metadata names no package");
    let normal = |dependency: &&Value| dependency.get("kind").is_some_and(Value::is_null);
    packages
        .iter()
        .map(|package| {
            let dependencies = list(package.get("dependencies"));
            (name(package), dependencies.iter().filter(normal).map(name).collect())
        })
        .collect()
}

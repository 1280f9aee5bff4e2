//! The `NoCloud` seed for images that have cloud-init, and what keeps it from undoing the rest.

use node_api::{Step, StepFile, StepFileKind};

use crate::settings::{Method, Settings};
use crate::steps::{StepsError, bytes, file};
use crate::template::Values;

const PROGRAM: &str = "/usr/bin/cloud-init";
/// Where its `NoCloud` source looks without a medium or an argument.
const SEED: &str = "/var/lib/cloud/seed/nocloud";
/// The host keys were made for this node already, and the server knows them. cloud-init would add a kind that ssh-keygen
/// itself makes no more, DSA.
const HOST_KEYS: &str = "ssh_deletekeys: false\nssh_genkeytypes: [rsa, ecdsa, ed25519]\n";
/// What it wrote itself on the machine that the image was made of: networks of that machine.
const OWN_NETWORKS: [&str; 3] = [
    "/etc/netplan/50-cloud-init.yaml",
    "/etc/network/interfaces.d/50-cloud-init",
    "/etc/NetworkManager/system-connections/cloud-init-eth0.nmconnection",
];

/// Done only where the image has cloud-init.
pub(crate) fn step(
    settings: &Settings,
    values: &Values,
    machine_id: &str,
) -> Result<Option<Step>, StepsError> {
    let mut step = Step { name: "cloud-init".into(), if_any: vec![PROGRAM.into()], ..Step::default() };
    if settings.cloud_init == Some(false) {
        step.files.push(file("/etc/cloud/cloud-init.disabled", 0o644, ""));
        return Ok(Some(step));
    }
    let name = values.get("name").cloned().unwrap_or_default();
    let fqdn = values.get("fqdn").cloned().unwrap_or_default();
    let keeps_network = settings.network.method == Some(Method::Image);
    let network = if keeps_network { "" } else { "network:\n  config: disabled\n" };
    let config = format!("# Written at deployment.\ndatasource_list: [NoCloud, None]\n{HOST_KEYS}{network}");
    step.files.push(file("/etc/cloud/cloud.cfg.d/99-esir.cfg", 0o644, config));
    // Another instance than the one that the image was made of, and the same over restarts.
    let meta_data = format!("instance-id: esir-{machine_id}\nlocal-hostname: {fqdn}\n");
    step.files.push(file(format!("{SEED}/meta-data"), 0o600, meta_data));
    let user_data = match &settings.user_data {
        Some(body) => bytes(body, "cloud_init.user_data", values)?,
        None => format!("#cloud-config\n# The node is {name}.\n").into_bytes(),
    };
    step.files.push(file(format!("{SEED}/user-data"), 0o600, user_data));
    if !keeps_network {
        let absent =
            |path: &str| StepFile { path: path.into(), kind: StepFileKind::Absent, ..StepFile::default() };
        step.files.extend(OWN_NETWORKS.map(absent));
    }
    Ok(Some(step))
}

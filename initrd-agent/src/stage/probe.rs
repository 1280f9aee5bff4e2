//! `probe`: every device is asked for, and the NICs get their drivers from the initrd.

use std::time::Duration;

use node_api::{BootArguments, Recovery};

use super::Done;
use crate::failure::StageError;
use crate::hardware::{Hardware, Summary};

/// A NIC that is not there by then, with its driver still initialising, may come during `network`.
const LIMIT: Duration = Duration::from_secs(30);

/// Why devices can't be probed. Nothing was touched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    /// The initrd's modules are not those of the kernel, or the kernel refuses its event socket.
    #[error("looking for devices")]
    Hardware(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The blocking part died, which only a bug does.
    #[error("looking for devices stopped in the middle")]
    Stopped(#[from] tokio::task::JoinError),
}

impl StageError for ProbeError {
    fn code(&self) -> &'static str {
        match self {
            Self::Hardware(_) => "probe",
            Self::Stopped(_) => "probe-internal",
        }
    }

    fn recovery(&self) -> Recovery {
        Recovery::Retry
    }
}

/// Listens for devices from now on and loads NIC drivers. Ends early when the NIC that booted is there.
pub(crate) async fn run() -> Result<Done<Hardware>, ProbeError> {
    tokio::task::spawn_blocking(probe).await?.map_err(|error| ProbeError::Hardware(error.into()))
}

fn probe() -> anyhow::Result<Done<Hardware>> {
    // Malformed arguments have been told by `start`.
    let command_line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let boot_mac = BootArguments::parse(&command_line).ok().and_then(|arguments| arguments.boot_mac);
    let hardware = Hardware::start(|module| tracing::info!("loading module {module}"))?;
    let summary = hardware.probe_nics(boot_mac, LIMIT)?;
    let detail = describe(&summary);
    Ok(Done { value: hardware, detail })
}

/// One sentence for people.
pub(super) fn describe(summary: &Summary) -> String {
    let mut text = format!("{} devices, modules: {}", summary.devices, list(&summary.loaded));
    if !summary.failed.is_empty() {
        let failed: Vec<String> =
            summary.failed.iter().map(|(module, reason)| format!("{module} {reason}")).collect();
        text.push_str(&format!("; failed: {}", failed.join(", ")));
    }
    if !summary.unfinished.is_empty() {
        text.push_str(&format!("; unfinished: {}", summary.unfinished.join(", ")));
    }
    text
}

fn list(modules: &[String]) -> String {
    if modules.is_empty() { "none".to_owned() } else { modules.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_names_what_is_wrong() {
        let mut summary = Summary { devices: 3, loaded: vec!["e1000".into()], ..Summary::default() };
        assert_eq!(describe(&summary), "3 devices, modules: e1000");
        summary.failed.push(("ahci".into(), "needs libata".into()));
        summary.unfinished.push("mpt3sas".into());
        let expected = "3 devices, modules: e1000; failed: ahci needs libata; unfinished: mpt3sas";
        assert_eq!(describe(&summary), expected);
    }
}

//! `enrol`: identity and one-boot token to the server over TLS with the pinned key. From here on it hears us.

use std::fs;
use std::path::Path;
use std::time::Duration;

use hyper::StatusCode;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use node_api::{BootShare, EnrolReply, EnrolRequest, EnrolRequestBody, Identity, Recovery};

use super::Done;
use super::start::Started;
use crate::api::{ApiError, Server, Session};
use crate::console::chain;
use crate::failure::{BackOff, StageError};
use crate::net::nic::Interface;

const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_LIMIT: Duration = Duration::from_secs(30);
/// A refusal may come from a server that is still starting; after so many it stays one.
const REFUSALS_MAX: u32 = 5;
/// Where the kernel shows SMBIOS.
const DMI: &str = "/sys/class/dmi/id";
/// QUIRK(boards): what vendors leave in fields that they did not fill.
const PLACEHOLDERS: [&str; 8] = [
    "to be filled by o.e.m.",
    "not specified",
    "default string",
    "system serial number",
    "none",
    "n/a",
    "0",
    "0123456789",
];

/// The server knows this node.
pub(crate) struct Enrolled {
    pub(crate) session: Session,
    pub(crate) report_interval: Duration,
    pub(crate) module_deny: Vec<String>,
    pub(crate) boot_share: Option<BootShare>,
}

/// Why the server does not take this node.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnrolError {
    /// TLS cannot be set up at all.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    /// The request cannot be made.
    #[error("the enrolment cannot be written")]
    Request(#[source] serde_json::Error),
    /// The server refuses, most likely because the token is used or too old.
    #[error("the server refuses this boot; the node boots again for a new token")]
    Refused(#[source] ApiError),
}

impl StageError for EnrolError {
    fn code(&self) -> &'static str {
        match self {
            Self::Tls(_) | Self::Request(_) => "enrol-internal",
            Self::Refused(_) => "enrol-refused",
        }
    }

    fn recovery(&self) -> Recovery {
        Recovery::Reboot
    }
}

/// Enrols; a server that cannot be reached is asked for ever.
pub(crate) async fn run(started: &Started, interface: &Interface) -> Result<Done<Enrolled>, EnrolError> {
    let server = Server::new(started.server, started.server_key)?;
    let request =
        EnrolRequest::sign(&body(started, interface), &started.secrets.key).map_err(EnrolError::Request)?;
    let (reply, session) = ask(&server, &request).await?;
    set_clock(&reply);
    let detail = format!("{} at {}", reply.node, server.address());
    let report_interval = Duration::from_millis(reply.report_interval_ms);
    let enrolled =
        Enrolled { session, report_interval, module_deny: reply.module_deny, boot_share: reply.boot_share };
    Ok(Done { value: enrolled, detail })
}

async fn ask(server: &Server, request: &EnrolRequest) -> Result<(EnrolReply, Session), EnrolError> {
    let mut back_off = BackOff::new(PAUSE_FIRST, PAUSE_LIMIT);
    let mut refusals = 0;
    loop {
        let error = match server.enrol(request).await {
            Ok(enrolled) => return Ok(enrolled),
            Err(error) => error,
        };
        if is_refusal(&error) {
            refusals += 1;
            if refusals >= REFUSALS_MAX {
                return Err(EnrolError::Refused(error));
            }
        }
        let pause = back_off.pause();
        tracing::warn!("{}; trying again in {} s", chain(&error), pause.as_secs());
        tokio::time::sleep(pause).await;
    }
}

fn is_refusal(error: &ApiError) -> bool {
    match error {
        ApiError::Unauthorised => true,
        ApiError::Status { status, .. } => {
            status.is_client_error()
                && !matches!(*status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
        }
        _ => false,
    }
}

fn body(started: &Started, interface: &Interface) -> EnrolRequestBody {
    EnrolRequestBody {
        token: started.token.clone(),
        boot_nonce: started.secrets.nonce.clone(),
        node_key: hex::encode(started.secrets.key.verifying_key().to_bytes()),
        // The server knows the node by the NIC that booted, even when another one reaches it now.
        mac: started.boot_mac.map_or(interface.mac, dhcp_wire::MacAddr).to_string(),
        identity: read_identity(Path::new(DMI)),
        firmware: started.firmware,
        lockdown: started.lockdown,
        kernel_release: rustix::system::uname().release().to_string_lossy().into_owned(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        store_manifest: started.store_manifest.clone(),
    }
}

/// Reads SMBIOS as sysfs shows it.
fn read_identity(dmi: &Path) -> Identity {
    let field = |name: &str| {
        let text = fs::read_to_string(dmi.join(name)).ok()?;
        let text = text.trim();
        let empty = text.is_empty() || PLACEHOLDERS.contains(&text.to_ascii_lowercase().as_str());
        (!empty).then(|| text.to_owned())
    };
    Identity {
        uuid: field("product_uuid").map(|uuid| uuid.to_ascii_lowercase()).filter(|uuid| is_real_uuid(uuid)),
        serial: field("product_serial"),
        vendor: field("sys_vendor"),
        product: field("product_name"),
    }
}

/// All zeros means "not set", all ones "not present" (SMBIOS 3.7 section 7.2.1).
fn is_real_uuid(uuid: &str) -> bool {
    let mut digits = uuid.chars().filter(|c| *c != '-');
    let first = digits.next();
    !matches!(first, Some('0' | 'f')) || digits.any(|digit| Some(digit) != first)
}

/// The hardware clock of a bare machine may say anything; everything after this compares times.
fn set_clock(reply: &EnrolReply) {
    let now = Duration::from_millis(reply.server_time_unix_ms);
    if let Err(error) = clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from_duration(now)) {
        tracing::warn!("setting the clock: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn firmware_that_says_nothing_says_nothing() {
        let dmi = tempfile::tempdir().unwrap();
        let set = |name: &str, text: &str| fs::write(dmi.path().join(name), text).unwrap();
        set("product_uuid", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF\n");
        set("product_serial", "To Be Filled By O.E.M.\n");
        set("sys_vendor", "QEMU\n");
        let identity = read_identity(dmi.path());
        assert_eq!(identity, Identity { vendor: Some("QEMU".into()), ..Identity::default() });
        set("product_uuid", "AABBCCDD-0000-0000-0000-000000000001\n");
        let identity = read_identity(dmi.path());
        assert_eq!(identity.uuid.as_deref(), Some("aabbccdd-0000-0000-0000-000000000001"));
        set("product_uuid", "00000000-0000-0000-0000-000000000000");
        assert_eq!(read_identity(dmi.path()).uuid, None);
    }
}

//! URL paths of the agent API (HTTPS, pinned key) and of the boot files (plain HTTP).

/// `POST` [`crate::EnrolRequest`], answers [`crate::EnrolReply`]. The only agent path without a session.
pub const ENROL: &str = "/v1/agent/enrol";
/// `GET ?wait_s=N`: 200 with [`crate::SignedTask`], or 204 while the node waits for approval.
pub const TASK: &str = "/v1/agent/task";
/// `POST` [`crate::ReportRequest`], answers [`crate::ReportReply`].
pub const REPORT: &str = "/v1/agent/report";
/// `GET {OBJECTS}/{blake3 hex}`: one object of the node's boot bundle store, readable before approval.
pub const OBJECTS: &str = "/v1/agent/objects";
/// `GET {IMAGES}/{image id hex}/data` (with `Range`: the web seed) and `/pieces`
/// (concatenated 32-byte BLAKE3 piece hashes). Needs an approved node.
pub const IMAGES: &str = "/v1/agent/images";
/// `GET`, plain HTTP: BEP 3 announce.
pub const ANNOUNCE: &str = "/announce";
/// Plain HTTP: kernel and initrd are below this path.
pub const BOOT: &str = "/boot";

/// Header that carries the session of an enrolled agent: `Authorization: Bearer SESSION`.
pub const SESSION_SCHEME: &str = "Bearer";

/// TCP port of the agent API unless the site says otherwise.
pub const DEFAULT_AGENT_PORT: u16 = 8443;
/// TCP port on which every peer of the swarm listens unless the site says otherwise.
pub const DEFAULT_PEER_PORT: u16 = 6881;
/// TCP port on which an agent serves boot files, plain HTTP, below [`BOOT`].
pub const BOOT_SHARE_PORT: u16 = 6980;

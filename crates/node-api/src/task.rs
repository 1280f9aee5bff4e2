//! The signed task: what one node has to do in this boot.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use disk_layout::Layout;
use serde::{Deserialize, Serialize};

use crate::{BootOrder, SigningKey, Step, VerifyingKey};

/// Prefix of the signed bytes, so that a task signature can be used for nothing else.
const SIGNATURE_DOMAIN: &[u8] = b"esir-task-v1\0";

/// What one node has to do in this boot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Which node, boot and time this is for.
    pub binding: TaskBinding,
    /// Which image, with everything that proves it.
    pub image: ImageTask,
    /// How to get there from an older image, for a node whose disk has that.
    #[serde(default)]
    pub reuse: Option<ReuseTask>,
    /// Onto which disk and in which shape.
    pub layout: Layout,
    /// Keys of the layout's LUKS containers.
    #[serde(default)]
    pub disk_keys: Vec<DiskKey>,
    /// Who shares the image.
    pub swarm: SwarmTask,
    /// What makes the installed system this node's own.
    pub identity: NodeIdentity,
    /// When seeding ends.
    pub linger: LingerRule,
    /// How the boot environment ends.
    pub handover: Handover,
}

/// Which node, boot and time a task is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskBinding {
    /// Name of the node.
    pub node: String,
    /// The nonce that this boot's PID 1 made.
    pub boot_nonce: String,
    /// Seconds since 1970 after which the task must not be begun.
    pub expires_unix_s: u64,
}

/// An image and its proofs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageTask {
    /// Name for people.
    pub name: String,
    /// The manifest's bytes, base64.
    pub manifest_base64: String,
    /// The text of the minisign signature file; `None` only for an unsigned image.
    pub signature: Option<String>,
    /// BEP 3 metainfo, base64.
    pub metainfo_base64: String,
    /// Whether the site lets an unsigned image through.
    pub allow_unsigned: bool,
}

/// A delta image that leads to the task's image. Nothing that it brings is believed: the tree that comes of it is compared
/// with the table of contents of the task's own image, so it needs no signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReuseTask {
    /// The delta image; its manifest says what it leads from.
    pub image: ImageTask,
    /// Who shares it.
    pub swarm: SwarmTask,
}

/// How to reach the swarm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwarmTask {
    /// HTTP announce URL with a literal address.
    pub announce_url: String,
    /// The server's own peer, `ADDRESS:PORT`, for the traffic report and as the first peer.
    pub server_peer: std::net::SocketAddr,
    /// Membership of this deployment's swarm.
    pub secret: SwarmSecret,
    /// Whether peers that don't prove the secret take part too, such as stock BitTorrent clients.
    #[serde(default)]
    pub open: bool,
}

/// 32 bytes that prove membership of one deployment's swarm. Its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SwarmSecret([u8; 32]);

impl SwarmSecret {
    /// From 32 random bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the HMAC.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for SwarmSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SwarmSecret(..)")
    }
}

impl TryFrom<String> for SwarmSecret {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = hex::decode(text).map_err(|_| "a swarm secret is 64 hex digits")?;
        bytes.try_into().map(Self).map_err(|_| "a swarm secret is 64 hex digits")
    }
}

impl From<SwarmSecret> for String {
    fn from(secret: SwarmSecret) -> Self {
        hex::encode(secret.0)
    }
}

/// The key of one LUKS container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskKey {
    /// The container's name in the layout.
    pub name: String,
    /// What opens it: as a key file to the byte, or typed as it stands.
    pub secret: DiskSecret,
}

/// Text that opens a LUKS container. Its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiskSecret(String);

impl DiskSecret {
    /// From a text that can be typed.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The bytes of the key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl std::fmt::Debug for DiskSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DiskSecret(..)")
    }
}

/// Whether a text can be a host name, or one label of a domain: RFC 1123 section 2.1, in lower case.
#[must_use]
pub fn is_host_label(label: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&label.len())
        && label.bytes().all(inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// What makes the installed system this node's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeIdentity {
    /// Host name, without a domain; [`is_host_label`] holds for it.
    pub hostname: String,
    /// 32 hex digits; the same over redeployments of a node.
    pub machine_id: String,
    /// Lines for root's `authorized_keys`.
    #[serde(default)]
    pub authorized_keys: Vec<String>,
    /// The domain of the host name; the two together are its full name in `/etc/hosts`.
    #[serde(default)]
    pub domain: Option<String>,
    /// Everything else, in order.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// What becomes of the firmware's boot order.
    #[serde(default)]
    pub boot_order: BootOrder,
}

/// When seeding ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LingerRule {
    /// At the latest after so many seconds.
    pub max_s: u64,
}

/// How the boot environment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Handover {
    /// Through the firmware.
    Reboot,
    /// Off, for a person to move the machine.
    PowerOff,
}

/// A task as JSON text with the server's signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedTask {
    /// JSON of [`Task`].
    pub task: String,
    /// Ed25519 signature (64 bytes, base64) over the domain prefix and `task`.
    pub signature: String,
}

/// A task that this node must refuse. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// Not made by the server whose key is in the initrd.
    #[error("the task is not signed by the task key in this initrd; boot from the server that made it")]
    Signature,
    /// Signed, but not readable by this agent.
    #[error("the task cannot be read; agent and server are of different versions")]
    Malformed(#[source] serde_json::Error),
    /// For another node or another boot.
    #[error("the task is for node {node} in another boot; it was refused")]
    OtherBoot {
        /// The node that it names.
        node: String,
    },
    /// Too late.
    #[error("the task expired {0} s ago; a new one is needed")]
    Expired(u64),
}

impl SignedTask {
    /// Signs `task`.
    ///
    /// # Errors
    /// Only when `task` cannot become JSON, which its types rule out.
    pub fn sign(task: &Task, key: &SigningKey) -> Result<Self, serde_json::Error> {
        let task = serde_json::to_string(task)?;
        let signature = BASE64.encode(key.sign(&signed_bytes(&task)));
        Ok(Self { task, signature })
    }

    /// The task, if `key` signed it for `boot_nonce` and it has not expired at `now_unix_s`.
    ///
    /// # Errors
    /// See [`TaskError`]; the signature is checked before anything is parsed.
    pub fn open(&self, key: &VerifyingKey, boot_nonce: &str, now_unix_s: u64) -> Result<Task, TaskError> {
        let signature = BASE64.decode(&self.signature).map_err(|_| TaskError::Signature)?;
        if !key.verifies(&signed_bytes(&self.task), &signature) {
            return Err(TaskError::Signature);
        }
        let task: Task = serde_json::from_str(&self.task).map_err(TaskError::Malformed)?;
        if task.binding.boot_nonce != boot_nonce {
            return Err(TaskError::OtherBoot { node: task.binding.node });
        }
        if now_unix_s > task.binding.expires_unix_s {
            return Err(TaskError::Expired(now_unix_s - task.binding.expires_unix_s));
        }
        Ok(task)
    }
}

fn signed_bytes(task: &str) -> Vec<u8> {
    [SIGNATURE_DOMAIN, task.as_bytes()].concat()
}

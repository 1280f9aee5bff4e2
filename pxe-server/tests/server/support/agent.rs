//! An agent without a machine: enrols, takes its task and reports over the real protocol.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use node_api::{
    EnrolReply, EnrolRequest, EnrolRequestBody, Event, EventKind, FirmwareKind, Identity, Progress, Recovery,
    ReportReply, ReportRequest, SignedTask, SigningKey, Stage, Task, TrafficCounts, paths,
};

use super::http::{Answer, send_from};
use super::server::Server;

/// One boot of one node.
#[derive(Clone)]
pub(crate) struct Agent {
    pub(crate) server: SocketAddr,
    /// Where it speaks from.
    pub(crate) address: Ipv4Addr,
    pub(crate) pin: String,
    pub(crate) task_key: node_api::VerifyingKey,
    pub(crate) key: SigningKey,
    pub(crate) token: String,
    pub(crate) mac: String,
    pub(crate) identity: Identity,
    pub(crate) boot_nonce: String,
    pub(crate) session: String,
    pub(crate) name: String,
    pub(crate) next_sequence: u64,
}

impl Agent {
    /// Boots: token from the boot script, key made in memory, not enrolled yet. `number` tells machines apart.
    pub(crate) async fn boot(server: &Server, number: u8) -> Option<Self> {
        let mac = format!("52:54:00:00:00:{number:02x}");
        let token = server.token(&mac).await?;
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).unwrap();
        let identity = Identity {
            uuid: Some(format!("00000000-0000-0000-0000-0000000000{number:02x}")),
            serial: Some(format!("SER{number}")),
            vendor: Some("QEMU".into()),
            product: Some("Standard PC".into()),
        };
        Some(Self {
            server: server.agent,
            address: Ipv4Addr::LOCALHOST,
            pin: server.pin(),
            task_key: server.task_key(),
            key: SigningKey::from_bytes(&secret),
            token,
            mac,
            identity,
            boot_nonce: hex::encode(&secret[..16]),
            session: String::new(),
            name: String::new(),
            next_sequence: 1,
        })
    }

    pub(crate) fn enrol_body(&self) -> EnrolRequestBody {
        EnrolRequestBody {
            token: self.token.clone(),
            boot_nonce: self.boot_nonce.clone(),
            node_key: hex::encode(self.key.verifying_key().to_bytes()),
            mac: self.mac.clone(),
            identity: self.identity.clone(),
            firmware: FirmwareKind::Uefi,
            lockdown: None,
            kernel_release: "6.1.0-test".into(),
            agent_version: "0.1.0".into(),
            store_manifest: "00".repeat(32),
        }
    }

    /// Tries to enrol; the server's answer.
    pub(crate) async fn try_enrol(&self) -> Answer {
        let request = EnrolRequest::sign(&self.enrol_body(), &self.key).unwrap();
        self.post(paths::ENROL, serde_json::to_vec(&request).unwrap()).await
    }

    pub(crate) async fn enrol(&mut self) {
        let answer = self.try_enrol().await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let reply: EnrolReply = answer.json();
        self.session = reply.session;
        self.name = reply.node;
    }

    /// Polls for the task; the raw answer.
    pub(crate) async fn poll(&self, wait_s: u64) -> Answer {
        self.get(&format!("{}?wait_s={wait_s}", paths::TASK)).await
    }

    /// The task, if there is one within `wait_s`; its signature is checked as on a node.
    pub(crate) async fn task(&self, wait_s: u64) -> Option<Task> {
        let answer = self.poll(wait_s).await;
        if answer.status == StatusCode::NO_CONTENT {
            return None;
        }
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let now_unix_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        Some(answer.json::<SignedTask>().open(&self.task_key, &self.boot_nonce, now_unix_s).unwrap())
    }

    pub(crate) fn event(&mut self, kind: EventKind) -> Event {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        Event { sequence, at_unix_ms: 0, uptime_ms: sequence * 100, kind }
    }

    /// Reports events; the server's reply.
    pub(crate) async fn report(&mut self, kinds: Vec<EventKind>) -> ReportReply {
        let events = kinds.into_iter().map(|kind| self.event(kind)).collect();
        self.send_report(&ReportRequest { events, ..ReportRequest::default() }).await
    }

    pub(crate) async fn send_report(&self, report: &ReportRequest) -> ReportReply {
        let answer = self.post(paths::REPORT, serde_json::to_vec(report).unwrap()).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        answer.json()
    }

    pub(crate) async fn run_stage(&mut self, stage: Stage) -> ReportReply {
        let detail = format!("{stage} went well");
        self.report(vec![EventKind::Entered { stage }, EventKind::Finished { stage, took_ms: 1500, detail }])
            .await
    }

    pub(crate) async fn progress(
        &self,
        stage: Stage,
        done_bytes: u64,
        total_bytes: u64,
        traffic: TrafficCounts,
    ) {
        let progress = Some(Progress { stage, done_bytes, total_bytes, traffic, peers: 3 });
        self.send_report(&ReportRequest { progress, ..ReportRequest::default() }).await;
    }

    pub(crate) async fn fail(
        &mut self,
        stage: Stage,
        code: &str,
        message: &str,
        recovery: Recovery,
    ) -> ReportReply {
        let (code, message) = (code.to_owned(), message.to_owned());
        self.report(vec![EventKind::Failed { stage, code, message, recovery }]).await
    }

    /// From the task to `installed`.
    pub(crate) async fn install(&mut self, image_id: &str) -> ReportReply {
        for stage in [Stage::Join, Stage::Prepare, Stage::Fetch, Stage::Verify, Stage::Personalise] {
            self.run_stage(stage).await;
        }
        self.report(vec![EventKind::Installed {
            image_id: image_id.to_owned(),
            traffic: TrafficCounts {
                from_server_bytes: 2_000_000,
                from_nodes_bytes: 1_000_000,
                sent_bytes: 500_000,
            },
            host_keys: vec!["ssh-ed25519 AAAAC3 root@node".into()],
            changes: vec!["ran hook 10.sh, 0.1 s: hello".into()],
        }])
        .await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.try_get(path).await.unwrap()
    }

    /// As [`Self::get`], also while the server is away.
    pub(crate) async fn try_get(
        &self,
        path: &str,
    ) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        let bearer = format!("{} {}", paths::SESSION_SCHEME, self.session);
        let request = Request::get(path).header("host", "server").header("authorization", bearer);
        send_from(self.address, self.server, Some(&self.pin), request.body(Full::default())?).await
    }

    pub(crate) async fn post(&self, path: &str, body: Vec<u8>) -> Answer {
        self.try_post(path, body).await.unwrap()
    }

    /// As [`Self::post`], also while the server is away.
    pub(crate) async fn try_post(
        &self,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        let bearer = format!("{} {}", paths::SESSION_SCHEME, self.session);
        let request = Request::post(path)
            .header("host", "server")
            .header("authorization", bearer)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        send_from(self.address, self.server, Some(&self.pin), request).await
    }
}

//! The agent of a node that came up: enrols over TLS, and says that it serves.
//!
//! Never checks the server's key: what is loaded here is worth nothing.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use node_api::{
    BootShare, EnrolReply, EnrolRequest, EnrolRequestBody, FirmwareKind, Identity, ReportRequest, SigningKey,
    paths,
};
use rustls::DigitallySignedStruct;
use rustls::SignatureScheme;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;

/// An enrolled agent with its one connection.
pub(super) struct Agent {
    sender: SendRequest<Full<Bytes>>,
    session: String,
}

impl Agent {
    /// Enrols with the token of the boot script; also what the node shall serve, if it shall.
    pub(super) async fn enrol(
        from: Ipv4Addr,
        server: SocketAddrV4,
        mac: &str,
        token: &str,
    ) -> Result<(Self, Option<BootShare>)> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let stream = socket.connect(server.into()).await.context("reaching the agent API")?;
        let tls = TlsConnector::from(Arc::new(config()?));
        let stream = tls.connect(ServerName::from(std::net::IpAddr::V4(*server.ip())), stream).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Ends with the sender.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        let mut agent = Self { sender, session: String::new() };
        let seed = *blake3::hash(mac.as_bytes()).as_bytes();
        let key = SigningKey::from_bytes(&seed);
        let body = EnrolRequestBody {
            token: token.to_owned(),
            boot_nonce: blake3::hash(token.as_bytes()).to_hex().to_string(),
            node_key: key.verifying_key().to_bytes().iter().map(|byte| format!("{byte:02x}")).collect(),
            mac: mac.to_owned(),
            identity: Identity::default(),
            firmware: FirmwareKind::Uefi,
            lockdown: None,
            kernel_release: "6.1.0-bench".into(),
            agent_version: env!("CARGO_PKG_VERSION").into(),
            store_manifest: "00".repeat(32),
        };
        let request = serde_json::to_vec(&EnrolRequest::sign(&body, &key)?)?;
        let reply: EnrolReply = serde_json::from_slice(&agent.post(paths::ENROL, request).await?)?;
        agent.session = reply.session;
        Ok((agent, reply.boot_share))
    }

    /// A report with nothing but that it serves at this port.
    pub(super) async fn report(&mut self, port: u16) -> Result<()> {
        let report = ReportRequest { boot_share_port: Some(port), ..ReportRequest::default() };
        self.post(paths::REPORT, serde_json::to_vec(&report)?).await.map(|_| ())
    }

    async fn post(&mut self, path: &str, body: Vec<u8>) -> Result<Bytes> {
        let request = Request::post(path)
            .header("host", "server")
            .header("content-type", "application/json")
            .header("authorization", format!("{} {}", paths::SESSION_SCHEME, self.session))
            .body(Full::from(body))?;
        self.sender.ready().await?;
        let answer = self.sender.send_request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(&body));
        Ok(body)
    }
}

fn config() -> Result<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody { provider }))
        .with_no_client_auth())
}

/// Takes every server for the right one.
#[derive(Debug)]
struct Anybody {
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

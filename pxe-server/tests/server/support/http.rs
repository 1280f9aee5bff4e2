//! One request on one connection, plain or over TLS with the key pinned as the agent does.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::DigitallySignedStruct;
use rustls::SignatureScheme;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);

/// Status and body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Sends one request; `pin` (SHA-256 of the SPKI, hex) asks for TLS.
pub(crate) async fn send(
    address: SocketAddr,
    pin: Option<&str>,
    request: Request<Full<Bytes>>,
) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    send_from(Ipv4Addr::LOCALHOST, address, pin, request).await
}

/// As [`send`], from a particular address of this machine.
pub(crate) async fn send_from(
    from: Ipv4Addr,
    address: SocketAddr,
    pin: Option<&str>,
    request: Request<Full<Bytes>>,
) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    tokio::time::timeout(ANSWER_TIMEOUT, exchange(from, address, pin, request)).await?
}

async fn exchange(
    from: Ipv4Addr,
    address: SocketAddr,
    pin: Option<&str>,
    request: Request<Full<Bytes>>,
) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let stream = socket.connect(address).await?;
    let mut sender = match pin {
        None => {
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            sender
        }
        Some(pin) => {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Pin { pin: pin.to_owned(), provider }))
                .with_no_client_auth();
            let name = ServerName::from(address.ip());
            let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            sender
        }
    };
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    Ok(Answer { status, body: answer.into_body().collect().await?.to_bytes() })
}

#[derive(Debug)]
struct Pin {
    pin: String,
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate =
            webpki::EndEntityCert::try_from(end_entity).map_err(|_| rustls::Error::DecryptError)?;
        let pin = hex::encode(Sha256::digest(certificate.subject_public_key_info().as_ref()));
        if pin == self.pin { Ok(ServerCertVerified::assertion()) } else { Err(rustls::Error::DecryptError) }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

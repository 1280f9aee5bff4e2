use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// A server with its own key that answers every request with `answer`; counts its connections.
struct FakeServer {
    address: SocketAddr,
    pin: String,
    connections: Arc<AtomicUsize>,
}

impl FakeServer {
    /// `certified` makes the certificate; the handshake is signed with `signing`.
    async fn start_with(certified: &KeyPair, signing: &KeyPair, answer: &'static str) -> Self {
        let mut params = CertificateParams::new(vec!["elsewhere.invalid".to_owned()]).unwrap();
        // Long expired, as for a node whose clock is wrong.
        params.not_before = rcgen::date_time_ymd(1975, 1, 1);
        params.not_after = rcgen::date_time_ymd(1976, 1, 1);
        let certificate = params.self_signed(certified).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let signing_key = provider.key_provider.load_private_key(key).unwrap();
        let certified_key = rustls::sign::CertifiedKey::new(vec![certificate.der().clone()], signing_key);
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified_key)));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut buffer = [0; 4096];
                    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                        let _ = stream.write_all(answer.as_bytes()).await;
                    }
                });
            }
        });
        let pin = hex::encode(Sha256::digest(certified.subject_public_key_info()));
        Self { address, pin, connections }
    }

    async fn start(answer: &'static str) -> Self {
        let key = KeyPair::generate().unwrap();
        Self::start_with(&key, &key, answer).await
    }

    fn session(&self, pin: &str) -> Session {
        let server = Server::new(self.address, KeyPin::parse(pin).unwrap()).unwrap();
        Session { client: server.client, secret: "s".into() }
    }
}

const STORED: &str =
    "HTTP/1.1 200 OK\r\ncontent-length: 38\r\n\r\n{\"stored_sequence\":7,\"directive\":null}";

#[tokio::test]
async fn pinned_key_is_accepted_whatever_name_and_dates_the_certificate_has() {
    let server = FakeServer::start(STORED).await;
    let session = server.session(&server.pin);
    for _ in 0..3 {
        let reply = session.report(&ReportRequest::default()).await.unwrap();
        assert_eq!(reply.stored_sequence, 7);
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1, "the connection is used again");
}

#[tokio::test]
async fn other_key_is_refused_before_anything_is_sent() {
    let server = FakeServer::start(STORED).await;
    let error = server.session(&"ab".repeat(32)).report(&ReportRequest::default()).await.unwrap_err();
    assert!(matches!(error, ApiError::WrongKey { .. }), "{error:?}");
}

#[tokio::test]
async fn copied_certificate_without_its_private_key_is_refused() {
    let (certified, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let server = FakeServer::start_with(&certified, &other, STORED).await;
    let error = server.session(&server.pin).report(&ReportRequest::default()).await.unwrap_err();
    assert!(matches!(error, ApiError::WrongKey { .. } | ApiError::Connect { .. }), "{error:?}");
}

#[tokio::test]
async fn answers_that_are_refusals_cut_or_too_long_are_errors() {
    let unknown = FakeServer::start("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n").await;
    let error = unknown.session(&unknown.pin).task().await.unwrap_err();
    assert!(matches!(error, ApiError::Unauthorised));

    let refuses = FakeServer::start("HTTP/1.1 403 Forbidden\r\ncontent-length: 12\r\n\r\nnot approved").await;
    let error = refuses.session(&refuses.pin).piece_hashes("00").await.unwrap_err();
    assert!(error.to_string().ends_with("/pieces: not approved"), "{error}");

    let huge = FakeServer::start("HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n{").await;
    let error = huge.session(&huge.pin).report(&ReportRequest::default()).await.unwrap_err();
    assert!(matches!(error, ApiError::Body { .. }), "{error:?}");
}

#[tokio::test]
async fn server_that_ignores_a_range_is_not_believed() {
    let server = FakeServer::start("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nabcd").await;
    let ranges = ImageRanges::new(server.session(&server.pin), "00".into());
    assert!(ranges.read(8, 4).await.is_err());
    assert!(ranges.read(u64::MAX, 4).await.is_err());
    assert!(ranges.read(0, 0).await.is_err());
    let server = FakeServer::start("HTTP/1.1 206 Partial Content\r\ncontent-length: 4\r\n\r\nabcd").await;
    let ranges = ImageRanges::new(server.session(&server.pin), "00".into());
    assert_eq!(ranges.read(8, 4).await.unwrap(), b"abcd");
}

#[tokio::test]
async fn empty_answer_to_a_task_request_means_none_yet() {
    let server = FakeServer::start("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(server.session(&server.pin).task().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_fetched_by_those_who_block_and_proved_by_their_hash() {
    use crate::hardware::ObjectSource;

    let server = FakeServer::start("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nabcd").await;
    let objects = crate::objects::ServerObjects::new(server.session(&server.pin));
    let hash = blake3::hash(b"abcd").to_hex().to_string();
    // As the stages do: on the runtime's own thread, on a blocking one, and on one of the hardware's own.
    assert_eq!(objects.fetch(&hash).unwrap(), b"abcd");
    let (again, wanted) = (objects.clone(), hash.clone());
    tokio::task::spawn_blocking(move || assert_eq!(again.fetch(&wanted).unwrap(), b"abcd")).await.unwrap();
    std::thread::spawn(move || assert_eq!(objects.fetch(&hash).unwrap(), b"abcd")).join().unwrap();
}

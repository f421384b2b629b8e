use std::net::SocketAddr;

use rcgen::{CertificateParams, DnType, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use warp::Filter;

use super::*;
use crate::Stop;
use crate::http::socket::{HttpStream, Socket};
use crate::http::{HttpSettings, json, serve};

/// Time for a renewed certificate to be used.
const RENEWED_WITHIN: Duration = Duration::from_secs(10);

/// A directory of one test, removed with it.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

impl Directory {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("flash-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    fn files(&self) -> (PathBuf, PathBuf) {
        (self.0.join("cert.pem"), self.0.join("key.pem"))
    }

    /// Writes a certificate of this authority for `localhost`; returns it.
    fn write(&self, authority: &Authority) -> Vec<u8> {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        let certificate = params.signed_by(&key, &authority.issuer).expect("a certificate");
        let (cert_file, key_file) = self.files();
        std::fs::write(cert_file, certificate.pem()).expect("written");
        std::fs::write(key_file, key.serialize_pem()).expect("written");
        certificate.der().to_vec()
    }
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    connector: TlsConnector,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test");
        let mut roots = RootCertStore::empty();
        roots.add(params.self_signed(&key).expect("a certificate").der().clone()).expect("a root");
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { issuer: Issuer::new(params, key), connector: Arc::new(config).into() }
    }

    async fn connect(&self, address: SocketAddr) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(address).await.expect("a connection");
        let name = ServerName::try_from("localhost").expect("a name");
        self.connector.connect(name, stream).await.expect("a handshake")
    }
}

fn certificate_of(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().expect("a certificate")[0].to_vec()
}

async fn get(stream: &mut TlsStream<TcpStream>) -> String {
    stream.write_all(b"GET /things HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("written");
    let mut reply = Vec::new();
    while !reply.ends_with(b"\"things\"") {
        assert!(stream.read_buf(&mut reply).await.expect("a reply") > 0, "{}", String::from_utf8_lossy(&reply));
    }
    String::from_utf8_lossy(&reply).into_owned()
}

#[tokio::test]
async fn renewed_certificate_is_used_without_a_restart() {
    let (directory, authority) = (Directory::new("renewed"), Authority::new());
    let first = directory.write(&authority);
    let (cert_file, key_file) = directory.files();
    let certificate = Certificate::load(&cert_file, &key_file).expect("a certificate");
    let settings = HttpSettings { certificate: Some(certificate), ..HttpSettings::default() };
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let (address, stop) = (listener.local_addr().expect("an address"), Stop::new());
    let routes = warp::path!("things").and(warp::get()).map(|| json(warp::http::StatusCode::OK, &"things")).boxed();
    let server = tokio::spawn(serve(listener, routes, settings, stop.clone()));

    let mut old = authority.connect(address).await;
    assert_eq!(certificate_of(&old), first);
    assert!(get(&mut old).await.starts_with("HTTP/1.1 200"));
    // Half of a renewal: the new key is not there yet.
    let broken = KeyPair::generate().expect("a key").serialize_pem();
    std::fs::write(&key_file, broken).expect("written");
    tokio::time::sleep(LOOK_EVERY + LOOK_EVERY / 2).await;
    assert_eq!(certificate_of(&authority.connect(address).await), first);
    let second = directory.write(&authority);
    let renewed = async { while certificate_of(&authority.connect(address).await) != second {} };
    tokio::time::timeout(RENEWED_WITHIN, renewed).await.expect("the new certificate in time");
    assert!(get(&mut old).await.starts_with("HTTP/1.1 200"), "the old connection lives on");
    // A client without TLS gets nothing, and disturbs no other.
    let mut plain = TcpStream::connect(address).await.expect("a connection");
    plain.write_all(b"GET /things HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("written");
    let mut reply = Vec::new();
    drop(plain.read_to_end(&mut reply).await);
    assert!(!String::from_utf8_lossy(&reply).contains("HTTP"), "{reply:?}");
    stop.cancel();
    server.await.expect("no panic").expect("no error");
}

#[test]
fn wrong_files_are_named() {
    let (directory, authority) = (Directory::new("wrong-files"), Authority::new());
    directory.write(&authority);
    let (cert_file, key_file) = directory.files();
    let message = || errors::chain(&Certificate::load(&cert_file, &key_file).expect_err("an error")).to_string();
    let key = std::fs::read(&key_file).expect("a key");
    std::fs::write(&key_file, KeyPair::generate().expect("a key").serialize_pem()).expect("written");
    assert!(message().starts_with("the key does not fit the certificate: "), "{}", message());
    std::fs::write(&key_file, "nothing").expect("written");
    assert!(message().contains("key.pem is not valid PEM"), "{}", message());
    std::fs::write(&key_file, key).expect("written");
    std::fs::write(&cert_file, "nothing").expect("written");
    assert!(message().contains("cert.pem has no certificate"), "{}", message());
    std::fs::remove_file(&cert_file).expect("removed");
    assert!(message().contains("failed to read") && message().contains("cert.pem"), "{}", message());
}

/// Bytes that are sent to a client that pauses. More than the buffers of the kernel and of TLS together.
const BYTES: usize = 24 * 1024 * 1024;

/// As a send queue writes: what was not taken is first in the next write.
async fn write_all(socket: &Socket, mut bytes: &[u8]) -> usize {
    let mut blocked = 0;
    while !bytes.is_empty() {
        match socket.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                blocked += 1;
                socket.writable().await.expect("writable");
            }
        }
    }
    blocked
}

#[tokio::test]
async fn socket_with_tls_sends_and_receives_every_byte_once() {
    let (directory, authority) = (Directory::new("socket"), Authority::new());
    directory.write(&authority);
    let (cert_file, key_file) = directory.files();
    let acceptor = Certificate::load(&cert_file, &key_file).expect("a certificate").acceptor();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let accepting = async {
        let (stream, _) = listener.accept().await.expect("a connection");
        Socket::from(HttpStream::open(stream, Some(&acceptor)).await.expect("a handshake"))
    };
    let (socket, mut client) = tokio::join!(accepting, authority.connect(address));
    assert!(socket.bare().is_none());

    client.write_all(b"hello").await.expect("written");
    let mut storage = [0; 16];
    let mut buffer = tokio::io::ReadBuf::new(&mut storage);
    while buffer.filled() != b"hello" {
        match socket.try_read(&mut buffer) {
            Ok(read) => assert!(read > 0),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                std::future::poll_fn(|cx| socket.poll_read_ready(cx)).await.expect("readable");
            }
            Err(error) => panic!("{error}"),
        }
    }

    let sent: Vec<u8> = (0..BYTES).map(|nth| u8::try_from(nth % 251).expect("a byte")).collect();
    let reading = async {
        let mut received = vec![0; BYTES];
        client.read_exact(&mut received).await.expect("all bytes");
        received
    };
    let (blocked, received) = tokio::join!(write_all(&socket, &sent), reading);
    assert!(blocked > 0, "the client was never slow");
    assert!(received == sent, "the bytes differ");
    drop(socket);
    // The end is announced in TLS: otherwise this read would fail.
    assert_eq!(client.read(&mut [0]).await.expect("an announced end"), 0);
}

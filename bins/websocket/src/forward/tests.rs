use std::path::PathBuf;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Time for a request of the forwarder to arrive, and for its answer.
const WITHIN: Duration = Duration::from_secs(5);

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let pair =
        |(name, value): &(&'static str, &'static str)| (HeaderName::from_static(name), HeaderValue::from_static(value));
    let mut headers = HeaderMap::new();
    for (name, value) in pairs.iter().map(pair) {
        headers.append(name, value);
    }
    headers
}

fn request(method: Method, path: &str, headers: HeaderMap, body: &'static str) -> Forwarded {
    let client = ClientAddress(Some([192, 0, 2, 7].into()));
    Forwarded { method, path: path.to_owned(), query: String::new(), headers, client, body: body.into() }
}

/// A forwarder to this address, for all services.
fn forwarder(address: &str) -> Forwarder {
    let owner = Origin::parse(&format!("http://{address}"));
    let owners = OwnerAddresses { auction_management: owner.clone(), bid_processing: owner.clone(), timer: owner };
    forwarder_to(owners)
}

fn forwarder_to(owners: OwnerAddresses) -> Forwarder {
    let environment = service::Environment::default();
    let tls = NearTls::read(&mut Reader::new(&environment));
    Forwarder::new(owners, &tls, Metrics::default()).expect("a forwarder")
}

/// The head of a request that came.
async fn head_of(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(stream.read_u8().await.expect("a request"));
    }
    String::from_utf8(read).expect("text").to_ascii_lowercase()
}

async fn json_of(response: Response) -> Value {
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    serde_json::from_slice(&body).expect("JSON")
}

#[test]
fn paths_belong_to_their_owners_and_operations_to_none() {
    for (method, path, owner) in [
        (Method::POST, "/bids", Some(Owner::BidProcessing)),
        (Method::GET, "/bids", Some(Owner::AuctionManagement)),
        (Method::GET, "/time", Some(Owner::Timer)),
        (Method::GET, "/auctions/17/timer", Some(Owner::Timer)),
        (Method::GET, "/auctions", Some(Owner::AuctionManagement)),
        (Method::POST, "/auctions/17/close", Some(Owner::AuctionManagement)),
        (Method::PUT, "/users/me", Some(Owner::AuctionManagement)),
        (Method::POST, "/internal/bids", None),
        (Method::GET, "/metrics", None),
        (Method::GET, "/openapi.json", None),
        (Method::GET, "/", None),
        (Method::GET, "/ws", None),
    ] {
        assert_eq!(Owner::of(&method, path), owner, "{method} {path}");
    }
}

#[test]
fn owner_gets_the_request_without_what_belongs_to_the_connection() {
    let came = headers(&[
        ("host", "edge.example"),
        ("connection", "keep-alive, x-secret"),
        ("keep-alive", "timeout=5"),
        ("x-secret", "of this hop"),
        ("origin", "https://example.com"),
        ("cookie", "edge=1"),
        ("content-length", "2"),
        ("x-forwarded-for", "203.0.113.9"),
        ("authorization", "Bearer token"),
        ("idempotency-key", "key"),
        ("x-request-id", "mine"),
    ]);
    let mut request = request(Method::POST, "/auctions", came, "{}");
    request.query = "a=b".to_owned();
    let parts = outgoing(&request, &Origin::parse("http://10.0.0.1:8000").expect("an address"));
    assert_eq!(parts.uri, "http://10.0.0.1:8000/auctions?a=b");
    let expected = headers(&[
        ("authorization", "Bearer token"),
        ("idempotency-key", "key"),
        ("x-request-id", "mine"),
        ("x-forwarded-for", "192.0.2.7"),
        ("via", VIA),
    ]);
    assert_eq!(parts.headers, expected);
}

/// The file of a new authority, removed with it.
struct AuthorityFile(PathBuf);

impl Drop for AuthorityFile {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

fn authority(test: &str) -> AuthorityFile {
    let file = std::env::temp_dir().join(format!("flash-{test}-{}.pem", std::process::id()));
    let key = rcgen::KeyPair::generate().expect("a key");
    let authority = rcgen::CertificateParams::default().self_signed(&key).expect("a certificate");
    std::fs::write(&file, authority.pem()).expect("written");
    AuthorityFile(file)
}

/// The mistakes in the address of the timer, with the authority in this file.
fn mistakes(url: &str, authority: &str) -> Vec<String> {
    let mut environment = service::Environment::default();
    environment.set("TIMER_URL", url);
    environment.set("SERVICES_CA_FILE", authority);
    let mut reader = Reader::new(&environment);
    let tls = NearTls::read(&mut reader);
    OwnerAddresses::read(&mut reader, &tls);
    reader.finish(()).err().map_or_else(Vec::new, |mistakes| mistakes.0)
}

#[test]
fn addresses_have_tls_if_there_is_an_authority_and_only_then() {
    let authority = authority("settings");
    let authority = authority.0.to_str().expect("text");
    let wrong = ["TIMER_URL must begin with https:// if SERVICES_CA_FILE is set, and only then"];
    assert_eq!(mistakes("https://timer:8003", ""), wrong);
    assert_eq!(mistakes("http://127.0.0.1:8003", ""), [""; 0]);
    assert_eq!(mistakes("http://127.0.0.1:8003", authority), wrong);
    assert_eq!(mistakes("https://timer:8003", authority), [""; 0]);
    let missing = mistakes("http://127.0.0.1:8003", "/nowhere/ca.pem");
    assert!(missing[0].starts_with("SERVICES_CA_FILE: failed to read the file: "), "{missing:?}");
}

#[tokio::test]
async fn nothing_is_sent_without_tls_to_a_service_that_should_have_it() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let timer = Origin::parse(&format!("http://{}", listener.local_addr().expect("an address")));
    let authority = authority("plain");
    let mut environment = service::Environment::default();
    environment.set("SERVICES_CA_FILE", authority.0.to_str().expect("text"));
    let tls = NearTls::read(&mut Reader::new(&environment));
    let owners = OwnerAddresses { timer, ..OwnerAddresses::default() };
    let forwarder = Forwarder::new(owners, &tls, Metrics::default()).expect("a forwarder");
    let response = forwarder.forward(Owner::Timer, request(Method::GET, "/time", HeaderMap::new(), "")).await;
    assert_eq!(json_of(response).await["code"], "unavailable");
    assert!(futures_util::poll!(std::pin::pin!(listener.accept())).is_pending(), "a connection came");
}

#[tokio::test]
async fn answer_is_passed_on_as_it_is() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let forwarder = forwarder(&listener.local_addr().expect("an address").to_string());
    let answer = "HTTP/1.1 409 Conflict\r\ncontent-length: 9\r\nkeep-alive: x\r\nallow: POST\r\n\r\n{\"a\": 1}\n";
    let owner = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let head = head_of(&mut stream).await;
        stream.write_all(answer.as_bytes()).await.expect("written");
        head
    };
    let came = request(Method::GET, "/auctions", HeaderMap::new(), "");
    let both = async { tokio::join!(forwarder.forward(Owner::AuctionManagement, came), owner) };
    let (response, head) = tokio::time::timeout(WITHIN, both).await.expect("in time");
    assert!(
        head.starts_with("get /auctions http/1.1\r\n") && head.contains("x-forwarded-for: 192.0.2.7\r\n"),
        "{head}"
    );
    assert_eq!(
        (response.status(), &response.headers()["allow"]),
        (StatusCode::CONFLICT, &"POST".parse().expect("text"))
    );
    assert!(!response.headers().contains_key("keep-alive"));
    assert_eq!(response.headers()["content-length"], "9");
    assert_eq!(json_of(response).await["a"], 1);
}

/// The owner takes requests and breaks the connection: only GET and HEAD are asked again, and only once.
#[tokio::test]
async fn lost_answer_is_an_unknown_outcome_and_nothing_unsafe_is_repeated() {
    let id = "6a1f0a9e-2f86-4b3c-9d5e-0a4f7f2f3b11";
    for (method, path, requests, code) in [
        (Method::GET, "/auctions", 2, "unavailable"),
        (Method::HEAD, "/auctions", 2, "unavailable"),
        (Method::POST, "/auctions", 1, "outcome_unknown"),
        (Method::PUT, "/users/me", 1, "outcome_unknown"),
        (Method::POST, "/bids", 1, "outcome_unknown"),
    ] {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let forwarder = forwarder(&listener.local_addr().expect("an address").to_string());
        let owner = Owner::of(&method, path).expect("an owner");
        let body = r#"{"bid_id":"6a1f0a9e-2f86-4b3c-9d5e-0a4f7f2f3b11"}"#;
        let mut came = 0;
        let breaking = async {
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                head_of(&mut stream).await;
                came += 1;
            }
        };
        let forwarded = tokio::time::timeout(
            WITHIN,
            forwarder.forward(owner, request(method.clone(), path, HeaderMap::new(), body)),
        );
        let response = tokio::select! {
            response = forwarded => response.expect("in time"),
            () = breaking => unreachable!("it goes on"),
        };
        assert_eq!(came, requests, "{method} {path}");
        assert_eq!(
            (response.status(), &response.headers()["retry-after"]),
            (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().expect("text"))
        );
        let json = json_of(response).await;
        assert_eq!(json["code"], code, "{method} {path}: {json}");
        let is_bid = owner == Owner::BidProcessing;
        assert_eq!((json["status"] == "rejected", json["bid_id"] == id), (is_bid, is_bid), "{method} {path}: {json}");
    }
}

#[tokio::test]
async fn absent_owner_is_unavailable_for_every_method() {
    let free = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = free.local_addr().expect("an address").to_string();
    drop(free);
    let forwarder = forwarder(&address);
    for (method, path) in [(Method::GET, "/auctions"), (Method::POST, "/bids"), (Method::POST, "/auctions")] {
        let owner = Owner::of(&method, path).expect("an owner");
        let response = forwarder.forward(owner, request(method.clone(), path, HeaderMap::new(), "{}")).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{method} {path}");
        assert_eq!(json_of(response).await["code"], "unavailable", "{method} {path}");
    }
    assert_eq!(forwarder.metrics.failed_forwards.get(), 3);
}

#[tokio::test]
async fn edge_that_is_its_own_owner_does_not_ask_itself() {
    let forwarder = forwarder("127.0.0.1:1");
    let came = request(Method::GET, "/auctions", headers(&[("via", VIA)]), "");
    let response = forwarder.forward(Owner::AuctionManagement, came).await;
    assert_eq!(json_of(response).await["code"], "unavailable");
    assert_eq!(forwarder.metrics.forwarded_requests.get(), 0);
    let unset = forwarder_to(OwnerAddresses::default());
    let came = request(Method::GET, "/time", HeaderMap::new(), "");
    let response = unset.forward(Owner::Timer, came).await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    let json = json_of(response).await;
    assert!(json["error"].as_str().is_some_and(|error| error.contains("TIMER_URL")), "{json}");
}

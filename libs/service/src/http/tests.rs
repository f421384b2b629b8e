use super::*;
use ::http::HeaderValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Time for a reply. Every one of these comes at once.
const REPLY_WITHIN: Duration = Duration::from_secs(5);
const DOCUMENT: &str = r#"{"paths":{"/things":{"get":{},"post":{}}}}"#;

struct Running {
    address: SocketAddr,
    stop: Stop,
    /// The handler of `/slow`, which never ends, has begun.
    slow: Arc<tokio::sync::Notify>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A server with one path, with these settings.
async fn start(settings: HttpSettings) -> Running {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let running =
        Running { address: listener.local_addr().expect("an address"), stop: Stop::new(), slow: Arc::default() };
    let key = warp::header::optional::<String>("idempotency-key");
    let token = warp::header::optional::<String>("authorization");
    let get = warp::path!("things").and(warp::get()).map(|| json(StatusCode::OK, &"things"));
    let post = warp::path!("things").and(warp::post()).and(key).and(token).and(warp::body::bytes()).then(
        |_key, _token, body: Bytes| async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            json(StatusCode::CREATED, &body.len())
        },
    );
    let begun = Arc::clone(&running.slow);
    let slow = warp::path!("slow").and(warp::get()).then(move || {
        begun.notify_one();
        std::future::pending::<Response>()
    });
    let health = crate::Health::new("test", &running.stop).routes();
    let routes = get.or(post).unify().or(slow).unify().or(document("openapi.json", DOCUMENT)).unify();
    let routes = routes.or(health).unify().boxed();
    let stop = running.stop.clone();
    tokio::spawn(async move { serve(listener, routes, settings, stop).await });
    running
}

/// Sends these bytes, ends sending if asked to, and returns what comes until the server closes.
async fn exchange(address: SocketAddr, request: &[u8], half_close: bool) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(request).await.expect("written");
    if half_close {
        stream.shutdown().await.expect("half closed");
    }
    let mut reply = Vec::new();
    let read = tokio::time::timeout(REPLY_WITHIN, stream.read_to_end(&mut reply)).await;
    read.expect("a reply in time").expect("a whole reply");
    String::from_utf8_lossy(&reply).to_ascii_lowercase()
}

#[tokio::test]
async fn requests_get_the_answer_of_the_rfcs() {
    let origins = ["http://localhost:3000".to_owned()];
    let running = start(HttpSettings { origins: origins.into(), ..HttpSettings::default() }).await;
    let close = "host: x\r\nconnection: close\r\n";
    for (request, status, contains) in [
        (format!("GET /things HTTP/1.1\r\n{close}\r\n"), 200, "cache-control: no-store"),
        (format!("GET /things HTTP/1.1\r\n{close}\r\n"), 200, "x-content-type-options: nosniff"),
        (format!("GET /api/things HTTP/1.1\r\n{close}\r\n"), 200, "\"things\""),
        (format!("GET /openapi.json HTTP/1.1\r\n{close}\r\n"), 200, "cache-control: public"),
        (format!("HEAD /things HTTP/1.1\r\n{close}\r\n"), 200, "content-length: 8"),
        (format!("HEAD /health HTTP/1.1\r\n{close}\r\n"), 200, "content-length"),
        (format!("HEAD /nothing HTTP/1.1\r\n{close}\r\n"), 404, ""),
        (format!("PUT /things HTTP/1.1\r\n{close}\r\n"), 405, "allow: get, head, post\r\n"),
        (format!("DELETE /health HTTP/1.1\r\n{close}\r\n"), 405, "allow: get, head\r\n"),
        ("GET /things HTTP/1.1\r\nconnection: close\r\n\r\n".to_owned(), 400, "invalid_request"),
        ("GET /things HTTP/1.0\r\n\r\n".to_owned(), 200, "\"things\""),
        (format!("GET /things HTTP/1.1\r\nhost: y\r\n{close}\r\n"), 400, "invalid_request"),
        (format!("POST /things HTTP/1.1\r\n{close}idempotency-key: bestellung-ü\r\n\r\n"), 400, "invalid_request"),
        (format!("POST /things HTTP/1.1\r\n{close}authorization: Bearer ü\r\n\r\n"), 401, "unauthenticated"),
        (
            format!("POST /things HTTP/1.1\r\n{close}transfer-encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n"),
            400,
            "invalid_request",
        ),
        (
            format!("GET /things HTTP/1.1\r\n{close}origin: http://localhost:3000\r\n\r\n"),
            200,
            "access-control-expose-headers: retry-after, traceparent, x-request-id",
        ),
        (format!("GET /things HTTP/1.1\r\n{close}x-request-id: mine-7\r\n\r\n"), 200, "x-request-id: mine-7\r\n"),
        (format!("GET /nothing HTTP/1.1\r\n{close}\r\n"), 404, "x-request-id: "),
        (
            format!("GET /things HTTP/1.1\r\n{close}traceparent: 00-{0}{0}-{0}-01\r\n\r\n", "00f067aa0ba902b7"),
            200,
            "traceparent: 00-00f067aa0ba902b700f067aa0ba902b7-00f067aa0ba902b7-01\r\n",
        ),
        (format!("GET /things HTTP/1.1\r\n{close}x: {}\r\n\r\n", "x".repeat(MAX_HEADER_BYTES)), 431, ""),
    ] {
        let reply = exchange(running.address, request.as_bytes(), false).await;
        let head = request.get(..40).unwrap_or(&request);
        assert_eq!(reply.get(9..12), Some(status.to_string().as_str()), "{head:?}: {reply}");
        assert!(reply.contains(contains), "{head:?}: {contains} in {reply}");
    }
}

#[tokio::test]
async fn half_closed_client_gets_its_answer() {
    let running = start(HttpSettings::default()).await;
    let whole = b"POST /things HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc";
    let reply = exchange(running.address, whole, true).await;
    assert!(reply.starts_with("http/1.1 201"), "{reply}");
    let cut = b"POST /things HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc";
    let reply = exchange(running.address, cut, true).await;
    assert!(reply.starts_with("http/1.1 400"), "{reply}");
}

#[tokio::test]
async fn new_connection_takes_the_place_of_the_longest_idle_one() {
    let running = start(HttpSettings { max_connections: 2, ..HttpSettings::default() }).await;
    let mut idle = TcpStream::connect(running.address).await.expect("a connection");
    let _second = TcpStream::connect(running.address).await.expect("a connection");
    let get = b"GET /things HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let reply = exchange(running.address, get, false).await;
    assert!(reply.starts_with("http/1.1 200"), "{reply}");
    let closed = tokio::time::timeout(REPLY_WITHIN, idle.read(&mut [0])).await.expect("closed in time");
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
}

#[tokio::test]
async fn health_answers_when_every_slot_is_at_work() {
    let running = start(HttpSettings { max_connections: 1, ..HttpSettings::default() }).await;
    let mut slow = TcpStream::connect(running.address).await.expect("a connection");
    slow.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("written");
    running.slow.notified().await;
    for (path, status) in [("/health", 200), ("/ready", 200), ("/things", 503)] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        let reply = exchange(running.address, request.as_bytes(), false).await;
        assert!(reply.starts_with(&format!("http/1.1 {status}")), "{path}: {reply}");
        assert_eq!(reply.contains("retry-after: 1"), status == 503, "{reply}");
    }
    drop(slow);
}

#[tokio::test]
async fn operations_have_a_port_of_their_own() {
    let free = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let operations = free.local_addr().expect("an address");
    drop(free);
    let running = start(HttpSettings { operations: Some(operations), ..HttpSettings::default() }).await;
    for (address, path, status) in [
        (running.address, "/health", 200),
        (running.address, "/ready", 404),
        (running.address, "/api/metrics", 404),
        (running.address, "/things", 200),
        (operations, "/health", 200),
        (operations, "/ready", 200),
        (operations, "/metrics", 200),
        (operations, "/things", 404),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let reply = exchange(address, request.as_bytes(), false).await;
        assert!(reply.starts_with(&format!("http/1.1 {status}")), "{path}: {reply}");
    }
}

#[test]
fn own_origin_needs_a_name_that_no_stranger_can_choose() {
    let configured = ["https://auctions.example.com".to_owned()];
    for (origin, host, expected) in [
        ("http://127.0.0.1:8001", "127.0.0.1:8001", true),
        ("http://[::1]:8001", "[::1]:8001", true),
        ("http://localhost:8001", "localhost:8001", true),
        ("http://localhost:1", "localhost:8001", false),
        ("http://evil.example", "evil.example", false),
        ("https://auctions.example.com", "auctions.example.com", true),
        ("null", "127.0.0.1", false),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
        headers.insert(header::HOST, HeaderValue::from_static(host));
        assert_eq!(origin_allowed(&headers, &configured), expected, "{origin} at {host}");
    }
}

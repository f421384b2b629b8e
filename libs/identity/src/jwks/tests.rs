//! The keys against an issuer that hangs, refuses, answers nonsense and rotates. Time is the runtime's, moved by hand.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;

/// Time limit of what should come at once.
const SOON: Duration = Duration::from_secs(10);

#[derive(Clone)]
enum Answer {
    Body(String),
    /// Reads the request and never answers.
    Silence,
}

fn set(kids: &[&str]) -> Answer {
    let modulus = URL_SAFE_NO_PAD.encode([0xff; 256]);
    let keys: Vec<Value> =
        kids.iter().map(|kid| json!({"kid": kid, "kty": "RSA", "n": modulus, "e": "AQAB"})).collect();
    Answer::Body(json!({ "keys": keys }).to_string())
}

/// An issuer on loopback that counts the requests.
struct Issuer {
    address: SocketAddr,
    answer: Arc<Mutex<Answer>>,
    requests: watch::Receiver<usize>,
    server: JoinHandle<()>,
}

impl Issuer {
    async fn start(answer: Answer) -> Self {
        Self::listen(SocketAddr::from(([127, 0, 0, 1], 0)), answer).await
    }

    async fn listen(address: SocketAddr, answer: Answer) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let answer = Arc::new(Mutex::new(answer));
        let (count, requests) = watch::channel(0);
        let answers = Arc::clone(&answer);
        let server = tokio::spawn(async move {
            let mut silent = Vec::new();
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let _bytes = socket.read(&mut request).await.expect("a request");
                let answer = answers.lock().expect("a lock").clone();
                match answer {
                    Answer::Body(body) => {
                        let length = body.len();
                        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
                        socket.write_all((head + &body).as_bytes()).await.expect("a client that waits");
                    }
                    Answer::Silence => silent.push(socket),
                }
                count.send_modify(|count| *count += 1);
            }
        });
        Self { address, answer, requests, server }
    }

    fn answers(&self, answer: Answer) {
        *self.answer.lock().expect("a lock") = answer;
    }

    async fn requested(&mut self, count: usize) {
        let waiting = self.requests.wait_for(|requests| *requests >= count);
        let requests = *tokio::time::timeout(SOON, waiting).await.expect("a request").expect("an issuer");
        assert_eq!(requests, count);
    }

    /// Keys of this issuer, fetched once, with their background task.
    async fn keys(&self) -> Arc<Jwks> {
        let before = Instant::now();
        let keys = Arc::new(Jwks::new(format!("http://{}/", self.address)));
        let refreshed = Arc::clone(&keys);
        tokio::spawn(async move { refreshed.refresh().await });
        succeeded(&keys, before).await;
        keys
    }
}

/// Waits until the latest fetch fits.
async fn latest(keys: &Jwks, fits: impl Fn(&Fetch) -> bool) {
    let mut state = keys.state.subscribe();
    let waiting = state.wait_for(|state| fits(&state.latest));
    drop(tokio::time::timeout(SOON, waiting).await.expect("a fetch").expect("keys"));
}

async fn succeeded(keys: &Jwks, after: Instant) {
    latest(keys, |fetch| matches!(fetch, Fetch::Succeeded { began } if *began >= after)).await;
}

async fn failed(keys: &Jwks, after: Instant) {
    latest(keys, |fetch| matches!(fetch, Fetch::Failed { began } if *began >= after)).await;
}

async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn fetches_at_the_start_and_regularly_without_any_request() {
    let mut issuer = Issuer::start(set(&["first"])).await;
    let keys = issuer.keys().await;
    assert!(keys.are_there() && keys.knows("first"));
    issuer.requested(1).await;
    issuer.answers(set(&["first", "second"]));
    pass(REFRESH_EVERY).await;
    issuer.requested(2).await;
    assert!(keys.find("second").await.is_ok());
}

#[tokio::test]
async fn unknown_key_causes_one_fetch_a_minute() {
    let mut issuer = Issuer::start(set(&["first"])).await;
    let keys = issuer.keys().await;
    assert_eq!(keys.find("strange").await.err(), Some(KeyError::Unknown));
    issuer.requested(2).await;
    for number in 0..50 {
        let began = Instant::now();
        assert_eq!(keys.find(&format!("strange-{number}")).await.err(), Some(KeyError::Unavailable));
        assert!(began.elapsed() < WAIT_FOR_FETCH, "it does not wait for what cannot come in time");
    }
    issuer.requested(2).await;

    // The wish is not forgotten: a minute later the new key is fetched without a further request.
    issuer.answers(set(&["first", "second"]));
    let before = Instant::now();
    pass(REQUESTED_AT_MOST_EVERY).await;
    succeeded(&keys, before + REQUESTED_AT_MOST_EVERY / 2).await;
    assert!(keys.knows("second"));
    issuer.requested(3).await;
}

#[tokio::test]
async fn hanging_issuer_delays_no_known_key_and_others_for_a_second() {
    let mut issuer = Issuer::start(set(&["first"])).await;
    let keys = issuer.keys().await;
    issuer.answers(Answer::Silence);
    let began = Instant::now();
    assert_eq!(keys.find("second").await.err(), Some(KeyError::Unavailable));
    assert!(began.elapsed() < WAIT_FOR_FETCH * 2, "{:?}", began.elapsed());
    issuer.requested(2).await;
    assert!(keys.are_there() && keys.find("first").await.is_ok());
    // The outcome is noted although no request waits any more, and the next attempt finds the key.
    pass(FETCH_TIMEOUT).await;
    failed(&keys, began).await;
    issuer.answers(set(&["first", "second"]));
    succeeded(&keys, began).await;
    assert!(keys.find("second").await.is_ok());
}

#[tokio::test]
async fn refusing_issuer_is_asked_until_it_is_back() {
    let issuer = Issuer::start(set(&["first"])).await;
    let keys = issuer.keys().await;
    issuer.server.abort();
    drop(issuer.server.await);
    let before = Instant::now();
    assert_eq!(keys.find("second").await.err(), Some(KeyError::Unavailable));
    failed(&keys, before).await;
    assert!(keys.failures.get() > 0, "the failure is not counted");
    assert!(keys.find("first").await.is_ok());
    let _back = Issuer::listen(issuer.address, set(&["first", "second"])).await;
    succeeded(&keys, before).await;
    assert!(keys.find("second").await.is_ok());
}

#[test]
fn pauses_grow_up_to_a_bound() {
    let pauses = std::iter::successors(Some(next_pause(None)), |pause| Some(next_pause(Some(*pause))));
    let pauses: Vec<u128> = pauses.take(6).map(|pause| pause.as_millis()).collect();
    assert_eq!(pauses, [500, 1000, 2000, 4000, 4000, 4000]);
}

#[tokio::test]
async fn useless_set_replaces_nothing() {
    let issuer = Issuer::start(set(&["first"])).await;
    let keys = issuer.keys().await;
    for useless in [set(&[]), Answer::Body("<html>".to_owned()), Answer::Body(r#"{"keys": [{}]}"#.to_owned())] {
        issuer.answers(useless);
        let before = Instant::now();
        pass(REFRESH_EVERY).await;
        failed(&keys, before + REFRESH_EVERY / 2).await;
        assert!(keys.knows("first"));
        assert_eq!(keys.find("second").await.err(), Some(KeyError::Unavailable), "the set proves nothing");
        issuer.answers(set(&["first"]));
        succeeded(&keys, before + REFRESH_EVERY / 2).await;
    }
}

#[tokio::test]
async fn withdrawn_key_stays_valid_for_an_hour() {
    let issuer = Issuer::start(set(&["first"])).await;
    let keys = issuer.keys().await;
    issuer.answers(set(&["second"]));
    let before = Instant::now();
    pass(REFRESH_EVERY).await;
    succeeded(&keys, before + REFRESH_EVERY / 2).await;
    assert!(keys.knows("first") && keys.knows("second"));
    // A later set that lacks it as well does not extend its time.
    pass(KEEP_WITHDRAWN / 2).await;
    succeeded(&keys, before + KEEP_WITHDRAWN / 2).await;
    assert!(keys.knows("first"));
    pass(KEEP_WITHDRAWN / 2).await;
    succeeded(&keys, before + KEEP_WITHDRAWN).await;
    assert!(!keys.knows("first") && keys.knows("second"));
    assert_eq!(keys.find("first").await.err(), Some(KeyError::Unknown));
}

#[tokio::test]
async fn all_keys_expire_a_day_after_the_last_fetch() {
    let issuer = Issuer::start(set(&["first"])).await;
    let keys = issuer.keys().await;
    issuer.server.abort();
    drop(issuer.server.await);
    pass(KEEP_UNREFRESHED - Duration::from_secs(60)).await;
    assert!(keys.are_there());
    pass(Duration::from_secs(61)).await;
    assert!(!keys.are_there());
    assert_eq!(keys.find("first").await.err(), Some(KeyError::Unavailable));
}

#[tokio::test]
async fn withdrawn_keys_do_not_pile_up() {
    let mut state = State { keys: HashMap::new(), latest: Fetch::Running, next: Instant::now() };
    let key = || DecodingKey::from_rsa_raw_components(&[0xff; 256], &[1, 0, 1]);
    for number in 0..100 {
        state.note(HashMap::from([(number.to_string(), key())]));
    }
    assert_eq!(state.keys.len(), key_set::MAX_KEYS);
    assert!(state.key("99").is_some(), "what the issuer publishes is known");
}

//! The web page's backend, without a browser: its files, one origin for the API, sign-in, and watching without a token.

use anyhow::{Context, Result, ensure};
use flash::stack::Name;
use serde_json::{Value, json};
use testkit::eventually;
use testkit::http::{self, Reply};
use testkit::socket::Socket;

use crate::socketio::{node_at, reported};
use crate::test_system::TestSystem;

/// The sign-in as the page does it.
mod flow {
    use super::*;

    /// RFC 7636, appendix B: a verifier and its challenge.
    pub const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

    pub async fn form(url: &str, origin: &str, fields: &[(&str, &str)]) -> Result<Reply> {
        let encoded = |text: &str| text.replace('%', "%25").replace('&', "%26").replace('+', "%2B").replace(' ', "+");
        let body: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let request = http::request("POST", url, None)
            .header("content-type", "application/x-www-form-urlencoded")
            .header("origin", origin);
        http::send(request.body(body.join("&").into())?).await
    }

    /// The parameters of a sign-in that leads back to `redirect`.
    pub fn parameters<'a>(config: &'a Value, redirect: &'a str) -> Result<Vec<(&'a str, &'a str)>> {
        Ok(vec![
            ("response_type", "code"),
            ("client_id", config["client_id"].as_str().context("a client")?),
            ("redirect_uri", redirect),
            ("state", "a&b"),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
        ])
    }

    /// Signs in by name, from the configuration to the code.
    pub async fn code(config: &Value, redirect: &str, name: &str) -> Result<String> {
        let authorize = config["authorize_url"].as_str().context("an address")?;
        let mut fields = parameters(config, redirect)?;
        fields.push(("name", name));
        let back = form(authorize, authorize, &fields).await?;
        ensure!(back.status == 303, "{} {}", back.status, back.text);
        let location = back.headers["location"].to_str()?;
        let code = location.strip_prefix(&format!("{redirect}?code=")).context("a code")?;
        Ok(code.strip_suffix("&state=a%26b").context("the state")?.to_owned())
    }

    /// Redeems a code or a refresh token as the page does.
    pub async fn redeem(config: &Value, redirect: &str, fields: &[(&str, &str)]) -> Result<Reply> {
        let mut fields = fields.to_vec();
        fields.push(("client_id", config["client_id"].as_str().context("a client")?));
        form(config["token_url"].as_str().context("an address")?, redirect.trim_end_matches('/'), &fields).await
    }

    /// The tokens of this person.
    pub async fn sign_in(config: &Value, redirect: &str, name: &str) -> Result<Value> {
        let code = code(config, redirect, name).await?;
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", &code),
            ("redirect_uri", redirect),
            ("code_verifier", VERIFIER),
        ];
        let tokens = redeem(config, redirect, &fields).await?;
        ensure!(tokens.status == 200, "{} {}", tokens.status, tokens.text);
        let allowed = tokens.headers.get("access-control-allow-origin").context("CORS")?;
        ensure!(allowed == redirect.trim_end_matches('/'), "{allowed:?}");
        Ok(tokens.json)
    }
}

async fn config(system: &TestSystem) -> Result<Value> {
    Ok(http::get(&format!("{}config.json", system.stack.page_url()), None).await?.json)
}

/// A plain connection that has sent this as its first frame.
async fn socket(system: &TestSystem, first: &Value) -> Result<Socket> {
    let edge = system.stack.url(Name::Websocket).replacen("http", "ws", 1);
    let mut socket = Socket::connect(&format!("{edge}/ws")).await?;
    socket.send_raw(&first.to_string()).await?;
    Ok(socket)
}

fn watch() -> Value {
    json!({"event": "authenticate", "data": {}})
}

#[tokio::test(flavor = "multi_thread")]
async fn page_is_served_with_its_policy_and_configuration() -> Result<()> {
    let system = TestSystem::start("page").await?;
    let page = system.stack.page_url();
    let config = config(&system).await?;
    let sign_in = system.stack.keys.sign_in_url();
    assert_eq!(config["authorize_url"], format!("{sign_in}/oauth2/authorize"));
    assert_eq!((&config["currency"], &config["issuer"]), (&json!("USD"), &json!(system.stack.prepared.issuer)));
    for (path, kind) in [
        ("", "text/html; charset=utf-8"),
        ("page/main.js", "text/javascript; charset=utf-8"),
        ("page/views/lot.js", "text/javascript; charset=utf-8"),
        ("page/style.css", "text/css; charset=utf-8"),
        ("page/icon.svg", "image/svg+xml"),
        ("client.js", "text/javascript; charset=utf-8"),
        ("config.json", "application/json"),
    ] {
        let reply = http::get(&format!("{page}{path}"), None).await?;
        assert_eq!((reply.status, reply.headers["content-type"].to_str()?), (200, kind), "{path}");
        let header = |name: &str| reply.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let policy = header("content-security-policy");
        let uploads = system.stack.servers.aws_endpoint();
        let wanted = format!("connect-src 'self' {sign_in} {uploads} https://*.live-video.net;");
        ensure!(policy.contains(&wanted) && !policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!((header("cache-control"), header("x-content-type-options")), ("no-cache", "nosniff"), "{path}");
        assert_eq!((header("referrer-policy"), header("cross-origin-opener-policy")), ("no-referrer", "same-origin"));
        let head = http::send(http::request("HEAD", &format!("{page}{path}"), None).body("".into())?).await?;
        assert_eq!((head.status, head.text.as_str()), (200, ""), "{path}");
        assert_eq!(head.headers["content-length"].to_str()?, reply.text.len().to_string(), "{path}");
        let known = http::request("GET", &format!("{page}{path}"), None).header("if-none-match", header("etag"));
        assert_eq!(http::send(known.body("".into())?).await?.status, 304, "{path}");
    }
    for absent in ["page/README.md", "page/package.json", "page/tests/money.test.js", "page/../Cargo.toml"] {
        let reply = http::get(&format!("{page}{absent}"), None).await?;
        assert_eq!((reply.status, &reply.json["code"]), (404, &json!("not_found")), "{absent}");
    }
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_forwards_the_api_of_every_service() -> Result<()> {
    let system = TestSystem::start("one-origin").await?;
    let api = format!("{}api", system.stack.page_url());
    let (host, anna) = (system.token("host")?, system.token("anna")?);
    let auction = json!({"title": "Lamp", "duration": 600, "starting_bid": 5, "video": false});
    let created = http::post(&format!("{api}/auctions"), Some(&host), &auction).await?;
    assert_eq!(created.status, 201, "{}", created.text);
    let id = created.json["auction_id"].as_str().context("an id")?.to_owned();

    let bid = json!({"auction_id": id, "amount": 5, "bid_id": uuid::Uuid::new_v4().to_string()});
    let answer = http::post(&format!("{api}/bids"), Some(&anna), &bid).await?;
    assert_eq!((answer.status, &answer.json["status"]), (200, &json!("accepted")), "{}", answer.text);
    let again = http::post(&format!("{api}/bids"), Some(&anna), &bid).await?;
    assert_eq!(again.json["seq"], answer.json["seq"], "the same id is the same bid");
    let refused = http::post(&format!("{api}/bids"), None, &bid).await?;
    assert_eq!((refused.status, &refused.json["code"]), (401, &json!("unauthenticated")));

    let close = http::post(&format!("{api}/auctions/{id}/close"), Some(&anna), &json!({})).await?;
    assert_eq!((close.status, &close.json["code"]), (403, &json!("not_host")));
    let closed = http::post(&format!("{api}/auctions/{id}/close"), Some(&host), &json!({})).await?;
    assert_eq!(closed.json["status"], "closed", "{}", closed.text);
    system.closed_row(&id).await?;
    // The answers of the owners, to the last byte.
    for path in [
        format!("/auctions/{id}"),
        format!("/auctions?host={}", created.json["host_user_id"].as_str().unwrap_or_default()),
    ] {
        let (direct, through) =
            (http::get(&system.management(&path), None).await?, http::get(&format!("{api}{path}"), None).await?);
        assert_eq!((direct.status, &direct.text), (through.status, &through.text), "{path}");
        let head = http::send(http::request("HEAD", &format!("{api}{path}"), None).body("".into())?).await?;
        assert_eq!(head.headers.get("content-length"), direct.headers.get("content-length"), "{path}");
    }
    ensure!(http::get(&format!("{api}/time"), None).await?.json["server_time"].is_u64(), "the timer");
    system.history(&id, 1).await?;
    let own = http::get(&format!("{api}/bids"), Some(&anna)).await?;
    assert_eq!(own.json["bids"][0]["auction_id"], id.as_str(), "{}", own.text);

    let named = http::request("GET", &format!("{api}/time"), None).header("x-request-id", "mine-7");
    assert_eq!(http::send(named.body("".into())?).await?.headers["x-request-id"], "mine-7");
    let made = http::get(&format!("{api}/time"), None).await?;
    uuid::Uuid::parse_str(made.headers["x-request-id"].to_str()?)?;
    let wrong = http::send(http::request("DELETE", &format!("{api}/auctions"), None).body("".into())?).await?;
    assert_eq!((wrong.status, wrong.headers["allow"].to_str()?), (405, "GET, HEAD, POST"));
    let internal = http::post(&format!("{api}/internal/bids"), Some(&anna), &bid).await?;
    assert_eq!((internal.status, &internal.json["code"]), (404, &json!("not_found")));
    let origin = api.trim_end_matches("/api");
    let asked = http::request("GET", &format!("{api}/time"), None).header("origin", origin);
    let reply = http::send(asked.body("".into())?).await?;
    assert_eq!(reply.headers["access-control-allow-origin"], origin);
    assert_eq!(reply.headers.get_all("access-control-allow-origin").iter().count(), 1);
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn absent_service_is_unavailable_and_comes_back() -> Result<()> {
    let mut system = TestSystem::start("absent-owner").await?;
    let api = format!("{}api", system.stack.page_url());
    let bids = system.stack.url(Name::BidProcessing).to_owned();
    let anna = system.token("anna")?;
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 5})).await?;
    let bid = json!({"auction_id": id, "amount": 5, "bid_id": uuid::Uuid::new_v4().to_string()});
    system.stack.kill_instance(Name::BidProcessing, 0).await?;
    let reply = http::post(&format!("{api}/bids"), Some(&anna), &bid).await?;
    assert_eq!(reply.status, 503, "{}", reply.text);
    assert_eq!(reply.json["code"], "unavailable", "the connection is refused: {}", reply.text);
    assert_eq!((&reply.json["status"], &reply.json["bid_id"]), (&json!("rejected"), &bid["bid_id"]));
    assert_eq!(reply.headers["retry-after"], "1");
    // A listener in the place of the service takes the request and says nothing.
    let listener = tokio::net::TcpListener::bind(testkit::tls::authority_of(&bids)).await?;
    let url = format!("{api}/bids");
    let (lost, taken) = tokio::join!(http::post(&url, Some(&anna), &bid), async {
        let (mut stream, _) = listener.accept().await?;
        let mut request = [0; 4096];
        tokio::io::AsyncReadExt::read(&mut stream, &mut request).await
    });
    let lost = lost?;
    ensure!(taken? > 0, "no request came");
    // With TLS it took the beginning of a handshake alone: the request was not sent.
    let code = if bids.starts_with("https") { "unavailable" } else { "outcome_unknown" };
    assert_eq!((lost.status, &lost.json["code"]), (503, &json!(code)), "{}", lost.text);
    assert_eq!(lost.json["bid_id"], bid["bid_id"]);
    drop(listener);
    system.stack.kill_instance(Name::Timer, 0).await?;
    let reply = http::get(&format!("{api}/time"), None).await?;
    assert_eq!((reply.status, &reply.json["code"]), (503, &json!("unavailable")), "{}", reply.text);
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn person_signs_in_renews_and_takes_part() -> Result<()> {
    let system = TestSystem::start("sign-in").await?;
    let (page, config) = (system.stack.page_url(), config(&system).await?);
    let authorize = config["authorize_url"].as_str().context("an address")?;

    // The form repeats the parameters as text, and its policy lets the browser follow it back.
    let query = |redirect: &str, client: &str| {
        format!(
            "{authorize}?response_type=code&client_id={client}&redirect_uri={redirect}&state=%22%3E%3Cscript%3E&\
             code_challenge=x&code_challenge_method=S256"
        )
    };
    let client = config["client_id"].as_str().context("a client")?;
    let form = http::get(&query(&page, client), None).await?;
    assert_eq!(form.status, 200, "{}", form.text);
    ensure!(!form.text.contains("<script") && form.text.contains("&quot;&gt;&lt;script&gt;"), "{}", form.text);
    let policy = form.headers["content-security-policy"].to_str()?;
    ensure!(policy.contains(&format!("form-action 'self' {};", page.trim_end_matches('/'))), "{policy}");
    for (redirect, client) in [
        ("https://evil.example/", client),
        ("http://localhost.evil.example/", client),
        ("http://localhost@evil.example/", client),
        ("javascript:alert(1)", client),
        (&*page, "other"),
    ] {
        let reply = http::get(&query(redirect, client), None).await?;
        assert_eq!((reply.status, reply.headers.get("location")), (400, None), "{redirect}");
    }

    let tokens = flow::sign_in(&config, &page, "anna").await?;
    let token = tokens["id_token"].as_str().context("a token")?;
    assert_eq!(tokens["expires_in"], 3600);
    let me = http::get(&format!("{page}api/users/me"), Some(token)).await?;
    let same = http::get(&format!("{page}api/users/me"), Some(&system.token("anna")?)).await?;
    assert_eq!((me.status, &me.json["user_id"]), (200, &same.json["user_id"]), "the same name is the same person");
    let mut connection = socket(&system, &json!({"event": "authenticate", "data": {"token": token}})).await?;
    assert_eq!(connection.event("connected").await?["data"]["user_id"], me.json["user_id"]);

    let refresh = tokens["refresh_token"].as_str().context("a refresh token")?;
    let renewed = flow::redeem(&config, &page, &[("grant_type", "refresh_token"), ("refresh_token", refresh)]).await?;
    let renewed = renewed.json["id_token"].as_str().context("another token")?.to_owned();
    assert_eq!(http::get(&format!("{page}api/users/me"), Some(&renewed)).await?.status, 200);
    // A refresh token is good for nothing else, and a damaged one for nothing at all.
    assert_eq!(http::get(&format!("{page}api/users/me"), Some(refresh)).await?.status, 401);
    let forged = format!("{refresh}x");
    for refresh in [forged.as_str(), token, "", "a.b.c"] {
        let fields = [("grant_type", "refresh_token"), ("refresh_token", refresh)];
        assert_eq!(flow::redeem(&config, &page, &fields).await?.status, 400, "{refresh}");
    }

    // A code is good once, for its own page, with its verifier.
    for (redirect, verifier, status) in [
        (page.as_str(), flow::VERIFIER, 200),
        (page.as_str(), "another", 400),
        ("http://127.0.0.1:1/", flow::VERIFIER, 400),
    ] {
        let code = flow::code(&config, &page, "ben").await?;
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", code.as_str()),
            ("redirect_uri", redirect),
            ("code_verifier", verifier),
        ];
        assert_eq!(flow::redeem(&config, &page, &fields).await?.status, status, "{redirect} {verifier}");
        assert_eq!(flow::redeem(&config, &page, &fields).await?.status, 400, "a second time");
    }

    let logout = config["logout_url"].as_str().context("an address")?;
    let left = http::get(&format!("{logout}?client_id={client}&logout_uri={page}"), None).await?;
    assert_eq!((left.status, left.headers["location"].to_str()?), (303, page.as_str()));
    let refused = http::get(&format!("{logout}?logout_uri=https://evil.example/"), None).await?;
    assert_eq!((refused.status, refused.headers.get("location")), (400, None));
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn watcher_without_a_token_sees_bids_and_becomes_a_person() -> Result<()> {
    let system = TestSystem::start("watcher").await?;
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 5})).await?;
    let join = json!({"auction_id": id});
    let mut watcher = socket(&system, &watch()).await?;
    let connected = watcher.event("connected").await?;
    assert_eq!((&connected["data"]["user_id"], &connected["data"]["username"]), (&Value::Null, &Value::Null));
    let joined = watcher.ask("join_auction", join.clone()).await?;
    assert_eq!((&joined["event"], &joined["data"]["participant_count"]), (&json!("joined_auction"), &json!(0)));
    assert_eq!(joined["data"].get("you_are_winning"), None, "it is no person");

    for (event, data) in [
        ("place_bid", json!({"auction_id": id, "amount": 5})),
        ("chat_message", json!({"auction_id": id, "message": "hello"})),
        ("chat_delete", json!({"auction_id": id, "message_id": id})),
        ("chat_mute", json!({"auction_id": id, "user_id": id, "seconds": 5})),
    ] {
        let refused = watcher.ask(event, data).await?;
        assert_eq!(
            (&refused["event"], &refused["data"]["code"]),
            (&json!("error"), &json!("unauthenticated")),
            "{event}"
        );
    }
    assert_eq!(watcher.ask("ping", json!({})).await?["event"], "pong");

    let answer = system.bid("anna", &id, &json!(5)).await?;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let update = watcher.event("bid_update").await?;
    assert_eq!((&update["data"]["high_bid"], &update["data"]["you_are_winning"]), (&json!(5.0), &json!(false)));

    // With a token it is a person, in the room that it has joined: others are notified, and it may bid.
    let mut host = system.socket("host").await?;
    assert_eq!(host.ask("join_auction", join.clone()).await?["data"]["participant_count"], 1, "the host alone");
    let authenticated = watcher.ask("authenticate", json!({"token": system.token("ben")?})).await?;
    ensure!(authenticated["data"]["expires_at"].is_u64(), "{authenticated}");
    let arrived = host.event("user_joined").await?;
    assert_eq!((&arrived["data"]["username"], &arrived["data"]["participant_count"]), (&json!("ben"), &json!(2)));
    let bid = watcher.ask("place_bid", json!({"auction_id": id, "amount": 50})).await?;
    assert_eq!((&bid["event"], &bid["data"]["status"]), (&json!("bid_result"), &json!("accepted")), "{bid}");
    loop {
        let update = watcher.event("bid_update").await?;
        if update["data"]["high_bid"] == json!(50.0) {
            assert_eq!(update["data"]["you_are_winning"], true, "its own part of the broadcast");
            break;
        }
    }
    let other = watcher.ask("authenticate", json!({"token": system.token("anna")?})).await?;
    assert_eq!(other["data"]["code"], "unauthenticated", "another person needs another connection");
    system.end().await;
    Ok(())
}

/// Members of an open room and readers over HTTP see the slow mode that the host sets.
#[tokio::test(flavor = "multi_thread")]
async fn live_state_shows_the_slow_mode_of_the_chat() -> Result<()> {
    let system = TestSystem::start("slow-mode-shown").await?;
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 5})).await?;
    let mut watcher = socket(&system, &watch()).await?;
    watcher.event("connected").await?;
    let join = json!({"auction_id": id});
    assert_eq!(watcher.ask("join_auction", join.clone()).await?["data"]["slow_mode_seconds"], 0);
    for seconds in [7, 0] {
        let (url, body) = (system.management(&format!("/auctions/{id}/chat")), json!({"slow_mode_seconds": seconds}));
        let set = http::post(&url, Some(&system.token("host")?), &body).await?;
        assert_eq!(set.status, 200, "{}", set.text);
        system.wait_for(&format!("/auctions/{id}/state"), |state| state["slow_mode_seconds"] == seconds).await?;
        eventually("the slow mode is shown in a room that is open", async || {
            let joined = watcher.ask("join_auction", join.clone()).await?;
            Ok((joined["data"]["slow_mode_seconds"] == seconds).then_some(()))
        })
        .await?;
    }
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn socketio_client_watches_only_if_it_asks_to() -> Result<()> {
    let system = TestSystem::start("socketio-watcher").await?;
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 5})).await?;
    let script = "
        const silent = io(edge, { forceNew: true, reconnection: false });
        silent.on('connect_error', (error) => report('silent', error.data));
        const socket = io(edge, { auth: { anonymous: true }, forceNew: true });
        const ask = (event, data) => socket.timeout(5000).emitWithAck(event, data);
        socket.on('connected', async (data) => {
          report('connected', data);
          report('joined', await ask('join_auction', { auction_id }));
          report('bid', await ask('place_bid', { auction_id, amount: 50 }));
          report('authenticated', await ask('authenticate', { token }));
          report('bid of a person', await ask('place_bid', { auction_id, amount: 50 }));
          socket.disconnect();
        });";
    let environment = [("TOKEN", system.token("anna")?), ("AUCTION", id.clone())];
    let edge = system.stack.url(Name::Websocket).replacen("http", "ws", 1);
    let lines = node_at(edge, script, &environment).await?;
    assert_eq!(reported(&lines, "silent")?["code"], "unauthenticated");
    assert_eq!(reported(&lines, "connected")?["user_id"], Value::Null);
    assert_eq!(reported(&lines, "joined")?["auction_id"], id.as_str());
    assert_eq!(reported(&lines, "bid")?["code"], "unauthenticated");
    ensure!(reported(&lines, "authenticated")?["expires_at"].is_u64(), "{lines:?}");
    assert_eq!(reported(&lines, "bid of a person")?["status"], "accepted", "{lines:?}");
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn full_edge_closes_watchers_for_people() -> Result<()> {
    let settings = [("MAX_CONNECTIONS", "3"), ("MAX_ANONYMOUS_CONNECTIONS", "2")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let system = TestSystem::with("full-of-watchers", settings, false).await?;
    let mut watchers = Vec::new();
    for _ in 0..2 {
        let mut watcher = socket(&system, &watch()).await?;
        watcher.event("connected").await?;
        watchers.push(watcher);
    }
    let mut third = socket(&system, &watch()).await?;
    assert_eq!(third.event("error").await?["data"]["code"], "overloaded", "two may watch");
    assert_eq!(third.closed().await?, 1013);

    let mut people = vec![system.socket("anna").await?, system.socket("ben").await?];
    assert_eq!(watchers[0].event("error").await?["data"]["code"], "overloaded", "the oldest gives way");
    assert_eq!(watchers[0].closed().await?, 1013);
    assert_eq!(watchers[1].ask("ping", json!({})).await?["event"], "pong", "one place is left for the second");
    people.push(system.socket("carl").await?);
    assert_eq!(watchers[1].closed().await?, 1013);
    assert_eq!(people[0].ask("ping", json!({})).await?["event"], "pong", "people stay");

    let url = format!("{}/metrics", system.stack.url(Name::Websocket));
    let text = eventually("no anonymous connection is left", async || {
        let text = http::get(&url, None).await?.text;
        Ok(text.contains("flash_anonymous_connections 0").then_some(text))
    })
    .await?;
    ensure!(text.contains("flash_anonymous_connections_evicted_total 2"), "{text}");
    system.end().await;
    Ok(())
}

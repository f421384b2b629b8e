//! The published documents held against real requests, replies and frames. `libs/protocol/tests/api_documents.rs` tests
//! without servers that the documents name every route and are what the services declare.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use flash::stack::Name;
use serde_json::{Value, json};
use testkit::http::{self, Reply};
use testkit::schema::matches;
use testkit::socket::{Socket, Transport};

use crate::test_system::TestSystem;

/// One document, and the operations of it that were tried on the running service.
struct Document {
    name: &'static str,
    json: Value,
    seen: BTreeSet<String>,
}

impl Document {
    async fn fetch(system: &TestSystem, name: Name) -> Result<Self> {
        let url = format!("{}/api/openapi.json", system.stack.url(name));
        let json = http::get(&url, None).await?.json;
        ensure!(json["openapi"] == "3.1.0", "{url}");
        Ok(Self { name: name.text(), json, seen: BTreeSet::new() })
    }

    /// The schema of a request body.
    fn body_schema(&self, method: &str, path: &str) -> &Value {
        &self.json["paths"][path][method.to_lowercase()]["requestBody"]["content"]["application/json"]["schema"]
    }

    /// Sends a body that the document must allow, and holds the reply against the document.
    async fn send(&mut self, request: &Request<'_>) -> Result<Reply> {
        let Request { method, path, url, token, body } = *request;
        let schema = self.body_schema(method, path);
        ensure!(schema.is_object(), "{} {method} {path} takes no body by its document", self.name);
        matches(&self.json, schema, body).with_context(|| format!("{} {method} {path}", self.name))?;
        let reply = send(method, url, token, body).await?;
        self.hold(method, path, &reply)?;
        Ok(reply)
    }

    /// Takes a good body apart: without a required field and with a wrong type in each field, neither the document nor
    /// the service may accept it.
    async fn reject_variants(&mut self, request: &Request<'_>) -> Result<()> {
        let Request { method, path, url, token, body } = *request;
        let reference = self.body_schema(method, path)["$ref"].as_str().context("a reference")?.to_owned();
        let schema = self.json.pointer(reference.trim_start_matches('#')).context("a schema")?;
        let required: BTreeSet<String> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        let fields = body.as_object().context("an object")?;
        let mut variants = Vec::new();
        for (field, value) in fields {
            let mut wrong = fields.clone();
            wrong.insert(field.clone(), if value.is_object() { json!(7) } else { json!({"wrong": true}) });
            variants.push(Value::Object(wrong));
            if required.contains(field) {
                let mut missing = fields.clone();
                missing.remove(field);
                variants.push(Value::Object(missing));
            }
        }
        for variant in variants {
            let what = format!("{} {method} {path} with {variant}", self.name);
            let allowed = matches(&self.json, self.body_schema(method, path), &variant).is_ok();
            ensure!(!allowed, "{what}: the document allows it");
            let reply = send(method, url, token, &variant).await?;
            ensure!(reply.status == 400, "{what}: the service answered {}", reply.status);
            self.hold(method, path, &reply)?;
        }
        Ok(())
    }

    /// Holds one reply against what the document says of it.
    fn hold(&mut self, method: &str, path: &str, reply: &Reply) -> Result<()> {
        let what = format!("{} {method} {path} {}", self.name, reply.status);
        let responses = &self.json["paths"][path][method.to_lowercase()]["responses"];
        ensure!(responses.is_object(), "{what}: not in the document");
        ensure!(reply.status != 405 && reply.json["code"] != "not_found", "{what}: in the document alone");
        let status = reply.status.to_string();
        let response = responses.get(&status).or_else(|| responses.get("default")).with_context(|| what.clone())?;
        if let Some(schema) = response["content"]["application/json"].get("schema") {
            matches(&self.json, schema, &reply.json).with_context(|| what)?;
        }
        self.seen.insert(format!("{} {path}", method.to_lowercase()));
        Ok(())
    }

    /// Every path and method was seen.
    fn assert_complete(&self) {
        let paths = self.json["paths"].as_object().expect("paths");
        let described: BTreeSet<String> = paths
            .iter()
            .flat_map(|(path, item)| item.as_object().into_iter().flatten().map(move |(method, _)| (path, method)))
            .filter(|(_, method)| *method != "parameters")
            .map(|(path, method)| format!("{method} {path}"))
            .collect();
        assert_eq!(self.seen, described, "{}: each path is tried for real", self.name);
    }
}

/// A request with a body; `path` as the document spells it.
#[derive(Clone, Copy)]
struct Request<'a> {
    method: &'a str,
    path: &'a str,
    url: &'a str,
    token: Option<&'a str>,
    body: &'a Value,
}

async fn send(method: &str, url: &str, token: Option<&str>, body: &Value) -> Result<Reply> {
    if method == "POST" {
        return http::post(url, token, body).await;
    }
    http::send(http::request(method, url, token).body(body.to_string().into())?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_are_as_documented() -> Result<()> {
    let system = TestSystem::start("contract").await?;
    let (host, anna) = (system.token("host")?, system.token("anna")?);
    let mut management = Document::fetch(&system, Name::AuctionManagement).await?;
    let mut bids = Document::fetch(&system, Name::BidProcessing).await?;
    let mut timer = Document::fetch(&system, Name::Timer).await?;
    let mut edge = Document::fetch(&system, Name::Websocket).await?;

    let auction = json!({"title": "Lamp", "description": "Brass", "duration": 600, "starting_bid": 1, "category": "light",
        "images": ["https://example.com/a.jpg"], "condition": "used", "seller_name": "Shop", "image_url": "https://example.com/b.jpg", "minimum_increment": "0.50", "video": true,
        "anti_snipe": {"mode": "extend", "window": 30, "extension": 30, "max_extensions": 5}});
    let url = system.management("/auctions");
    let create = Request { method: "POST", path: "/auctions", url: &url, token: Some(&host), body: &auction };
    let created = management.send(&create).await?;
    management.reject_variants(&create).await?;
    management.hold("POST", "/auctions", &http::post(&url, Some(&host), &json!({})).await?)?;
    management.hold("POST", "/auctions", &http::post(&url, None, &auction).await?)?;
    let id = created.json["auction_id"].as_str().context("an id")?.to_owned();
    let other = system.auction(&auction).await?;
    // An auction that waits for another has no start and no end.
    let waiting = json!({"title": "Lamp", "duration": 600, "starting_bid": 1, "follows": other, "gap": 60});
    let waiting = management.send(&Request { body: &waiting, ..create }).await?;
    let waiting = waiting.json["auction_id"].as_str().context("an id")?.to_owned();
    for path in ["", "/state", "/timer"] {
        let reply = http::get(&system.management(&format!("/auctions/{waiting}{path}")), None).await?;
        management.hold("GET", &format!("/auctions/{{id}}{path}"), &reply)?;
    }
    let mut watcher = system.socket("anna").await?;
    watcher.ask("join_auction", json!({"auction_id": id})).await?;
    watcher.ask("chat_message", json!({"auction_id": id, "message": "hello"})).await?;

    for (path, amount) in [("/bids", 5), ("/internal/bids", 6), ("/bids", 1)] {
        for token in [Some(anna.as_str()), Some(&*system.token("ben")?), Some(&host), None] {
            let bid = json!({"auction_id": id, "amount": amount});
            let url = format!("{}{path}", system.stack.url(Name::BidProcessing));
            bids.send(&Request { method: "POST", path, url: &url, token, body: &bid }).await?;
        }
        let bid = json!({"auction_id": id, "amount": amount, "bid_id": "6a1f0a9e-2f86-4b3c-9d5e-0a4f7f2f3b11"});
        let url = format!("{}{path}", system.stack.url(Name::BidProcessing));
        bids.reject_variants(&Request { method: "POST", path, url: &url, token: Some(&anna), body: &bid }).await?;
    }
    system.history(&id, system.checked_bids(&id).await?.len()).await?;
    for state in ["live", "closed"] {
        for path in ["", "/state", "/bids", "/facts", "/timer", "/stream"] {
            let template = format!("/auctions/{{id}}{path}");
            for (id, token) in
                [(id.as_str(), Some(host.as_str())), ("x", None), ("00000000-0000-4000-8000-000000000000", Some(&host))]
            {
                let reply = http::get(&system.management(&format!("/auctions/{id}{path}")), token).await?;
                management.hold("GET", &template, &reply).with_context(|| state)?;
            }
        }
        for query in ["", "?status=live", "?status=closed&limit=5&offset=0", "?limit=0"] {
            management.hold("GET", "/auctions", &http::get(&format!("{url}{query}"), None).await?)?;
            let categories = http::get(&format!("{url}/categories{query}"), None).await?;
            management.hold("GET", "/auctions/categories", &categories)?;
        }
        let reply = http::get(&format!("{}/auctions/{id}/timer", system.stack.url(Name::Timer)), None).await?;
        timer.hold("GET", "/auctions/{id}/timer", &reply)?;
        let acts = ["chat", "start", "pause", "resume", "block", "unblock", "close"].map(|act| (act, &id));
        for (act, id) in acts.into_iter().chain([("cancel", &other)]) {
            for token in [&anna, &host] {
                let body = json!({"slow_mode_seconds": 5, "user_id": "00000000-0000-4000-8000-00000000000a"});
                let reply =
                    http::post(&system.management(&format!("/auctions/{id}/{act}")), Some(token), &body).await?;
                management.hold("POST", &format!("/auctions/{{id}}/{act}"), &reply)?;
            }
        }
    }
    let chat = system.management(&format!("/auctions/{id}/chat"));
    let slow = json!({"slow_mode_seconds": 5});
    let path = "/auctions/{id}/chat";
    let slow = Request { method: "POST", path, url: &chat, token: Some(&host), body: &slow };
    management.send(&slow).await?;
    management.reject_variants(&slow).await?;
    let me = system.management("/users/me");
    management.hold("GET", "/users/me", &http::get(&me, Some(&anna)).await?)?;
    let profile = json!({"name": "A", "phone": "+49 30 123456"});
    let change = Request { method: "PUT", path: "/users/me", url: &me, token: Some(&anna), body: &profile };
    management.send(&change).await?;
    management.reject_variants(&change).await?;
    let photo = json!({"content_type": "image/png", "size": 1000});
    let uploads = system.management("/uploads");
    let upload = Request { method: "POST", path: "/uploads", url: &uploads, token: Some(&anna), body: &photo };
    management.send(&upload).await?;
    management.reject_variants(&upload).await?;
    for (document, name) in [(&mut management, Name::AuctionManagement), (&mut bids, Name::BidProcessing)] {
        for token in [Some(anna.as_str()), None] {
            document.hold("GET", "/bids", &http::get(&format!("{}/bids", system.stack.url(name)), token).await?)?;
        }
    }
    for (document, name) in [(&mut management, Name::AuctionManagement), (&mut timer, Name::Timer)] {
        document.hold("GET", "/time", &http::get(&format!("{}/time", system.stack.url(name)), None).await?)?;
    }
    for (document, name) in [
        (&mut management, Name::AuctionManagement),
        (&mut bids, Name::BidProcessing),
        (&mut timer, Name::Timer),
        (&mut edge, Name::Websocket),
    ] {
        for path in ["/health", "/ready", "/metrics", "/openapi.json"] {
            document.hold("GET", path, &http::get(&format!("{}{path}", system.stack.url(name)), None).await?)?;
        }
    }
    let polling = format!("{}/socket.io/?EIO=4&transport=polling", system.stack.url(Name::Websocket));
    edge.hold("POST", "/socket.io/", &http::post(&polling, None, &json!({})).await?)?;
    for (template, path) in [
        ("/", "/"),
        ("/ws", "/ws"),
        ("/socket.io/", "/socket.io/"),
        ("/asyncapi.json", "/asyncapi.json"),
        ("/client.js", "/client.js"),
        ("/config.json", "/config.json"),
        ("/page/{name}", "/page/main.js"),
        ("/page/views/{name}", "/page/views/lot.js"),
    ] {
        let url = format!("{}{path}?EIO=4&transport=polling", system.stack.url(Name::Websocket));
        edge.hold("GET", template, &http::get(&url, None).await?)?;
    }
    for document in [management, bids, timer, edge] {
        document.assert_complete();
    }
    system.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_are_as_documented() -> Result<()> {
    let mut system = TestSystem::start("frames-contract").await?;
    let document = http::get(&format!("{}/asyncapi.json", system.stack.url(Name::Websocket)), None).await?.json;
    let auction = json!({"title": "Lamp", "duration": 600, "starting_bid": 1});
    let (sold, cancelled) = (system.auction(&auction).await?, system.auction(&auction).await?);
    let join = json!({"auction_id": sold});

    // A token that is about to expire: the notice comes within a second or two.
    let user = identity::development::DevelopmentUser::named("anna");
    let short = system.stack.issuer.token_of(&user, 62)?;
    let mut anna = Socket::enter(system.stack.url(Name::Websocket), Transport::Plain, &short).await?;
    anna.ask("join_auction", join.clone()).await?;
    anna.event("token_expiring").await?;
    anna.ask("authenticate", json!({"token": system.token("anna")?})).await?;
    anna.ask("join_auction", json!({"auction_id": cancelled})).await?;
    let mut ben = Socket::enter(system.stack.url(Name::Websocket), Transport::SocketIo, &system.token("ben")?).await?;
    ben.ask("join_auction", json!({"auction_id": sold, "last_seq": 1})).await?;
    ben.ask("place_bid", json!({"auction_id": sold, "amount": 5})).await?;
    anna.ask("place_bid", json!({"auction_id": sold, "amount": 5})).await?;
    anna.event("bid_update").await?;
    anna.ask("place_bid", json!({"auction_id": sold, "amount": 6})).await?;
    ben.ask("place_bid", json!({"auction_id": sold, "amount": 7})).await?;
    anna.event("outbid").await?;
    anna.ask("place_bid", json!({"auction_id": "x"})).await?;
    anna.ask("chat_message", json!({"auction_id": sold, "message": "hello"})).await?;
    let said = anna.event("chat_message").await?["data"].clone();
    let mut host = system.socket("host").await?;
    host.ask("join_auction", json!({"auction_id": sold})).await?;
    host.ask("chat_delete", json!({"auction_id": sold, "message_id": said["message_id"]})).await?;
    anna.event("chat_deleted").await?;
    host.ask("chat_mute", json!({"auction_id": sold, "user_id": said["user_id"], "seconds": 60})).await?;
    anna.event("chat_muted").await?;
    drop(host);
    anna.ask("ping", json!({})).await?;
    anna.ask("dance", json!({})).await?;
    anna.event("user_joined").await?;
    drop(ben);
    anna.event("user_left").await?;
    anna.event("timer_update").await?;
    let bus = system.bus().await?;
    for (auctions, event) in [(vec![sold.parse()?], "stream_started"), (Vec::new(), "stream_ended")] {
        let message = serde_json::to_vec(&protocol::OnAir { auctions, valid_for_ms: 60_000 })?;
        bus.client.publish(protocol::subject::VIDEO_ON_AIR, message.into()).await?;
        anna.event(event).await?;
    }
    for (id, act, event) in [
        (&sold, "pause", "auction_paused"),
        (&sold, "resume", "auction_resumed"),
        (&sold, "close", "auction_ended"),
        (&cancelled, "cancel", "auction_cancelled"),
    ] {
        http::post(&system.management(&format!("/auctions/{id}/{act}")), Some(&system.token("host")?), &json!({}))
            .await?;
        anna.event(event).await?;
    }
    anna.ask("leave_auction", join).await?;
    // Another edge publishes a count without names.
    let count = json!({"edge": "another", "participant_count": 7});
    let subject = protocol::subject::presence(cancelled.parse()?);
    bus.client.publish(subject, count.to_string().into()).await?;
    anna.event("presence_update").await?;
    system.stack.restart_instance(Name::Websocket, 0).await?;
    anna.event("server_draining").await?;
    assert_eq!(anna.closed().await?, 1012);

    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for frame in &anna.seen {
        let event = frame["event"].as_str().context("an event")?;
        let payload = &document["components"]["messages"][format!("server.{event}")]["payload"];
        ensure!(payload.is_object(), "{event} is not in the document");
        matches(&document, payload, frame).with_context(|| event.to_owned())?;
        *seen.entry(event).or_default() += 1;
    }
    let messages = document["components"]["messages"].as_object().context("messages")?;
    let described: BTreeSet<&str> = messages.keys().filter_map(|name| name.strip_prefix("server.")).collect();
    let unseen: Vec<&&str> = described.iter().filter(|event| !seen.contains_key(**event)).collect();
    // Without `starts_at` an auction is live before a client can join it.
    assert_eq!(unseen, [&"auction_started"], "each event is seen for real");
    system.end().await;
    Ok(())
}

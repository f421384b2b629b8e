//! Aliases in place of names: the names of bidders and watchers are in nothing that anyone but the host receives.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use domain::Head;
use flash::stack::Name;
use identity::development::DevelopmentUser;
use protocol::alias;
use serde_json::{Value, json};
use testkit::http::{self, Reply};
use testkit::socket::{Socket, Transport};

use crate::test_system::TestSystem;

/// Names that appear by chance nowhere else: two bidders, a bidder that does not join, a guest who comes and goes.
const ADA: &str = "Quoxwimble";
const BEA: &str = "Zyrthnabble";
const CAL: &str = "Vombatterly";
const GUEST: &str = "Plimsnackle";
const HIDDEN: [&str; 4] = [ADA, BEA, CAL, GUEST];
const HOST: &str = "Hostwaggle";

/// The fields that name a person beside the id.
const NAMED: [(&str, &str); 3] =
    [("user_id", "username"), ("high_bidder_id", "high_bidder_username"), ("winner_id", "winner_username")];

async fn watcher(system: &TestSystem) -> Result<Socket> {
    let edge = system.stack.url(Name::Websocket).replacen("http", "ws", 1);
    let mut socket = Socket::connect(&format!("{edge}/ws")).await?;
    socket.send_raw(&json!({"event": "authenticate", "data": {}}).to_string()).await?;
    socket.event("connected").await?;
    Ok(socket)
}

async fn person(system: &TestSystem, transport: Transport, name: &str) -> Result<Socket> {
    Socket::enter(system.stack.url(Name::Websocket), transport, &system.token(name)?).await
}

async fn bid(socket: &mut Socket, id: &str, amount: u64) -> Result<()> {
    let answer = socket.ask("place_bid", json!({"auction_id": id, "amount": amount})).await?;
    ensure!(answer["data"]["status"] == "accepted", "{answer}");
    Ok(())
}

/// Adds every name that `value` shows of this person.
fn names_of(value: &Value, person: &str, names: &mut BTreeSet<String>) {
    for (id, name) in NAMED {
        if value[id] == person
            && let Some(name) = value[name].as_str()
        {
            names.insert(name.to_owned());
        }
    }
    let fields = value.as_object().into_iter().flat_map(|fields| fields.values());
    fields.chain(value.as_array().into_iter().flatten()).for_each(|part| names_of(part, person, names));
}

/// The frames and answers that one viewer has received.
struct Received {
    viewer: &'static str,
    values: Vec<Value>,
}

impl Received {
    /// The names under which the person with this name was shown.
    fn names(&self, person: &str) -> BTreeSet<String> {
        let (id, mut names) = (DevelopmentUser::named(person).user_id.to_string(), BTreeSet::new());
        self.values.iter().for_each(|value| names_of(value, &id, &mut names));
        names
    }

    /// Takes the frames of a socket. `connected` has the person's own name.
    fn take(&mut self, socket: &Socket) {
        self.values.extend(socket.seen.iter().filter(|frame| frame["event"] != "connected").cloned());
    }
}

/// Reads everything that shows an auction, at the service and through the edge.
async fn read(system: &TestSystem, id: &str, received: &mut Received, name: Option<&str>) -> Result<()> {
    let token = name.map(|name| system.token(name)).transpose()?;
    let one = format!("/auctions/{id}");
    let mut paths: Vec<String> = ["", "/state", "/bids", "/timer"].map(|part| format!("{one}{part}")).into();
    paths.push("/auctions?limit=100".to_owned());
    paths.extend(name.map(|_| "/bids".to_owned()));
    for path in paths {
        for url in [system.management(&path), format!("{}/api{path}", system.stack.url(Name::Websocket))] {
            let reply = http::get(&url, token.as_deref()).await?;
            ensure!(reply.status == 200, "{url}: {} {}", reply.status, reply.text);
            ensure!(reply.headers["cache-control"] == "no-store", "{url}: {:?}", reply.headers);
            received.values.push(reply.json);
        }
    }
    Ok(())
}

async fn facts(system: &TestSystem, id: &str, name: Option<&str>) -> Result<Reply> {
    let token = name.map(|name| system.token(name)).transpose()?;
    http::get(&system.management(&format!("/auctions/{id}/facts")), token.as_deref()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_host_receives_the_names_of_others() -> Result<()> {
    let settings = vec![("SHOW_ALIASES".to_owned(), "true".to_owned())];
    let system = TestSystem::with("aliases", settings, false).await?;
    let lot = json!({"title": "Lamp", "duration": 600, "starting_bid": 1, "video": false});
    let create = async || {
        let auction = system.create(HOST, &lot).await?;
        Ok::<_, anyhow::Error>(auction["auction_id"].as_str().context("an id")?.to_owned())
    };
    let (id, other) = (create().await?, create().await?);
    let join = json!({"auction_id": id});

    let (mut host, mut anyone) = (person(&system, Transport::Plain, HOST).await?, watcher(&system).await?);
    let mut ada = person(&system, Transport::Plain, ADA).await?;
    let mut bea = person(&system, Transport::SocketIo, BEA).await?;
    let mut cal = person(&system, Transport::Plain, CAL).await?;
    for socket in [&mut host, &mut anyone, &mut ada, &mut bea] {
        let joined = socket.ask("join_auction", join.clone()).await?;
        ensure!(joined["data"]["auction_id"] == id, "{joined}");
    }
    let mut guest = person(&system, Transport::Plain, GUEST).await?;
    guest.ask("join_auction", join.clone()).await?;
    anyone.until(|frame| frame["event"] == "user_joined" && frame["data"]["user_id"] == id_of(GUEST)).await?;

    for (socket, message) in [(&mut ada, "Hello"), (&mut host, "Welcome")] {
        socket.ask("chat_message", json!({"auction_id": id, "message": message})).await?;
    }
    for socket in [&mut host, &mut anyone, &mut ada, &mut bea] {
        for message in ["Hello", "Welcome"] {
            socket.until(|frame| frame["event"] == "chat_message" && frame["data"]["message"] == message).await?;
        }
    }
    bid(&mut ada, &id, 5).await?;
    bid(&mut cal, &id, 7).await?;
    bid(&mut bea, &id, 9).await?;
    for socket in [&mut ada, &mut cal] {
        socket.event("outbid").await?;
    }
    bid(&mut ada, &other, 5).await?;
    let leader = |name: &'static str| {
        move |frame: &Value| frame["event"] == "bid_update" && frame["data"]["high_bidder_id"] == id_of(name)
    };
    let updates = [host.until(leader(BEA)).await?, anyone.until(leader(BEA)).await?, bea.until(leader(BEA)).await?];
    assert_eq!(updates.map(|update| update["data"]["you_are_winning"].clone()), [false, false, true]);
    let mut late = watcher(&system).await?;
    let joined = late.ask("join_auction", json!({"auction_id": id, "last_seq": 2})).await?;
    assert_eq!(joined["data"]["missed_bids"].as_array().map(Vec::len), Some(3), "{joined}");
    drop(guest);
    for socket in [&mut host, &mut anyone] {
        socket.until(|frame| frame["event"] == "user_left" && frame["data"]["user_id"] == id_of(GUEST)).await?;
    }

    // Over HTTP, while it runs and once it is over.
    let mut viewers =
        [("host", Some(HOST)), ("anyone", None), ("ada", Some(ADA)), ("bea", Some(BEA)), ("cal", Some(CAL))]
            .map(|(viewer, name)| (Received { viewer, values: Vec::new() }, name));
    system.history(&id, 3).await?;
    for (received, name) in &mut viewers {
        read(&system, &id, received, *name).await?;
    }
    let close = system.management(&format!("/auctions/{id}/close"));
    assert_eq!(http::post(&close, Some(&system.token(HOST)?), &json!({})).await?.status, 200);
    for socket in [&mut host, &mut anyone, &mut late, &mut ada, &mut bea, &mut cal] {
        let ended = socket.event("auction_ended").await?;
        assert_eq!(ended["data"]["winner_id"], id_of(BEA), "{ended}");
    }
    system.closed_row(&id).await?;
    for (received, name) in &mut viewers {
        read(&system, &id, received, *name).await?;
    }
    let [(to_host, _), (to_anyone, _), (to_ada, _), (to_bea, _), (to_cal, _)] = &mut viewers;
    to_host.take(&host);
    to_anyone.take(&anyone);
    to_anyone.take(&late);
    to_ada.take(&ada);
    to_bea.take(&bea);
    to_cal.take(&cal);

    // Everyone but the host is shown one alias of each person in the auction, and no name but the host's.
    let alias_in =
        |id: &str, name: &str| Ok::<_, anyhow::Error>(alias(id.parse()?, DevelopmentUser::named(name).user_id));
    let others: Vec<&Received> = viewers[1..].iter().map(|(received, _)| received).collect();
    for received in &others {
        for value in &received.values {
            let text = value.to_string();
            ensure!(!HIDDEN.iter().any(|name| text.contains(name)), "to {}: {text}", received.viewer);
        }
        for name in [ADA, BEA, CAL] {
            let mut expected = BTreeSet::from([alias_in(&id, name)?]);
            // The list has the other auction, whose leader has another alias there.
            expected.extend((name == ADA).then(|| alias_in(&other, name)).transpose()?);
            assert_eq!(received.names(name), expected, "{name} to {}", received.viewer);
        }
    }
    ensure!(alias_in(&id, ADA)? != alias_in(&other, ADA)?);
    assert_eq!(others[0].names(GUEST), BTreeSet::from([alias_in(&id, GUEST)?]));
    assert_eq!(others[0].names(HOST), BTreeSet::from([HOST.to_owned()]), "the host's messages");
    let to_host = &viewers[0].0;
    for name in HIDDEN {
        let names = to_host.names(name);
        ensure!(!names.is_empty() && names.iter().all(|shown| shown.contains(name)), "{name}: {names:?}");
    }
    let host_saw = to_host.values.iter().map(Value::to_string).collect::<String>();
    ensure!(!host_saw.contains("Bidder "), "an alias to the host");

    // The facts have names, and form a chain for the host alone.
    for name in [None, Some(ADA), Some(BEA)] {
        let refused = facts(&system, &id, name).await?;
        assert_eq!((refused.status, &refused.json["code"]), (403, &json!("not_host")), "{}", refused.text);
    }
    let config = http::get(&format!("{}/config.json", system.stack.url(Name::Websocket)), None).await?;
    assert_eq!(config.json["features"], json!(["max_amount", "pause"]), "the page offers no facts");
    let page = facts(&system, &id, Some(HOST)).await?;
    ensure!(page.status == 200 && page.text.contains(ADA) && page.text.contains(BEA), "{}", page.text);
    let mut head = Head::GENESIS;
    for fact in page.json["facts"].as_array().context("facts")? {
        head = head.next(fact["text"].as_str().with_context(|| fact.to_string())?);
        assert_eq!(fact["head"], head.to_string(), "{fact}");
    }
    let forged = http::get(&system.management(&format!("/auctions/{id}")), Some("x.y.z")).await?;
    assert_eq!((forged.status, &forged.json["code"]), (401, &json!("unauthenticated")), "{}", forged.text);
    system.end().await;
    Ok(())
}

fn id_of(name: &str) -> String {
    DevelopmentUser::named(name).user_id.to_string()
}

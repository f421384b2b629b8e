//! `outbid`, and the end of an auction, at the sockets of people who have bid, whether or not they have joined.

use anyhow::{Context, Result, ensure};
use flash::stack::Name;
use serde_json::{Value, json};
use testkit::socket::{Socket, Transport};
use testkit::{eventually, http};

use crate::socketio::{node_at, reported};
use crate::test_system::TestSystem;

fn lot() -> Value {
    json!({"title": "Lamp", "duration": 600, "starting_bid": 1, "video": false})
}

async fn socket(system: &TestSystem, transport: Transport, name: &str) -> Result<Socket> {
    Socket::enter(system.stack.url(Name::Websocket), transport, &system.token(name)?).await
}

/// Places a bid that must be accepted; returns its seq.
async fn bid(socket: &mut Socket, id: &str, amount: u64) -> Result<u64> {
    let answer = socket.ask("place_bid", json!({"auction_id": id, "amount": amount})).await?;
    ensure!(answer["data"]["status"] == "accepted", "{answer}");
    answer["data"]["seq"].as_u64().context("seq")
}

/// The frames of this event that have arrived, after a round trip.
async fn count(socket: &mut Socket, event: &str) -> Result<usize> {
    socket.ask("ping", json!({})).await?;
    Ok(socket.seen.iter().filter(|frame| frame["event"] == event).count())
}

async fn close(system: &TestSystem, id: &str) -> Result<()> {
    let url = system.management(&format!("/auctions/{id}/close"));
    let closed = http::post(&url, Some(&system.token("host")?), &json!({})).await?;
    ensure!(closed.status == 200, "{}", closed.text);
    Ok(())
}

/// The number of auctions that the edge follows without a room.
async fn followed(system: &TestSystem) -> Result<u64> {
    Ok(system.metric(Name::Websocket, "flash_followed_auctions").await?[0])
}

async fn wait_until_followed(system: &TestSystem, auctions: u64) -> Result<()> {
    let what = format!("{auctions} auctions are followed");
    eventually(&what, async || Ok((followed(system).await? == auctions).then_some(()))).await
}

/// No bidder joins: each socket of the overtaken person is notified once, over both transports, and of the end; others
/// are not. The end reaches a socket that has joined once as well.
#[tokio::test(flavor = "multi_thread")]
async fn overtaken_person_is_notified_on_every_socket_without_joining() -> Result<()> {
    let system = TestSystem::start("outbid").await?;
    let id = system.auction(&lot()).await?;
    let mut phone = socket(&system, Transport::Plain, "anna").await?;
    let mut laptop = socket(&system, Transport::SocketIo, "anna").await?;
    let mut ben = socket(&system, Transport::SocketIo, "ben").await?;
    let mut stranger = socket(&system, Transport::Plain, "stranger").await?;
    bid(&mut phone, &id, 5).await?;
    let seq = bid(&mut ben, &id, 7).await?;
    for socket in [&mut phone, &mut laptop] {
        let outbid = socket.event("outbid").await?["data"].clone();
        let expected = json!({"auction_id": id, "seq": seq, "your_bid": 5.0, "high_bid": 7.0, "minimum_bid": 8.0});
        assert_eq!(outbid, expected);
    }
    assert_eq!(followed(&system).await?, 1, "the auction has no room");

    // One socket of the winner joins; a loser's bid comes through another door than the edge.
    assert_eq!(system.bid("cleo", &id, &json!(9)).await?.status, 200);
    assert_eq!(ben.event("outbid").await?["data"]["your_bid"], 7.0);
    phone.ask("join_auction", json!({"auction_id": id})).await?;
    wait_until_followed(&system, 0).await?;
    bid(&mut laptop, &id, 12).await?;
    phone.until(|frame| frame["event"] == "bid_update" && frame["data"]["high_bid"] == 12.0).await?;
    close(&system, &id).await?;
    for (socket, won) in [(&mut phone, true), (&mut laptop, true), (&mut ben, false)] {
        let ended = socket.event("auction_ended").await?["data"].clone();
        assert_eq!((&ended["auction_id"], &ended["you_won"]), (&json!(id), &json!(won)));
        assert_eq!((count(socket, "auction_ended").await?, count(socket, "outbid").await?), (1, 1));
    }
    for event in ["outbid", "auction_ended"] {
        assert_eq!(count(&mut stranger, event).await?, 0, "a person who has not bid got {event}");
    }
    system.end().await;
    Ok(())
}

/// An overtaken member is notified before the update that the rate holds back, and after it has left the room as well.
#[tokio::test(flavor = "multi_thread")]
async fn outbid_does_not_wait_for_the_next_update() -> Result<()> {
    let system = TestSystem::start("outbid-at-once").await?;
    let id = system.auction(&lot()).await?;
    let mut anna = socket(&system, Transport::Plain, "anna").await?;
    let mut ben = socket(&system, Transport::Plain, "ben").await?;
    anna.ask("join_auction", json!({"auction_id": id})).await?;
    for turn in 0..10 {
        bid(&mut anna, &id, 5 + 2 * turn).await?;
        let seq = bid(&mut ben, &id, 6 + 2 * turn).await?;
        let shows = |frame: &Value| frame["event"] == "bid_update" && frame["data"]["seq"].as_u64() >= Some(seq);
        anna.until(shows).await?;
        let position = |fits: &dyn Fn(&Value) -> bool| anna.seen.iter().position(fits);
        let told = position(&|frame| frame["event"] == "outbid" && frame["data"]["seq"] == seq).context("outbid")?;
        assert!(told < position(&shows).context("an update")?, "the update came first");
    }
    bid(&mut anna, &id, 100).await?;
    anna.ask("leave_auction", json!({"auction_id": id})).await?;
    let seq = bid(&mut ben, &id, 101).await?;
    anna.until(|frame| frame["event"] == "outbid" && frame["data"]["seq"] == seq).await?;
    assert_eq!(count(&mut anna, "outbid").await?, 11);
    system.end().await;
    Ok(())
}

/// A bid that was placed before the person had a socket is learned from the history at the sign-in. An auction that has
/// ended is not followed.
#[tokio::test(flavor = "multi_thread")]
async fn bids_from_before_the_sign_in_are_learned() -> Result<()> {
    let system = TestSystem::start("outbid-sign-in").await?;
    let (id, over) = (system.auction(&lot()).await?, system.auction(&lot()).await?);
    for auction in [&id, &over] {
        assert_eq!(system.bid("anna", auction, &json!(5)).await?.status, 200);
        system.history(auction, 1).await?;
    }
    close(&system, &over).await?;
    system.closed_row(&over).await?;
    let mut anna = socket(&system, Transport::Plain, "anna").await?;
    wait_until_followed(&system, 1).await?;
    assert_eq!(system.bid("ben", &id, &json!(6)).await?.status, 200);
    let outbid = anna.event("outbid").await?["data"].clone();
    assert_eq!((&outbid["auction_id"], &outbid["your_bid"]), (&json!(id), &json!(5.0)));
    close(&system, &id).await?;
    assert_eq!(anna.event("auction_ended").await?["data"]["you_won"], false);
    wait_until_followed(&system, 0).await?;
    system.end().await;
    Ok(())
}

/// A person with a socket on each of two edges bids through one; the socket on the other is notified as well. So is a
/// person who comes back on the other edge.
#[tokio::test(flavor = "multi_thread")]
async fn person_is_notified_on_every_edge() -> Result<()> {
    let mut system = TestSystem::start("outbid-edges").await?;
    system.stack.add_instance(Name::Websocket).await?;
    let edges: Vec<String> = system.stack.urls(Name::Websocket).into_iter().map(str::to_owned).collect();
    let id = system.auction(&lot()).await?;
    let mut phone = system.socket_at(&edges[0], "anna").await?;
    let mut laptop = system.socket_at(&edges[1], "anna").await?;
    let mut ben = system.socket_at(&edges[0], "ben").await?;
    bid(&mut phone, &id, 5).await?;
    let seq = bid(&mut ben, &id, 6).await?;
    for socket in [&mut phone, &mut laptop] {
        let outbid = socket.event("outbid").await?["data"].clone();
        assert_eq!((&outbid["seq"], &outbid["your_bid"]), (&json!(seq), &json!(5.0)));
    }
    drop(ben);
    let mut ben = system.socket_at(&edges[1], "ben").await?;
    bid(&mut phone, &id, 7).await?;
    assert_eq!(ben.event("outbid").await?["data"]["your_bid"], 6.0);
    close(&system, &id).await?;
    for (socket, won) in [(&mut phone, true), (&mut laptop, true), (&mut ben, false)] {
        assert_eq!(socket.event("auction_ended").await?["data"]["you_won"], won);
    }
    system.end().await;
    Ok(())
}

/// A server that is played by the script.
const PLAYED: &str = "(async () => {
  const { connect } = await import('data:text/javascript,' + encodeURIComponent(process.env.SOURCE));
  let socket;
  class Played {
    constructor() { socket = this; setTimeout(() => this.onopen(), 1); }
    say(event, data, id) { this.onmessage?.({ data: JSON.stringify({ event, data, id }) }); }
    close() {}
    send(text) {
      const { event, id } = JSON.parse(text);
      if (event === 'authenticate') this.say('connected', { server_time: Date.now() });
      if (event !== 'join_auction') return;
      this.say('joined_auction', { auction_id: 'a', status: 'live', seq: 8, current_high_bid: 3, end_time: 1 }, id);
    }
  }
  const client = connect({ token: () => 'token', url: 'ws://played', WebSocket: Played });
  const lot = client.join('a'), seen = [];
  await new Promise((resolve) => lot.on('joined_auction', resolve));
  client.on('outbid', (data) => seen.push(['client', data.auction_id, data.seq]));
  lot.on('outbid', (data) => seen.push(['lot', data.auction_id, data.seq]));
  for (const event of ['auction_ended', 'auction_cancelled', 'bid_update']) {
    client.on(event, (data) => seen.push([event, data.auction_id, data.seq]));
  }
  socket.say('outbid', { auction_id: 'a', seq: 7, your_bid: 2, high_bid: 3, minimum_bid: 4 });
  socket.say('outbid', { auction_id: 'a', seq: 9, your_bid: 3, high_bid: 4, minimum_bid: 5 });
  socket.say('outbid', { auction_id: 'b', seq: 2, your_bid: 3, high_bid: 4, minimum_bid: 5 });
  socket.say('auction_ended', { auction_id: 'b', seq: 3, you_won: false });
  socket.say('auction_cancelled', { auction_id: 'c', seq: 4 });
  socket.say('bid_update', { auction_id: 'c', seq: 3 });
  report('state', { seq: lot.state.seq, high_bid: lot.state.high_bid ?? null });
  socket.say('auction_ended', { auction_id: 'a', seq: 10, you_won: false });
  report('seen', seen);
  process.exit(0);
})().catch((error) => { report('failed', String(error.stack)); process.exit(1); });";

#[tokio::test]
async fn client_module_passes_on_what_concerns_the_person() -> Result<()> {
    let source = include_str!("../../../websocket/src/client.js").to_owned();
    let lines = node_at(String::new(), PLAYED, &[("SOURCE", source)]).await?;
    assert_eq!(reported(&lines, "state")?, &json!({"seq": 8, "high_bid": null}), "an outbid is no state of the lot");
    let expected = json!([
        ["lot", "a", 9],
        ["client", "a", 9],
        ["client", "b", 2],
        ["auction_ended", "b", 3],
        ["auction_cancelled", "c", 4],
    ]);
    assert_eq!(reported(&lines, "seen")?, &expected);
    Ok(())
}

//! The order and the delay of a bid's two messages: the bidder's own answer leaves before the broadcast, and the
//! broadcast leaves at once if the room was quiet.

use std::time::Duration;

use anyhow::{Context, Result};
use flash::stack::Name;
use serde_json::{Value, json};
use testkit::crowd;
use testkit::socket::{Socket, Transport};
use tokio::time::Instant;

use crate::test_system::TestSystem;

/// Watchers of the large room: a broadcast to all of them takes some milliseconds.
const WATCHERS: usize = 300;
/// Pause before a bid, so that its update is not delayed by the one before. Twice the interval of updates.
const QUIET: Duration = Duration::from_millis(100);
const BIDS: u64 = 16;
/// Half the interval of updates.
const AT_ONCE: Duration = Duration::from_millis(25);

/// Waits for the update that shows a bid. Returns whether the bid's answer was received before it.
async fn answer_was_first(socket: &mut Socket, answer: &Value) -> Result<bool> {
    let seq = answer["data"]["seq"].as_u64().context("an accepted bid")?;
    let shows = |frame: &Value| frame["event"] == "bid_update" && frame["data"]["seq"].as_u64() >= Some(seq);
    socket.until(shows).await?;
    let position = |fits: &dyn Fn(&Value) -> bool| socket.seen.iter().position(fits);
    let answered = position(&|frame| frame["id"] == answer["id"]).context("the answer")?;
    Ok(position(&shows).context("the update")? > answered)
}

/// In a room of 300, over both transports: nearly all answers come before the update that shows the bid. An answer that
/// takes longer than the room waits may come behind it.
#[tokio::test(flavor = "multi_thread")]
async fn own_answer_arrives_before_the_broadcast_in_a_large_room() -> Result<()> {
    let system = TestSystem::start("answers-first").await?;
    let edge = system.stack.url(Name::Websocket);
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1, "video": false})).await?;
    let tokens = (0..WATCHERS).map(|nth| system.token(&format!("watcher-{nth}"))).collect::<Result<Vec<_>>>()?;
    let watchers = crowd::enter(edge, Transport::Plain, &tokens, &id).await?;
    let mut amount = 0;
    for transport in Transport::ALL {
        let mut people = Vec::new();
        for name in ["anna", "ben"] {
            let mut socket = Socket::enter(edge, transport, &system.token(name)?).await?;
            socket.ask("join_auction", json!({"auction_id": id})).await?;
            people.push(socket);
        }
        let mut first = 0;
        for nth in 0..BIDS {
            tokio::time::sleep(QUIET).await;
            amount += 1;
            let socket = &mut people[usize::from(nth % 2 == 1)];
            let answer = socket.ask("place_bid", json!({"auction_id": id, "amount": amount})).await?;
            assert_eq!(answer["data"]["status"], "accepted", "{answer}");
            first += u64::from(answer_was_first(socket, &answer).await?);
        }
        assert!(first * 4 >= BIDS * 3, "over {} {first} of {BIDS} answers came first", transport.name());
    }
    drop(watchers);
    system.end().await;
    Ok(())
}

/// After a quiet time an update is not held back for the rate: it comes with the answer.
#[tokio::test(flavor = "multi_thread")]
async fn update_after_a_quiet_time_is_sent_at_once() -> Result<()> {
    let system = TestSystem::start("first-update").await?;
    let id = system.auction(&json!({"title": "Lamp", "duration": 600, "starting_bid": 1, "video": false})).await?;
    let mut watcher = system.socket("watcher").await?;
    watcher.ask("join_auction", json!({"auction_id": id})).await?;
    let mut people = [system.socket("anna").await?, system.socket("ben").await?];
    let mut delays = Vec::new();
    for nth in 0..BIDS {
        tokio::time::sleep(QUIET).await;
        let socket = &mut people[usize::from(nth % 2 == 1)];
        let answer = socket.ask("place_bid", json!({"auction_id": id, "amount": nth + 1})).await?;
        let (answered, seq) = (Instant::now(), answer["data"]["seq"].as_u64().context("an accepted bid")?);
        let update = watcher.event("bid_update").await?;
        assert_eq!(update["data"]["seq"].as_u64(), Some(seq), "each bid has its own update");
        delays.push(answered.elapsed());
    }
    delays.sort_unstable();
    assert!(delays[delays.len() / 2] < AT_ONCE, "{delays:?}");
    system.end().await;
    Ok(())
}

//! Closings that come late, as after an outage: the end of an auction is set back by hand, in Redis and in the model.

use domain::{Acted, AntiSnipeMode, Auction, CloseReason, HostAct, LATE_CLOSING_MS, MAX_RECOVERIES, Millis, Status};
use fastrand::Rng;
use hotstate::{Closed, Hotstate};
use protocol::CreateRequest;
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;

use crate::model::HOST;
use crate::{Fixture, request, user};

/// Least time for late bids of an auction that is given more time: far more than a test takes.
const AMPLE_MS: u64 = 600_000;

/// Sets the end back to `ago_ms` before the latest fact.
async fn set_end_back(connection: &mut MultiplexedConnection, model: &mut Auction, ago_ms: u64) {
    model.end_time = Millis(model.last_now().0 - ago_ms);
    let key = format!("auction:{{{}}}:state", model.auction_id);
    connection.hset::<_, _, _, ()>(&key, "end_time", model.end_time.0).await.expect("a reply");
}

/// Asks for a closing, and compares the reply and the new end with the model. The model's time is that of Redis.
async fn close(hotstate: &Hotstate, connection: &mut MultiplexedConnection, model: &mut Auction) -> Closed {
    let reply = hotstate.close(model.auction_id, None).await.expect("a reply").expect("a state");
    let key = format!("auction:{{{}}}:state", model.auction_id);
    let (now, end): (u64, u64) = connection.hmget(&key, &["last_now", "end_time"]).await.expect("times");
    let (recovered, closed) = (model.recover(Millis(now)), model.close(CloseReason::Ended, None, Millis(now)));
    assert_eq!((reply.mark().seq, reply.mark().head), (model.seq, model.head), "{reply:?}");
    assert_eq!((matches!(reply, Closed::Resumed(_)), matches!(reply, Closed::Closed(_))), (recovered, closed));
    assert_eq!(end, model.end_time.0);
    reply
}

/// Lets the auction miss its closing, if it is then given ample time. Whether it was.
pub async fn play(
    hotstate: &Hotstate,
    connection: &mut MultiplexedConnection,
    model: &mut Auction,
    random: &mut Rng,
) -> bool {
    let ample = model.rules.anti_snipe.late_ms() >= AMPLE_MS && model.recoveries < MAX_RECOVERIES;
    if !ample || model.status != Status::Live || model.is_bought() {
        return false;
    }
    set_end_back(connection, model, LATE_CLOSING_MS + random.u64(1..10_000)).await;
    matches!(close(hotstate, connection, model).await, Closed::Resumed(_))
}

async fn opened(fixture: &Fixture, number: u128, anti_snipe_mode: AntiSnipeMode) -> (MultiplexedConnection, Auction) {
    let request = CreateRequest {
        anti_snipe_mode,
        anti_snipe_window_ms: 30_000,
        anti_snipe_extension_ms: 20_000,
        anti_snipe_max_extensions: 1,
        ..request(number)
    };
    let hotstate = &fixture.hotstate;
    hotstate.create(&request).await.expect("created");
    hotstate.open(request.auction_id).await.expect("opened");
    let state = hotstate.view(request.auction_id).await.expect("a reply").expect("a state").committed.state;
    let times = (Millis(state.starts_at), Millis(state.created_at));
    let mut model = Auction::create(request.auction_id, request.rules(), times.0, times.1);
    assert!(model.open(Millis(state.end_time - state.duration_ms)));
    (fixture.connection.clone(), model)
}

#[tokio::test]
async fn late_closing_gives_as_much_time_as_late_bids_have() {
    let fixture = Fixture::start("outages").await;
    for (number, mode, late_ms) in [(1, AntiSnipeMode::Extend, 30_000), (2, AntiSnipeMode::Reset, 20_000)] {
        let (mut connection, mut model) = opened(&fixture, number, mode).await;
        for recoveries in 1..=MAX_RECOVERIES {
            set_end_back(&mut connection, &mut model, LATE_CLOSING_MS + 1_000).await;
            let reply = close(&fixture.hotstate, &mut connection, &mut model).await;
            assert!(matches!(reply, Closed::Resumed(_)), "{reply:?}");
            assert_eq!(model.end_time, model.last_now().plus(late_ms));
            let early = close(&fixture.hotstate, &mut connection, &mut model).await;
            assert!(matches!(early, Closed::Early(_)), "{early:?}");
            let state =
                fixture.hotstate.view(model.auction_id).await.expect("a reply").expect("a state").committed.state;
            // It is no extension: the most of them is 1.
            assert_eq!((state.recoveries, state.extension_count), (recoveries, 0));
        }
        set_end_back(&mut connection, &mut model, LATE_CLOSING_MS + 1_000).await;
        let reply = close(&fixture.hotstate, &mut connection, &mut model).await;
        assert!(matches!(reply, Closed::Closed(_)), "an auction ends after {MAX_RECOVERIES} outages: {reply:?}");
    }
}

#[tokio::test]
async fn auction_with_a_fixed_end_and_its_host_close_late() {
    let fixture = Fixture::start("outages-closed").await;
    let (mut connection, mut model) = opened(&fixture, 1, AntiSnipeMode::Off).await;
    set_end_back(&mut connection, &mut model, LATE_CLOSING_MS + 1_000).await;
    let reply = close(&fixture.hotstate, &mut connection, &mut model).await;
    assert!(matches!(reply, Closed::Closed(_)), "{reply:?}");

    let (mut connection, mut model) = opened(&fixture, 2, AntiSnipeMode::Extend).await;
    set_end_back(&mut connection, &mut model, LATE_CLOSING_MS + 1_000).await;
    let reply = fixture.hotstate.close(model.auction_id, Some(user(HOST))).await.expect("a reply").expect("a state");
    assert!(matches!(reply, Closed::Closed(_)), "the host ends it: {reply:?}");

    // A pause stops the time: its end is not missed.
    let (_, model) = opened(&fixture, 3, AntiSnipeMode::Extend).await;
    let paused = fixture.hotstate.act(model.auction_id, HostAct::Pause, user(HOST)).await.expect("a reply");
    assert_eq!(paused.expect("a state").acted, Acted::Done);
    let reply = fixture.hotstate.close(model.auction_id, None).await.expect("a reply").expect("a state");
    assert!(matches!(reply, Closed::NotLive(_)), "{reply:?}");
}

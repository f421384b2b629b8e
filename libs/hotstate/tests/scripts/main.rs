//! The scripts on a real Redis: what they write, that they agree with their model in `domain`, and that they continue
//! what an earlier version wrote.

mod model;
mod outages;
mod prebids;
mod random;
mod restore;
mod stored;
mod talk;

use domain::{Amount, AuctionId, BidRequest, UserId};
use hotstate::{Closed, Created, Hotstate, Opened};
use protocol::{CreateRequest, Person};
use testkit::Redis;
use testkit::scratch::{Scratch, programs};
use uuid::Uuid;

pub struct Fixture {
    pub hotstate: Hotstate,
    pub connection: redis::aio::MultiplexedConnection,
    // Dropped first: Redis ends before its data is removed.
    redis: Option<Redis>,
    scratch: Scratch,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.redis = None;
        if !std::thread::panicking() {
            self.scratch.remove();
        }
    }
}

impl Fixture {
    pub async fn start(test: &str) -> Self {
        let scratch = Scratch::new(test).expect("a directory");
        let redis = Redis::alone(&programs().expect("programs"), scratch.path()).await.expect("Redis");
        let hotstate = Hotstate::connect(&hotstate::Settings { urls: redis.url.clone(), ca_file: None })
            .await
            .expect("a connection");
        let client = redis::Client::open(redis.url.as_str()).expect("an address");
        let connection = client.get_multiplexed_async_connection().await.expect("a connection");
        Self { hotstate, connection, redis: Some(redis), scratch }
    }
}

pub fn user(number: u128) -> UserId {
    UserId::from_uuid(Uuid::from_u128(number))
}

/// Ten minutes from 10.00 in steps of 1.00, every bid a late one, two extensions at most.
pub fn request(auction: u128) -> CreateRequest {
    CreateRequest {
        auction_id: AuctionId::from_uuid(Uuid::from_u128(auction)),
        host: Person { user_id: user(1), username: "host".to_owned() },
        starting_bid: Amount::from_cents(1_000).expect("an amount"),
        increment: Amount::from_cents(100).expect("an amount"),
        options: protocol::Options::default(),
        reserve: None,
        sealed_reserve: None,
        duration_ms: 600_000,
        anti_snipe_mode: domain::AntiSnipeMode::Extend,
        anti_snipe_window_ms: 10_000_000,
        anti_snipe_extension_ms: 1_000,
        anti_snipe_max_extensions: 2,
        starts_at: None,
        valid_until: u64::MAX / 2,
    }
}

#[tokio::test]
async fn creation_is_repeatable_and_expires() {
    let fixture = Fixture::start("creation").await;
    let late = CreateRequest { valid_until: 1, ..request(1) };
    assert_eq!(fixture.hotstate.create(&late).await.expect("a reply"), Created::Late);
    assert!(fixture.hotstate.view(late.auction_id).await.expect("a reply").is_none());

    let Created::Created(first) = fixture.hotstate.create(&request(1)).await.expect("a reply") else {
        panic!("not created")
    };
    let again = CreateRequest { starting_bid: Amount::from_cents(5).expect("an amount"), ..request(1) };
    assert_eq!(fixture.hotstate.create(&again).await.expect("a reply"), Created::Exists(first));
    let view = fixture.hotstate.view(again.auction_id).await.expect("a reply").expect("a state");
    assert_eq!(view.committed.state.starting_bid.cents(), 1_000);
}

/// The fields without which the first version of the scripts fails before it writes: see `prelude.lua`.
#[tokio::test]
async fn only_a_plain_auction_has_the_fields_of_the_first_version() {
    use domain::HostAct;

    let fixture = Fixture::start("fields").await;
    let (hotstate, mut connection) = (&fixture.hotstate, fixture.connection.clone());
    let mut fields = async |auction| -> Vec<bool> {
        let key = format!("auction:{{{}}}:state", request(auction).auction_id);
        let mut pipe = redis::pipe();
        for field in ["increment_cents", "high_bid_cents", "top", "rules"] {
            pipe.hexists(&key, field);
        }
        pipe.query_async(&mut connection).await.expect("fields")
    };
    let options = protocol::Options { allow_self_raise: true, ..protocol::Options::default() };
    let with_options = CreateRequest { options, ..request(2) };
    for auction in [request(1), with_options, request(3), request(4)] {
        hotstate.create(&auction).await.expect("created");
        hotstate.open(auction.auction_id).await.expect("opened");
        hotstate.place(auction.auction_id, &[model::bid(1, 2, 1_000)], 0).await.expect("placed");
    }
    hotstate.act(request(3).auction_id, HostAct::Pause, user(1)).await.expect("paused");
    hotstate.act(request(3).auction_id, HostAct::Resume, user(1)).await.expect("resumed");
    hotstate.act(request(4).auction_id, HostAct::Block(user(2)), user(1)).await.expect("blocked");
    hotstate.act(request(4).auction_id, HostAct::Unblock(user(2)), user(1)).await.expect("unblocked");
    assert_eq!(fields(1).await, [true, true, true, false]);
    for auction in 2..=4 {
        assert_eq!(fields(auction).await, [false, false, false, true], "auction {auction}");
    }
}

#[tokio::test]
async fn scheduled_auction_opens_at_its_start_or_for_its_host() {
    use domain::{Acted, HostAct};

    let fixture = Fixture::start("scheduled").await;
    let hotstate = &fixture.hotstate;
    let soon = hotstate.time().await.expect("the time").0 + 300;
    for (auction, starts_at) in [(1, soon), (2, soon + 600_000)] {
        let scheduled = CreateRequest { starts_at: Some(starts_at), ..request(auction) };
        hotstate.create(&scheduled).await.expect("created");
        let state = hotstate.view(scheduled.auction_id).await.expect("a reply").expect("a state").committed.state;
        assert_eq!((state.starts_at, state.end_time), (starts_at, starts_at + scheduled.duration_ms));
        assert!(matches!(hotstate.open(scheduled.auction_id).await, Ok(Some(Opened::Early(_)))));
    }
    while matches!(hotstate.open(request(1).auction_id).await, Ok(Some(Opened::Early(_)))) {
        assert!(hotstate.time().await.expect("the time").0 < soon + 10_000, "it never opens");
    }
    assert!(hotstate.time().await.expect("the time").0 >= soon);
    let started = hotstate.act(request(2).auction_id, HostAct::Start, user(1)).await.expect("a reply");
    assert_eq!(started.expect("a state").acted, Acted::Done);
}

#[tokio::test]
async fn follower_opens_when_it_is_due_or_for_its_host() {
    use domain::{Acted, Auction, HostAct, Millis};

    let fixture = Fixture::start("follower").await;
    let (hotstate, mut connection) = (&fixture.hotstate, fixture.connection.clone());
    let options = protocol::Options {
        follows: Some(request(9).auction_id),
        gap_ms: 2_000,
        allow_prebids: true,
        ..protocol::Options::default()
    };
    let state = async |auction| {
        hotstate.view(request(auction).auction_id).await.expect("a reply").expect("a state").committed.state
    };
    for auction in [1, 2] {
        let follower = CreateRequest { options: options.clone(), ..request(auction) };
        hotstate.create(&follower).await.expect("created");
        let waiting = state(auction).await;
        assert_eq!((waiting.shown_start(), waiting.shown_end()), (None, None), "it waits");
        assert_eq!(waiting.options, options);
        // An earlier version reads this field before it opens an auction.
        let key = format!("auction:{{{}}}:state", follower.auction_id);
        let has_start: bool =
            redis::cmd("HEXISTS").arg(key).arg("starts_at").query_async(&mut connection).await.expect("a flag");
        assert!(!has_start);
        let created = Millis(waiting.created_at);
        let mut model = Auction::create(follower.auction_id, follower.rules(), created, created);
        model::restore(hotstate, &mut connection, &model).await;
        assert!(matches!(hotstate.open(follower.auction_id).await, Ok(Some(Opened::Waits(_)))));
        assert!(!model.open(created.plus(1_000_000_000)), "nor does the model open it without a time");
    }
    let (due, id) = (hotstate.time().await.expect("the time").plus(300), request(1).auction_id);
    while matches!(hotstate.open_when_due(id, Some(due)).await, Ok(Some(Opened::Early(_)))) {
        assert!(hotstate.time().await.expect("the time").0 < due.0 + 10_000, "it never opens");
    }
    let opened = state(1).await;
    assert!(opened.starts_at >= due.0 && opened.shown_start() == Some(opened.starts_at), "{}", opened.starts_at);
    assert_eq!(opened.end_time, opened.starts_at + request(1).duration_ms);
    assert!(matches!(hotstate.open_when_due(id, Some(due)).await, Ok(Some(Opened::Already(_)))));

    let started = hotstate.act(request(2).auction_id, HostAct::Start, user(1)).await.expect("a reply");
    assert_eq!(started.expect("a state").acted, Acted::Done);
    assert!(state(2).await.shown_end().is_some());
}

#[tokio::test]
async fn decisions_without_a_state_write_nothing() {
    let fixture = Fixture::start("missing").await;
    let auction_id = request(1).auction_id;
    let bid = model::bid(1, 2, 1_000);
    assert_eq!(fixture.hotstate.place(auction_id, &[bid], 0).await.expect("a reply"), None);
    assert_eq!(fixture.hotstate.open(auction_id).await.expect("a reply"), None);
    assert_eq!(fixture.hotstate.close(auction_id, None).await.expect("a reply"), None);
    let keys: Vec<String> =
        redis::cmd("KEYS").arg("*").query_async(&mut fixture.connection.clone()).await.expect("keys");
    assert_eq!(keys, Vec::<String>::new());
}

#[tokio::test]
async fn outbox_holds_facts_until_they_are_committed() {
    let fixture = Fixture::start("outbox").await;
    let hotstate = &fixture.hotstate;
    let auction_id = request(1).auction_id;
    hotstate.create(&request(1)).await.expect("a reply");
    let opened = hotstate.open(auction_id).await.expect("a reply").expect("a state").mark();
    hotstate
        .place(auction_id, &[model::bid(1, 2, 1_000), model::bid(2, 3, 2_000)], 0)
        .await
        .expect("a reply")
        .expect("a state");
    let refused = hotstate.place(auction_id, &[model::bid(3, 2, 1_500)], 0).await.expect("a reply").expect("a state");

    let entries = hotstate.outbox(auction_id, 0).await.expect("entries");
    let kinds: Vec<_> = entries.iter().map(|entry| (entry.kind.name(), entry.mark.seq, entry.bids.len())).collect();
    assert_eq!(kinds, [("created", 1, 0), ("opened", 2, 0), ("bids", 4, 2)], "a refusal writes nothing");
    assert_eq!(entries[2].prev, opened.head);
    assert_eq!(entries[2].mark, refused.mark);
    assert_eq!(hotstate.with_outbox(&[auction_id]).await.expect("outboxes"), [(auction_id, 4)]);

    assert_eq!(hotstate.outbox(auction_id, 2).await.expect("entries").len(), 1);
    assert_eq!(hotstate.outbox(auction_id, 2).await.expect("entries").len(), 1, "cutting again changes nothing");
    assert!(hotstate.outbox(auction_id, 4).await.expect("entries").is_empty());
    assert!(hotstate.with_outbox(&[auction_id]).await.expect("outboxes").is_empty());
}

#[tokio::test]
async fn reply_carries_what_was_appended_and_the_outbox_is_cut() {
    let fixture = Fixture::start("appended").await;
    let hotstate = &fixture.hotstate;
    let auction_id = request(1).auction_id;
    hotstate.create(&request(1)).await.expect("a reply");
    hotstate.open(auction_id).await.expect("a reply");
    let place = async |bid: BidRequest, committed: u64| {
        hotstate.place(auction_id, &[bid], committed).await.expect("a reply").expect("a state")
    };
    let first = place(model::bid(1, 2, 1_000), 0).await;
    let entries = hotstate.outbox(auction_id, 0).await.expect("entries");
    assert_eq!((entries.len(), first.appended.as_ref()), (3, entries.last()));
    assert_eq!(place(model::bid(2, 2, 1_500), 3).await.appended, None, "a refusal appends nothing");
    assert_eq!(hotstate.outbox(auction_id, 0).await.expect("entries").len(), 3, "and cuts nothing");
    let second = place(model::bid(3, 3, 2_000), 3).await;
    let entries = hotstate.outbox(auction_id, 0).await.expect("entries");
    assert_eq!((entries.len(), second.appended.as_ref()), (1, entries.first()));
}

#[tokio::test]
async fn keys_have_the_documented_content() {
    let fixture = Fixture::start("contract").await;
    let auction_id = request(1).auction_id;
    fixture.hotstate.create(&request(1)).await.expect("a reply");
    assert!(matches!(fixture.hotstate.open(auction_id).await.expect("a reply"), Some(Opened::Opened(_))));
    for (number, person, cents) in [(1, 2, 1_000), (2, 3, 1_150), (3, 2, 500_000), (4, 4, 600_000), (5, 5, 700_000)] {
        fixture
            .hotstate
            .place(auction_id, &[model::bid(number, person, cents)], 0)
            .await
            .expect("a reply")
            .expect("a state");
    }
    let mut connection = fixture.connection.clone();
    let key = |name: &str| format!("auction:{{{auction_id}}}:{name}");
    let field = async |name: &str| -> String {
        redis::cmd("HGET").arg(key("state")).arg(name).query_async(&mut connection.clone()).await.expect(name)
    };
    assert_eq!(field("status").await, "live");
    assert_eq!(field("current_high_bid").await, "7000.00");
    assert_eq!(field("high_bidder_id").await, user(5).to_string());
    assert_eq!(field("high_bidder_username").await, "user-5");
    assert_eq!((field("bid_count").await, field("seq").await), ("5".to_owned(), "7".to_owned()));
    let top: Vec<(String, f64)> = redis::cmd("ZREVRANGE")
        .arg(key("top_bids"))
        .arg(0)
        .arg(-1)
        .arg("WITHSCORES")
        .query_async(&mut connection)
        .await
        .expect("top");
    let member = |person: u128| format!("{}:user-{person}", user(person));
    assert_eq!(top, [(member(5), 7_000.0), (member(4), 6_000.0), (member(2), 5_000.0)]);

    assert!(matches!(fixture.hotstate.close(auction_id, None).await.expect("a reply"), Some(Closed::Early(_))));
    assert!(matches!(
        fixture.hotstate.close(auction_id, Some(user(2))).await.expect("a reply"),
        Some(Closed::NotHost(_))
    ));
    assert!(matches!(
        fixture.hotstate.close(auction_id, Some(user(1))).await.expect("a reply"),
        Some(Closed::Closed(_))
    ));
    assert!(matches!(fixture.hotstate.close(auction_id, None).await.expect("a reply"), Some(Closed::Already(_))));
    for name in ["state", "top_bids", "bids", "outbox", "recent"] {
        let seconds: i64 = redis::cmd("TTL").arg(key(name)).query_async(&mut connection).await.expect("ttl");
        assert!((86_000..=86_400).contains(&seconds), "{name} lives {seconds} s after the end");
    }
}

/// Memory of an answer with the longest numbers. Answers are kept for a day after the end. CONTRACT.md, Placing a bid.
#[tokio::test]
async fn stored_answer_takes_at_most_160_bytes() {
    let fixture = Fixture::start("memory").await;
    let rules = CreateRequest { anti_snipe_max_extensions: 0, duration_ms: 604_800_000, ..request(1) };
    fixture.hotstate.create(&rules).await.expect("created");
    fixture.hotstate.open(rules.auction_id).await.expect("opened");
    const BIDS: u128 = 20_000;
    let bids: Vec<_> = (0..BIDS)
        .map(|nth| {
            let cents = 5_000_000_000 + 100 * u64::try_from(nth).expect("small");
            model::bid(nth.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834), 2 + nth % 2, cents)
        })
        .collect();
    for call in bids.chunks(200) {
        let verdicts = fixture.hotstate.place(rules.auction_id, call, 0).await.expect("a reply").expect("a state");
        assert!(verdicts.decisions.iter().all(|decision| matches!(decision, domain::Decision::Accepted { .. })));
    }
    let bytes: u64 = redis::cmd("MEMORY")
        .arg("USAGE")
        .arg(format!("auction:{{{}}}:bids", rules.auction_id))
        .arg("SAMPLES")
        .arg(0)
        .query_async(&mut fixture.connection.clone())
        .await
        .expect("a size");
    let each = bytes / u64::try_from(BIDS).expect("small");
    println!("{each} bytes an answer");
    assert!(each <= 160, "{each} bytes an answer");
}

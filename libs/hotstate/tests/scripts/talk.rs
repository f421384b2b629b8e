//! Limits of the chat: who may send the next message of a room.

use domain::AuctionId;
use hotstate::MayTalk;
use redis::AsyncCommands;
use uuid::Uuid;

use crate::{Fixture, user};

const HOST: u128 = 1;
const FRESH: u128 = 2;
const LATELY: u128 = 3;
/// The answer while a count has no expiry. The tests set counts without one, so that no second ends during a test; the
/// script gives an expiry to the first message only.
const TOO_FAST: MayTalk = MayTalk::TooFast { ms: 1 };

struct Room<'a> {
    fixture: &'a Fixture,
    auction_id: AuctionId,
}

impl Room<'_> {
    async fn says(&self, person: u128) -> MayTalk {
        let asked = self.fixture.hotstate.may_talk(self.auction_id, user(person), person == HOST);
        asked.await.expect("a reply")
    }

    fn key(&self, name: &str) -> String {
        format!("auction:{{{}}}:{name}", self.auction_id)
    }

    async fn set(&self, name: &str, value: u64) {
        self.fixture.connection.clone().set::<_, _, ()>(self.key(name), value).await.expect("set");
    }

    async fn get(&self, name: &str) -> u64 {
        self.fixture.connection.clone().get::<_, Option<u64>>(self.key(name)).await.expect("a count").unwrap_or(0)
    }
}

#[tokio::test]
async fn room_keeps_places_for_the_quiet_and_the_host() {
    let fixture = Fixture::start("talk").await;
    // The messages of guests and of the host in this second, the person who sends the next one, and the answer.
    let cases = [
        (1, 1, FRESH, MayTalk::Yes),
        (1, 1, LATELY, MayTalk::Yes),
        (14, 1, LATELY, MayTalk::Yes),
        (15, 1, LATELY, TOO_FAST),
        (15, 1, FRESH, MayTalk::Yes),
        (19, 1, LATELY, TOO_FAST),
        (19, 1, FRESH, MayTalk::Yes),
        (20, 1, FRESH, TOO_FAST),
        (20, 1, HOST, MayTalk::Yes),
        (20, 19, HOST, MayTalk::Yes),
        (1, 20, HOST, TOO_FAST),
        (1, 20, FRESH, MayTalk::Yes),
    ];
    for (number, case) in (1..).zip(cases) {
        let (guests, host, person, expected) = case;
        let room = Room { fixture: &fixture, auction_id: AuctionId::from_uuid(Uuid::from_u128(number)) };
        room.set("said", guests).await;
        room.set("host_said", host).await;
        for talker in [HOST, LATELY] {
            room.set(&format!("lately:{}", user(talker)), 1).await;
        }
        assert_eq!(room.says(person).await, expected, "{case:?}");
        let counted = u64::from(expected == MayTalk::Yes);
        let expected = if person == HOST { (guests, host + counted) } else { (guests + counted, host) };
        assert_eq!((room.get("said").await, room.get("host_said").await), expected, "counted in {case:?}");
    }
}

/// Twenty-five people who send whenever they may fill their part of the room, and no more.
#[tokio::test]
async fn crowd_leaves_places_to_a_newcomer_and_the_host() {
    let fixture = Fixture::start("crowd").await;
    let room = Room { fixture: &fixture, auction_id: AuctionId::from_uuid(Uuid::from_u128(1)) };
    let crowd = 100..125;
    room.set("said", 1).await;
    room.set("host_said", 1).await;
    let mut accepted = 0;
    for person in crowd.clone() {
        accepted += u64::from(room.says(person).await == MayTalk::Yes);
    }
    assert_eq!(accepted, 19, "all have been quiet before");
    for person in crowd.clone().take(19) {
        let lately: i64 =
            fixture.connection.clone().pttl(room.key(&format!("lately:{}", user(person)))).await.expect("a time");
        assert!((1..=5_000).contains(&lately), "{lately} ms");
    }

    // The next second, after the pause of each person.
    room.set("said", 1).await;
    let mut accepted = 0;
    for person in crowd {
        room.set(&format!("lately:{}", user(person)), 1).await;
        fixture.connection.clone().del::<_, ()>(room.key(&format!("spoke:{}", user(person)))).await.expect("deleted");
        accepted += u64::from(room.says(person).await == MayTalk::Yes);
    }
    assert_eq!(accepted, 14, "all have sent a message lately");
    assert_eq!(room.says(FRESH).await, MayTalk::Yes);
    for _ in 0..9 {
        assert_eq!(room.says(HOST).await, MayTalk::Yes);
    }
    assert_eq!(room.get("said").await, 16, "the host does not count");
}

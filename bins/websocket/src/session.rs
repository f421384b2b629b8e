//! One person's connection, whatever door it came through: requests in, answers and events out.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use admission::{Allowance, Rate};
use domain::{AuctionId, BidId};
use identity::{Identity, TokenError};
use protocol::frames::{Connected, PROTOCOL_VERSION};
use protocol::input::Fields;
use protocol::{
    Answer, ChatDeleted, ChatMuted, Code, Failure, MAX_CHAT_CHARACTERS, MAX_MUTE_SECONDS, PlaceBid, RefusedBid,
    parse_place_bid, subject,
};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::Semaphore;

use crate::edge::Parts;
use crate::mailbox::Mailbox;
use crate::outgoing::{Outgoing, To};
use crate::room::{Moderation, SessionId, Visit, Visitor};

/// Seconds from `token_expiring` to the end of the token. CONTRACT.md, Connecting.
const EXPIRY_NOTICE_SECONDS: u64 = 60;
/// From a bid to the answer of bid-processing, which takes at most 2.8 s itself.
const BID_TIMEOUT: Duration = Duration::from_millis(3_000);
/// Bids of one connection under way; bid-processing allows a person as many.
const MAX_BIDS_IN_FLIGHT: u32 = 32;
/// Auctions one connection may watch at once.
const MAX_AUCTIONS: usize = 50;
/// Requests of one connection that are far more work than they look: a join may be answered with a thousand bids,
/// a token is verified, Redis is asked who may talk. All of its auctions at once after a reconnect, and then now
/// and again.
const COSTLY: Rate = Rate { at_once: 50, per_second: 5 };
/// Who is sent away comes back after so long at least, and spread over so much more: the other edges are not
/// run over. Who watches an auction that ends soon comes back first.
const RETRY_AFTER_MS: u64 = 250;
const RETRY_SPREAD_MS: u64 = 2_000;
const RETRY_SPREAD_SOON_MS: u64 = 500;
/// Connections are sent away in so many batches, one after the other; those whose auction ends soon in as many
/// after them.
const BATCHES: u64 = 10;
const BATCH_EVERY_MS: u64 = 50;
/// By then whoever is sent away now is surely back.
const ENDS_SOON_MS: u64 = 15_000;
/// For the answers of bids that were under way when the stop came.
const FINISH_BIDS_WITHIN: Duration = Duration::from_millis(2_500);

/// What a connection may do once its token is known. Dropping it leaves all rooms.
pub struct Session {
    number: SessionId,
    identity: Identity,
    edge: Arc<Parts>,
    mailbox: Arc<Mailbox>,
    joined: HashSet<AuctionId>,
    bids: Arc<Semaphore>,
    costly: Allowance,
    /// The expiry of the present token has been announced.
    noticed: bool,
}

impl Session {
    /// Greets the person.
    pub fn begin(edge: Arc<Parts>, identity: Identity, mailbox: Arc<Mailbox>) -> Self {
        edge.courier.send(identity.seen());
        let number = edge.next_session();
        let bids = Arc::new(Semaphore::new(MAX_BIDS_IN_FLIGHT as usize));
        let costly = Allowance::new(COSTLY, Instant::now());
        let session = Self { number, identity, edge, mailbox, joined: HashSet::new(), bids, costly, noticed: false };
        let session_id = uuid::Uuid::new_v4().to_string();
        let connected = Connected {
            user_id: session.identity.person.user_id,
            username: &session.identity.person.username,
            server_time: session.edge.clock.now().0,
            session_id: &session_id,
            protocol: PROTOCOL_VERSION,
        };
        session.send("connected", &connected, To::Anybody);
        session
    }

    /// Answers an `authenticate`.
    pub fn authenticated(&self, to: To) {
        self.send("authenticated", json!({"expires_at": self.identity.expires_at * 1000}), to);
    }

    fn send(&self, event: &'static str, data: impl serde::Serialize, to: To) {
        self.mailbox.push(&Outgoing::answer(event, data, to));
    }

    /// Does what one request asks for, and answers it once.
    pub async fn request(&mut self, event: &str, data: &str, to: To) {
        let done = match event {
            "join_auction" | "authenticate" if !self.costly.take(Instant::now()) => {
                Err(Failure::new(Code::RateLimited, "Too many requests; slow down"))
            }
            "chat_message" | "chat_delete" | "chat_mute" if !self.costly.take(Instant::now()) => {
                Err(Code::ChatTooFast.into())
            }
            "ping" => {
                self.send("pong", json!({"timestamp": self.edge.clock.now().0}), to.clone());
                Ok(())
            }
            "authenticate" => self.renew(data, to.clone()).await,
            "join_auction" => self.join(data, to.clone()),
            "leave_auction" => self.leave(data, to.clone()),
            "place_bid" => {
                self.place_bid(data, to.clone());
                Ok(())
            }
            "chat_message" => self.chat(data, to.clone()),
            "chat_delete" | "chat_mute" => self.moderate(event, data, to.clone()),
            _ => Err(Code::UnknownEvent.into()),
        };
        if let Err(failure) = done {
            self.mailbox.push(&Outgoing::error(&failure, to));
        }
    }

    fn seconds_left(&self) -> u64 {
        self.identity.expires_at.saturating_sub(self.edge.clock.now().0 / 1000)
    }

    /// Until [`Session::expire`] must be called.
    pub fn until_expiry(&self) -> Duration {
        let left = self.seconds_left();
        Duration::from_secs(if self.noticed { left } else { left.saturating_sub(EXPIRY_NOTICE_SECONDS) })
    }

    /// Announces the end of the token, or tells that it has come (true): the connection must close then.
    pub fn expire(&mut self) -> bool {
        if self.seconds_left() == 0 {
            self.mailbox.push(&Outgoing::error(&TokenError::Expired.into(), To::Anybody));
            return true;
        }
        if self.until_expiry().is_zero() {
            self.noticed = true;
            self.send("token_expiring", json!({"expires_at": self.identity.expires_at * 1000}), To::Anybody);
        }
        false
    }

    /// The server is going away: bids under way get their answers, then the client is told to come back.
    pub async fn drain(&self) {
        let soon = self.edge.clock.now().0 + ENDS_SOON_MS;
        let ends = self.joined.iter().filter_map(|id| self.edge.rooms.shared.prices.ends_at(*id));
        let ends_soon = ends.min().is_some_and(|end| end < soon);
        let batch = self.number % BATCHES + if ends_soon { BATCHES } else { 0 };
        let turn = Instant::now() + Duration::from_millis(batch * BATCH_EVERY_MS);
        let all = self.bids.acquire_many(MAX_BIDS_IN_FLIGHT);
        if tokio::time::timeout(FINISH_BIDS_WITHIN, all).await.is_err() {
            tracing::warn!("bids were still under way");
        }
        tokio::time::sleep(turn.saturating_duration_since(Instant::now())).await;
        // Numbers follow each other: times a large odd number they lie everywhere in the spread.
        let within = if ends_soon { RETRY_SPREAD_SOON_MS } else { RETRY_SPREAD_MS };
        let spread = self.number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % within;
        self.send("server_draining", json!({"retry_after_ms": RETRY_AFTER_MS + spread}), To::Anybody);
    }

    fn visitor(&self) -> Visitor {
        let (person, mailbox) = (self.identity.person.clone(), Arc::clone(&self.mailbox));
        Visitor { session: self.number, person, mailbox }
    }

    async fn renew(&mut self, data: &str, to: To) -> Result<(), Failure> {
        let token = serde_json::from_str::<&RawValue>(data).ok().and_then(token_of);
        let identity = self.edge.verifier.verify(&token.ok_or(TokenError::Missing)?).await?;
        if identity.person.user_id != self.identity.person.user_id {
            return Err(Failure::new(Code::Unauthenticated, "This token belongs to somebody else; connect anew"));
        }
        self.identity = identity;
        self.noticed = false;
        self.authenticated(to);
        Ok(())
    }

    fn join(&mut self, data: &str, to: To) -> Result<(), Failure> {
        let fields = Fields::parse(data.as_bytes())?;
        let auction_id = fields.id("auction_id")?;
        let last_seq = fields.optional_whole("last_seq", 0, i64::MAX.cast_unsigned())?;
        if self.joined.len() >= MAX_AUCTIONS && !self.joined.contains(&auction_id) {
            return Err(Failure::new(Code::InvalidRequest, "Leave an auction before joining another"));
        }
        let visit = Visit::Join { visitor: self.visitor(), last_seq, to };
        self.edge.rooms.send(auction_id, visit)?;
        self.joined.insert(auction_id);
        Ok(())
    }

    fn leave(&mut self, data: &str, to: To) -> Result<(), Failure> {
        let auction_id: AuctionId = Fields::parse(data.as_bytes())?.id("auction_id")?;
        if !self.joined.remove(&auction_id) {
            return Err(Code::NotJoined.into());
        }
        self.edge.rooms.leave(auction_id, self.number);
        self.send("left_auction", json!({"auction_id": auction_id.to_string()}), to);
        Ok(())
    }

    /// The room knows whether this connection is in it, and who the host is.
    fn chat(&self, data: &str, to: To) -> Result<(), Failure> {
        let fields = Fields::parse(data.as_bytes())?;
        let auction_id = fields.id("auction_id")?;
        let message = fields.text("message", 1, MAX_CHAT_CHARACTERS)?;
        if !self.joined.contains(&auction_id) {
            return Err(Code::NotJoined.into());
        }
        let visit = Visit::Chat { visitor: self.visitor(), message, to };
        Ok(self.edge.rooms.send(auction_id, visit)?)
    }

    fn moderate(&self, event: &str, data: &str, to: To) -> Result<(), Failure> {
        let fields = Fields::parse(data.as_bytes())?;
        let auction_id: AuctionId = fields.id("auction_id")?;
        let act = if event == "chat_delete" {
            // As it was made here: whatever else is asked for is not there.
            let message_id = fields.id::<uuid::Uuid>("message_id")?.to_string();
            Moderation::Delete(ChatDeleted { auction_id, message_id })
        } else {
            let seconds = fields.whole("seconds", 0, MAX_MUTE_SECONDS)?;
            Moderation::Mute(ChatMuted { auction_id, user_id: fields.id("user_id")?, seconds })
        };
        if !self.joined.contains(&auction_id) {
            return Err(Code::NotJoined.into());
        }
        let visit = Visit::Moderate { visitor: self.visitor(), act, to };
        Ok(self.edge.rooms.send(auction_id, visit)?)
    }

    /// Bids run beside the reading of further requests; each is answered once.
    fn place_bid(&self, data: &str, to: To) {
        let mailbox = Arc::clone(&self.mailbox);
        let answer = move |answer: &Answer, to| mailbox.push(&Outgoing::answer("bid_result", answer.public(), to));
        let refused = |failure: Failure| Answer::Rejected(RefusedBid::of(failure, None));
        let bid = match parse_place_bid(data.as_bytes(), None, self.identity.person.clone()) {
            Ok(bid) => bid,
            Err(failure) => return answer(&refused(failure), to),
        };
        let Ok(permit) = Arc::clone(&self.bids).try_acquire_owned() else {
            return answer(&refused(Code::RateLimited.into()), to);
        };
        let edge = Arc::clone(&self.edge);
        tokio::spawn(async move {
            answer(&ask(&edge, bid).await, to);
            drop(permit);
        });
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for auction_id in self.joined.drain() {
            self.edge.rooms.leave(auction_id, self.number);
        }
    }
}

/// The token in the data of `authenticate`.
pub fn token_of(data: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Authenticate {
        token: String,
    }
    serde_json::from_str::<Authenticate>(data.get()).ok().map(|data| data.token)
}

const fn answer_seq(answer: &Answer) -> Option<u64> {
    match answer {
        Answer::Accepted(bid) => Some(bid.seq),
        Answer::Rejected(refused) => refused.seq,
    }
}

async fn ask(edge: &Parts, mut bid: PlaceBid) -> Answer {
    let id_is_new = bid.bid_id.is_none();
    // Named here, so that an answer that does not come can still be asked for again.
    let bid_id = *bid.bid_id.get_or_insert_with(|| BidId::from_uuid(uuid::Uuid::new_v4()));
    // Before all else: also what goes no further than this edge counts.
    let in_flight = match edge.limits.admit(bid.user.user_id, Instant::now()) {
        Ok(in_flight) => in_flight,
        Err(code) => return Answer::Rejected(RefusedBid::of(code.into(), Some(bid_id))),
    };
    if let Some(refused) = edge.hopeless(bid_id, &bid, id_is_new) {
        return Answer::Rejected(refused);
    }
    let answer = match bus::request(&edge.bus, subject::BIDS_PLACE, &bid, BID_TIMEOUT).await {
        Ok(answer) => {
            if let Some(seq) = answer_seq(&answer) {
                edge.rooms.shared.prices.answered(bid.auction_id, seq);
            }
            answer
        }
        Err(error) => {
            tracing::warn!(auction_id = %bid.auction_id, %error, "a bid got no answer");
            let code = match error {
                bus::RequestError::NoResponder => Code::Unavailable,
                bus::RequestError::NoAnswer(_) => Code::OutcomeUnknown,
            };
            Answer::Rejected(RefusedBid::of(code.into(), Some(bid_id)))
        }
    };
    drop(in_flight);
    answer
}

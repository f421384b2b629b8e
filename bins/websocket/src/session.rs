//! One person's connection on either transport: requests in, answers and events out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use admission::{Allowance, Rate};
use domain::{AuctionId, UserId};
use identity::{Identity, TokenError};
use protocol::frames::{Connected, PROTOCOL_VERSION};
use protocol::input::Fields;
use protocol::{
    Answer, ChatDeleted, ChatMuted, Code, Failure, MAX_CHAT_CHARACTERS, MAX_MUTE_SECONDS, Person, RefusedBid,
    parse_place_bid,
};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use traces::TARGET;
use tracing::{Instrument, trace_span};

use crate::bids::ask;
use crate::context::{EdgeContext, SignIn};
use crate::entry::{Entry, SessionId, Shown};
use crate::event::{Outgoing, ReplyTo};
use crate::pace::{Pace, TooFast};
use crate::places::{NoPlace, Place};
use crate::room::command::{Client, Membership, Moderation, RoomCommand};
use crate::rooms::Rooms;
use crate::shared_bids;
use crate::transport::send_queue::SendQueue;

/// Seconds from `token_expiring` to the end of the token. CONTRACT.md, Connecting.
const EXPIRY_NOTICE_SECONDS: u64 = 60;
/// Bids of one connection in flight. bid-processing allows a person as many.
const MAX_BIDS_IN_FLIGHT: u32 = 32;
/// Auctions that one connection may have joined at once.
const MAX_AUCTIONS: usize = 50;
/// Rate of requests of one connection that are far more work than they look: a join may be answered with a thousand
/// bids, a token is verified, Redis is asked who may chat. Enough to join all auctions at once after a reconnect, and
/// a few in a second afterwards.
const COSTLY: Rate = Rate { at_once: 50, per_second: 5 };
/// Reconnect delay sent to clients when draining, in milliseconds: a fixed minimum plus a spread over the sessions, so
/// that the remaining edges are not hit by all clients at once. Clients of auctions that end soon get the shorter
/// spread.
const RETRY_AFTER_MS: u64 = 250;
const RETRY_SPREAD_MS: u64 = 2_000;
const RETRY_SPREAD_SOON_MS: u64 = 500;
/// Batches in which connections are closed, one after the other. Connections whose auction ends soon follow in as
/// many batches after them.
const BATCHES: u64 = 10;
const BATCH_EVERY_MS: u64 = 50;
/// Time before an end within which an auction ends soon. A client that is disconnected now is back well within it.
const ENDS_SOON_MS: u64 = 15_000;
/// Time for the answers of bids that were in flight when the stop came.
const FINISH_BIDS_WITHIN: Duration = Duration::from_millis(2_500);

/// Time after which a connection without a token is looked at again, although its right to watch does not end.
const NEVER_EXPIRES: Duration = Duration::from_secs(24 * 60 * 60);

/// A connection whose token is verified or that only watches, and the rooms it has joined. Dropping it leaves all rooms.
pub struct Session {
    number: SessionId,
    /// None: the connection watches without a token.
    identity: Option<Identity>,
    /// The connection's place, which becomes that of a person when a token comes.
    place: Arc<Mutex<Place>>,
    rooms: Arc<Rooms>,
    queue: Arc<SendQueue>,
    /// The rooms that were asked to let this connection in, and whether they have.
    joined: HashMap<AuctionId, Membership>,
    bids: Arc<Semaphore>,
    costly: Allowance,
    pace: Pace,
    /// Whether `token_expiring` has been sent for the present token.
    noticed: bool,
}

impl Session {
    /// Starts a session and sends `connected`.
    pub fn begin(rooms: Arc<Rooms>, entry: Entry, place: Arc<Mutex<Place>>, queue: Arc<SendQueue>) -> Self {
        let Entry { identity, frames } = entry;
        if let Some(identity) = &identity {
            rooms.context.users_seen.send(identity.seen(), &identity.token);
        }
        let number = rooms.context.next_session();
        let bids = Arc::new(Semaphore::new(MAX_BIDS_IN_FLIGHT as usize));
        let costly = Allowance::new(COSTLY, Instant::now());
        let pace = Pace::new(rooms.context.frames, frames);
        let joined = HashMap::new();
        let session = Self { number, identity, place, rooms, queue, joined, bids, costly, pace, noticed: false };
        let session_id = uuid::Uuid::new_v4().to_string();
        let person = session.person();
        let connected = Connected {
            user_id: person.as_ref().map(|person| person.user_id),
            username: person.as_ref().map(|person| person.username.as_str()),
            server_time: session.context().clock.now().0,
            session_id: &session_id,
            protocol: PROTOCOL_VERSION,
        };
        session.send("connected", &connected, ReplyTo::Nothing);
        session.register();
        session
    }

    fn context(&self) -> &EdgeContext {
        &self.rooms.context
    }

    /// Lets the events of its person reach this connection. The auctions that the person has bid in are learned in the
    /// background, if they are not known.
    fn register(&self) {
        let Some(Identity { person, token, .. }) = &self.identity else { return };
        let user_id = person.user_id;
        if self.context().bidders.connect(user_id, self.number, Arc::clone(&self.queue)) {
            shared_bids::ask(&self.rooms.context, user_id);
            // Full after many sign-ins at once: bids are then learned as they are placed.
            drop(self.context().sign_ins.try_send(SignIn { user_id, token: token.clone() }));
        }
    }

    /// The person of this connection, if it has a token, under the name to show, which may have become known since the
    /// last time.
    fn person(&self) -> Option<Person> {
        self.identity.as_ref().map(|identity| self.context().names.of(&identity.person))
    }

    /// The person of this connection, if it has a token.
    pub fn user_id(&self) -> Option<UserId> {
        self.identity.as_ref().map(|identity| identity.person.user_id)
    }

    /// Counts one frame of the client. Returns when the next one may be read.
    ///
    /// # Errors
    /// When the client has sent too fast for too long.
    pub async fn keep_pace(&mut self) -> Result<(), TooFast> {
        match self.pace.frame(Instant::now()) {
            Ok(wait) if wait.is_zero() => Ok(()),
            Ok(wait) => {
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = self.context().stop.cancelled() => {}
                }
                Ok(())
            }
            Err(too_fast) => {
                self.context().metrics.flooding_connections.inc();
                Err(too_fast)
            }
        }
    }

    /// Answers an `authenticate`.
    pub fn authenticated(&self, reply_to: ReplyTo) {
        self.send("authenticated", json!({"expires_at": self.expires_at().map(|seconds| seconds * 1000)}), reply_to);
    }

    /// Reports to the client of a connection without a token that it gives way to a person.
    pub fn give_way(&self) {
        self.queue.send(&Outgoing::error(&NoPlace::Edge.failure(), ReplyTo::Nothing));
    }

    fn send(&self, event: &'static str, data: impl serde::Serialize, reply_to: ReplyTo) {
        self.queue.send(&Outgoing::answer(event, data, reply_to));
    }

    /// Carries out one request, and answers it once.
    pub async fn request(&mut self, event: &str, data: &str, reply_to: ReplyTo) {
        let done = match event {
            "join_auction" | "authenticate" if !self.costly.take(Instant::now()) => {
                Err(Failure::new(Code::RateLimited, "Too many requests; slow down"))
            }
            "place_bid" | "chat_message" | "chat_delete" | "chat_mute" if self.identity.is_none() => {
                Err(Failure::new(Code::Unauthenticated, "Sign in to take part; without a token one can only watch"))
            }
            "chat_message" | "chat_delete" | "chat_mute" if !self.costly.take(Instant::now()) => {
                Err(Code::ChatTooFast.into())
            }
            "ping" => {
                self.send("pong", json!({"timestamp": self.context().clock.now().0}), reply_to.clone());
                Ok(())
            }
            // Boxed: a connection takes no memory for what it rarely does.
            "authenticate" => Box::pin(self.renew(data, reply_to.clone())).await,
            "join_auction" => self.join(data, reply_to.clone()),
            "leave_auction" => self.leave(data, reply_to.clone()),
            "place_bid" => self.place_bid(data, reply_to.clone()),
            "chat_message" => self.chat(data, reply_to.clone()),
            "chat_delete" | "chat_mute" => self.moderate(event, data, reply_to.clone()),
            _ => Err(Code::UnknownEvent.into()),
        };
        if let Err(failure) = done {
            self.context().count_rejection(failure.code);
            self.queue.send(&Outgoing::error(&failure, reply_to));
        }
    }

    /// None for a connection without a token.
    fn seconds_left(&self) -> Option<u64> {
        Some(self.expires_at()?.saturating_sub(self.context().clock.now().0 / 1000))
    }

    /// Time until [`Session::expire`] must be called.
    pub fn until_expiry(&self) -> Duration {
        let Some(left) = self.seconds_left() else { return NEVER_EXPIRES };
        Duration::from_secs(if self.noticed { left } else { left.saturating_sub(EXPIRY_NOTICE_SECONDS) })
    }

    /// When the token expires, in seconds since 1970. A renewal changes it. None without a token.
    pub fn expires_at(&self) -> Option<u64> {
        self.identity.as_ref().map(|identity| identity.expires_at)
    }

    /// Sends `token_expiring` when due. True if the token has expired: the connection must then close.
    pub fn expire(&mut self) -> bool {
        let Some(expires_at) = self.expires_at() else { return false };
        if self.seconds_left() == Some(0) {
            self.queue.send(&Outgoing::error(&TokenError::Expired.into(), ReplyTo::Nothing));
            return true;
        }
        if self.until_expiry().is_zero() {
            self.noticed = true;
            self.send("token_expiring", json!({"expires_at": expires_at * 1000}), ReplyTo::Nothing);
        }
        false
    }

    /// Drains the connection of a stopping server: bids in flight get their answers, then `server_draining` is sent.
    pub async fn drain(&self) {
        let soon = self.context().clock.now().0 + ENDS_SOON_MS;
        let ends = self.joined.keys().filter_map(|id| self.context().prices.ends_at(*id));
        let ends_soon = ends.min().is_some_and(|end| end < soon);
        let batch = self.number % BATCHES + if ends_soon { BATCHES } else { 0 };
        let turn = Instant::now() + Duration::from_millis(batch * BATCH_EVERY_MS);
        let all = self.bids.acquire_many(MAX_BIDS_IN_FLIGHT);
        if tokio::time::timeout(FINISH_BIDS_WITHIN, all).await.is_err() {
            tracing::warn!("bids were still in flight after the drain timeout");
        }
        tokio::time::sleep(turn.saturating_duration_since(Instant::now())).await;
        // Session numbers are consecutive. Multiplied by a large odd number, they are distributed over the whole
        // spread.
        let within = if ends_soon { RETRY_SPREAD_SOON_MS } else { RETRY_SPREAD_MS };
        let spread = self.number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % within;
        self.send("server_draining", json!({"retry_after_ms": RETRY_AFTER_MS + spread}), ReplyTo::Nothing);
    }

    fn client(&self, membership: &Membership) -> Client {
        let (person, queue) = (self.person(), Arc::clone(&self.queue));
        Client { session: self.number, person, queue, membership: membership.clone() }
    }

    /// The membership in a room that has let this connection in, or has not answered yet.
    fn membership(&self, auction_id: AuctionId) -> Result<&Membership, Failure> {
        self.joined.get(&auction_id).filter(|membership| !membership.is_refused()).ok_or_else(|| Code::NotJoined.into())
    }

    async fn renew(&mut self, data: &str, reply_to: ReplyTo) -> Result<(), Failure> {
        let token = serde_json::from_str::<&RawValue>(data).ok().and_then(token_of);
        let identity = self.context().verifier.verify(&token.ok_or(TokenError::Missing)?).await?;
        let known = self.user_id();
        if known.is_some_and(|known| known != identity.person.user_id) {
            return Err(Failure::new(
                Code::Unauthenticated,
                "This token belongs to another person; open a new connection",
            ));
        }
        self.context().users_seen.send(identity.seen(), &identity.token);
        if known.is_none() {
            self.become_person(&identity)?;
        }
        self.identity = Some(identity);
        self.noticed = false;
        self.authenticated(reply_to);
        if known.is_none() {
            self.register();
            self.identify();
        }
        Ok(())
    }

    /// A connection that watched has a token now: takes the place of a person.
    fn become_person(&mut self, identity: &Identity) -> Result<(), Failure> {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        let frames = place.authenticate(identity.person.user_id);
        drop(place);
        let frames = frames.map_err(|no_place| {
            self.context().metrics.rejected_connections.inc();
            no_place.failure()
        })?;
        self.pace = Pace::new(self.context().frames, frames);
        Ok(())
    }

    /// Names the person to the rooms that the connection joined without one.
    fn identify(&self) {
        for (auction_id, membership) in &self.joined {
            let command = RoomCommand::Identify { client: self.client(membership) };
            if let Err(code) = self.rooms.send(*auction_id, command) {
                // The room is over, or too busy: the person is named at the next join.
                tracing::debug!(%auction_id, code = code.name(), "failed to name a person to a room");
            }
        }
    }

    fn join(&mut self, data: &str, reply_to: ReplyTo) -> Result<(), Failure> {
        let fields = Fields::parse(data.as_bytes())?;
        let auction_id = fields.id("auction_id")?;
        let last_seq = fields.optional_whole("last_seq", 0, i64::MAX.cast_unsigned())?;
        self.joined.retain(|_, membership| !membership.is_refused());
        if self.joined.len() >= MAX_AUCTIONS && !self.joined.contains_key(&auction_id) {
            return Err(Failure::new(Code::InvalidRequest, "Leave an auction before joining another"));
        }
        let membership = self.joined.entry(auction_id).or_default().clone();
        let token = self.identity.as_ref().map(|identity| identity.token.clone());
        let command = RoomCommand::Join { client: self.client(&membership), token, last_seq, reply_to };
        Ok(self.rooms.send(auction_id, command)?)
    }

    fn leave(&mut self, data: &str, reply_to: ReplyTo) -> Result<(), Failure> {
        let auction_id: AuctionId = Fields::parse(data.as_bytes())?.id("auction_id")?;
        self.membership(auction_id)?;
        self.joined.remove(&auction_id);
        self.rooms.leave(auction_id, self.number);
        self.send("left_auction", json!({"auction_id": auction_id.to_string()}), reply_to);
        Ok(())
    }

    /// The room checks that this connection is a member, and whether the person is the host.
    fn chat(&self, data: &str, reply_to: ReplyTo) -> Result<(), Failure> {
        let fields = Fields::parse(data.as_bytes())?;
        let auction_id = fields.id("auction_id")?;
        let message = fields.text("message", 1, MAX_CHAT_CHARACTERS)?;
        let client = self.client(self.membership(auction_id)?);
        let command = RoomCommand::Chat { client, message, reply_to };
        Ok(self.rooms.send(auction_id, command)?)
    }

    fn moderate(&self, event: &str, data: &str, reply_to: ReplyTo) -> Result<(), Failure> {
        let fields = Fields::parse(data.as_bytes())?;
        let auction_id: AuctionId = fields.id("auction_id")?;
        let act = if event == "chat_delete" {
            // Message ids are made by the edge as UUIDs: any other id belongs to no message.
            let message_id = fields.id::<uuid::Uuid>("message_id")?.to_string();
            Moderation::Delete(ChatDeleted { auction_id, message_id })
        } else {
            let seconds = fields.whole("seconds", 0, MAX_MUTE_SECONDS)?;
            Moderation::Mute(ChatMuted { auction_id, user_id: fields.id("user_id")?, seconds })
        };
        let client = self.client(self.membership(auction_id)?);
        let command = RoomCommand::Moderate { client, act, reply_to };
        Ok(self.rooms.send(auction_id, command)?)
    }

    /// Places a bid without blocking further requests; it is answered once.
    fn place_bid(&self, data: &str, reply_to: ReplyTo) -> Result<(), Failure> {
        let identity = self.identity.as_ref().ok_or(TokenError::Missing)?;
        // Again, in case the first announcement was given up. Repeated ones are not sent.
        self.context().users_seen.send(identity.seen(), &identity.token);
        let (queue, rooms, arrived) = (Arc::clone(&self.queue), Arc::clone(&self.rooms), Instant::now());
        let user_id = identity.person.user_id;
        let answer = move |auction_id, answer: &Answer, reply_to| {
            queue.send(&Outgoing::answer("bid_result", answer.public(), reply_to));
            rooms.context.metrics.answer(auction_id, user_id, answer, arrived.elapsed());
        };
        let rejected = |failure: Failure| Answer::Rejected(RefusedBid::of(failure, None));
        let bid = match parse_place_bid(data.as_bytes(), None, self.context().names.of(&identity.person)) {
            Ok(bid) => bid,
            Err(failure) => {
                answer(None, &rejected(failure), reply_to);
                return Ok(());
            }
        };
        let Ok(permit) = Arc::clone(&self.bids).try_acquire_owned() else {
            self.context().metrics.bids_over_limit.inc();
            answer(Some(bid.auction_id), &rejected(Code::RateLimited.into()), reply_to);
            return Ok(());
        };
        let (rooms, token) = (Arc::clone(&self.rooms), identity.token.clone());
        let auction_id = bid.auction_id;
        // Each bid is a trace of its own, however long its connection lasts.
        let span = trace_span!(target: TARGET, parent: None, "place_bid", otel.kind = "server", %auction_id);
        let placing = async move {
            let (result, pending) = ask(&rooms.context, bid, &token).await;
            answer(Some(auction_id), &result, reply_to);
            traces::record("code", result.code().map_or("accepted", Code::name));
            drop((pending, permit));
            if let Answer::Accepted(bid) = &result {
                Box::pin(shared_bids::placed(&rooms.context, user_id, auction_id, bid.seq, bid.amount)).await;
            }
        };
        tokio::spawn(placing.instrument(span));
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(user_id) = self.user_id() {
            self.context().bidders.disconnect(user_id, self.number, tokio::time::Instant::now());
        }
        for (auction_id, _) in self.joined.drain() {
            self.rooms.leave(auction_id, self.number);
        }
    }
}

/// The token in the data of an `authenticate`.
fn token_of(data: &RawValue) -> Option<String> {
    match Shown::in_authenticate(data) {
        Shown::Token(token) => Some(token),
        Shown::Anonymous | Shown::Nothing => None,
    }
}

//! One plain WebSocket connection, from the token to the close.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use domain::AuctionId;
use futures_util::{SinkExt, StreamExt};
use identity::{Identity, TokenError};
use protocol::frames::{Connected, PROTOCOL_VERSION, close, encode, error};
use protocol::input::Fields;
use protocol::{Answer, Code, Failure, PlaceBid, RefusedBid, parse_place_bid, subject};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};

use crate::edge::Parts;
use crate::mailbox::Mailbox;
use crate::room::{SessionId, Visit, Visitor};

/// SPEC 4: a first `authenticate` within 5 s.
const AUTHENTICATE_WITHIN: Duration = Duration::from_secs(5);
/// A write that takes longer means that the client does not read at all.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
const PING_EVERY: Duration = Duration::from_secs(25);
/// Two pings without any sign of life.
const SILENT_FOR: Duration = Duration::from_secs(60);
/// SPEC 4: `token_expiring` 60 s before.
const EXPIRY_NOTICE_SECONDS: u64 = 60;
/// From a bid to the answer of bid-processing, which takes at most 2.8 s itself.
const BID_TIMEOUT: Duration = Duration::from_millis(3_000);
/// Bids of one connection under way; bid-processing allows a person as many.
const MAX_BIDS_IN_FLIGHT: usize = 32;
/// Auctions one connection may watch at once.
const MAX_AUCTIONS: usize = 50;
/// Request ids are repeated in answers: a number or a short text.
const MAX_ID_BYTES: usize = 64;
const RETRY_AFTER_MS: u64 = 1_000;

type Socket = WebSocketStream<TcpStream>;

/// What the upgrade request carried.
pub enum Presented {
    Nothing,
    Token(String),
}

/// One request. What it lacks is told apart below, so that its id can be answered.
#[derive(Deserialize)]
struct Incoming<'a> {
    event: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
}

/// Why a session ends.
enum End {
    /// The client closed, or the connection broke.
    Gone,
    Close(u16, &'static str),
}

pub async fn run(session: SessionId, mut socket: Socket, presented: Presented, edge: Arc<Parts>) {
    let end = match authenticate(&mut socket, presented, &edge).await {
        Ok((identity, id)) => {
            edge.courier.send(identity.seen());
            let mut session = Session {
                session,
                identity,
                edge,
                mailbox: Arc::default(),
                joined: HashSet::new(),
                bids: Arc::new(Semaphore::new(MAX_BIDS_IN_FLIGHT)),
                noticed: false,
            };
            session.greet(id.as_deref());
            let end = session.serve(&mut socket).await;
            session.leave_all();
            end
        }
        Err(end) => end,
    };
    if let End::Close(code, reason) = end {
        let frame = CloseFrame { code: code.into(), reason: Utf8Bytes::from_static(reason) };
        drop(tokio::time::timeout(WRITE_TIMEOUT, socket.close(Some(frame))).await);
        // The client answers the close; what it still sends is read away, so that the close arrives.
        let rest = async { while socket.next().await.is_some_and(|message| message.is_ok()) {} };
        drop(tokio::time::timeout(Duration::from_secs(1), rest).await);
    }
}

/// The token of the request, or of a first `authenticate`, and the latter's id.
async fn authenticate(
    socket: &mut Socket,
    presented: Presented,
    edge: &Parts,
) -> Result<(Identity, Option<Box<RawValue>>), End> {
    let (token, id) = match presented {
        Presented::Token(token) => (Ok(token), None),
        Presented::Nothing => match tokio::time::timeout(AUTHENTICATE_WITHIN, first_token(socket)).await {
            Ok(Ok((token, id))) => (Ok(token), id),
            Ok(Err(Some(error))) => (Err(error), None),
            Ok(Err(None)) => return Err(End::Gone),
            Err(_) => (Err(TokenError::Missing), None),
        },
    };
    let verified = match token {
        Ok(token) => edge.verifier.verify(&token).await,
        Err(error) => Err(error),
    };
    match verified {
        Ok(identity) => Ok((identity, id)),
        Err(token_error) => {
            let frame = error(&Failure::from(token_error), id.as_deref());
            drop(tokio::time::timeout(WRITE_TIMEOUT, socket.send(Message::text(frame))).await);
            Err(End::Close(close::UNAUTHENTICATED, "a valid token is required"))
        }
    }
}

/// None: the client is gone.
async fn first_token(socket: &mut Socket) -> Result<(String, Option<Box<RawValue>>), Option<TokenError>> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => {
                let incoming: Incoming<'_> = serde_json::from_str(&text).map_err(|_| Some(TokenError::Missing))?;
                let token = incoming.data.filter(|_| incoming.event == "authenticate").and_then(token_of);
                let id = incoming.id.map(ToOwned::to_owned);
                return token.map(|token| (token, id)).ok_or(Some(TokenError::Missing));
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(_)) => return Err(Some(TokenError::Missing)),
            Some(Err(_)) | None => return Err(None),
        }
    }
}

fn token_of(data: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Authenticate {
        token: String,
    }
    serde_json::from_str::<Authenticate>(data.get()).ok().map(|data| data.token)
}

struct Session {
    session: SessionId,
    identity: Identity,
    edge: Arc<Parts>,
    mailbox: Arc<Mailbox>,
    joined: HashSet<AuctionId>,
    bids: Arc<Semaphore>,
    /// The expiry of the present token has been announced.
    noticed: bool,
}

impl Session {
    fn greet(&self, authenticate_id: Option<&RawValue>) {
        let session_id = uuid::Uuid::new_v4().to_string();
        let connected = Connected {
            user_id: self.identity.person.user_id,
            username: &self.identity.person.username,
            server_time: self.edge.clock.now().0,
            session_id: &session_id,
            protocol: PROTOCOL_VERSION,
        };
        self.answer("connected", &connected, None);
        if authenticate_id.is_some() {
            self.answer("authenticated", json!({"expires_at": self.identity.expires_at * 1000}), authenticate_id);
        }
    }

    fn answer(&self, event: &str, data: impl serde::Serialize, id: Option<&RawValue>) {
        self.mailbox.push(encode(event, data, id).into());
    }

    async fn serve(&mut self, socket: &mut Socket) -> End {
        let mut pings = tokio::time::interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        let mut heard = Instant::now();
        let mailbox = Arc::clone(&self.mailbox);
        let stop = self.edge.stop.clone();
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    self.answer("server_draining", json!({"retry_after_ms": RETRY_AFTER_MS}), None);
                    drop(self.write(socket).await);
                    return End::Close(close::DRAINING, "the server is restarting");
                }
                () = mailbox.news() => {
                    if let Err(end) = self.write(socket).await {
                        return end;
                    }
                }
                message = socket.next() => {
                    heard = Instant::now();
                    match message {
                        Some(Ok(Message::Text(text))) => self.request(&text).await,
                        Some(Ok(Message::Binary(_))) => self.refuse(&Code::InvalidRequest.into(), None),
                        Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                        Some(Ok(Message::Close(_))) | None => return End::Gone,
                        Some(Err(tungstenite::Error::Capacity(_))) => return End::Close(close::TOO_BIG, "larger than 64 KiB"),
                        Some(Err(_)) => return End::Gone,
                    }
                }
                _ = pings.tick() => {
                    if heard.elapsed() > SILENT_FOR {
                        return End::Gone;
                    }
                    let ping = socket.send(Message::Ping(bytes::Bytes::new()));
                    if !matches!(tokio::time::timeout(WRITE_TIMEOUT, ping).await, Ok(Ok(()))) {
                        return End::Close(close::TOO_SLOW, "not read fast enough");
                    }
                }
                () = tokio::time::sleep(self.until_expiry()) => {
                    if self.seconds_left() == 0 {
                        self.refuse(&TokenError::Expired.into(), None);
                        drop(self.write(socket).await);
                        return End::Close(close::UNAUTHENTICATED, "the token has expired");
                    }
                    self.noticed = true;
                    self.answer("token_expiring", json!({"expires_at": self.identity.expires_at * 1000}), None);
                }
            }
        }
    }

    /// Sends all that waits, in one flush.
    async fn write(&self, socket: &mut Socket) -> Result<(), End> {
        let Some(frames) = self.mailbox.take() else { return Err(End::Close(close::TOO_SLOW, "not read fast enough")) };
        let send = async {
            for frame in frames {
                socket.feed(Message::Text(frame)).await?;
            }
            socket.flush().await
        };
        match tokio::time::timeout(WRITE_TIMEOUT, send).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(End::Close(close::TOO_SLOW, "not read fast enough")),
        }
    }

    fn seconds_left(&self) -> u64 {
        self.identity.expires_at.saturating_sub(self.edge.clock.now().0 / 1000)
    }

    /// Until the notice, or after it until the end of the token.
    fn until_expiry(&self) -> Duration {
        let left = self.seconds_left();
        Duration::from_secs(if self.noticed { left } else { left.saturating_sub(EXPIRY_NOTICE_SECONDS) })
    }

    fn refuse(&self, failure: &Failure, id: Option<&RawValue>) {
        self.mailbox.push(error(failure, id).into());
    }

    async fn request(&mut self, text: &str) {
        let Ok(incoming) = serde_json::from_str::<Incoming<'_>>(text) else {
            return self
                .refuse(&Failure::new(Code::InvalidRequest, "A frame is one JSON object with event and data"), None);
        };
        let id = incoming.id;
        if id.is_some_and(|id| id.get().len() > MAX_ID_BYTES) {
            return self.refuse(&Failure::new(Code::InvalidRequest, "id must be a number or a short text"), None);
        }
        let data = incoming.data.map_or("{}", RawValue::get);
        let done = match incoming.event.as_str() {
            "ping" => {
                self.answer("pong", json!({"timestamp": self.edge.clock.now().0}), id);
                Ok(())
            }
            "authenticate" => self.renew(data, id).await,
            "join_auction" => self.join(data, id),
            "leave_auction" => self.leave(data, id),
            "place_bid" => {
                self.place_bid(data, id);
                Ok(())
            }
            _ => Err(Code::UnknownEvent.into()),
        };
        if let Err(failure) = done {
            self.refuse(&failure, id);
        }
    }

    async fn renew(&mut self, data: &str, id: Option<&RawValue>) -> Result<(), Failure> {
        let token = serde_json::from_str::<&RawValue>(data).ok().and_then(token_of);
        let identity = self.edge.verifier.verify(&token.ok_or(TokenError::Missing)?).await?;
        if identity.person.user_id != self.identity.person.user_id {
            return Err(Failure::new(Code::Unauthenticated, "This token belongs to somebody else; connect anew"));
        }
        self.identity = identity;
        self.noticed = false;
        self.answer("authenticated", json!({"expires_at": self.identity.expires_at * 1000}), id);
        Ok(())
    }

    fn join(&mut self, data: &str, id: Option<&RawValue>) -> Result<(), Failure> {
        let fields = Fields::parse(data.as_bytes())?;
        let auction_id = fields.id("auction_id")?;
        let last_seq = fields.optional_whole("last_seq", 0, i64::MAX.cast_unsigned())?;
        if self.joined.len() >= MAX_AUCTIONS && !self.joined.contains(&auction_id) {
            return Err(Failure::new(Code::InvalidRequest, "Leave an auction before joining another"));
        }
        let visitor = Visitor {
            session: self.session,
            user_id: self.identity.person.user_id,
            mailbox: Arc::clone(&self.mailbox),
        };
        let visit = Visit::Join { visitor, last_seq, id: id.map(ToOwned::to_owned) };
        self.edge.rooms.send(auction_id, visit).map_err(|_| Failure::from(Code::Overloaded))?;
        self.joined.insert(auction_id);
        Ok(())
    }

    fn leave(&mut self, data: &str, id: Option<&RawValue>) -> Result<(), Failure> {
        let auction_id: AuctionId = Fields::parse(data.as_bytes())?.id("auction_id")?;
        if !self.joined.remove(&auction_id) {
            return Err(Code::NotJoined.into());
        }
        drop(self.edge.rooms.send(auction_id, Visit::Leave { session: self.session }));
        self.answer("left_auction", json!({"auction_id": auction_id.to_string()}), id);
        Ok(())
    }

    fn leave_all(&mut self) {
        for auction_id in self.joined.drain() {
            drop(self.edge.rooms.send(auction_id, Visit::Leave { session: self.session }));
        }
    }

    /// Bids run beside the reading of further requests; each is answered once.
    fn place_bid(&self, data: &str, id: Option<&RawValue>) {
        let result = |answer: &Answer, id: Option<&RawValue>| encode("bid_result", answer.public(), id);
        let refused = |failure: Failure| Answer::Rejected(RefusedBid::of(failure, None));
        let bid = match parse_place_bid(data.as_bytes(), None, self.identity.person.clone()) {
            Ok(bid) => bid,
            Err(failure) => return self.mailbox.push(result(&refused(failure), id).into()),
        };
        let Ok(permit) = Arc::clone(&self.bids).try_acquire_owned() else {
            return self.mailbox.push(result(&refused(Code::RateLimited.into()), id).into());
        };
        let (edge, mailbox, id) = (Arc::clone(&self.edge), Arc::clone(&self.mailbox), id.map(ToOwned::to_owned));
        tokio::spawn(async move {
            let answer = ask(&edge, bid).await;
            mailbox.push(result(&answer, id.as_deref()).into());
            drop(permit);
        });
    }
}

async fn ask(edge: &Parts, mut bid: PlaceBid) -> Answer {
    // Named here, so that an answer that does not come can still be asked for again.
    let bid_id = *bid.bid_id.get_or_insert_with(|| domain::BidId::from_uuid(uuid::Uuid::new_v4()));
    match bus::request(&edge.bus, subject::BIDS_PLACE, &bid, BID_TIMEOUT).await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::warn!(auction_id = %bid.auction_id, %error, "a bid got no answer");
            let code = match error {
                bus::RequestError::NobodyThere => Code::Unavailable,
                bus::RequestError::NoAnswer(_) => Code::OutcomeUnknown,
            };
            Answer::Rejected(RefusedBid::of(code.into(), Some(bid_id)))
        }
    }
}

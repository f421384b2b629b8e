//! The plain door: one WebSocket connection, from the token to the close.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use identity::{Identity, TokenError};
use protocol::frames::close;
use protocol::{Code, Failure};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};

use crate::edge::Parts;
use crate::line::Line;
use crate::mailbox::{Mailbox, Stuck};
use crate::outgoing::{Door, Outgoing, To, text_in};
use crate::session::{Session, token_of};

/// Time for the first `authenticate`. CONTRACT.md, Connecting.
const AUTHENTICATE_WITHIN: Duration = Duration::from_secs(5);
/// A write that takes longer means that the client does not read at all.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
const PING_EVERY: Duration = Duration::from_secs(25);
/// Without any sign of life, of a peer that may be gone without a word.
const SILENT_FOR: Duration = Duration::from_secs(60);
/// Request ids are repeated in answers: a number or a short text.
const MAX_ID_BYTES: usize = 64;
/// For the client to answer a close.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// For a slow one to take what the kernel has for him already, megabytes, before he can be told that he was slow.
const SLOW_CLOSE_WITHIN: Duration = Duration::from_secs(5);

pub type Socket = WebSocketStream<Line>;

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

/// Why a connection ends.
pub enum End {
    /// The client closed, or the connection broke.
    Gone,
    Close(u16, &'static str),
}

impl End {
    /// What the other side is told of a mistake in the protocol.
    pub const fn of(error: &tungstenite::Error) -> Self {
        match error {
            tungstenite::Error::Capacity(_) => Self::Close(close::TOO_BIG, "larger than 64 KiB"),
            tungstenite::Error::Utf8(_) => Self::Close(close::NOT_TEXT, "not UTF-8"),
            tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Self::Gone,
            tungstenite::Error::Protocol(_) => Self::Close(close::PROTOCOL_ERROR, "not as RFC 6455 has it"),
            _ => Self::Gone,
        }
    }
}

impl From<Stuck> for End {
    fn from(stuck: Stuck) -> Self {
        match stuck {
            Stuck::TooSlow => Self::Close(close::TOO_SLOW, "not read fast enough"),
            Stuck::Broken(_) => Self::Gone,
        }
    }
}

pub async fn run(mut socket: Socket, presented: Presented, edge: Arc<Parts>) {
    let end = match authenticate(&mut socket, presented, &edge).await {
        Ok((identity, id)) => {
            let mailbox = Arc::new(edge.mailbox(Door::Plain));
            hand_over(&mut socket, &mailbox).await;
            let mut session = Session::begin(Arc::clone(&edge), identity, Arc::clone(&mailbox));
            if let Some(id) = id {
                session.authenticated(To::Id(id));
            }
            serve(&mut session, &mut socket, &mailbox, &edge).await
        }
        Err(end) => end,
    };
    if let End::Close(code, reason) = end {
        edge.closing(code);
        close_socket(&mut socket, code, reason).await;
    }
}

/// From now on the mailbox writes to the socket.
pub async fn hand_over(socket: &mut Socket, mailbox: &Arc<Mailbox>) {
    // A pong may be half written. Where that does not end, the connection will not last either.
    flush(socket).await;
    socket.get_mut().hand_over(mailbox);
}

/// Sends what waits, for this long at most.
pub async fn flush(socket: &mut Socket) {
    drop(tokio::time::timeout(WRITE_TIMEOUT, socket.flush()).await);
}

pub async fn close_socket(socket: &mut Socket, code: u16, reason: &'static str) {
    let frame = CloseFrame { code: code.into(), reason: Utf8Bytes::from_static(reason) };
    let within = if code == close::TOO_SLOW { SLOW_CLOSE_WITHIN } else { CLOSE_WITHIN };
    drop(tokio::time::timeout(within, socket.close(Some(frame))).await);
    // The client answers the close; what it still sends is read away, so that the close arrives.
    let rest = async { while socket.next().await.is_some_and(|message| message.is_ok()) {} };
    drop(tokio::time::timeout(CLOSE_WITHIN, rest).await);
}

/// The client has closed: the library has the answer ready, and it must leave before the connection ends.
pub async fn answer_close(socket: &mut Socket) -> End {
    // It reports the end as an error.
    drop(tokio::time::timeout(CLOSE_WITHIN, socket.flush()).await);
    End::Gone
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
            let to = id.map_or(To::Anybody, To::Id);
            let frame = Outgoing::error(&Failure::from(token_error), to).frame(Door::Plain);
            let error = Message::text(text_in(&frame));
            drop(tokio::time::timeout(WRITE_TIMEOUT, socket.send(error)).await);
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

async fn serve(session: &mut Session, socket: &mut Socket, mailbox: &Mailbox, edge: &Parts) -> End {
    let mut heard = Instant::now();
    let mut ping_at = heard + PING_EVERY;
    // Made once: to register with the stop and the clock anew would cost more than a frame does.
    let mut stopped = pin!(edge.stop.cancelled());
    let mut expiry = pin!(tokio::time::sleep(session.until_expiry()));
    let mut delivering = pin!(mailbox.deliver());
    let mut alarm = pin!(tokio::time::sleep_until(ping_at));
    loop {
        tokio::select! {
            biased;
            stuck = &mut delivering => return stuck.into(),
            () = &mut stopped => {
                session.drain().await;
                flush(socket).await;
                return End::Close(close::DRAINING, "the server is restarting");
            }
            () = &mut alarm => {
                if heard.elapsed() >= SILENT_FOR {
                    return End::Gone;
                }
                if ping_at <= Instant::now() {
                    mailbox.ping();
                    ping_at += PING_EVERY;
                }
                alarm.as_mut().reset(ping_at.min(heard + SILENT_FOR));
            }
            () = &mut expiry => {
                if session.expire() {
                    flush(socket).await;
                    return End::Close(close::UNAUTHENTICATED, "the token has expired");
                }
                expiry.as_mut().reset(Instant::now() + session.until_expiry());
            }
            // Last: one who sends without pause keeps neither his token nor his silence from being noticed.
            message = socket.next() => {
                heard = Instant::now();
                match message {
                    Some(Ok(Message::Text(text))) => {
                        request(session, mailbox, &text).await;
                        // It may have renewed the token.
                        expiry.as_mut().reset(Instant::now() + session.until_expiry());
                    }
                    Some(Ok(Message::Binary(_))) => refuse(mailbox, "Frames are text", To::Anybody),
                    Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                    Some(Ok(Message::Close(_))) => return answer_close(socket).await,
                    None => return End::Gone,
                    Some(Err(error)) => return End::of(&error),
                }
            }
        }
    }
}

fn refuse(mailbox: &Mailbox, sentence: &str, to: To) {
    mailbox.push(&Outgoing::error(&Failure::new(Code::InvalidRequest, sentence), to));
}

async fn request(session: &mut Session, mailbox: &Mailbox, text: &str) {
    let Ok(incoming) = serde_json::from_str::<Incoming<'_>>(text) else {
        return refuse(mailbox, "A frame is one JSON object with event and data", To::Anybody);
    };
    if incoming.id.is_some_and(|id| id.get().len() > MAX_ID_BYTES) {
        return refuse(mailbox, "id must be a number or a short text", To::Anybody);
    }
    let to = incoming.id.map_or(To::Anybody, |id| To::Id(id.to_owned()));
    session.request(&incoming.event, incoming.data.map_or("{}", RawValue::get), to).await;
}

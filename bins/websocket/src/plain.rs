//! The plain transport: one WebSocket connection at `/ws`, from the token to the close.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::OnUpgrade;
use identity::TokenError;
use protocol::frames::{ClientFrame, close};
use protocol::{Code, Failure};
use serde_json::value::RawValue;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;
use warp::reply::Response;

use crate::edge::Edge;
use crate::entry::{Entry, Shown};
use crate::event::{Outgoing, ReplyTo};
use crate::places::Place;
use crate::rooms::Rooms;
use crate::session::Session;
use crate::transport::framing::{Transport, text_in};
use crate::transport::send_queue::SendQueue;
use crate::transport::socket::{End, Socket, WRITE_TIMEOUT, answer_close, close_socket, flush, hand_over};
use crate::upgrade::{Request, upgrade};

/// Time for the first `authenticate`. CONTRACT.md, Connecting.
const AUTHENTICATE_WITHIN: Duration = Duration::from_secs(5);
/// Frames before the `authenticate`. Clients send none but a ping.
const MAX_EARLY_FRAMES: usize = 16;
/// Interval between two pings of the server.
const PING_EVERY: Duration = Duration::from_secs(25);
/// Time without any frame of the peer, not even a pong, after which it is considered dead.
const SILENT_FOR: Duration = Duration::from_secs(60);
/// Bytes of a request id, which is repeated in the answer: a number or a short text.
const MAX_ID_BYTES: usize = 64;

/// The token that came with the upgrade request.
enum Credentials {
    /// None: the first frame must be an `authenticate`, with a token or with the wish to watch.
    Missing,
    /// A verified token.
    Verified(Entry),
    /// A token that is not accepted.
    Refused(TokenError),
}

/// Answers an upgrade request to `/ws`, and runs the connection if it is accepted.
pub async fn accept(edge: &Edge, request: &Request, on_upgrade: Option<OnUpgrade>) -> Response {
    let (response, socket) = match upgrade(&edge.context, &request.headers, on_upgrade) {
        Ok(accepted) => accepted,
        Err(rejected) => return *rejected,
    };
    let mut place = match edge.enter(request.client) {
        Ok(place) => place,
        Err(no_place) => return edge.reject(no_place).into(),
    };
    let credentials = match request.token() {
        Some(token) => match edge.context.verifier.verify(&token).await {
            Ok(identity) => match place.authenticate(identity.person.user_id) {
                Ok(frames) => Credentials::Verified(Entry { identity: Some(identity), frames }),
                Err(no_place) => return edge.reject(no_place).into(),
            },
            Err(error) => Credentials::Refused(error),
        },
        None => Credentials::Missing,
    };
    // Boxed: a connection takes no memory for its beginning.
    let beginning = Box::pin(begin(socket, credentials, place, edge.clone()));
    edge.run(async move {
        let begun = beginning.await;
        if let Some((connection, session)) = begun {
            connection.run(session).await;
        }
    });
    response
}

/// A connection whose session has begun.
struct Connection {
    socket: Socket,
    queue: Arc<SendQueue>,
    rooms: Arc<Rooms>,
    /// Cancelled if its place is needed for another one.
    evicted: CancellationToken,
    /// Held until the socket is closed.
    _place: Arc<Mutex<Place>>,
}

/// Lets a client in, if it shows what it must. Otherwise the socket is closed.
async fn begin(
    socket: impl Future<Output = Option<Socket>>,
    credentials: Credentials,
    mut place: Place,
    edge: Edge,
) -> Option<(Box<Connection>, Box<Session>)> {
    let mut socket = socket.await?;
    let evicted = place.evicted();
    let authenticated = tokio::select! {
        authenticated = authenticate(&mut socket, credentials, &mut place, &edge) => authenticated,
        () = evicted.cancelled() => return None,
    };
    let rooms = edge.rooms;
    let (entry, id) = match authenticated {
        Ok(authenticated) => authenticated,
        Err(end) => {
            close(&mut socket, end, &rooms).await;
            return None;
        }
    };
    // A person's place has another token now, and gives way to no one.
    let evicted = place.evicted();
    let queue = Arc::new(rooms.context.send_queue(Transport::Plain));
    hand_over(&mut socket, &queue).await;
    let place = Arc::new(Mutex::new(place));
    let session = Session::begin(Arc::clone(&rooms), entry, Arc::clone(&place), Arc::clone(&queue));
    if let Some(id) = id {
        session.authenticated(ReplyTo::Id(id));
    }
    Some((Box::new(Connection { socket, queue, rooms, evicted, _place: place }), Box::new(session)))
}

async fn close(socket: &mut Socket, end: End, rooms: &Rooms) {
    if let End::Close(code, reason) = end {
        rooms.context.count_close(code);
        close_socket(socket, code, reason).await;
    }
}

/// Accepts the token of the request, or a first `authenticate`, whose id is returned as well.
async fn authenticate(
    socket: &mut Socket,
    credentials: Credentials,
    place: &mut Place,
    edge: &Edge,
) -> Result<(Entry, Option<Box<RawValue>>), End> {
    let (verified, id) = match credentials {
        Credentials::Verified(entry) => return Ok((entry, None)),
        Credentials::Refused(error) => (Err(error), None),
        Credentials::Missing => match tokio::time::timeout(AUTHENTICATE_WITHIN, first_authenticate(socket)).await {
            Ok(Some((Shown::Token(token), id))) => (edge.context.verifier.verify(&token).await.map(Some), id),
            Ok(Some((Shown::Anonymous, id))) => (Ok(None), id),
            Ok(Some((Shown::Nothing, id))) => (Err(TokenError::Missing), id),
            Ok(None) => return Err(End::Gone),
            Err(_) => (Err(TokenError::Missing), None),
        },
    };
    let (failure, end) = match verified {
        Ok(identity) => match place.take(identity.as_ref().map(|identity| identity.person.user_id)) {
            Ok(frames) => return Ok((Entry { identity, frames }, id)),
            Err(no_place) => {
                (edge.reject(no_place).failure(), End::Close(close::TRY_AGAIN, "no place for another connection"))
            }
        },
        Err(error) => {
            let end = match error {
                TokenError::KeysUnavailable => End::Close(close::TRY_AGAIN, "the token cannot be verified yet"),
                _ => End::Close(close::UNAUTHENTICATED, "a valid token is required"),
            };
            (Failure::from(error), end)
        }
    };
    let frame = Outgoing::error(&failure, id.map_or(ReplyTo::Nothing, ReplyTo::Id)).frame(Transport::Plain);
    drop(tokio::time::timeout(WRITE_TIMEOUT, socket.send(Message::text(text_in(&frame)))).await);
    Err(end)
}

/// Reads the first `authenticate`. None: the client is gone.
async fn first_authenticate(socket: &mut Socket) -> Option<(Shown, Option<Box<RawValue>>)> {
    for _ in 0..MAX_EARLY_FRAMES {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => {
                let Ok(incoming) = serde_json::from_str::<ClientFrame<'_>>(&text) else { break };
                let data = incoming.data.filter(|_| incoming.event == "authenticate");
                let shown = data.map_or(Shown::Nothing, Shown::in_authenticate);
                // The answer to a frame that is no `authenticate` repeats no id.
                let id = incoming.id.filter(|_| shown != Shown::Nothing);
                return Some((shown, id.map(ToOwned::to_owned)));
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(_)) => break,
            Some(Err(_)) | None => return None,
        }
    }
    Some((Shown::Nothing, None))
}

impl Connection {
    /// Serves the client until one of the two ends it.
    async fn run(mut self: Box<Self>, mut session: Box<Session>) {
        let end = self.serve(&mut session).await;
        // It leaves its rooms before the socket is closed, which may take seconds.
        drop(session);
        Box::pin(close(&mut self.socket, end, &self.rooms)).await;
    }

    async fn serve(&mut self, session: &mut Session) -> End {
        let Self { socket, queue, rooms, evicted, .. } = self;
        let mut last_received = Instant::now();
        let mut ping_at = last_received + PING_EVERY;
        // Created once: registering with the stop and the clock in every round would cost more than a frame does.
        let mut stopped = pin!(rooms.context.stop.cancelled());
        let mut evicted = pin!(evicted.cancelled());
        let mut expiry = pin!(tokio::time::sleep(session.until_expiry()));
        let mut writer = pin!(queue.run());
        let mut alarm = pin!(tokio::time::sleep_until(ping_at));
        loop {
            tokio::select! {
                biased;
                error = &mut writer => return error.into(),
                () = &mut stopped => {
                    Box::pin(session.drain()).await;
                    Box::pin(flush(socket)).await;
                    return End::Close(close::DRAINING, "the server is restarting");
                }
                () = &mut evicted => {
                    session.give_way();
                    Box::pin(flush(socket)).await;
                    return End::Close(close::TRY_AGAIN, "another connection needs the place");
                }
                () = &mut alarm => {
                    if last_received.elapsed() >= SILENT_FOR {
                        return End::Gone;
                    }
                    if ping_at <= Instant::now() {
                        queue.ping();
                        ping_at += PING_EVERY;
                    }
                    alarm.as_mut().reset(ping_at.min(last_received + SILENT_FOR));
                }
                () = &mut expiry => {
                    if session.expire() {
                        Box::pin(flush(socket)).await;
                        return End::Close(close::UNAUTHENTICATED, "the token has expired");
                    }
                    expiry.as_mut().reset(Instant::now() + session.until_expiry());
                }
                // Polled last, so that a client that sends continuously cannot prevent token expiry or liveness checks.
                message = socket.next() => {
                    last_received = Instant::now();
                    if let Some(Ok(_)) = message && session.keep_pace().await.is_err() {
                        return End::Close(close::TOO_SLOW, "sent faster than allowed");
                    }
                    match message {
                        Some(Ok(Message::Text(text))) => {
                            let expires_at = session.expires_at();
                            request(session, queue, &text).await;
                            // Only after a renewal: a timer that each message sets never fires for a client that floods.
                            if session.expires_at() != expires_at {
                                expiry.as_mut().reset(Instant::now() + session.until_expiry());
                            }
                        }
                        Some(Ok(Message::Binary(_))) => reject(queue, "Frames are text", ReplyTo::Nothing),
                        Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                        Some(Ok(Message::Close(_))) => return Box::pin(answer_close(socket)).await,
                        None => return End::Gone,
                        Some(Err(error)) => return End::of(&error),
                    }
                }
            }
        }
    }
}

fn reject(queue: &SendQueue, sentence: &str, reply_to: ReplyTo) {
    queue.send(&Outgoing::error(&Failure::new(Code::InvalidRequest, sentence), reply_to));
}

async fn request(session: &mut Session, queue: &SendQueue, text: &str) {
    let Ok(incoming) = serde_json::from_str::<ClientFrame<'_>>(text) else {
        return reject(queue, "A frame is one JSON object with event and data", ReplyTo::Nothing);
    };
    if incoming.id.is_some_and(|id| id.get().len() > MAX_ID_BYTES) {
        return reject(queue, "id must be a number or a short text", ReplyTo::Nothing);
    }
    let reply_to = incoming.id.map_or(ReplyTo::Nothing, |id| ReplyTo::Id(id.to_owned()));
    session.request(&incoming.event, incoming.data.map_or("{}", RawValue::get), reply_to).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest single part of the six kilobytes that a connection may take: code that runs seldom is boxed.
    #[test]
    fn task_of_a_connection_takes_under_two_kilobytes() {
        fn size_of_future<F>(_: impl Fn(Box<Connection>, Box<Session>) -> F) -> usize {
            size_of::<F>()
        }
        let state = size_of::<Connection>() + size_of::<Session>();
        let running = size_of_future(Connection::run);
        assert!(running + state < 1_750, "{running} and {state} of its state");
    }
}

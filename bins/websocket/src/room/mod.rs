//! The room of one auction on this edge: its committed state, its chat, and the connections that joined it.
//!
//! A room subscribes to records, ticks, chat and presence first, then requests the committed state and reads the newest
//! chat, then applies what is newer. A gap in records or chat (the republish is at most once) is read from the stream.
//! (Four subscriptions for each auction, however many members: one with a wildcard would bring the subjects of the log
//! and of the chat stream as well, so everything twice, and publishes that were rejected.)
//!
//! The memory of a room is bounded: a thousand bids, the newest chat, and eight broadcasts in progress, each of names
//! and messages that are bounded themselves: some hundred kilobytes, with the longest names two megabytes.

mod audience;
mod chat;
pub mod command;
mod fence;
mod open;
mod people;
mod presence;

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bus::{Logged, Said};
use domain::AuctionId;
use futures_util::{Stream, StreamExt};
use protocol::{Code, Failure, StateReply, StateRequest, subject};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use crate::context::EdgeContext;
use crate::event::Outgoing;
use crate::room::command::RoomCommand;
use crate::room::open::OpenRoom;

/// Time that an empty room stays open for clients that reconnect.
const EMPTY_FOR: Duration = Duration::from_secs(30);
/// Time for bid-processing to reply with the committed state.
const STATE_TIMEOUT: Duration = Duration::from_secs(4);
/// Interval between two counts sent to other edges, and sums sent to the members. CONTRACT.md, Presence.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The subscriptions of a room.
struct Sources {
    records: Pin<Box<dyn Stream<Item = Logged> + Send>>,
    ticks: async_nats::Subscriber,
    chat: Pin<Box<dyn Stream<Item = Said> + Send>>,
    presence: async_nats::Subscriber,
}

/// Runs the room of an auction until it has been empty for a while.
pub async fn run(auction_id: AuctionId, context: Arc<EdgeContext>, mut commands: mpsc::Receiver<RoomCommand>) {
    match prepare(auction_id, context).await {
        Ok((room, sources)) => watch(room, sources, commands).await,
        Err(failure) => {
            // All queued commands get the error; the next join opens another room.
            commands.close();
            while let Some(command) = commands.recv().await {
                match command {
                    RoomCommand::Join { client, reply_to, .. }
                    | RoomCommand::Chat { client, reply_to, .. }
                    | RoomCommand::Moderate { client, reply_to, .. } => {
                        let queue = Arc::clone(&client.queue);
                        // Before the answer: a membership without a request under way is a refused one.
                        drop(client);
                        queue.send(&Outgoing::error(&failure, reply_to));
                    }
                    RoomCommand::Leave { .. } => {}
                }
            }
        }
    }
}

/// Subscribes first and reads the state afterwards, so that nothing is missed in between.
async fn prepare(auction_id: AuctionId, context: Arc<EdgeContext>) -> Result<(OpenRoom, Sources), Failure> {
    let unavailable = |error: &dyn Error| {
        tracing::warn!(%auction_id, error = %errors::chain(error), "failed to open a room");
        Failure::from(Code::Unavailable)
    };
    let EdgeContext { bus, log, chat, .. } = &*context;
    let sources = Sources {
        records: Box::pin(log.events(subject::events(auction_id)).await.map_err(|error| unavailable(&error))?),
        ticks: bus.client.subscribe(subject::timer(auction_id)).await.map_err(|error| unavailable(&error))?,
        chat: Box::pin(chat.listen(auction_id).await.map_err(|error| unavailable(&error))?),
        presence: bus.client.subscribe(subject::presence(auction_id)).await.map_err(|error| unavailable(&error))?,
    };
    let request = StateRequest { auction_id };
    let reply: StateReply = bus::request(bus, subject::AUCTIONS_STATE, &request, STATE_TIMEOUT)
        .await
        .map_err(|error| unavailable(&error))?;
    let mut room = OpenRoom::new(auction_id, Arc::clone(&context), reply.into_result()?);
    // An unreadable chat is no reason to keep clients out of the room.
    if let Err(error) = room.read_chat().await {
        tracing::warn!(%auction_id, error = %errors::chain(&error), "failed to read the chat");
    }
    Ok((room, sources))
}

async fn watch(mut room: OpenRoom, mut sources: Sources, mut commands: mpsc::Receiver<RoomCommand>) {
    let mut empty_since = Some(Instant::now());
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let update_at = room.update_due();
        tokio::select! {
            // Not before the members have got the last record: their next update then continues what the new member
            // was given.
            command = commands.recv(), if update_at.is_none() => match command {
                Some(command) => receive(&mut room, command).await,
                None => return,
            },
            record = sources.records.next() => match record {
                Some(logged) => room.on_record(logged).await,
                // The connection to NATS is closed for good: the service is ending. The same below.
                None => return,
            },
            tick = sources.ticks.next() => match tick {
                Some(message) => room.on_tick(&message.payload).await,
                None => return,
            },
            said = sources.chat.next() => match said {
                Some(said) => room.on_chat(said).await,
                None => return,
            },
            count = sources.presence.next() => match count {
                Some(message) => room.on_count(&message.payload),
                None => return,
            },
            _ = heartbeat.tick() => room.heartbeat().await,
            () = at(room.next_departure()) => room.announce_departures().await,
            () = at(update_at) => {
                room.send_update().await;
                // All queued commands, or they would wait for ever while records keep coming.
                for _ in 0..commands.len() {
                    let Ok(command) = commands.try_recv() else { break };
                    receive(&mut room, command).await;
                }
            }
            () = at(room.log_check_due()) => room.check_end().await,
            () = at(empty_since.map(|since| since + EMPTY_FOR)) => {
                // Commands that are queued already are still served; later ones open another room.
                commands.close();
                empty_since = None;
                continue;
            }
        }
        empty_since = if room.is_empty() { empty_since.or_else(|| Some(Instant::now())) } else { None };
    }
}

async fn receive(room: &mut OpenRoom, command: RoomCommand) {
    match command {
        RoomCommand::Join { client, last_seq, reply_to } => room.join(client, last_seq, reply_to).await,
        RoomCommand::Leave { session } => room.leave(session).await,
        RoomCommand::Chat { client, message, reply_to } => room.say(client, message, reply_to),
        RoomCommand::Moderate { client, act, reply_to } => room.moderate(client, act, reply_to),
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

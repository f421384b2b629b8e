//! The room of one auction on this edge: its committed state, its chat, and the connections that joined it.
//!
//! A room requests the committed state first: an auction that does not exist costs this one request. Then it subscribes
//! to records, ticks, chat and presence, reads what was stored in between, and applies what is newer. A republished message
//! is a hint: a record is shown if it continues the chain, and confirmed by the log ([`confirm`]); a chat message only
//! causes the stream to be read. (Four subscriptions for each auction, however many
//! members: one with a wildcard would bring the subjects of the log and of the chat stream as well, so everything twice,
//! and publishes that were rejected.)
//!
//! The memory of a room is bounded: a thousand bids, the newest chat, and eight broadcasts in progress, each of names
//! and messages that are bounded themselves: some hundred kilobytes, with the longest names two megabytes. Before its
//! first bid a room takes 34 KB (`room_without_bids_takes_34_kilobytes`).
//!
//! A room ends when it has been empty for a while and nothing is queued ([`inbox`]). Clients that resume from before the
//! kept bids wait for a task that reads them ([`join`], [`earlier`]); the room does not.

mod audience;
mod chat;
pub mod command;
mod confirm;
mod earlier;
mod fence;
pub mod inbox;
mod join;
mod kept;
mod maximum;
mod on_air;
mod open;
mod people;
mod presence;
#[cfg(test)]
mod testing;
mod ticks;

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bus::{Logged, Said};
use domain::AuctionId;
use futures_util::{Stream, StreamExt};
use protocol::{Code, Failure, StateReply, StateRequest, subject};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, MissedTickBehavior};

use crate::context::EdgeContext;
use crate::follow;
use crate::room::command::RoomCommand;
use crate::room::inbox::Inbox;
use crate::room::join::{Arrival, Join};
use crate::room::open::OpenRoom;

/// Time for bid-processing to reply with the committed state.
const STATE_TIMEOUT: Duration = Duration::from_secs(4);
/// Interval between two counts sent to other edges, and sums sent to the members. CONTRACT.md, Presence.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Time for queued commands after each update while records keep coming. An answer to a join takes up to a millisecond.
const COMMANDS_BETWEEN_UPDATES: Duration = Duration::from_millis(20);

/// The subscriptions of a room.
struct Sources {
    records: Pin<Box<dyn Stream<Item = Logged> + Send>>,
    ticks: async_nats::Subscriber,
    chat: Pin<Box<dyn Stream<Item = Said> + Send>>,
    presence: async_nats::Subscriber,
}

/// Runs the room of an auction until it has been empty for a while. `opening` is its place among the rooms whose
/// auction may not exist; None: there is none.
pub async fn run(
    auction_id: AuctionId,
    context: Arc<EdgeContext>,
    inbox: Inbox,
    opening: Option<OwnedSemaphorePermit>,
) {
    let opened = match &opening {
        // Boxed, as the room below: a room in one state takes no memory for the other.
        Some(_) => Box::pin(open(auction_id, &context)).await,
        None => Err(Code::Overloaded.into()),
    };
    drop(opening);
    match opened {
        Ok((room, sources, place)) => {
            Box::pin(watch(room, sources, inbox)).await;
            drop(place);
            context.prices.forget(auction_id);
            context.bidders.room_closed(auction_id);
            Box::pin(follow::start(&context, auction_id)).await;
        }
        Err(failure) => inbox.refuse(&failure).await,
    }
}

/// Reads the state, subscribes, and reads the log once more, so that no record is missed in between.
async fn open(
    auction_id: AuctionId,
    context: &Arc<EdgeContext>,
) -> Result<(OpenRoom, Sources, OwnedSemaphorePermit), Failure> {
    let unavailable = |error: &dyn Error| {
        tracing::warn!(%auction_id, error = %errors::chain(error), "failed to open a room");
        Failure::from(Code::Unavailable)
    };
    let EdgeContext { bus, log, chat, rooms, .. } = &**context;
    let generation = log.generation();
    let request = StateRequest { auction_id };
    let reply: StateReply = bus::request(bus, subject::AUCTIONS_STATE, &request, STATE_TIMEOUT)
        .await
        .map_err(|error| unavailable(&error))?;
    let committed = reply.into_result().inspect_err(|failure| {
        if failure.code == Code::AuctionNotFound {
            rooms.unknown.insert(auction_id, std::time::Instant::now());
        }
    })?;
    let place = Arc::clone(&rooms.open).try_acquire_owned().map_err(|_| Code::Overloaded)?;
    let sources = Sources {
        records: Box::pin(log.events(subject::events(auction_id)).await.map_err(|error| unavailable(&error))?),
        ticks: bus.client.subscribe(subject::timer(auction_id)).await.map_err(|error| unavailable(&error))?,
        chat: Box::pin(chat.listen(auction_id).await.map_err(|error| unavailable(&error))?),
        presence: bus.client.subscribe(subject::presence(auction_id)).await.map_err(|error| unavailable(&error))?,
    };
    let mut room = OpenRoom::new(auction_id, Arc::clone(context), committed, generation);
    room.read_due().await;
    // Boxed: opening a room takes no memory for what only a restored log needs.
    if !Box::pin(room.is_in_the_log()).await.map_err(|error| unavailable(&error))? {
        return Err(Code::Unavailable.into());
    }
    // An unreadable chat is no reason to keep clients out of the room.
    if let Err(error) = room.read_chat().await {
        tracing::warn!(%auction_id, error = %errors::chain(&error), "failed to read the chat");
    }
    Ok((room, sources, place))
}

async fn watch(mut room: OpenRoom, mut sources: Sources, mut inbox: Inbox) {
    room.context.bidders.room_opened(&room.committed);
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let update_at = room.update_due();
        // Not before the members have got the last record: their next update then continues what the new member was
        // given.
        let may_receive = update_at.is_none();
        let (departure_at, read_at, chat_at) = (room.next_departure(), room.reading_due(), room.chat_due());
        let answered = Arc::clone(&room.held.answered);
        tokio::select! {
            command = inbox.next(), if may_receive => match command {
                Some(command) => receive(&mut room, *command).await,
                None => return,
            },
            () = std::future::ready(()), if may_receive && room.joining.has_ready() => join_ready(&mut room).await,
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
            arrived = room.joining.next_arrival() => match arrived {
                Arrival::Earlier(read) => room.on_earlier(read),
                Arrival::Maximum(own) => room.joining.on_maximum(own),
            },
            _ = heartbeat.tick() => {
                if room.is_of_another_log() {
                    tracing::warn!(auction_id = %room.auction_id, "the log is another one: the room is opened again");
                    room.members.begin_again();
                    return inbox.refuse(&Code::Unavailable.into()).await;
                }
                room.heartbeat().await;
                room.see_stream().await;
            }
            // The update that waited for answers is due now.
            () = answered.notified() => {}
            () = at(departure_at) => room.announce_departures().await,
            () = at(update_at) => {
                room.send_update().await;
                receive_queued(&mut room, &mut inbox).await;
            }
            () = at(read_at) => room.read_due().await,
            () = at(chat_at) => Box::pin(room.read_new_chat()).await,
        }
        inbox.set_empty(room.is_empty());
    }
}

/// Receives what is queued, which would otherwise wait for ever while records keep coming.
async fn receive_queued(room: &mut OpenRoom, inbox: &mut Inbox) {
    let since = Instant::now();
    while since.elapsed() < COMMANDS_BETWEEN_UPDATES {
        if room.joining.has_ready() {
            join_ready(room).await;
        } else if let Some(command) = inbox.queued() {
            receive(room, *command).await;
        } else {
            return;
        }
    }
}

async fn join_ready(room: &mut OpenRoom) {
    if let Some(join) = room.joining.next_ready() {
        room.join(join).await;
    }
}

async fn receive(room: &mut OpenRoom, command: RoomCommand) {
    match command {
        RoomCommand::Join { client, token, last_seq, reply_to } => {
            room.join(Join::new(client, token, last_seq, reply_to)).await;
        }
        RoomCommand::Identify { client } => room.identify(client).await,
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Slots that a channel allocates when it is created (tokio 1, 64-bit).
    const CHANNEL_SLOTS: usize = 32;

    fn size_of_future<Arguments, F>(_: impl Fn(Arguments) -> F) -> usize {
        size_of::<F>()
    }

    /// As ARCHITECTURE.md, The way of a record, states.
    #[test]
    fn room_without_bids_takes_34_kilobytes() {
        let subscriptions = 4 * CHANNEL_SLOTS * size_of::<async_nats::Message>();
        let queue = CHANNEL_SLOTS * size_of::<Box<RoomCommand>>();
        let task = size_of_future(|(auction_id, context, inbox, place)| run(auction_id, context, inbox, place));
        let opening = size_of_future(async |(auction_id, context): (_, Arc<EdgeContext>)| {
            open(auction_id, &context).await.is_ok()
        });
        let watching = size_of_future(|(room, sources, inbox)| watch(room, sources, inbox));
        let all = format!("subscriptions {subscriptions}, queue {queue}, {task}, opening {opening}, open {watching}");
        assert!(queue + task + opening < 12_000, "{all}");
        assert!(subscriptions + queue + task + watching < 34 * 1024, "{all}");
    }
}

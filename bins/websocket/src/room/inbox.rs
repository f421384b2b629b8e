//! The queue of a room, and the end of a room that is empty.

use std::sync::Arc;
use std::time::Duration;

use domain::AuctionId;
use protocol::Failure;
use service::Actors;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::event::Outgoing;
use crate::room::at;
use crate::room::command::RoomCommand;

/// Time that an empty room stays open for clients that reconnect.
const EMPTY_FOR: Duration = Duration::from_secs(30);

/// The open rooms of an edge. Commands are boxed: a queue has place for 32 of them from its start.
pub type OpenRooms = Actors<AuctionId, Box<RoomCommand>>;

/// The commands of a room. It ends only when the room has been empty for a while and no command is queued.
pub struct Inbox {
    commands: mpsc::Receiver<Box<RoomCommand>>,
    rooms: OpenRooms,
    empty_since: Option<Instant>,
}

impl Inbox {
    /// The queue of an empty room, which is one of `rooms`.
    pub fn new(commands: mpsc::Receiver<Box<RoomCommand>>, rooms: OpenRooms) -> Self {
        Self { commands, rooms, empty_since: Some(Instant::now()) }
    }

    /// Notes whether the room is empty now.
    pub fn set_empty(&mut self, is_empty: bool) {
        self.empty_since = if is_empty { self.empty_since.or_else(|| Some(Instant::now())) } else { None };
    }

    /// The next command. None: the room has been empty for [`EMPTY_FOR`] and must end; no client is in it, and later
    /// commands open another room. Nothing is lost if this future is dropped.
    pub async fn next(&mut self) -> Option<Box<RoomCommand>> {
        loop {
            tokio::select! {
                biased;
                command = self.commands.recv() => return command,
                () = at(self.empty_since.map(|since| since + EMPTY_FOR)) => {
                    // A join that was queued just now is served; otherwise the queue gives what is left, no join,
                    // and ends.
                    let has_ended = self.rooms.close_if_empty(&mut self.commands);
                    self.empty_since = (!has_ended).then(Instant::now);
                }
            }
        }
    }

    /// The next command, if one is queued.
    pub fn queued(&mut self) -> Option<Box<RoomCommand>> {
        self.commands.try_recv().ok()
    }

    /// Answers all queued commands with a failure. The next join opens another room.
    pub async fn refuse(mut self, failure: &Failure) {
        self.commands.close();
        while let Some(command) = self.commands.recv().await {
            match *command {
                RoomCommand::Join { client, reply_to, .. }
                | RoomCommand::Chat { client, reply_to, .. }
                | RoomCommand::Moderate { client, reply_to, .. } => {
                    let queue = Arc::clone(&client.queue);
                    // Before the answer: a membership without a request under way is a refused one.
                    drop(client);
                    queue.send(&Outgoing::error(failure, reply_to));
                }
                RoomCommand::Identify { .. } | RoomCommand::Leave { .. } => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Mutex;

    use domain::UserId;
    use prometheus_client::metrics::gauge::Gauge;
    use protocol::Person;

    use super::*;
    use crate::entry::SessionId;
    use crate::event::ReplyTo;
    use crate::room::command::{Client, Membership};
    use crate::transport::framing::Transport;
    use crate::transport::send_queue::SendQueue;

    /// Time in which a room takes no command, because it reads the log or has an update to send.
    const BUSY_FOR: Duration = Duration::from_millis(50);

    /// The sessions in rooms that run.
    type Members = Arc<Mutex<HashSet<SessionId>>>;

    fn join(session: SessionId) -> Box<RoomCommand> {
        let queue = Arc::new(SendQueue::new(Transport::Plain, Gauge::default()));
        let person = Some(Person { user_id: UserId::from_uuid(uuid::Uuid::nil()), username: "anna".to_owned() });
        let client = Client { session, person, queue, membership: Membership::default() };
        Box::new(RoomCommand::Join { client, token: None, last_seq: None, reply_to: ReplyTo::Nothing })
    }

    /// A room that is busy most of the time, as one in which bids are placed. Its members are lost when it ends.
    async fn room(mut inbox: Inbox, members: Members) {
        let mut own = HashSet::new();
        loop {
            tokio::select! {
                command = inbox.next() => match command.as_deref() {
                    Some(RoomCommand::Join { client, .. }) => drop(own.insert(client.session)),
                    Some(RoomCommand::Leave { session }) => drop(own.remove(session)),
                    Some(_) => {}
                    None => break,
                },
                () = tokio::time::sleep(Duration::from_millis(1)) => tokio::time::sleep(BUSY_FOR).await,
            }
            inbox.set_empty(own.is_empty());
            members.lock().unwrap().extend(&own);
        }
        members.lock().unwrap().retain(|session| !own.contains(session));
    }

    #[tokio::test(start_paused = true)]
    async fn join_around_the_end_of_an_empty_room_is_served_by_a_living_room() {
        let (id, rooms) = (AuctionId::from_uuid(uuid::Uuid::nil()), OpenRooms::new(1, 8));
        for after in 29_950..=30_050 {
            let members = Members::default();
            let send = |command| {
                let start = |commands| ((), room(Inbox::new(commands, rooms.clone()), Arc::clone(&members)));
                rooms.send(id, command, start).unwrap();
            };
            send(join(1));
            send(Box::new(RoomCommand::Leave { session: 1 }));
            tokio::time::sleep(Duration::from_millis(after)).await;
            send(join(2));
            // Longer than an empty room lives.
            tokio::time::sleep(2 * EMPTY_FOR).await;
            assert!(members.lock().unwrap().contains(&2), "a join after {after} ms was lost");
            assert!(rooms.queue(id).is_some(), "the room of a join after {after} ms has ended");
            send(Box::new(RoomCommand::Leave { session: 2 }));
            tokio::time::sleep(2 * EMPTY_FOR).await;
            assert!(rooms.queue(id).is_none(), "an empty room goes on");
        }
    }
}

//! The members of a room, in as many groups as there are cores: a broadcast to a large audience uses all of them.
//!
//! A broadcast visits members one after the other. A broadcast that starts while another is running joins it at its
//! current position, so that both share each write. It then takes one round itself, and does not wait for the round
//! before it.

use std::sync::Arc;

use domain::UserId;
use indexmap::IndexMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tracing::Span;

use crate::entry::SessionId;
use crate::event::Event;
use crate::transport::send_queue::{Delivery, SendQueue};

/// Members from which on worker tasks broadcast. To fewer members the room's own task sends: a write takes some
/// microseconds, and handing it to another task takes longer.
const SPLIT_FROM: usize = 256;
/// Members that are sent to before other tasks of the core have their turn: a fifth of a millisecond. An answer passes
/// through four tasks on its way from NATS to its socket. Each turn costs two to three microseconds.
const SENDS_IN_A_ROW: usize = 32;
/// Broadcasts in progress at once. The next one waits for the first to end.
const MAX_IN_PROGRESS: u16 = 8;

/// A connection in a room.
#[derive(Clone)]
pub struct Member {
    /// The person that its token names. None: it watches without one.
    pub user_id: Option<UserId>,
    /// Where events go.
    pub queue: Arc<SendQueue>,
}

type Members = IndexMap<SessionId, Member>;

/// One event for all members of a room.
pub struct Broadcast {
    delivery: Delivery,
    event: Event,
    /// The few people that get another event instead.
    own: Vec<(UserId, Event)>,
    /// Ends with the broadcast, which is dropped when every member has been sent to.
    _span: Option<Box<Span>>,
}

/// A broadcast on its round through one group.
struct BroadcastCursor {
    /// Shared with the group; released before the place is.
    members: Arc<Members>,
    broadcast: Arc<Broadcast>,
    /// Members that have not been sent to.
    left: usize,
    _place: Arc<OwnedSemaphorePermit>,
}

#[derive(Default)]
struct Group {
    members: Arc<Members>,
    /// Queue of the group's worker task. None until a worker was needed.
    worker: Option<mpsc::Sender<BroadcastCursor>>,
}

/// The members of a room.
pub struct Audience {
    groups: Vec<Group>,
    /// One for each broadcast that may be in progress. Members change only while all places are free.
    places: Arc<Semaphore>,
}

impl Broadcast {
    /// The same event for all.
    pub fn new(delivery: Delivery, event: Event) -> Self {
        Self { delivery, event, own: Vec::new(), _span: None }
    }

    /// As a part of a trace. The span ends when every member has been sent to.
    pub fn traced(self, span: Span) -> Self {
        Self { _span: (!span.is_none()).then(|| Box::new(span)), ..self }
    }

    /// Another event for one person.
    pub fn with_own(mut self, person: Option<UserId>, event: Event) -> Self {
        self.own.extend(person.map(|person| (person, event)));
        self
    }

    fn event_for(&self, member: &Member) -> (Delivery, &Event) {
        let own = self.own.iter().find(|(person, _)| Some(*person) == member.user_id);
        (self.delivery, own.map_or(&self.event, |(_, event)| event))
    }
}

impl Group {
    fn start(&mut self, cursor: BroadcastCursor) {
        let worker = match self.worker.take().filter(|worker| !worker.is_closed()) {
            Some(worker) => worker,
            None => {
                let (worker, cursors) = mpsc::channel(usize::from(MAX_IN_PROGRESS));
                tokio::spawn(work(cursors));
                worker
            }
        };
        // The channel has room for all broadcasts that may be in progress.
        if let Err(error) = worker.try_send(cursor) {
            tracing::error!(error = %errors::chain(&error), "failed to broadcast to a part of a room");
        }
        self.worker = Some(worker);
    }
}

/// Visits the members of a group while broadcasts are in progress. Ends with the audience.
async fn work(mut cursors: mpsc::Receiver<BroadcastCursor>) {
    let mut in_progress = Vec::with_capacity(usize::from(MAX_IN_PROGRESS));
    let mut next = 0;
    loop {
        if in_progress.is_empty() {
            let Some(cursor) = cursors.recv().await else { return };
            in_progress.push(cursor);
        }
        while let Ok(cursor) = cursors.try_recv() {
            in_progress.push(cursor);
        }
        let in_a_row = in_progress.iter().map(|cursor| cursor.left).min().unwrap_or(0).min(SENDS_IN_A_ROW);
        if let Some(BroadcastCursor { members, .. }) = in_progress.first() {
            for _ in 0..in_a_row {
                next = (next + 1) % members.len();
                let member = &members[next];
                let events: Vec<_> = in_progress.iter().map(|cursor| cursor.broadcast.event_for(member)).collect();
                member.queue.send_events(&events);
            }
        }
        in_progress.retain_mut(|cursor| {
            cursor.left -= in_a_row;
            cursor.left > 0
        });
        tokio::task::yield_now().await;
    }
}

impl Audience {
    /// No members, one group for each core.
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            groups: std::iter::repeat_with(Group::default).take(cores).collect(),
            places: Arc::new(Semaphore::new(usize::from(MAX_IN_PROGRESS))),
        }
    }

    /// The number of members.
    pub fn len(&self) -> usize {
        self.groups.iter().map(|group| group.members.len()).sum()
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.groups.iter().all(|group| group.members.is_empty())
    }

    /// Whether this session is a member.
    pub fn contains(&self, session: SessionId) -> bool {
        self.get(session).is_some()
    }

    /// The member of this session.
    pub fn get(&self, session: SessionId) -> Option<&Member> {
        self.groups[self.group_of(session)].members.get(&session)
    }

    /// Adds a member. Waits for running broadcasts, so that the member receives none of them.
    pub async fn insert(&mut self, session: SessionId, member: Member) {
        self.change(session).await.insert(session, member);
    }

    /// Removes a member. Waits for running broadcasts, so that the member has received all of them.
    pub async fn remove(&mut self, session: SessionId) -> Option<Member> {
        self.change(session).await.swap_remove(&session)
    }

    fn group_of(&self, session: SessionId) -> usize {
        usize::try_from(session % self.groups.len() as u64).unwrap_or(0)
    }

    async fn change(&mut self, session: SessionId) -> &mut Members {
        // The semaphore is never closed.
        drop(self.places.acquire_many(u32::from(MAX_IN_PROGRESS)).await);
        let group = self.group_of(session);
        // Nothing is copied: no broadcast holds the members now.
        Arc::make_mut(&mut self.groups[group].members)
    }

    /// Disconnects every member, so that it reconnects and begins again.
    pub fn begin_again(&self) {
        for member in self.groups.iter().flat_map(|group| group.members.values()) {
            member.queue.begin_again();
        }
    }

    /// Sends a broadcast to every member, after all broadcasts before it.
    pub async fn send(&mut self, broadcast: Broadcast) {
        if self.len() < SPLIT_FROM {
            for (sent, member) in (1..).zip(self.groups.iter().flat_map(|group| group.members.values())) {
                member.queue.send_events(&[broadcast.event_for(member)]);
                if sent % SENDS_IN_A_ROW == 0 {
                    tokio::task::yield_now().await;
                }
            }
            return;
        }
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
        let (broadcast, place) = (Arc::new(broadcast), Arc::new(place));
        for group in self.groups.iter_mut().filter(|group| !group.members.is_empty()) {
            group.start(BroadcastCursor {
                members: Arc::clone(&group.members),
                broadcast: Arc::clone(&broadcast),
                left: group.members.len(),
                _place: Arc::clone(&place),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::gauge::Gauge;
    use tokio::task::yield_now;

    use super::*;
    use crate::transport::framing::{Transport, text_in};

    /// With two groups, the last turn of a round has one member.
    const MEMBERS: usize = 2_050;

    fn member(number: usize) -> Member {
        let queue = Arc::new(SendQueue::new(Transport::SocketIo, Gauge::default()));
        Member { user_id: Some(UserId::from_uuid(uuid::Uuid::from_u128(number as u128))), queue }
    }

    fn broadcast(name: &'static str) -> Broadcast {
        Broadcast::new(Delivery::Reliable, Event::new(name, "all"))
    }

    fn taken(member: &Member) -> String {
        member.queue.take().unwrap().iter().map(|frame| text_in(frame)).collect()
    }

    async fn audience() -> (Audience, Vec<Member>) {
        let mut audience = Audience::new();
        let members: Vec<_> = (0..MEMBERS).map(member).collect();
        for (session, member) in (0u64..).zip(&members) {
            audience.insert(session, member.clone()).await;
        }
        (audience, members)
    }

    /// On one thread, so that a turn of a group is a turn of the test.
    #[tokio::test]
    async fn broadcast_started_during_a_round_takes_one_round_itself() {
        let (mut audience, members) = audience().await;
        let round = audience.groups.iter().map(|group| group.members.len().div_ceil(SENDS_IN_A_ROW)).max().unwrap();
        audience.send(broadcast("first")).await;
        for _ in 0..round / 2 {
            yield_now().await;
        }
        let own = |number: usize, text| (members[number].user_id, Event::new("second", text));
        let ((leader, yours), (host, names)) = (own(7, "you"), own(9, "names"));
        audience.send(broadcast("second").with_own(leader, yours).with_own(host, names)).await;
        // One turn more, because the first broadcast may end in the middle of one.
        for _ in 0..round + 2 {
            yield_now().await;
        }
        let all_free = usize::from(MAX_IN_PROGRESS);
        assert_eq!(audience.places.available_permits(), all_free, "both have ended");
        for (number, member) in members.iter().enumerate() {
            let own = match number {
                7 => "you",
                9 => "names",
                _ => "all",
            };
            assert_eq!(taken(member), format!(r#"42["first","all"]42["second","{own}"]"#));
        }
    }

    #[tokio::test]
    async fn new_member_gets_no_running_broadcast_and_leaving_member_gets_all() {
        let (mut audience, members) = audience().await;
        let newcomer = member(MEMBERS);
        audience.send(broadcast("first")).await;
        audience.insert(MEMBERS as u64, newcomer.clone()).await;
        audience.send(broadcast("second")).await;
        let gone = audience.remove(0).await.unwrap();
        assert!(audience.remove(0).await.is_none());
        for number in 0..3 * usize::from(MAX_IN_PROGRESS) {
            // More than may be in progress: this waits, and loses nothing.
            audience.send(Broadcast::new(Delivery::Reliable, Event::new("many", number))).await;
        }
        audience.remove(1).await.unwrap();
        let many: String =
            (0..3 * usize::from(MAX_IN_PROGRESS)).map(|number| format!(r#"42["many",{number}]"#)).collect();
        assert_eq!(taken(&gone), r#"42["first","all"]42["second","all"]"#);
        assert_eq!(taken(&newcomer), format!(r#"42["second","all"]{many}"#));
        assert_eq!(taken(&members[1]), format!(r#"42["first","all"]42["second","all"]{many}"#));
    }
}

//! Everybody in a room, in as many groups as there are cores: a large audience is told by all of them at once.
//!
//! Telling is a round from member to member. What is to be told while a round goes on joins it where it is, and
//! shares each write from there on: it takes one round itself, and does not wait for the round before it.

use std::sync::Arc;

use domain::UserId;
use indexmap::IndexMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::SessionId;
use crate::mailbox::{Lane, Mailbox};
use crate::outgoing::Event;

/// Fewer than this are told by the room itself: a write takes some microseconds, to hand it over takes more.
const SPLIT_FROM: usize = 256;
/// Members told before other work of this core has its turn: half a millisecond.
const TELL_IN_A_ROW: usize = 64;
/// Announcements on their round at once; the next waits for the first to end.
const MAX_UNDER_WAY: u16 = 8;

#[derive(Clone)]
pub struct Member {
    pub user_id: UserId,
    pub mailbox: Arc<Mailbox>,
}

type Members = IndexMap<SessionId, Member>;

/// One event for all of a room.
pub struct Announcement {
    lane: Lane,
    event: Event,
    /// The one person who is told otherwise.
    own: Option<(UserId, Event)>,
}

/// An announcement on its round through one group.
struct Telling {
    /// Shared with the group; given back before the place is.
    members: Arc<Members>,
    announcement: Arc<Announcement>,
    /// Members who have not been told.
    left: usize,
    _place: Arc<OwnedSemaphorePermit>,
}

#[derive(Default)]
struct Group {
    members: Arc<Members>,
    /// To the task that tells, once there was need of one.
    teller: Option<mpsc::Sender<Telling>>,
}

pub struct Audience {
    groups: Vec<Group>,
    /// One for each announcement that may be under way. Members change only while all are free.
    places: Arc<Semaphore>,
}

impl Announcement {
    pub fn new(lane: Lane, event: Event) -> Self {
        Self { lane, event, own: None }
    }

    pub fn with_own(self, person: Option<UserId>, event: Event) -> Self {
        Self { own: person.map(|person| (person, event)), ..self }
    }

    fn to(&self, member: &Member) -> (Lane, &Event) {
        let own = self.own.as_ref().filter(|(person, _)| *person == member.user_id);
        (self.lane, own.map_or(&self.event, |(_, event)| event))
    }
}

impl Group {
    fn tell(&mut self, telling: Telling) {
        let teller = match self.teller.take().filter(|teller| !teller.is_closed()) {
            Some(teller) => teller,
            None => {
                let (teller, coming) = mpsc::channel(usize::from(MAX_UNDER_WAY));
                tokio::spawn(tell_group(coming));
                teller
            }
        };
        // It has room for all that may be under way.
        if let Err(error) = teller.try_send(telling) {
            tracing::error!(%error, "a part of a room was not told");
        }
        self.teller = Some(teller);
    }
}

/// Goes from member to member as long as there is something to tell; ends with the audience.
async fn tell_group(mut coming: mpsc::Receiver<Telling>) {
    let mut under_way = Vec::with_capacity(usize::from(MAX_UNDER_WAY));
    let mut next = 0;
    loop {
        if under_way.is_empty() {
            let Some(telling) = coming.recv().await else { return };
            under_way.push(telling);
        }
        while let Ok(telling) = coming.try_recv() {
            under_way.push(telling);
        }
        let in_a_row = under_way.iter().map(|telling| telling.left).min().unwrap_or(0).min(TELL_IN_A_ROW);
        if let Some(Telling { members, .. }) = under_way.first() {
            for _ in 0..in_a_row {
                next = (next + 1) % members.len();
                let member = &members[next];
                let events: Vec<_> = under_way.iter().map(|telling| telling.announcement.to(member)).collect();
                member.mailbox.give(&events);
            }
        }
        under_way.retain_mut(|telling| {
            telling.left -= in_a_row;
            telling.left > 0
        });
        tokio::task::yield_now().await;
    }
}

impl Audience {
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            groups: std::iter::repeat_with(Group::default).take(cores).collect(),
            places: Arc::new(Semaphore::new(usize::from(MAX_UNDER_WAY))),
        }
    }

    pub fn len(&self) -> usize {
        self.groups.iter().map(|group| group.members.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.groups.iter().all(|group| group.members.is_empty())
    }

    pub fn contains(&self, session: SessionId) -> bool {
        self.groups[self.group_of(session)].members.contains_key(&session)
    }

    /// From now on told. What was to be told before has been, so that he gets none of it.
    pub async fn insert(&mut self, session: SessionId, member: Member) {
        self.change(session).await.insert(session, member);
    }

    pub async fn remove(&mut self, session: SessionId) -> Option<Member> {
        self.change(session).await.swap_remove(&session)
    }

    fn group_of(&self, session: SessionId) -> usize {
        usize::try_from(session % self.groups.len() as u64).unwrap_or(0)
    }

    async fn change(&mut self, session: SessionId) -> &mut Members {
        // Never closed.
        drop(self.places.acquire_many(u32::from(MAX_UNDER_WAY)).await);
        let group = self.group_of(session);
        // Nothing is copied: nobody else holds them now.
        Arc::make_mut(&mut self.groups[group].members)
    }

    /// Gives each member what is meant for him, after all that was to be told before.
    pub async fn tell(&mut self, announcement: Announcement) {
        if self.len() < SPLIT_FROM {
            for member in self.groups.iter().flat_map(|group| group.members.values()) {
                member.mailbox.give(&[announcement.to(member)]);
            }
            return;
        }
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
        let (announcement, place) = (Arc::new(announcement), Arc::new(place));
        for group in self.groups.iter_mut().filter(|group| !group.members.is_empty()) {
            group.tell(Telling {
                members: Arc::clone(&group.members),
                announcement: Arc::clone(&announcement),
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
    use crate::outgoing::{Door, text_in};

    /// With two groups, the last turn of a round has one member.
    const MEMBERS: usize = 2_050;

    fn member(number: usize) -> Member {
        let mailbox = Arc::new(Mailbox::new(Door::SocketIo, Gauge::default()));
        Member { user_id: UserId::from_uuid(uuid::Uuid::from_u128(number as u128)), mailbox }
    }

    fn announcement(name: &'static str) -> Announcement {
        Announcement::new(Lane::MustArrive, Event::new(name, "all"))
    }

    fn taken(member: &Member) -> String {
        member.mailbox.take().unwrap().iter().map(|frame| text_in(frame)).collect()
    }

    async fn everybody() -> (Audience, Vec<Member>) {
        let mut audience = Audience::new();
        let members: Vec<_> = (0..MEMBERS).map(member).collect();
        for (session, member) in (0u64..).zip(&members) {
            audience.insert(session, member.clone()).await;
        }
        (audience, members)
    }

    /// On one thread, so that a turn of a group is a turn of the test.
    #[tokio::test]
    async fn what_comes_during_a_round_takes_one_round_itself() {
        let (mut audience, members) = everybody().await;
        let round = audience.groups.iter().map(|group| group.members.len().div_ceil(TELL_IN_A_ROW)).max().unwrap();
        audience.tell(announcement("first")).await;
        for _ in 0..round / 2 {
            yield_now().await;
        }
        let person = members[7].user_id;
        audience.tell(announcement("second").with_own(Some(person), Event::new("second", "you"))).await;
        // One turn more where the first ends in the middle of one.
        for _ in 0..round + 2 {
            yield_now().await;
        }
        let all_free = usize::from(MAX_UNDER_WAY);
        assert_eq!(audience.places.available_permits(), all_free, "both have ended");
        for (number, member) in members.iter().enumerate() {
            let own = if number == 7 { "you" } else { "all" };
            assert_eq!(taken(member), format!(r#"42["first","all"]42["second","{own}"]"#));
        }
    }

    #[tokio::test]
    async fn who_comes_during_a_round_is_told_nothing_of_it_and_who_goes_everything() {
        let (mut audience, members) = everybody().await;
        let newcomer = member(MEMBERS);
        audience.tell(announcement("first")).await;
        audience.insert(MEMBERS as u64, newcomer.clone()).await;
        audience.tell(announcement("second")).await;
        let gone = audience.remove(0).await.unwrap();
        assert!(audience.remove(0).await.is_none());
        for number in 0..3 * usize::from(MAX_UNDER_WAY) {
            // More than may be under way: this waits, and loses nothing.
            audience.tell(Announcement::new(Lane::MustArrive, Event::new("many", number))).await;
        }
        audience.remove(1).await.unwrap();
        let many: String =
            (0..3 * usize::from(MAX_UNDER_WAY)).map(|number| format!(r#"42["many",{number}]"#)).collect();
        assert_eq!(taken(&gone), r#"42["first","all"]42["second","all"]"#);
        assert_eq!(taken(&newcomer), format!(r#"42["second","all"]{many}"#));
        assert_eq!(taken(&members[1]), format!(r#"42["first","all"]42["second","all"]{many}"#));
    }
}

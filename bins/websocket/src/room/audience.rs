//! Everybody in a room, in as many groups as there are cores: a large audience is told by all of them at once.

use std::collections::HashMap;
use std::sync::Arc;

use domain::UserId;
use tokio::task::JoinSet;

use super::SessionId;
use crate::mailbox::Mailbox;

/// Fewer than this are told by the room itself: a write takes some microseconds, to hand it over takes more.
const SPLIT_FROM: usize = 256;
/// Members told before other work of this core has its turn: half a millisecond.
const TELL_IN_A_ROW: usize = 64;

#[derive(Clone)]
pub struct Member {
    pub user_id: UserId,
    pub mailbox: Arc<Mailbox>,
}

type Group = HashMap<SessionId, Member>;

pub struct Audience {
    /// Shared with those who tell; nobody tells while it changes.
    groups: Vec<Arc<Group>>,
}

impl Audience {
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { groups: std::iter::repeat_with(Arc::default).take(cores).collect() }
    }

    pub fn len(&self) -> usize {
        self.groups.iter().map(|group| group.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.groups.iter().all(|group| group.is_empty())
    }

    pub fn contains(&self, session: SessionId) -> bool {
        self.groups[self.group_of(session)].contains_key(&session)
    }

    pub fn insert(&mut self, session: SessionId, member: Member) {
        self.group(session).insert(session, member);
    }

    pub fn remove(&mut self, session: SessionId) -> Option<Member> {
        self.group(session).remove(&session)
    }

    fn group_of(&self, session: SessionId) -> usize {
        usize::try_from(session % self.groups.len() as u64).unwrap_or(0)
    }

    fn group(&mut self, session: SessionId) -> &mut Group {
        let group = self.group_of(session);
        // Nothing is copied: whoever told has ended when `tell` returned.
        Arc::make_mut(&mut self.groups[group])
    }

    /// Gives each member what is meant for him; returns when everybody has it, in his socket or mailbox.
    pub async fn tell(&self, give: impl Fn(&Member) + Clone + Send + 'static) {
        if self.len() < SPLIT_FROM {
            for member in self.groups.iter().flat_map(|group| group.values()) {
                give(member);
            }
            return;
        }
        let mut telling = JoinSet::new();
        for group in &self.groups {
            let (group, give) = (Arc::clone(group), give.clone());
            telling.spawn(async move {
                for (told, member) in group.values().enumerate() {
                    give(member);
                    if told % TELL_IN_A_ROW == TELL_IN_A_ROW - 1 {
                        tokio::task::yield_now().await;
                    }
                }
            });
        }
        while let Some(told) = telling.join_next().await {
            if let Err(error) = told {
                tracing::error!(%error, "a part of a room was not told");
            }
        }
    }
}

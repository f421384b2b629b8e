//! Acts of the host on a running auction: start, pause, resume, block, unblock.

use crate::chain::{blocked_fact, paused_fact, resumed_fact, unblocked_fact};
use crate::{Auction, Millis, Status, UserId};

/// People that may be blocked in one auction at once. Every record of the auction names them.
pub const MAX_BLOCKED: usize = 200;

/// Something that the host does. Closing and cancelling are apart: they end the auction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostAct {
    /// Opens a scheduled auction now.
    Start,
    /// Stops the time of a live auction. Bids are refused until it is resumed.
    Pause,
    /// Lets a paused auction go on with the time that was left.
    Resume,
    /// Refuses this person's bids from now on. Bids that stand are kept.
    Block(UserId),
    /// Takes this person's bids again.
    Unblock(UserId),
}

/// The result of an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acted {
    /// It is done.
    Done,
    /// It was so already.
    Already,
    /// The person who asked is not the host.
    NotHost,
    /// The auction is not in a state for it.
    WrongState,
    /// [`MAX_BLOCKED`] people are blocked.
    Full,
}

impl Auction {
    /// Does this for the person who asks, at `time`. Only [`Acted::Done`] changes anything.
    pub fn act(&mut self, act: HostAct, by: UserId, time: Millis) -> Acted {
        let now = self.not_before(time);
        if by != self.rules.host.user_id {
            return Acted::NotHost;
        }
        match (act, self.status) {
            (_, Status::Closed | Status::Cancelled) | (HostAct::Pause | HostAct::Resume, Status::Scheduled) => {
                return Acted::WrongState;
            }
            (HostAct::Start | HostAct::Resume, Status::Live) | (HostAct::Start | HostAct::Pause, Status::Paused) => {
                return Acted::Already;
            }
            (HostAct::Start, Status::Scheduled) => self.open_at(now, Some(by)),
            (HostAct::Pause, Status::Live) if now >= self.end_time || self.is_bought() => return Acted::WrongState,
            (HostAct::Pause, Status::Live) => self.pause(by, now),
            (HostAct::Resume, Status::Paused) => self.resume(by, now),
            (HostAct::Block(user_id), _) => return self.block(user_id, by, now),
            (HostAct::Unblock(user_id), _) => return self.unblock(user_id, by, now),
        }
        Acted::Done
    }

    fn pause(&mut self, by: UserId, now: Millis) {
        let left = self.end_time.since(now);
        self.status = Status::Paused;
        self.last_now = now;
        self.remaining_ms = Some(left);
        self.pauses += 1;
        self.record(|seq, _| paused_fact(seq, now, by, left));
    }

    fn resume(&mut self, by: UserId, now: Millis) {
        self.status = Status::Live;
        self.last_now = now;
        self.end_time = now.plus(self.remaining_ms.take().unwrap_or(0));
        self.record(|seq, auction| resumed_fact(seq, now, Some(by), auction.end_time));
    }

    fn block(&mut self, user_id: UserId, by: UserId, now: Millis) -> Acted {
        let blocked = self.blocked.as_deref().unwrap_or_default();
        if user_id == self.rules.host.user_id {
            return Acted::WrongState;
        } else if blocked.contains(&user_id) {
            return Acted::Already;
        } else if blocked.len() >= MAX_BLOCKED {
            return Acted::Full;
        }
        self.blocked.get_or_insert_default().push(user_id);
        self.last_now = now;
        self.record(|seq, _| blocked_fact(seq, now, by, user_id));
        Acted::Done
    }

    fn unblock(&mut self, user_id: UserId, by: UserId, now: Millis) -> Acted {
        let Some(blocked) = self.blocked.as_mut().filter(|blocked| blocked.contains(&user_id)) else {
            return Acted::Already;
        };
        blocked.retain(|blocked| *blocked != user_id);
        self.last_now = now;
        self.record(|seq, _| unblocked_fact(seq, now, by, user_id));
        Acted::Done
    }

    /// Whether the first version of the scripts knows everything about this auction. See [`Rules::is_plain`].
    ///
    /// [`Rules::is_plain`]: crate::Rules::is_plain
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.rules.is_plain() && self.pauses == 0 && self.blocked.is_none() && self.answers.is_none()
    }
}

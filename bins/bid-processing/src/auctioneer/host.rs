//! Acts of the host on a running auction, and whether the committed state confirms the script's reply.

use domain::{Acted, HostAct, MAX_BLOCKED, Status, UserId};
use protocol::{Code, CommittedState, Failure, Snapshot};
use tokio::time::Instant;

use super::{Auctioneer, MAX_DECISIONS};
use crate::backend::{Backend, may_have_decided};

/// Milliseconds by which the measured clock of Redis may be wrong. Far more than the error of a measurement.
const CLOCKS_APART_MS: u64 = 500;

impl<B: Backend> Auctioneer<B> {
    /// Does something to the running auction for its host.
    ///
    /// # Errors
    /// `outcome_unknown` once Redis may have done it: then the log may get it after the answer.
    pub(super) async fn act(
        &mut self,
        act: HostAct,
        by: UserId,
        answer_by: Instant,
    ) -> Result<CommittedState, Failure> {
        let mut may_have_acted = false;
        for _ in 0..MAX_DECISIONS {
            let after_effect = |failure: Failure| if may_have_acted { failure.after_effect() } else { failure };
            let acted = self.committer.deciding().act(self.auction_id, act, by).await;
            let decided = match &acted {
                Ok(reply) => reply.is_some_and(|reply| reply.acted == Acted::Done),
                Err(error) => may_have_decided(error),
            };
            let after_effect = |failure: Failure| if decided { failure.after_effect() } else { after_effect(failure) };
            let reply = match self.reply_of(acted, answer_by).await {
                Ok(reply) => reply,
                // Its keys have expired: it ended long ago.
                Err(failure) if failure.code == Code::AuctionClosed => return Err(Code::WrongState.into()),
                Err(failure) => return Err(after_effect(failure)),
            };
            let state = match reply {
                Some(_) => self.state(answer_by).await.map_err(after_effect)?,
                None => continue,
            };
            may_have_acted |= decided;
            let now = self.shared.backend.now().0;
            if let Some(answer) = reply.and_then(|reply| confirmed(act, by, reply.acted, &state.state, now)) {
                return answer.map(|()| state);
            }
        }
        Err(Failure::from(Code::Unavailable))
    }
}

/// The answer to the host, given the script's reply and the committed state after it. None if the state does not confirm
/// the reply: Redis stood on facts that the log does not have. Then the act is decided again.
fn confirmed(act: HostAct, by: UserId, acted: Acted, state: &Snapshot, now: u64) -> Option<Result<(), Failure>> {
    let failed = |code: Code| Some(Err(code.into()));
    match acted {
        // An end that followed at once does not undo it.
        Acted::Done if holds(act, state) || state.outcome.is_some() => Some(Ok(())),
        Acted::Already if holds(act, state) => Some(Ok(())),
        Acted::NotHost if by != state.host_user_id => failed(Code::NotHost),
        Acted::WrongState if !is_possible(act, state, now) => failed(Code::WrongState),
        Acted::Full if state.by_host.blocked.as_ref().is_some_and(|blocked| blocked.len() >= MAX_BLOCKED) => {
            let error = format!("You have blocked {MAX_BLOCKED} people, the most in one auction");
            Some(Err(Failure::new(Code::LimitExceeded, error)))
        }
        _ => None,
    }
}

/// Whether the auction is as the act makes it.
fn holds(act: HostAct, state: &Snapshot) -> bool {
    let is = |status: Status| state.status == status;
    match act {
        HostAct::Start => is(Status::Live) || is(Status::Paused),
        HostAct::Pause => is(Status::Paused),
        HostAct::Resume => is(Status::Live),
        HostAct::Block(user_id) => state.by_host.blocks(user_id),
        HostAct::Unblock(user_id) => !state.by_host.blocks(user_id),
    }
}

fn is_possible(act: HostAct, state: &Snapshot, now: u64) -> bool {
    let is = |status: Status| state.status == status;
    match act {
        HostAct::Start => is(Status::Scheduled),
        // Near the end the clock of Redis decides, not the one that this process measures.
        HostAct::Pause => is(Status::Live) && !state.is_bought() && now + CLOCKS_APART_MS < state.end_time,
        HostAct::Resume => is(Status::Paused),
        HostAct::Block(user_id) => state.outcome.is_none() && user_id != state.host_user_id,
        HostAct::Unblock(_) => state.outcome.is_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    /// A live auction, as a record of the log has it.
    fn live() -> Snapshot {
        let lines = include_str!("../../../../libs/protocol/tests/stored/closed.jsonl").lines();
        let mut records = lines.map(|line| serde_json::from_str::<protocol::Record>(line).expect("a record"));
        records.find(|record| record.state.status == Status::Live).expect("a live auction").state
    }

    #[test]
    fn reply_counts_only_if_the_committed_state_confirms_it() {
        let live = live();
        let (host, anna) = (live.host_user_id, UserId::from_uuid(Uuid::from_u128(77)));
        let mut paused = live.clone();
        (paused.status, paused.by_host.pauses) = (Status::Paused.into(), 1);
        paused.by_host.blocked = Some(vec![anna]);
        let (before, after) = (live.end_time - 10_000, live.end_time);
        let code = |act, by, acted, state: &Snapshot, now| {
            confirmed(act, by, acted, state, now).map(|answer| answer.err().map(|failure| failure.code))
        };
        use HostAct::{Block, Pause, Resume, Start, Unblock};
        for (act, by, acted, state, now, expected) in [
            (Pause, host, Acted::Done, &paused, before, Some(None)),
            (Pause, host, Acted::Already, &paused, before, Some(None)),
            // Redis had paused it, and lost that.
            (Pause, host, Acted::Done, &live, before, None),
            (Pause, host, Acted::Already, &live, before, None),
            (Pause, host, Acted::WrongState, &live, before, None),
            (Pause, host, Acted::WrongState, &live, after, Some(Some(Code::WrongState))),
            (Pause, anna, Acted::NotHost, &live, before, Some(Some(Code::NotHost))),
            (Pause, host, Acted::NotHost, &live, before, None),
            (Resume, host, Acted::Done, &live, before, Some(None)),
            (Resume, host, Acted::Done, &paused, before, None),
            (Start, host, Acted::Already, &live, before, Some(None)),
            (Block(anna), host, Acted::Done, &paused, before, Some(None)),
            (Block(anna), host, Acted::Done, &live, before, None),
            (Block(host), host, Acted::WrongState, &live, before, Some(Some(Code::WrongState))),
            (Unblock(anna), host, Acted::Already, &live, before, Some(None)),
            (Unblock(anna), host, Acted::Done, &paused, before, None),
        ] {
            assert_eq!(code(act, by, acted, state, now), expected, "{act:?} {acted:?}");
        }
    }
}

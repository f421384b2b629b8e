//! The ticks of the timer, as far as the records and the shared clock agree with them.

use bus::TokenAge;
use protocol::{CommittedState, Leased, TimerTick, time_remaining, whole_seconds};
use tokio::time::Instant;

use crate::event::Event;
use crate::room::open::OpenRoom;
use crate::transport::send_queue::Update;

/// Milliseconds by which a tick may be off the clock of this edge. Both measure the clock of Redis every second; a tick
/// that was longer on its way would show too much time.
const MAX_TICK_SKEW_MS: u64 = 2_000;

/// The tick as it is shown: what it says about the auction must be what the record with its seq says, and the time left
/// follows from the two. None if it is of another record, contradicts it, or is of another time than `now`.
fn shown(tick: TimerTick, committed: &CommittedState, now: u64) -> Option<TimerTick> {
    let state = &committed.state;
    let is_of_this = tick.auction_id == committed.auction_id
        && tick.seq == committed.seq
        && tick.end_time == state.shown_end()
        && tick.status == state.status
        && tick.extension_count == state.extension_count;
    let remaining = time_remaining(state, tick.server_time);
    (is_of_this && tick.server_time.abs_diff(now) <= MAX_TICK_SKEW_MS).then(|| TimerTick {
        time_remaining_ms: remaining,
        time_remaining_seconds: whole_seconds(remaining),
        ..tick
    })
}

impl OpenRoom {
    /// Broadcasts a tick of the elected timer.
    pub async fn on_tick(&mut self, payload: &[u8]) {
        let tick: Leased<TimerTick> = match serde_json::from_slice(payload) {
            Ok(tick) => tick,
            Err(error) => {
                let auction_id = self.auction_id;
                return tracing::warn!(%auction_id, error = %errors::chain(&error), "failed to parse a tick");
            }
        };
        let is_elected = match self.context.timer_lease.age(tick.token) {
            TokenAge::Present => true,
            // From an instance that has lost the election and does not know it yet, or from none.
            TokenAge::Other => false,
            TokenAge::Unknown => self.fence.admits(tick.token, Instant::now()),
        };
        if !is_elected {
            return;
        }
        if tick.message.seq > self.committed.seq {
            // A record was missed, or is on its way: in either case the log has it.
            self.read_soon().await;
        }
        if tick.message.seq > self.committed.seq {
            // The log may not be read yet. The last of an auction is not repeated, so it waits.
            self.waiting_tick = Some(tick.message);
        } else {
            self.show_tick(tick.message).await;
        }
    }

    /// Broadcasts the tick that waited for the record with its seq, once the log was read.
    pub(super) async fn show_waiting_tick(&mut self) {
        if let Some(tick) = self.waiting_tick.take() {
            self.show_tick(tick).await;
        }
    }

    async fn show_tick(&mut self, tick: TimerTick) {
        // A tick that is older than the known state would count down to a wrong end.
        let Some(tick) = shown(tick, &self.committed, self.context.clock.now().0) else { return };
        self.send_update().await;
        self.send_latest(Update::Timer(self.auction_id), Event::new("timer_update", &tick)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::testing::committed;
    use protocol::SyncType;

    #[test]
    fn forged_tick_shows_no_other_time_than_the_records_do() {
        let committed = committed(7, 3);
        let state = &committed.state;
        let now = state.end_time - 90_000;
        let tick = TimerTick {
            auction_id: committed.auction_id,
            seq: 7,
            status: state.status.clone(),
            server_time: now,
            end_time: state.shown_end(),
            time_remaining_ms: 90_000,
            time_remaining_seconds: 90,
            extension_count: state.extension_count,
            sync_type: SyncType::Tick,
        };
        assert_eq!(shown(tick.clone(), &committed, now), Some(tick.clone()));
        let hurried = TimerTick { time_remaining_ms: 3_000, time_remaining_seconds: 3, ..tick.clone() };
        assert_eq!(shown(hurried, &committed, now), Some(tick.clone()), "the time left is computed here");
        for forged in [
            TimerTick { end_time: Some(now + 3_000), ..tick.clone() },
            TimerTick { seq: 8, ..tick.clone() },
            TimerTick { seq: 6, ..tick.clone() },
            TimerTick { status: domain::Status::Closed.into(), ..tick.clone() },
            TimerTick { extension_count: 99, ..tick.clone() },
            TimerTick { server_time: now + MAX_TICK_SKEW_MS + 1, ..tick.clone() },
            TimerTick { server_time: now - MAX_TICK_SKEW_MS - 1, ..tick.clone() },
            TimerTick { server_time: u64::MAX, ..tick },
        ] {
            assert_eq!(shown(forged.clone(), &committed, now), None, "{forged:?}");
        }
    }
}

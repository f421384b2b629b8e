//! When the tick of each auction is due. Ticks are spread over the interval: those of all auctions at the same moment
//! would be a burst, behind which closings, bids and the ticks themselves wait.

use std::ops::Range;
use std::time::Duration;

use domain::AuctionId;
use tokio::time::{Instant, Interval, MissedTickBehavior};

/// Parts of the interval. The id of an auction says in which of them its ticks are due.
const PARTS: u32 = 50;

/// The parts of the interval one after the other, counted from the start of the schedule.
pub struct Pace {
    /// Ticks when a part begins.
    begins: Interval,
    began: Instant,
    /// The first part whose ticks have not been sent.
    next: u64,
}

/// Parts whose ticks are due: at most those of one interval.
pub struct Due(Range<u64>);

impl Pace {
    /// A pace at which each auction has a tick in each interval.
    pub fn new(interval: Duration) -> Self {
        let began = Instant::now();
        let mut begins = tokio::time::interval_at(began, interval / PARTS);
        begins.set_missed_tick_behavior(MissedTickBehavior::Skip);
        Self { begins, began, next: 0 }
    }

    /// Waits for the next part. Can be cancelled.
    pub async fn next(&mut self) -> Due {
        self.begins.tick().await;
        self.due(self.began.elapsed())
    }

    /// The parts that have begun since the last call. After a standstill of more than an interval each auction is due
    /// once. `elapsed`: the time since the start.
    fn due(&mut self, elapsed: Duration) -> Due {
        let begun = elapsed.as_nanos() / self.begins.period().as_nanos();
        let end = u64::try_from(begun).unwrap_or(u64::MAX).saturating_add(1).max(self.next);
        let start = self.next.max(end.saturating_sub(u64::from(PARTS)));
        self.next = end;
        Due(start..end)
    }
}

impl Due {
    /// Whether the tick of this auction is due.
    pub fn has(&self, auction_id: AuctionId) -> bool {
        // The last bytes of an id are random.
        let [.., last] = *auction_id.bytes();
        let part = u64::from(u32::from(last) * PARTS / 256);
        self.0.clone().any(|begun| begun % u64::from(PARTS) == part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(1);

    /// An auction for each last byte of an id.
    fn auctions() -> impl Iterator<Item = AuctionId> {
        (0..=u8::MAX).map(|last| AuctionId::from_uuid(uuid::Uuid::from_u128(u128::from(last))))
    }

    #[tokio::test(start_paused = true)]
    async fn each_auction_is_due_once_in_an_interval_and_few_are_at_once() {
        let mut pace = Pace::new(INTERVAL);
        let began = Instant::now();
        let mut ticks = vec![Vec::new(); 256];
        for part in 0..3 * PARTS {
            let due = pace.next().await;
            assert_eq!(began.elapsed(), INTERVAL / PARTS * part);
            let mut at_once = 0;
            for (_, ticks) in auctions().zip(&mut ticks).filter(|(auction_id, _)| due.has(*auction_id)) {
                ticks.push(began.elapsed());
                at_once += 1;
            }
            assert!((5..=6).contains(&at_once), "{at_once} of 256");
        }
        for ticks in ticks {
            assert!(ticks.len() == 3 && ticks.windows(2).all(|pair| pair[1] - pair[0] == INTERVAL), "{ticks:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn late_call_leaves_no_auction_out_and_repeats_none() {
        let mut pace = Pace::new(INTERVAL);
        let count = |due: &Due| auctions().filter(|auction_id| due.has(*auction_id)).count();
        let halves = [pace.due(INTERVAL * 499 / 1000), pace.due(INTERVAL * 999 / 1000)];
        assert!(auctions().all(|auction_id| halves.iter().filter(|due| due.has(auction_id)).count() == 1));
        assert_eq!(count(&pace.due(INTERVAL * 999 / 1000)), 0, "nothing has begun since");
        assert_eq!(count(&pace.due(INTERVAL * 100)), 256);
    }
}

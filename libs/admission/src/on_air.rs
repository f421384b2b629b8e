//! The auctions whose hosts stream video now, as auction-management publishes them. Only shown, never a reason for a
//! decision.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use domain::AuctionId;
use protocol::{MAX_ON_AIR, OnAir};

/// Longest time for which a message is believed. Without a bound a forged one would be believed for ever.
const MAX_VALID: Duration = Duration::from_secs(300);

/// The last message. A cheap handle.
#[derive(Debug, Clone, Default)]
pub struct OnAirAuctions(Arc<Mutex<Option<Heard>>>);

#[derive(Debug)]
struct Heard {
    auctions: HashSet<AuctionId>,
    at: Instant,
    valid_for: Duration,
}

impl OnAirAuctions {
    /// Takes a message that came at `now`. One with more auctions than there may be is ignored.
    pub fn hear(&self, message: OnAir, now: Instant) {
        if message.auctions.len() > MAX_ON_AIR {
            return;
        }
        let valid_for = Duration::from_millis(message.valid_for_ms).min(MAX_VALID);
        *self.lock() = Some(Heard { auctions: message.auctions.into_iter().collect(), at: now, valid_for });
    }

    /// Whether the host of this auction streams at `now`. None while it is not known.
    #[must_use]
    pub fn contains(&self, auction_id: AuctionId, now: Instant) -> Option<bool> {
        let heard = self.lock();
        let heard = heard.as_ref().filter(|heard| now.saturating_duration_since(heard.at) < heard.valid_for)?;
        Some(heard.auctions.contains(&auction_id))
    }

    /// Time from the last message to `now`. None before the first.
    #[must_use]
    pub fn age(&self, now: Instant) -> Option<Duration> {
        self.lock().as_ref().map(|heard| now.saturating_duration_since(heard.at))
    }

    /// A poisoned lock is still used: each change is one assignment, so no panic leaves it half done.
    fn lock(&self) -> MutexGuard<'_, Option<Heard>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> AuctionId {
        AuctionId::from_uuid(uuid::Uuid::from_u128(number as u128))
    }

    #[test]
    fn last_message_is_believed_until_its_time_is_over() {
        let (on_air, start) = (OnAirAuctions::default(), Instant::now());
        let at = |millis: u64| start + Duration::from_millis(millis);
        assert_eq!((on_air.contains(id(1), at(0)), on_air.age(at(0))), (None, None));
        on_air.hear(OnAir { auctions: vec![id(1)], valid_for_ms: 20_000 }, at(0));
        assert_eq!((on_air.contains(id(1), at(10)), on_air.contains(id(2), at(10))), (Some(true), Some(false)));
        on_air.hear(OnAir { auctions: vec![id(2)], valid_for_ms: 20_000 }, at(5_000));
        assert_eq!((on_air.contains(id(1), at(6_000)), on_air.contains(id(2), at(6_000))), (Some(false), Some(true)));
        assert_eq!(on_air.age(at(6_000)), Some(Duration::from_secs(1)));
        assert_eq!(on_air.contains(id(2), at(24_999)), Some(true));
        assert_eq!(on_air.contains(id(2), at(25_000)), None, "nothing was heard for too long");
    }

    #[test]
    fn message_out_of_bounds_does_no_lasting_harm() {
        let (on_air, start) = (OnAirAuctions::default(), Instant::now());
        let auctions = (0..=MAX_ON_AIR).map(id).collect();
        on_air.hear(OnAir { auctions, valid_for_ms: 20_000 }, start);
        assert_eq!(on_air.contains(id(1), start), None, "too many");
        on_air.hear(OnAir { auctions: vec![id(1)], valid_for_ms: u64::MAX }, start);
        assert_eq!(on_air.contains(id(1), start + MAX_VALID), None, "not for ever");
    }

    #[test]
    fn message_has_the_documented_form() {
        let text = r#"{"auctions":["00000000-0000-0000-0000-000000000001"],"valid_for_ms":20000}"#;
        let message = OnAir { auctions: vec![id(1)], valid_for_ms: 20_000 };
        assert_eq!(serde_json::to_string(&message).expect("JSON"), text);
        assert_eq!(serde_json::from_str::<OnAir>(text).expect("a message"), message);
        assert!(serde_json::from_str::<OnAir>(r#"{"auctions":["no id"],"valid_for_ms":1}"#).is_err());
    }
}

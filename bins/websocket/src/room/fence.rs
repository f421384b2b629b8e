//! The fence of a room: which instance's ticks count while two instances believe that they are elected.

use protocol::LEASE;
use tokio::time::Instant;

/// The highest fencing token that was heard recently.
///
/// A token that has been silent for longer than a lease is forgotten, because its holder is gone or will get a higher
/// one. Otherwise one forged or future token would silence the room for its life. With ticks further apart than a
/// lease the fence is open in between; a late tick of an earlier holder is then still compared by its `seq`.
#[derive(Debug, Default)]
pub struct Fence(Option<Heard>);

#[derive(Debug)]
struct Heard {
    token: u64,
    at: Instant,
}

impl Fence {
    /// Whether a message with this token, received now, is from the current holder.
    pub fn admits(&mut self, token: u64, now: Instant) -> bool {
        let is_older = |heard: &Heard| token < heard.token && now.duration_since(heard.at) <= LEASE;
        if self.0.as_ref().is_some_and(is_older) {
            return false;
        }
        self.0 = Some(Heard { token, at: now });
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Plays messages (seconds, token) and expects for each whether it is admitted.
    fn check(messages: &[(u64, u64, bool)]) {
        let (mut fence, start) = (Fence::default(), Instant::now());
        for (seconds, token, expected) in messages {
            let admitted = fence.admits(*token, start + Duration::from_secs(*seconds));
            assert_eq!(admitted, *expected, "token {token} after {seconds} s of {messages:?}");
        }
    }

    #[test]
    fn earlier_holder_is_silenced_while_the_later_one_sends() {
        check(&[(0, 5, true), (1, 5, true), (1, 6, true), (2, 5, false), (3, 6, true), (5, 5, false), (5, 6, true)]);
    }

    #[test]
    fn forged_token_silences_a_room_for_one_lease_only() {
        check(&[(0, 5, true), (1, u64::MAX, true), (2, 5, false), (3, 5, false), (4, 5, true), (5, 5, true)]);
    }

    #[test]
    fn lower_token_is_admitted_after_a_reset_of_the_bucket() {
        check(&[(0, 90_000, true), (3, 1, true), (4, 1, true)]);
    }
}

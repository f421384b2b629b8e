//! An auction after one fact of its log, by the checker's own rules.

use serde_json::Value;

use crate::fields::Bid;

/// Milliseconds after the end from which a closing shows that bids could not be decided before the end.
const LATE_CLOSING_MS: u64 = 2_000;
/// Times that an auction is given more time after such an outage.
const MAX_RECOVERIES: u64 = 3;

/// An auction after one fact.
#[derive(Debug, Clone, Default)]
pub struct State {
    pub status: String,
    pub host: String,
    pub starting_bid: u64,
    /// The price from which each step applies, and the step; the first one also applies below.
    pub increments: Vec<(u64, u64)>,
    /// Whether the leader may raise their own bid.
    pub self_raise: bool,
    /// The price at which the auction ends at once.
    pub buy_now: Option<u64>,
    /// Whether the reserve is met, as the last record says; none without a reserve.
    pub reserve_met: Option<bool>,
    /// Whether bids are kept until the opening.
    pub allow_prebids: bool,
    /// The bids that are kept, in the order in which they were set.
    pub kept: Vec<Kept>,
    /// The auction whose end opens this one, and the milliseconds from that end to the opening.
    pub follows: Option<(String, u64)>,
    pub duration: u64,
    pub snipe_mode: String,
    pub window: u64,
    pub extension: u64,
    pub max_extensions: u64,
    pub end_time: u64,
    /// While the auction is paused: milliseconds that are left.
    pub remaining: u64,
    pub pauses: u64,
    /// How often the auction was given more time after an outage over its end.
    pub recoveries: u64,
    /// People whose bids are refused; none before the first.
    pub blocked: Option<Vec<String>>,
    pub extensions: u64,
    pub bid_count: u64,
    /// The best bid of each bidder, highest first: user id, username, cents.
    pub top: Vec<(String, String, u64)>,
}

/// A bid that is kept until the opening.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The call that set it.
    pub bid_id: String,
    pub user_id: String,
    pub username: String,
    /// How often the person has set it.
    pub set: u32,
}

impl State {
    /// The lines that the options in use add to the fact of the creation.
    pub fn option_lines(&self, sealed_reserve: Option<&str>) -> String {
        let lines = [
            self.self_raise.then(|| "\nself_raise".to_owned()),
            self.buy_now.map(|buy_now| format!("\nbuy_now {buy_now}")),
            sealed_reserve.map(|reserve| format!("\nreserve {reserve}")),
            self.allow_prebids.then(|| "\nprebids".to_owned()),
            self.follows.as_ref().map(|(id, gap)| format!("\nfollows {id} {gap}")),
        ];
        lines.into_iter().flatten().collect()
    }

    /// Whether bids are kept now: not once they were bid, though the opening is not in the log yet.
    pub fn keeps_prebids(&self) -> bool {
        self.status == "scheduled" && self.allow_prebids && self.leader().is_none()
    }

    pub fn leader(&self) -> Option<&(String, String, u64)> {
        self.top.first()
    }

    pub fn minimum(&self) -> u64 {
        self.leader().map_or(self.starting_bid, |(_, _, cents)| self.capped(cents + self.step(*cents)))
    }

    /// Why a person may not bid this.
    pub fn objection(&self, bid: &Bid) -> Option<String> {
        let leads = self.leader().is_some_and(|(leader, ..)| *leader == bid.user_id);
        // A leader's new maximum may reach the reserve, which is bid against then.
        let reaches_reserve = bid.sealed.is_some() && self.reserve_met == Some(false);
        match () {
            () if bid.user_id == self.host => Some("the bidder is the host".to_owned()),
            () if self.is_blocked(&bid.user_id) => Some("the bidder is blocked".to_owned()),
            () if leads && !self.self_raise && !reaches_reserve => Some("the bidder was leading".to_owned()),
            () if bid.kind != "bid" => Some(format!("it is of kind {}", bid.kind)),
            () if bid.cents < self.minimum() && !leads => {
                Some(format!("it offers {} cents where {} are needed", bid.cents, self.minimum()))
            }
            () if leads && bid.cents < self.minimum() && !reaches_reserve => {
                Some(format!("it offers {} cents where {} are needed", bid.cents, self.minimum()))
            }
            () if bid.cents > self.capped(bid.cents) => {
                Some(format!("it offers {} cents, more than the buy-now price", bid.cents))
            }
            () => None,
        }
    }

    /// An amount, cut to the buy-now price.
    pub fn capped(&self, cents: u64) -> u64 {
        self.buy_now.map_or(cents, |buy_now| cents.min(buy_now))
    }

    /// Whether a bid has reached the buy-now price.
    pub fn is_bought(&self) -> bool {
        self.buy_now.is_some_and(|buy_now| self.leader().is_some_and(|leader| leader.2 >= buy_now))
    }

    /// The step above a price.
    pub fn step(&self, price: u64) -> u64 {
        let reached = self.increments.iter().rfind(|(from, _)| *from <= price);
        reached.or(self.increments.first()).map_or(0, |(_, step)| *step)
    }

    /// The end that people are shown.
    pub fn shown_end(&self) -> Option<u64> {
        (self.status != "paused").then_some(self.end_time)
    }

    pub fn is_blocked(&self, user_id: &str) -> bool {
        self.blocked.as_ref().is_some_and(|blocked| blocked.iter().any(|blocked| blocked == user_id))
    }

    pub fn is_over(&self) -> bool {
        self.status == "closed" || self.status == "cancelled"
    }

    /// Milliseconds before the end in which a bid may move it.
    pub fn late_ms(&self) -> u64 {
        match self.snipe_mode.as_str() {
            "extend" => self.window,
            "reset" => self.extension,
            _ => 0,
        }
    }

    /// Whether the auction goes on at this time instead of being closed.
    pub fn recovers_at(&self, time: u64) -> bool {
        let is_late = self.status == "live" && time > self.end_time + LATE_CLOSING_MS;
        is_late && self.late_ms() > 0 && self.recoveries < MAX_RECOVERIES
    }

    /// Whether a record says the same about what the host has done.
    pub fn by_host_is(&self, recorded: &Value) -> bool {
        let blocked: Option<Vec<&str>> =
            recorded["blocked"].as_array().map(|ids| ids.iter().filter_map(Value::as_str).collect());
        let left = (self.status == "paused").then_some(self.remaining);
        recorded["pauses"].as_u64().unwrap_or(0) == self.pauses
            && recorded["remaining_ms"].as_u64() == left
            && blocked == self.blocked.as_ref().map(|ids| ids.iter().map(String::as_str).collect())
    }
}

//! Bots that want to win, each up to a limit of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use domain::Amount;
use serde_json::{Value, json};
use testkit::socket::{Door, Socket};
use tokio::time::Instant;

use super::Running;

/// Between a bot's look at the price and its bid.
const THINK_MS: std::ops::Range<u64> = 150..1_500;
/// What a bot will pay at most, in cents.
const LIMIT_CENTS: std::ops::Range<u64> = 5_000..60_000;
/// Until the last seconds a bot shows two thirds of what it would pay: late bids are what moves the end.
const LAST_MS: u64 = 6_000;
/// What a bot adds to the minimum, in cents.
const RAISE_CENTS: std::ops::Range<u64> = 0..400;
/// Every so many bids one is hopeless, so that refusals are seen as well.
const HOPELESS_EVERY: u64 = 8;

/// What all bots together have seen.
#[derive(Default)]
pub struct Seen(Mutex<Counts>);

#[derive(Default, Clone)]
pub struct Counts {
    pub accepted: u64,
    pub refused: u64,
    pub extensions: u64,
    /// From a bid to its answer.
    pub answers: Vec<Duration>,
    /// From a bid to each screen that shows it.
    pub screens: Vec<Duration>,
    sent: HashMap<String, Instant>,
}

impl Seen {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn counts(&self) -> Counts {
        self.lock().clone()
    }
}

pub struct Bot {
    pub name: String,
    pub door: Door,
    pub auction_id: String,
}

/// What a bot knows of the auction.
struct View {
    minimum: u64,
    leading: bool,
    limit: u64,
    late: bool,
    placed: u64,
}

impl View {
    const fn offers_up_to(&self) -> u64 {
        if self.late { self.limit } else { self.limit / 3 * 2 }
    }
}

fn cents(value: &Value) -> Option<u64> {
    Amount::parse(&value.to_string()).ok().map(Amount::cents)
}

impl Bot {
    /// Bids until the end, and returns it as it was told.
    pub async fn run(self, running: Arc<Running>, seen: Arc<Seen>, give_up: Instant) -> Result<Value> {
        let mut socket = Socket::enter(&running.edge, self.door, &running.token(&self.name)?).await?;
        let joined = socket.ask("join_auction", json!({"auction_id": self.auction_id})).await?;
        let minimum = cents(&joined["data"]["minimum_bid"]).with_context(|| joined.to_string())?;
        let mut view = View { minimum, leading: false, limit: fastrand::u64(LIMIT_CENTS), late: false, placed: 0 };
        let mut asked: HashMap<u64, Instant> = HashMap::new();
        let think = || Instant::now() + Duration::from_millis(fastrand::u64(THINK_MS));
        let mut next_bid = think();
        loop {
            tokio::select! {
                frame = socket.next() => {
                    if let Some(end) = self.read(&frame?, &mut view, &mut asked, &seen) {
                        return Ok(end);
                    }
                }
                () = tokio::time::sleep_until(next_bid) => {
                    self.bid(&mut socket, &mut view, &mut asked, &seen).await?;
                    next_bid = think();
                }
                () = tokio::time::sleep_until(give_up) => bail!("{} never saw the end", self.name),
            }
        }
    }

    async fn bid(
        &self,
        socket: &mut Socket,
        view: &mut View,
        asked: &mut HashMap<u64, Instant>,
        seen: &Seen,
    ) -> Result<()> {
        if view.leading || view.minimum > view.offers_up_to() {
            return Ok(());
        }
        view.placed += 1;
        let hopeless = view.placed.is_multiple_of(HOPELESS_EVERY);
        let offer = if hopeless { 100 } else { (view.minimum + fastrand::u64(RAISE_CENTS)).min(view.offers_up_to()) };
        let amount = Amount::from_cents(offer)?.to_string();
        let (id, bid_id) = (view.placed + 1_000_000, uuid::Uuid::new_v4().to_string());
        asked.insert(id, Instant::now());
        seen.lock().sent.insert(bid_id.clone(), Instant::now());
        let bid = json!({"auction_id": self.auction_id, "amount": amount, "bid_id": bid_id});
        socket.request("place_bid", bid, id).await
    }

    /// Takes in one frame; returns the end if it is that.
    fn read(&self, frame: &Value, view: &mut View, asked: &mut HashMap<u64, Instant>, seen: &Seen) -> Option<Value> {
        let data = &frame["data"];
        if let Some(sent) = frame["id"].as_u64().and_then(|id| asked.remove(&id)) {
            let mut counts = seen.lock();
            counts.answers.push(sent.elapsed());
            match data["status"].as_str() {
                Some("accepted") => counts.accepted += 1,
                _ => counts.refused += 1,
            }
            return None;
        }
        match frame["event"].as_str() {
            Some("bid_update") => {
                view.minimum = cents(&data["minimum_bid"]).unwrap_or(view.minimum);
                view.leading = data["you_are_winning"] == true;
                let mut counts = seen.lock();
                counts.extensions = counts.extensions.max(data["extension_count"].as_u64().unwrap_or(0));
                for bid in data["bids"].as_array().into_iter().flatten() {
                    if let Some(sent) = bid["bid_id"].as_str().and_then(|id| counts.sent.get(id).copied()) {
                        counts.screens.push(sent.elapsed());
                    }
                }
                None
            }
            Some("timer_update") => {
                view.late = data["time_remaining_ms"].as_u64().is_some_and(|left| left < LAST_MS);
                None
            }
            Some("auction_ended") => Some(data.clone()),
            _ => None,
        }
    }
}

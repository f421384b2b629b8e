//! Bots that bid, each up to its own limit.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use testkit::bidder::{minimum_bid, new_bid};
use testkit::socket::{Socket, Transport};
use tokio::time::Instant;

use super::running::Running;

/// Pause of a bot before a bid.
const THINK_MS: std::ops::Range<u64> = 150..1_500;
/// Highest bid of a bot, in cents.
const LIMIT_CENTS: std::ops::Range<u64> = 5_000..60_000;
/// Remaining time below which a bot bids up to its limit. Before that it bids up to two thirds of it, so that late bids
/// extend the auction.
const LAST_MS: u64 = 6_000;
/// Cents that a bot adds to the minimum.
const RAISE_CENTS: std::ops::Range<u64> = 0..400;
/// One bid in this many is too low, so that the demo shows rejections too.
const TOO_LOW_EVERY: u64 = 8;

/// Observations of all bots together.
#[derive(Default)]
pub struct Observations(Mutex<Counts>);

/// Numbers and latencies of a demo.
#[derive(Default, Clone)]
pub struct Counts {
    /// Accepted bids.
    pub accepted: u64,
    /// Rejected bids.
    pub rejected: u64,
    /// Extensions of the auction.
    pub extensions: u64,
    /// Times from a bid to its answer.
    pub answers: Vec<Duration>,
    /// Times from a bid to each client that shows it.
    pub deliveries: Vec<Duration>,
    /// Times at which bids were sent, by their bid id.
    sent: HashMap<Value, Instant>,
}

impl Observations {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of the numbers so far.
    pub fn counts(&self) -> Counts {
        self.lock().clone()
    }
}

/// A bidder.
pub struct Bot {
    /// The name of its user.
    pub name: String,
    /// Its transport.
    pub transport: Transport,
    /// The auction that it bids in.
    pub auction_id: String,
}

/// The auction as a bot knows it.
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

impl Bot {
    /// Bids until the auction ends; returns the data of the frame that says so.
    pub async fn run(self, running: Arc<Running>, observations: Arc<Observations>, give_up: Instant) -> Result<Value> {
        let mut socket = Socket::enter(&running.edge, self.transport, &running.token(&self.name)?).await?;
        let joined = socket.ask("join_auction", json!({"auction_id": self.auction_id})).await?;
        let minimum = minimum_bid(&joined["data"]).with_context(|| joined.to_string())?;
        let mut view = View { minimum, leading: false, limit: fastrand::u64(LIMIT_CENTS), late: false, placed: 0 };
        let mut asked: HashMap<u64, Instant> = HashMap::new();
        let think = || Instant::now() + Duration::from_millis(fastrand::u64(THINK_MS));
        let mut next_bid = think();
        loop {
            tokio::select! {
                frame = socket.next() => {
                    if let Some(end) = self.read(&frame?, &mut view, &mut asked, &observations) {
                        return Ok(end);
                    }
                }
                () = tokio::time::sleep_until(next_bid) => {
                    self.bid(&mut socket, &mut view, &mut asked, &observations).await?;
                    next_bid = think();
                }
                () = tokio::time::sleep_until(give_up) => bail!("{} did not get the end of the auction", self.name),
            }
        }
    }

    /// Places a bid, unless it leads or has reached its limit.
    async fn bid(
        &self,
        socket: &mut Socket,
        view: &mut View,
        asked: &mut HashMap<u64, Instant>,
        observations: &Observations,
    ) -> Result<()> {
        if view.leading || view.minimum > view.offers_up_to() {
            return Ok(());
        }
        view.placed += 1;
        let is_too_low = view.placed.is_multiple_of(TOO_LOW_EVERY);
        let offer = if is_too_low { 100 } else { (view.minimum + fastrand::u64(RAISE_CENTS)).min(view.offers_up_to()) };
        let (id, bid) = (view.placed + 1_000_000, new_bid(&self.auction_id, offer));
        asked.insert(id, Instant::now());
        observations.lock().sent.insert(bid["bid_id"].clone(), Instant::now());
        socket.request("place_bid", bid, id).await
    }

    /// Reads one frame; returns its data if it is the end of the auction.
    fn read(
        &self,
        frame: &Value,
        view: &mut View,
        asked: &mut HashMap<u64, Instant>,
        observations: &Observations,
    ) -> Option<Value> {
        let data = &frame["data"];
        if let Some(sent) = frame["id"].as_u64().and_then(|id| asked.remove(&id)) {
            let mut counts = observations.lock();
            counts.answers.push(sent.elapsed());
            match data["status"].as_str() {
                Some("accepted") => counts.accepted += 1,
                _ => counts.rejected += 1,
            }
            return None;
        }
        // A person who bids in several auctions is notified of each on every socket.
        if data["auction_id"].as_str().is_some_and(|id| id != self.auction_id) {
            return None;
        }
        match frame["event"].as_str() {
            Some("bid_update") => {
                view.minimum = minimum_bid(data).unwrap_or(view.minimum);
                view.leading = data["you_are_winning"] == true;
                let mut counts = observations.lock();
                counts.extensions = counts.extensions.max(data["extension_count"].as_u64().unwrap_or(0));
                for bid in data["bids"].as_array().into_iter().flatten() {
                    if let Some(sent) = counts.sent.get(&bid["bid_id"]).copied() {
                        counts.deliveries.push(sent.elapsed());
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

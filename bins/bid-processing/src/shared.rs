//! State that every auctioneer of one instance uses, and the bounds that several files need.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use admission::{CommittedPrices, StandingLeads};
use domain::{Amount, AuctionId, UserId};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use protocol::{Answer, Record, RecordKind, SealedMaximum};
use service::{Answers, Latency};
use tokio::sync::Semaphore;
use warp::http::StatusCode;

use crate::backend::Backend;
use crate::checkpoints::{DueCheckpoints, FACTS_PER_CHECKPOINT};
use crate::sealing::LogKeys;
use crate::trouble::Trouble;

/// Time from a call's arrival to its answer. CONTRACT.md, Placing a bid promises 3 s; the rest is for the way back.
pub const ANSWER_WITHIN: Duration = Duration::from_millis(2_800);
/// Pause after a failed call to Redis or the log. Long enough not to add to their load, short compared with
/// [`ANSWER_WITHIN`].
pub const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Auctions rebuilt at once. Each rebuild has one request of 1.5 MiB in memory.
const MAX_REBUILDS: usize = 4;

/// State that every auctioneer of an instance uses.
pub struct Shared<B> {
    /// Redis, the log and the clock.
    pub backend: B,
    /// Prices from committed records: bids below them are rejected without asking Redis.
    pub prices: CommittedPrices,
    /// The standing leads of each person, from committed records, and the limits on them.
    pub standing: StandingLeads,
    /// One permit for each rebuild that may run at once.
    pub rebuilds: Semaphore,
    /// Auctions that have grown enough for another checkpoint.
    pub due_checkpoints: DueCheckpoints,
    /// Facts in one checkpoint.
    pub facts_per_checkpoint: u64,
    /// The rest of the log is kept for running auctions to end in: no bid is accepted.
    pub log_is_reserved: AtomicBool,
    /// The instance's metrics.
    pub counters: Counters,
    /// Open the secrets in the log.
    pub keys: LogKeys,
}

impl<B> Shared<B> {
    /// State for one instance, without a limit on standing leads. No price is known until records arrive.
    pub fn new(backend: B, counters: Counters, keys: LogKeys) -> Self {
        Self {
            backend,
            prices: CommittedPrices::default(),
            standing: StandingLeads::new(None),
            rebuilds: Semaphore::new(MAX_REBUILDS),
            due_checkpoints: DueCheckpoints::default(),
            facts_per_checkpoint: FACTS_PER_CHECKPOINT,
            log_is_reserved: AtomicBool::new(false),
            counters,
            keys,
        }
    }
}

impl<B: Backend> Shared<B> {
    /// Takes a record that was read from the log or appended to it.
    pub fn apply(&self, record: &Record) {
        self.prices.apply(record, self.backend.connection());
        self.standing.apply(record, |maximum| self.maximum(record.auction_id, maximum));
    }

    /// Drops what is known from the records of an auction.
    pub fn forget(&self, auction_id: AuctionId) {
        self.prices.forget(auction_id);
        self.standing.forget(auction_id);
    }

    /// A maximum in a record. None if no key opens it: what rests on it does without.
    pub fn maximum(&self, auction_id: AuctionId, maximum: &SealedMaximum) -> Option<Amount> {
        match self.keys.open_maximum(auction_id, maximum) {
            Ok(maximum) => Some(maximum),
            Err(error) => {
                tracing::debug!(%auction_id, error = %errors::chain(&error), "failed to open a maximum");
                None
            }
        }
    }
}

/// Metrics of one instance.
#[derive(Default)]
pub struct Counters {
    /// Bids accepted and committed.
    pub accepted: Counter,
    /// Bids rejected by the rules.
    pub rejected: Counter,
    /// Rejected bids for which Redis was not asked.
    pub rejected_from_cache: Counter,
    /// Bids rejected because their person exceeded a limit.
    pub over_limit: Counter,
    /// Records appended to the log.
    pub records: Counter,
    /// Auctions restored to Redis from the log.
    pub rebuilt: Counter,
    /// Checkpoints written.
    pub checkpoints: Counter,
    /// Fill level of the log, from 0 to 1.
    pub log_used: Gauge<f64, AtomicU64>,
    /// Replicas of the log that its leader has no contact with.
    pub replicas_away: Gauge,
    /// Auctions halted because their log or state was inconsistent.
    pub halted: Counter,
    /// Answers to bids, by code; `accepted` for those that were accepted.
    answers: Family<[(&'static str, &'static str); 1], Counter>,
    /// Which of them are logged.
    logged: Answers,
    /// Calls that may fail many times a second.
    pub trouble: Trouble,
    /// Time from a bid's arrival to its answer.
    answered: Latency,
    /// Time that calls wait for their auctioneer.
    pub queued: Latency,
    /// Time of a call of the bid script.
    pub decided: Latency,
    /// Time of an append that the log confirmed.
    pub appended: Latency,
    /// Records received that the log does not have.
    pub refuted: Counter,
}

impl Counters {
    /// Counters that `/metrics` shows.
    pub fn registered(registry: &mut Registry) -> Self {
        let counters = Self::default();
        registry.register("bids_accepted", "Bids accepted and committed", counters.accepted.clone());
        registry.register("bids_rejected", "Bids rejected by the rules", counters.rejected.clone());
        registry.register(
            "bids_rejected_from_cache",
            "Bids below the committed price, rejected without asking Redis",
            counters.rejected_from_cache.clone(),
        );
        let over_limit = "Bids rejected because their person exceeded a limit";
        registry.register("bids_over_limit", over_limit, counters.over_limit.clone());
        registry.register("log_records_appended", "Records appended to the log", counters.records.clone());
        registry.register("auctions_rebuilt", "Auctions restored to Redis from the log", counters.rebuilt.clone());
        let checkpoints = "Checkpoints of long auctions written";
        registry.register("checkpoints_written", checkpoints, counters.checkpoints.clone());
        let halted = "Auctions halted because their log or state was inconsistent";
        registry.register("auctions_halted", halted, counters.halted.clone());
        let refuted = "Records received from NATS that the log does not have: another program published them";
        registry.register("forged_records", refuted, counters.refuted.clone());
        registry.register("log_used_ratio", "Fill level of the log, from 0 to 1", counters.log_used.clone());
        let away = "Replicas of the log that its leader has no contact with";
        registry.register("log_replicas_away", away, counters.replicas_away.clone());
        let answers = "Answers to bids, by code; accepted for those that were accepted";
        registry.register("bid_answers", answers, counters.answers.clone());
        counters.answered.register(registry, "bid_seconds", "Time from the arrival of a bid to its answer");
        counters.queued.register(
            registry,
            "call_queue_seconds",
            "Time that calls waited for the auctioneer of their auction",
        );
        counters.decided.register(registry, "bid_script_seconds", "Time of a call of the bid script in Redis");
        counters.appended.register(registry, "log_append_seconds", "Time of an append that the log confirmed");
        counters
    }

    /// Counts a record that the log has confirmed, and logs it unless it holds bids.
    pub fn committed(&self, record: &Record) {
        self.records.inc();
        let (auction_id, seq) = (record.auction_id, record.seq);
        match record.kind.known() {
            Some(RecordKind::Created) => tracing::info!(%auction_id, "auction created"),
            Some(RecordKind::Opened) => tracing::info!(%auction_id, "auction opened"),
            Some(RecordKind::Closed) => {
                tracing::info!(%auction_id, seq, bids = record.state.bid_count, "auction closed")
            }
            Some(RecordKind::Cancelled) => tracing::info!(%auction_id, seq, "auction cancelled"),
            Some(RecordKind::Paused) => tracing::info!(%auction_id, seq, "auction paused"),
            Some(RecordKind::Resumed) if record.by.is_none() => {
                let recoveries = record.state.recoveries;
                tracing::warn!(%auction_id, seq, recoveries, "auction given more time after an outage over its end");
            }
            Some(RecordKind::Resumed) => tracing::info!(%auction_id, seq, "auction resumed"),
            Some(RecordKind::Blocked | RecordKind::Unblocked) => {
                tracing::info!(%auction_id, seq, "changed the people who may not bid");
            }
            Some(RecordKind::Bids | RecordKind::Maximum) | None => {}
        }
    }

    /// Counts and logs the answer to a bid that took this long.
    pub fn answer(&self, auction_id: AuctionId, user_id: UserId, answer: &Answer, took: Duration) {
        let (status, code) = answer.code().map_or((StatusCode::OK, "accepted"), |code| (code.status(), code.name()));
        self.answers.get_or_create(&[("code", code)]).inc();
        self.answered.record(took);
        let (bid_id, took_us) = (answer.bid_id().map(tracing::field::display), took.as_micros());
        let loudness = self.logged.loudness(status, code);
        traces::record("auction_id", auction_id);
        if let Some(bid_id) = answer.bid_id() {
            traces::record("bid_id", bid_id);
        }
        traces::record("code", code);
        service::log_answer!(loudness, %auction_id, bid_id, %user_id, code, took_us, "answered a bid");
    }
}

//! `faulty-service service <name>`: one service, as `flash service <name>` runs it, but with a backend that makes the
//! mistake which `FAULT_POINTS` names for an auction. The production code has no part in these mistakes.

use std::process::ExitCode;
use std::time::Duration;

use bid_processing::{Decided, Reading, RecallError};
use bus::{AppendError, LogError, Logged, StoredCheckpoint};
use clap::Parser;
use cloud::Unwritten;
use domain::{Amount, AuctionId, BidId, BidRequest, CloseReason, Decision, HostAct, Millis, Refusal, UserId};
use hotstate::{
    Closed, Created, HostActed, HotstateError, Opened, OutboxEntry, Position, Rebuilt, Restoration, Verdicts, View,
};
use protocol::{Bid, Checkpoint, CreateRequest, Leased, Mark, Record, RecordKind, StoredAnswer, TimerTick};
use service::fault::{FaultPoint, is_on};
use service::{Running, Stop};

/// Time from the end to the request of a late closing.
const LATE_BY: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["service", bid_processing::NAME] => {
            service::main(bid_processing::NAME, bid_processing::Config::read, run_bid_processing)
        }
        ["service", timer::NAME] => service::main(timer::NAME, timer::Config::read, run_timer),
        ["service", bid_persistence::NAME] => {
            service::main(bid_persistence::NAME, bid_persistence::Config::read, run_bid_persistence)
        }
        // The fault points of the other services are in their own code.
        _ => flash::run(flash::Command::parse()),
    }
}

fn run_bid_processing(config: bid_processing::Config, stop: Stop) -> Running<anyhow::Error> {
    Box::pin(bid_processing::run_with(config, stop, Faulty))
}

fn run_timer(config: timer::Config, stop: Stop) -> Running<anyhow::Error> {
    Box::pin(timer::run_with(config, stop, Faulty))
}

fn run_bid_persistence(config: bid_persistence::Config, stop: Stop) -> Running<anyhow::Error> {
    Box::pin(bid_persistence::run_with(config, stop, Faulty))
}

/// A backend that makes the mistakes that are switched on, and is otherwise the one it decorates.
#[derive(Clone)]
struct Faulty<B>(B);

/// The mistakes in what is written to the log.
fn falsified(mut record: Record) -> Record {
    let auction_id = record.auction_id;
    if is_on(FaultPoint::LogBidTwice, &auction_id)
        && let Some(last) = record.bids.last().cloned()
    {
        record.bids.push(last);
    }
    if is_on(FaultPoint::LogOtherAmount, &auction_id)
        && let Some(first) = record.bids.first_mut()
    {
        first.amount = first.amount.plus(record.state.increment);
    }
    if is_on(FaultPoint::ForgetExtension, &auction_id) {
        record.state.extension_count = 0;
    }
    record
}

/// The mistakes in what a bidder is answered.
fn misjudged(auction_id: AuctionId, bid: &BidRequest, decision: Decision) -> Decision {
    match decision {
        Decision::Accepted { accepted, found: true } if is_on(FaultPoint::ForgetBidId, &auction_id) => {
            Decision::Refused {
                refusal: Refusal::TooLow,
                seq: accepted.seq,
                high_bid: None,
                minimum_bid: accepted.minimum_bid,
            }
        }
        Decision::Refused { refusal, seq, high_bid, minimum_bid } => {
            let is_old = is_on(FaultPoint::AnswerFromThePast, &auction_id);
            let is_inflated = is_on(FaultPoint::InflateMinimumBid, &auction_id);
            Decision::Refused {
                refusal,
                seq: if is_old { 2 } else { seq },
                high_bid,
                minimum_bid: if is_inflated { minimum_bid.plus(bid.offer.limit()) } else { minimum_bid },
            }
        }
        decision => decision,
    }
}

impl<B: bid_processing::Backend> bid_processing::Backend for Faulty<B> {
    async fn create(&self, request: &CreateRequest) -> Result<Created, HotstateError> {
        self.0.create(request).await
    }

    async fn open(&self, auction_id: AuctionId, due: Option<Millis>) -> Decided<Opened> {
        self.0.open(auction_id, due).await
    }

    async fn close(&self, auction_id: AuctionId, by: Option<UserId>) -> Decided<Closed> {
        self.0.close(auction_id, by).await
    }

    async fn cancel(&self, auction_id: AuctionId, by: UserId, reason: CloseReason) -> Decided<Closed> {
        self.0.cancel(auction_id, by, reason).await
    }

    async fn act(&self, auction_id: AuctionId, act: HostAct, by: UserId) -> Decided<HostActed> {
        self.0.act(auction_id, act, by).await
    }

    async fn place(&self, auction_id: AuctionId, bids: &[BidRequest], committed: u64) -> Decided<Verdicts> {
        let Some(verdicts) = self.0.place(auction_id, bids, committed).await? else { return Ok(None) };
        let judged = bids.iter().zip(verdicts.decisions);
        let decisions = judged.map(|(bid, decision)| misjudged(auction_id, bid, decision)).collect();
        Ok(Some(Verdicts { decisions, ..verdicts }))
    }

    async fn prebid(&self, auction_id: AuctionId, user_id: UserId) -> Result<Option<Amount>, HotstateError> {
        self.0.prebid(auction_id, user_id).await
    }

    async fn view(&self, auction_id: AuctionId) -> Decided<View> {
        self.0.view(auction_id).await
    }

    async fn view_with_answer(&self, auction_id: AuctionId, bid_id: BidId) -> Decided<(View, bool)> {
        self.0.view_with_answer(auction_id, bid_id).await
    }

    async fn outbox(&self, auction_id: AuctionId, committed: u64) -> Result<Vec<OutboxEntry>, HotstateError> {
        self.0.outbox(auction_id, committed).await
    }

    async fn position(&self, auction_id: AuctionId, committed: u64) -> Decided<Position> {
        self.0.position(auction_id, committed).await
    }

    async fn write_answers(&self, rebuilt: &mut Rebuilt, answers: &[StoredAnswer]) -> Result<(), HotstateError> {
        self.0.write_answers(rebuilt, answers).await
    }

    async fn discard(&self, rebuilt: &Rebuilt) -> Result<(), HotstateError> {
        self.0.discard(rebuilt).await
    }

    async fn restore(
        &self,
        auction_id: AuctionId,
        seen: Option<Mark>,
        restoration: &Restoration<'_>,
        rebuilt: &Rebuilt,
    ) -> Result<bool, HotstateError> {
        if is_on(FaultPoint::SkipRebuild, &auction_id) {
            return Err(HotstateError::Redis(std::io::Error::from(std::io::ErrorKind::TimedOut).into()));
        }
        self.0.restore(auction_id, seen, restoration, rebuilt).await
    }

    async fn append(&self, record: &Record, expected: u64) -> Result<u64, AppendError> {
        let is_fifth = record.kind == RecordKind::Bids && record.seq.is_multiple_of(5);
        if is_fifth && is_on(FaultPoint::SkipAppend, &record.auction_id) {
            return Ok(expected);
        }
        self.0.append(&falsified(record.clone()), expected).await
    }

    async fn last(&self, auction_id: AuctionId) -> Result<Option<Logged>, LogError> {
        self.0.last(auction_id).await
    }

    async fn next(&self, auction_id: AuctionId, from: u64) -> Result<Option<Logged>, LogError> {
        self.0.next(auction_id, from).await
    }

    async fn records(&self, auction_id: AuctionId, from: u64) -> Result<Reading<Logged>, LogError> {
        self.0.records(auction_id, from).await
    }

    async fn checkpoints(&self, auction_id: AuctionId) -> Result<Reading<StoredCheckpoint>, LogError> {
        self.0.checkpoints(auction_id).await
    }

    async fn last_checkpoint(&self, auction_id: AuctionId) -> Result<Option<StoredCheckpoint>, LogError> {
        self.0.last_checkpoint(auction_id).await
    }

    async fn append_checkpoint(&self, checkpoint: &Checkpoint, expected: u64) -> Result<u64, AppendError> {
        self.0.append_checkpoint(checkpoint, expected).await
    }

    async fn recall(&self, auction_id: AuctionId) -> Result<bool, RecallError> {
        self.0.recall(auction_id).await
    }

    fn now(&self) -> Millis {
        self.0.now()
    }

    fn connection(&self) -> Option<u64> {
        self.0.connection()
    }
}

impl<B: timer::Backend> timer::Backend for Faulty<B> {
    async fn follow(&self) -> Result<timer::Records, LogError> {
        self.0.follow().await
    }

    async fn open(&self, auction_id: AuctionId) -> Result<Option<Millis>, timer::BackendError> {
        self.0.open(auction_id).await
    }

    async fn close(&self, auction_id: AuctionId) -> Result<bool, timer::BackendError> {
        if is_on(FaultPoint::CloseLate, &auction_id) {
            tokio::time::sleep(LATE_BY).await;
        }
        self.0.close(auction_id).await
    }

    async fn tick(&self, tick: &Leased<TimerTick>) -> Result<(), timer::BackendError> {
        self.0.tick(tick).await
    }

    fn token(&self) -> Option<u64> {
        self.0.token()
    }

    fn now(&self) -> Millis {
        self.0.now()
    }
}

impl<B: bid_persistence::Backend> bid_persistence::Backend for Faulty<B> {
    type Delivery = B::Delivery;

    async fn fetch(&self, most: usize, wait: Duration) -> Result<Vec<B::Delivery>, bid_persistence::FetchError> {
        self.0.fetch(most, wait).await
    }

    async fn write(&self, auction_id: AuctionId, bids: &[Bid]) -> Result<(), Unwritten> {
        if !is_on(FaultPoint::ForgetHistory, &auction_id) {
            return self.0.write(auction_id, bids).await;
        }
        let kept: Vec<Bid> = bids.iter().filter(|bid| bid.seq % 5 != 0).cloned().collect();
        if kept.is_empty() { Ok(()) } else { self.0.write(auction_id, &kept).await }
    }
}

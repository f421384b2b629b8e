//! Rebuilds an auction in Redis from the log, as a task of its own that outlives the calls that wait for it.
//!
//! Records and answers pass through in pieces, so that memory does not grow with the auction. Half of the time is
//! pauses, so that bids on other auctions need not wait long for the processors and for Redis. Answers that checkpoints
//! hold are not read from the log: of an auction with a million bids, about 245 checkpoints and the newest 13,000 facts of
//! the log are read.

use std::sync::Arc;
use std::time::Duration;

use bus::LogError;
use domain::{AuctionId, BidId, Offer, Sealed};
use futures_util::TryStreamExt;
use hotstate::{HotstateError, Position, Rebuilt};
use protocol::{CHECKPOINT_VERSION, Checkpoint, Record, StoredAnswer, StoredOffer, StoredProxy};
use tokio::time::Instant;

use crate::backend::Backend;
use crate::replay::Replay;
use crate::sealing::{LogKeys, SealError};
use crate::shared::Shared;

/// Answers written to Redis in one command. More would block it for longer than a script call does.
const ANSWERS_AT_ONCE: usize = 500;
/// Time after which a rebuild pauses for as long, at most for [`MAX_PAUSE`]. Shorter pauses would become longer: the clock of
/// pauses counts whole milliseconds.
const WORK: Duration = Duration::from_millis(5);
const MAX_PAUSE: Duration = Duration::from_millis(20);

/// Why a rebuild failed.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// Redis failed.
    #[error("failed to write the rebuilt auction to Redis")]
    Redis(#[from] HotstateError),
    /// The log could not be read, or is inconsistent.
    #[error("failed to read the auction's log")]
    Log(#[from] LogError),
}

/// Rebuilds an auction, if Redis does not continue its log. False if the log or Redis has changed during it.
pub async fn run<B: Backend>(shared: Arc<Shared<B>>, auction_id: AuctionId) -> Result<bool, RebuildError> {
    // The semaphore is never closed. Waiting for it is bounded because every rebuild is.
    let Ok(_permit) = shared.rebuilds.acquire().await else { return Ok(false) };
    let backend = &shared.backend;
    // The log first, then Redis: read the other way round, a commit in between looks like a loss.
    let last = backend.last(auction_id).await?;
    let tail = last.as_ref().map(|logged| logged.record.mark()).unwrap_or_default();
    let seen = backend.position(auction_id, tail.seq).await?;
    if seen.is_some_and(|position| position.continues(tail)) {
        return Ok(true);
    }
    if backend.last(auction_id).await?.map(|logged| logged.stream_seq) != last.as_ref().map(|logged| logged.stream_seq)
    {
        // Another instance has committed facts and cut the outbox between the two reads: nothing is lost.
        return Ok(false);
    }
    let Some(last) = last else {
        // Nothing was ever committed, so Redis cannot hold later facts without the creation before them.
        return match seen {
            None => Ok(true),
            Some(_) => Err(LogError::Record { stream_seq: 0, detail: "the log lost this auction".into() }.into()),
        };
    };
    let mut rebuilt = Rebuilt::new(auction_id);
    let restored = restore(&shared, &last.record, seen, &mut rebuilt).await;
    if !matches!(restored, Ok(true)) && rebuilt.count() > 0 {
        // If this fails as well, the answers expire.
        drop(backend.discard(&rebuilt).await);
    }
    restored
}

/// Writes answers to Redis, piece by piece, with pauses.
struct Writer<'a, B> {
    backend: &'a B,
    rebuilt: &'a mut Rebuilt,
    /// When the last pause ended.
    resumed: Instant,
}

impl<B: Backend> Writer<'_, B> {
    async fn write(&mut self, answers: &[StoredAnswer]) -> Result<(), HotstateError> {
        for piece in answers.chunks(ANSWERS_AT_ONCE) {
            self.backend.write_answers(self.rebuilt, piece).await?;
            let worked = self.resumed.elapsed();
            if worked >= WORK {
                tokio::time::sleep(worked.min(MAX_PAUSE)).await;
                self.resumed = Instant::now();
            }
        }
        Ok(())
    }
}

async fn restore<B: Backend>(
    shared: &Shared<B>,
    last: &Record,
    seen: Option<Position>,
    rebuilt: &mut Rebuilt,
) -> Result<bool, RebuildError> {
    let (backend, started) = (&shared.backend, Instant::now());
    let (auction_id, tail) = (last.auction_id, last.mark());
    tracing::info!(%auction_id, ?seen, seq = tail.seq, "rebuilding from the log");
    let mut replay = match from_checkpoints(shared, last, rebuilt).await {
        Ok(Some(replay)) => replay,
        Ok(None) => Replay::new(&shared.keys),
        Err(RebuildError::Log(error)) => {
            tracing::warn!(
                %auction_id,
                error = %errors::chain(&error),
                "failed to read checkpoints; the whole log is replayed"
            );
            Replay::new(&shared.keys)
        }
        Err(error) => return Err(error),
    };
    if replay.mark().seq == 0 && rebuilt.count() > 0 {
        // The checkpoints do not continue in the log.
        backend.discard(rebuilt).await?;
        *rebuilt = Rebuilt::new(auction_id);
    }
    let begun_at = replay.mark().seq;
    let mut records = backend.records(auction_id, replay.stream_seq() + 1).await?;
    let mut writer = Writer { backend, rebuilt, resumed: Instant::now() };
    while let Some(logged) = records.try_next().await? {
        replay.push(logged)?;
        if replay.answers() >= ANSWERS_AT_ONCE {
            writer.write(&replay.take_answers()).await?;
        }
    }
    backend.write_answers(rebuilt, &replay.take_answers()).await?;
    let Some(restoration) = replay.restoration(backend.now()).filter(|_| replay.mark() == tail) else {
        return Ok(false);
    };
    let seen = seen.map(|position| position.mark);
    let restored = backend.restore(auction_id, seen, &restoration, rebuilt).await?;
    if restored {
        shared.counters.rebuilt.inc();
        if tail.seq - begun_at >= 3 * shared.facts_per_checkpoint {
            shared.due_checkpoints.add(auction_id);
        }
        let (bids, took_ms) = (rebuilt.count(), started.elapsed().as_millis());
        tracing::warn!(%auction_id, ?seen, seq = tail.seq, begun_at, bids, took_ms, "rebuilt from the log");
    }
    Ok(restored)
}

/// Writes the answers that checkpoints hold, and returns a replay that continues after them. The newest checkpoint is
/// left out: the facts after the one before it include the newest bids, which no checkpoint has in full. None if there
/// are no checkpoints, or if they do not belong to this log.
async fn from_checkpoints<B: Backend>(
    shared: &Shared<B>,
    last: &Record,
    rebuilt: &mut Rebuilt,
) -> Result<Option<Replay>, RebuildError> {
    let (backend, auction_id) = (&shared.backend, last.auction_id);
    let mut stored = backend.checkpoints(auction_id).await?;
    let mut newest: Option<Checkpoint> = None;
    let mut used = None;
    let mut writer = Writer { backend, rebuilt, resumed: Instant::now() };
    while let Some(bus::StoredCheckpoint { checkpoint, .. }) = stored.try_next().await? {
        let before = newest.as_ref().map(|checkpoint| checkpoint.mark).unwrap_or_default();
        if checkpoint.v > CHECKPOINT_VERSION || checkpoint.from != before {
            break;
        }
        if let Some(Checkpoint { mark, stream_seq, mut answers, .. }) = newest.replace(checkpoint) {
            open(&shared.keys, last, stream_seq, &mut answers)?;
            writer.write(&answers).await?;
            used = Some((mark, stream_seq));
        }
    }
    let Some((mark, stream_seq)) = used else { return Ok(None) };
    let logged = backend.next(auction_id, stream_seq).await?;
    let is_in_the_log = |logged: &bus::Logged| {
        let record = &logged.record;
        let answers = record.sealed.as_ref().map_or(record.state.bid_count, |sealed| sealed.answers);
        logged.stream_seq == stream_seq && record.mark() == mark && answers == rebuilt.count()
    };
    Ok(logged.filter(is_in_the_log).and_then(|logged| Replay::after(logged, &shared.keys)))
}

/// The offer that was sealed for a bid, cut to the buy-now price as the script cuts it: a repeated bid is compared with it.
fn open_offer(keys: &LogKeys, last: &Record, bid_id: BidId, sealed: &Sealed) -> Result<Offer, SealError> {
    Ok(keys.open_offer(last.auction_id, bid_id, sealed)?.capped(last.state.options.buy_now))
}

/// Opens the offers among the answers of a checkpoint.
fn open(keys: &LogKeys, last: &Record, stream_seq: u64, answers: &mut [StoredAnswer]) -> Result<(), LogError> {
    for answer in answers {
        if let Some(StoredProxy { offer: Some(offer), .. }) = &mut answer.proxy
            && let StoredOffer::Sealed(sealed) = offer
        {
            let opened = open_offer(keys, last, answer.bid_id, sealed);
            let detail = |error: SealError| errors::chain(&error).to_string();
            let opened = opened.map_err(|error| LogError::Record { stream_seq, detail: detail(error) })?;
            *offer = StoredOffer::Open(opened);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use domain::Amount;
    use uuid::Uuid;

    use super::*;

    fn cents(cents: u64) -> Amount {
        Amount::from_cents(cents).expect("an amount")
    }

    #[test]
    fn offers_of_checkpoints_are_cut_to_the_buy_now_price() {
        let stored = include_str!("../../../libs/protocol/tests/stored/closed.jsonl").lines().nth(2).expect("a bid");
        let mut last: Record = serde_json::from_str(stored).expect("a record");
        let keys = LogKeys::parse(&"5a".repeat(32)).expect("a key");
        let bid_id = BidId::from_uuid(Uuid::from_u128(7));
        let offer = keys.offer(last.auction_id, bid_id, Some(cents(900)), Some(cents(1_200))).expect("sealed");
        let sealed = offer.as_ref().and_then(Offer::sealed).expect("a maximum").clone();
        for (buy_now, amounts) in [(None, (900, 1_200)), (Some(1_000), (900, 1_000)), (Some(800), (800, 800))] {
            last.state.options.buy_now = buy_now.map(cents);
            let opened = open_offer(&keys, &last, bid_id, &sealed).expect("opened");
            assert_eq!((opened.amount(), opened.maximum()), (Some(cents(amounts.0)), Some(cents(amounts.1))));
        }
    }
}

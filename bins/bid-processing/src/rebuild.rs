//! An auction rebuilt from the log alone, by playing its facts through the rules.
//!
//! The play proves the log on the way: a record whose facts the rules do not produce, head by head, is
//! an error that names it, and the auction stands still until somebody has looked.

use bus::{LogError, Logged};
use domain::{Auction, BidRequest, Decision, Millis};
use hotstate::{ENDED_KEYS_SECONDS, Restoration};
use protocol::{Bid, Mark, Record, RecordKind};

/// Where `logged` stands if it follows `before`.
///
/// # Errors
/// What does not fit, with its stream sequence.
pub fn follows(before: Mark, logged: &Logged) -> Result<(), LogError> {
    let record = &logged.record;
    let expected = before.seq + record.facts();
    if record.prev == before.head && record.seq == expected {
        return Ok(());
    }
    let Record { seq, prev, .. } = record;
    let detail =
        format!("seq {seq} on {prev} does not follow seq {} with {}: {expected} was expected", before.seq, before.head);
    Err(LogError::Record { stream_seq: logged.stream_seq, detail })
}

/// Plays all records of an auction, oldest first.
///
/// # Errors
/// The record that does not come out of the rules.
pub fn replay(records: &[Logged]) -> Result<Auction, LogError> {
    let mut auction: Option<Auction> = None;
    for logged in records {
        let wrong = |detail: &str| LogError::Record { stream_seq: logged.stream_seq, detail: detail.to_owned() };
        let played = match auction.take() {
            None => begin(&logged.record).ok_or_else(|| wrong("the first record creates nothing"))?,
            Some(mut auction) => {
                follows(Mark { seq: auction.seq, head: auction.head }, logged)?;
                go_on(&mut auction, &logged.record).ok_or_else(|| wrong("the rules do not allow this"))?;
                auction
            }
        };
        if played.head != logged.record.head || played.seq != logged.record.seq {
            return Err(wrong("its head is not that of its facts"));
        }
        auction = Some(played);
    }
    auction.ok_or_else(|| LogError::Read("the log has no record of this auction".into()))
}

fn begin(record: &Record) -> Option<Auction> {
    if record.kind != RecordKind::Created {
        return None;
    }
    let rules = record.state.rules()?;
    Some(Auction::create(record.auction_id, rules, Millis(record.state.starts_at), Millis(record.time)))
}

fn go_on(auction: &mut Auction, record: &Record) -> Option<()> {
    let time = Millis(record.time);
    let done = match record.kind.known()? {
        RecordKind::Created => false,
        RecordKind::Opened => auction.open(time),
        RecordKind::Bids => record.bids.iter().all(|bid| place(auction, bid)),
        RecordKind::Closed => auction.close(record.state.reason.as_ref()?.known()?, record.by, time),
        RecordKind::Cancelled => auction.cancel(record.by?, time),
    };
    done.then_some(())
}

fn place(auction: &mut Auction, bid: &Bid) -> bool {
    let Bid { bid_id, user_id, amount, timestamp, .. } = *bid;
    let request = BidRequest { bid_id, user_id, username: bid.username.clone(), amount };
    matches!(auction.place(&request, Millis(timestamp)), Decision::Accepted { found: false, .. })
}

/// How long ago the auction ended, or None while it is not over.
pub fn over_for_ms(record: &Record, now: Millis) -> Option<u64> {
    record.state.ended_at.map(|ended_at| now.0.saturating_sub(ended_at))
}

/// Whether Redis would have forgotten an auction by now.
pub const fn is_forgotten(over_for_ms: u64) -> bool {
    over_for_ms >= ENDED_KEYS_SECONDS as u64 * 1000
}

/// What Redis must hold so that it continues these records.
///
/// # Errors
/// As [`replay`].
pub fn restoration<'a>(records: &'a [Logged], auction: &'a Auction, now: Millis) -> Option<Restoration<'a>> {
    let last = &records.last()?.record;
    Some(Restoration {
        mark: last.mark(),
        state: &last.state,
        last_now: Millis(last.time),
        recent: records.iter().rev().flat_map(|logged| logged.record.bids.iter().rev()).take(20).collect(),
        answers: auction.accepted().collect(),
        over_for_ms: over_for_ms(last, now),
    })
}

//! Replays an auction's records through the rules, one after the other and in bounded memory.
//!
//! The replay also proves the log: a record whose facts the rules do not produce, head by head, is an error that names
//! the record, and the auction is halted: it is tried again every minute and fails until an operator has repaired it.

use std::collections::VecDeque;

use bus::{LogError, Logged};
use domain::{
    Acted, Auction, BidId, BidKind, BidRequest, Decision, HostAct, Leader, Millis, Offer, Rules, Secrets, Status,
    UserId,
};
use hotstate::{ENDED_KEYS_SECONDS, MAX_RECENT_BIDS, Restoration};
use protocol::{
    Bid, ByHost, CHECKPOINT_VERSION, CHECKPOINT_WITHOUT_SECRETS_VERSION, CHECKPOINT_WITHOUT_SEQUENCES_VERSION, Mark,
    PLAIN_CHECKPOINT_VERSION, Record, RecordKind, SealedSecrets, StoredAnswer,
};

use crate::sealing::{LogKeys, SealError};

/// Checks that `logged` follows the record that ended with the mark `before`.
///
/// # Errors
/// When seq, prev or head do not continue `before`; names them and the stream sequence.
pub fn follows(before: Mark, logged: &Logged) -> Result<(), LogError> {
    let record = &logged.record;
    if record.continues(before) {
        return Ok(());
    }
    let Record { seq, prev, head, .. } = record;
    let expected = before.seq + record.facts();
    let detail = format!(
        "seq {seq} from {prev} to {head} does not follow seq {} with {}: expected seq {expected}",
        before.seq, before.head
    );
    Err(LogError::Record { stream_seq: logged.stream_seq, detail })
}

/// An auction as far as its records have been replayed.
pub struct Replay {
    /// Open the secrets in the records.
    keys: LogKeys,
    auction: Option<Auction>,
    last: Option<Logged>,
    /// The newest bids, newest last.
    recent: VecDeque<Bid>,
}

impl Replay {
    /// No record yet.
    pub fn new(keys: &LogKeys) -> Self {
        Self { keys: keys.clone(), auction: None, last: None, recent: VecDeque::new() }
    }

    /// Continues after a record that is known to be in the log. The answers to the bids up to it, and its newest bids,
    /// are known elsewhere. None if a newer version wrote the record, its secrets cannot be opened, or the auction keeps
    /// pre-bids.
    pub fn after(logged: Logged, keys: &LogKeys) -> Option<Self> {
        let Record { auction_id, seq, head, time, ref state, ref sealed, .. } = logged.record;
        let secrets = sealed.as_ref().map(|sealed| keys.open_secrets(auction_id, sealed)).transpose().ok()?;
        let reserve = secrets.as_ref().and_then(|secrets| secrets.reserve.clone());
        let rules = Rules { reserve, ..state.rules()? };
        let mut auction = Auction::create(auction_id, rules, Millis(state.starts_at), Millis(time));
        auction.answers = secrets.as_ref().map(|secrets| secrets.answers);
        auction.maximum = secrets.and_then(|secrets| secrets.maximum);
        auction.status = state.status.known()?;
        if state.keeps_bids() {
            // No single record has the pre-bids that are kept.
            return None;
        }
        (auction.seq, auction.head) = (seq, head);
        auction.starts_at = Millis(state.starts_at);
        auction.end_time = Millis(state.end_time);
        (auction.extension_count, auction.bid_count) = (state.extension_count, state.bid_count);
        auction.recoveries = state.recoveries;
        let ByHost { pauses, remaining_ms, ref blocked } = state.by_host;
        (auction.pauses, auction.remaining_ms, auction.blocked) = (pauses, remaining_ms, blocked.clone());
        auction.leader = match (state.high_bidder_id, &state.high_bidder_username, state.high_bid) {
            (Some(user_id), Some(username), Some(amount)) => {
                Some(Leader { user_id, username: username.clone(), amount })
            }
            _ => None,
        };
        Some(Self { keys: keys.clone(), auction: Some(auction), last: Some(logged), recent: VecDeque::new() })
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// When the rules do not produce it, or it holds something only a newer version knows; names the record.
    pub fn push(&mut self, logged: Logged) -> Result<(), LogError> {
        let wrong = |detail: &str| LogError::Record { stream_seq: logged.stream_seq, detail: detail.to_owned() };
        let sealed = |error: SealError| wrong(&errors::chain(&error).to_string());
        if let Some(unknown) = unknown_name(&logged.record) {
            return Err(wrong(&unknown));
        }
        match &mut self.auction {
            None => {
                let created = create(&logged.record, &self.keys).map_err(sealed)?;
                self.auction = Some(created.ok_or_else(|| wrong("the first record does not create the auction"))?);
            }
            Some(auction) => {
                follows(Mark { seq: auction.seq, head: auction.head }, &logged)?;
                let is_allowed = apply(auction, &logged.record, &self.keys).map_err(sealed)?;
                is_allowed.ok_or_else(|| wrong("the rules do not allow this record"))?;
            }
        }
        if self.mark() != logged.record.mark() {
            return Err(wrong("its head is not the one that its facts produce"));
        }
        self.recent.extend(logged.record.bids.iter().cloned());
        while self.recent.len() > MAX_RECENT_BIDS {
            self.recent.pop_front();
        }
        self.last = Some(logged);
        Ok(())
    }

    /// Where the replayed records end; (0, genesis) before the first.
    pub fn mark(&self) -> Mark {
        self.auction.as_ref().map_or_else(Mark::default, |auction| Mark { seq: auction.seq, head: auction.head })
    }

    /// The stream sequence of the last replayed record; 0 before the first.
    pub fn stream_seq(&self) -> u64 {
        self.last.as_ref().map_or(0, |logged| logged.stream_seq)
    }

    /// The first version of the checkpoints from which this replay could be continued.
    pub fn checkpoint_version(&self) -> u32 {
        match &self.auction {
            Some(auction) if auction.is_plain() => PLAIN_CHECKPOINT_VERSION,
            Some(auction) if auction.rules.follows.is_some() => CHECKPOINT_VERSION,
            Some(auction) if auction.answers.is_some() => CHECKPOINT_WITHOUT_SEQUENCES_VERSION,
            _ => CHECKPOINT_WITHOUT_SECRETS_VERSION,
        }
    }

    /// Whether a replay could be continued from here by the last record and the answers: not while the auction keeps
    /// pre-bids.
    pub fn can_be_continued(&self) -> bool {
        self.last.as_ref().is_none_or(|last| !last.record.state.keeps_bids())
    }

    /// The number of answers that [`Self::take_answers`] returns.
    pub fn answers(&self) -> usize {
        self.auction.as_ref().map_or(0, |auction| auction.accepted().len())
    }

    /// Removes and returns the answers to the bids replayed since the last call, in order.
    pub fn take_answers(&mut self) -> Vec<StoredAnswer> {
        let taken = self.auction.as_mut().map(Auction::take_accepted).unwrap_or_default();
        let mut answers: Vec<_> = taken.iter().map(|(bid_id, accepted)| StoredAnswer::new(*bid_id, accepted)).collect();
        answers.sort_unstable_by_key(|answer| answer.seq);
        answers
    }

    fn secrets(&self) -> Option<Secrets> {
        self.auction.as_ref().and_then(Auction::secrets)
    }

    /// The content of Redis that continues the replayed records. None if there are no records.
    pub fn restoration(&self, now: Millis) -> Option<Restoration<'_>> {
        let last = &self.last.as_ref()?.record;
        Some(Restoration {
            mark: last.mark(),
            state: &last.state,
            secrets: self.secrets(),
            prebids: self.auction.as_ref().map_or(&[], |auction| auction.prebids.as_slice()),
            last_now: Millis(last.time),
            recent: self.recent.iter().rev().collect(),
            over_for_ms: over_for_ms(last, now),
        })
    }
}

/// Replays all records of an auction, oldest first.
///
/// # Errors
/// As [`Replay::push`], or when there is no record.
pub fn replay(records: &[Logged], keys: &LogKeys) -> Result<Auction, LogError> {
    let mut replay = Replay::new(keys);
    for logged in records {
        replay.push(logged.clone())?;
    }
    replay.auction.ok_or_else(|| LogError::Read("the log has no record of this auction".into()))
}

/// The first name in a record that this version does not know. Such a record comes from a newer version and never
/// becomes a value of `domain`.
fn unknown_name(record: &Record) -> Option<String> {
    let state = &record.state;
    let kinds = record.bids.iter().map(|bid| bid.kind.known().is_none().then(|| format!("bid kind {}", bid.kind)));
    let names = [
        record.kind.known().is_none().then(|| format!("type {}", record.kind)),
        state.status.known().is_none().then(|| format!("status {}", state.status)),
        state.anti_snipe_mode.known().is_none().then(|| format!("anti-snipe mode {}", state.anti_snipe_mode)),
        state.reason.as_ref().filter(|name| name.known().is_none()).map(|name| format!("reason {name}")),
        state.outcome.as_ref().filter(|name| name.known().is_none()).map(|name| format!("outcome {name}")),
    ];
    names.into_iter().chain(kinds).flatten().next().map(|name| format!("unknown {name}: a newer version wrote it"))
}

fn create(record: &Record, keys: &LogKeys) -> Result<Option<Auction>, SealError> {
    let Some(rules) = record.state.rules().filter(|_| record.kind == RecordKind::Created) else { return Ok(None) };
    let secrets = record.sealed.as_ref().map(|sealed| keys.open_secrets(record.auction_id, sealed)).transpose()?;
    let rules = Rules { reserve: secrets.and_then(|secrets| secrets.reserve), ..rules };
    Ok(Some(Auction::create(record.auction_id, rules, Millis(record.state.starts_at), Millis(record.time))))
}

/// None if the rules do not allow the record.
fn apply(auction: &mut Auction, record: &Record, keys: &LogKeys) -> Result<Option<()>, SealError> {
    Ok(match record.kind.known() {
        Some(RecordKind::Bids) if record.bids.first().is_some_and(|bid| bid.kind == BidKind::Prebid) => {
            // They are the ones that were kept; the head says that the bids are the same ones.
            let is_due = auction.status == Status::Scheduled;
            (is_due && auction.bid_prebids(Millis(record.time)).len() == record.bids.len()).then_some(())
        }
        Some(RecordKind::Bids) => {
            for bid in &record.bids {
                if !place(auction, bid, keys)? {
                    return Ok(None);
                }
            }
            Some(())
        }
        Some(RecordKind::Maximum) => {
            let set_by = record.sealed.as_ref().and_then(SealedSecrets::set_by);
            match set_by.zip(record.by) {
                Some(((bid_id, sealed), by)) => {
                    let offer = keys.open_offer(record.auction_id, bid_id, sealed)?;
                    change_maximum(auction, record, bid_id, by, offer)
                }
                None => None,
            }
        }
        _ => act(auction, record),
    })
}

fn act(auction: &mut Auction, record: &Record) -> Option<()> {
    let time = Millis(record.time);
    let applied = match record.kind.known()? {
        RecordKind::Created | RecordKind::Bids | RecordKind::Maximum => false,
        RecordKind::Opened => match record.by {
            Some(by) => auction.act(HostAct::Start, by, time) == Acted::Done,
            // When it was due, only the log of the other auction says.
            None if auction.rules.follows.is_some() => auction.open_follower(time, time),
            None => auction.open(time),
        },
        RecordKind::Paused => auction.act(HostAct::Pause, record.by?, time) == Acted::Done,
        RecordKind::Resumed => match record.by {
            Some(by) => auction.act(HostAct::Resume, by, time) == Acted::Done,
            None => auction.recover(time),
        },
        RecordKind::Blocked => auction.act(HostAct::Block(record.user_id?), record.by?, time) == Acted::Done,
        RecordKind::Unblocked => auction.act(HostAct::Unblock(record.user_id?), record.by?, time) == Acted::Done,
        RecordKind::Closed => auction.close(record.state.reason.as_ref()?.known()?, record.by, time),
        RecordKind::Cancelled => auction.cancel(record.by?, time),
    };
    applied.then_some(())
}

fn place(auction: &mut Auction, bid: &Bid, keys: &LogKeys) -> Result<bool, SealError> {
    let Bid { seq, bid_id, user_id, amount, timestamp, .. } = *bid;
    if bid.kind == BidKind::Proxy {
        // The bid before it has made it; the head says that it is the same one.
        return Ok(auction.counter.as_ref().is_some_and(|counter| counter.seq == seq));
    }
    let offer = match &bid.sealed {
        Some(sealed) => keys.open_offer(auction.auction_id, bid_id, sealed)?,
        None => Offer::Exact(amount),
    };
    let request = BidRequest { bid_id, user_id, username: bid.username.clone(), offer };
    Ok(matches!(auction.place(&request, Millis(timestamp)), Decision::Accepted { found: false, .. }))
}

/// A changed maximum of the leader, or a pre-bid. None if the rules do not allow it.
fn change_maximum(auction: &mut Auction, record: &Record, bid_id: BidId, user_id: UserId, offer: Offer) -> Option<()> {
    let prebid = record.sealed.as_ref().and_then(|sealed| sealed.prebid.as_ref());
    let username = match prebid {
        Some(prebid) => prebid.username.clone(),
        None => auction.leader.as_ref()?.username.clone(),
    };
    let request = BidRequest { bid_id, user_id, username, offer };
    let decision = auction.place(&request, Millis(record.time));
    matches!(decision, Decision::Accepted { found: false, .. }).then_some(())
}

/// Milliseconds since the auction ended. None while it is not over.
pub fn over_for_ms(record: &Record, now: Millis) -> Option<u64> {
    record.state.ended_at.map(|ended_at| now.0.saturating_sub(ended_at))
}

/// Whether the Redis keys of an auction have expired this number of milliseconds after its end.
pub const fn is_expired(over_for_ms: u64) -> bool {
    over_for_ms >= ENDED_KEYS_SECONDS as u64 * 1000
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::wire::Named;

    /// The records of one auction, as an earlier version wrote them.
    fn stored() -> Vec<Logged> {
        let lines = include_str!("../../../libs/protocol/tests/stored/closed.jsonl").lines();
        let records = lines.map(|line| serde_json::from_str(line).expect("a record"));
        let logged =
            |(stream_seq, record)| Logged { stream_seq, previous_stream_seq: None, record, trace: Default::default() };
        (1u64..).zip(records).map(logged).collect()
    }

    #[test]
    fn records_of_an_earlier_version_are_replayed() {
        let records = stored();
        let auction = replay(&records, &LogKeys::default()).expect("an auction");
        assert_eq!(auction.head, records.last().expect("a record").record.head);
        assert_eq!(auction.bid_count, 3);
    }

    #[test]
    fn replay_that_continues_after_any_record_comes_to_the_same_end() {
        let records = stored();
        let keys = LogKeys::default();
        let mut whole = Replay::new(&keys);
        records.iter().for_each(|logged| whole.push(logged.clone()).expect("a record"));
        let all = whole.take_answers();
        for (nth, logged) in records.iter().enumerate() {
            let mut replay = Replay::after(logged.clone(), &keys).expect("a known version");
            let answers = all.iter().filter(|answer| answer.seq > logged.record.seq).cloned().collect::<Vec<_>>();
            for next in &records[nth + 1..] {
                replay.push(next.clone()).expect("a record");
            }
            assert_eq!((replay.mark(), replay.stream_seq()), (whole.mark(), whole.stream_seq()), "after {nth}");
            assert_eq!(replay.take_answers(), answers, "after {nth}");
        }
    }

    #[test]
    fn names_of_a_newer_version_are_refused_by_name() {
        type Change = (&'static str, usize, fn(&mut Record));
        let changes: [Change; 6] = [
            ("type bundle", 2, |record| record.kind = Named::read("bundle")),
            ("bid kind ghost", 2, |record| record.bids[1].kind = Named::read("ghost")),
            ("status suspended", 3, |record| record.state.status = Named::read("suspended")),
            ("anti-snipe mode shuffle", 0, |record| record.state.anti_snipe_mode = Named::read("shuffle")),
            ("reason rained_off", 4, |record| record.state.reason = Some(Named::read("rained_off"))),
            ("outcome withdrawn", 4, |record| record.state.outcome = Some(Named::read("withdrawn"))),
        ];
        for (name, nth, change) in changes {
            let mut records = stored();
            change(&mut records[nth].record);
            let error = replay(&records, &LogKeys::default()).expect_err(name);
            let expected = u64::try_from(nth + 1).expect("small");
            match &error {
                LogError::Record { stream_seq, detail } => {
                    assert_eq!(*stream_seq, expected, "{name}");
                    assert!(detail.contains(name), "{detail}");
                }
                LogError::Read(_) => panic!("{name}: {error}"),
            }
        }
    }
}

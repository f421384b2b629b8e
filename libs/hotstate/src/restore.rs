//! Sets an auction to the state that the log gives.

use domain::{Amount, AuctionId, BidKind, Head, LatestPrebid, Maximum, Millis, Offer, Prebid, Secrets};
use protocol::{Bid, ByHost, Mark, Snapshot, StoredAnswer, StoredOffer, StoredProxy};
use redis::Value;

use crate::connection::Connection;
use crate::reply::{UNSEALED, WITH_SECRETS, flag, number, unreadable};
use crate::scripts::{Keys, Scripts};
use crate::{ENDED_KEYS_SECONDS, HotstateError};

/// Seconds after the last write in which the answers of a rebuild that died half-way expire. Longer than a rebuild takes
/// from one write to the next, though the log answers slowly in between.
const REBUILT_SECONDS: u32 = 180;
/// Newest bids kept of each auction, as in `place_bid.lua`.
pub const MAX_RECENT_BIDS: usize = 20;

/// Where Redis stands with an auction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Where its state stands.
    pub mark: Mark,
    /// The head before the first fact in the outbox that the log does not have.
    pub next_prev: Option<Head>,
}

impl Position {
    /// Whether Redis continues the log's last record: it stands at `tail`, or its uncommitted facts begin there.
    #[must_use]
    pub fn continues(&self, tail: Mark) -> bool {
        self.next_prev.map_or(self.mark == tail, |prev| prev == tail.head)
    }
}

/// Everything that Redis must hold about an auction, as the log gives it.
#[derive(Debug)]
pub struct Restoration<'a> {
    /// Where the log's last record ends.
    pub mark: Mark,
    /// The public state in that record.
    pub state: &'a Snapshot,
    /// The secrets at that record, decrypted.
    pub secrets: Option<Secrets>,
    /// The bids that are kept until the opening.
    pub prebids: &'a [Prebid],
    /// The latest time in the log: time never runs backwards for an auction.
    pub last_now: Millis,
    /// The newest bids, newest first; at most [`MAX_RECENT_BIDS`] are kept.
    pub recent: Vec<&'a Bid>,
    /// Milliseconds since the end, if the auction is over.
    pub over_for_ms: Option<u64>,
}

/// The answers to accepted bids, collected under a key of their own until a restoration takes them.
#[derive(Debug)]
pub struct Rebuilt {
    key: String,
    count: u64,
}

impl Rebuilt {
    /// No answers yet. The key is a new one: another instance may be rebuilding the same auction.
    #[must_use]
    pub fn new(auction_id: AuctionId) -> Self {
        Self { key: format!("{}:{:016x}", Keys::of(auction_id).bids, fastrand::u64(..)), count: 0 }
    }

    /// The key in Redis.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Notes answers that were written. They are proved when a restoration takes them.
    pub const fn wrote(&mut self, answers: u64) {
        self.count += answers;
    }

    /// Answers written so far.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }
}

pub(crate) async fn write_answers(
    connection: &mut Connection,
    rebuilt: &mut Rebuilt,
    answers: &[StoredAnswer],
) -> Result<(), HotstateError> {
    if answers.is_empty() {
        return Ok(());
    }
    let fields = answers.iter().map(|stored| Ok((stored.bid_id.bytes().as_slice(), answer(stored)?)));
    let fields: Vec<(&[u8], Vec<u8>)> = fields.collect::<Result<_, HotstateError>>()?;
    let mut pipe = redis::pipe();
    // At once, so that no key is left without an expiry.
    pipe.atomic();
    pipe.hset_multiple(&rebuilt.key, &fields).ignore();
    pipe.expire(&rebuilt.key, i64::from(REBUILT_SECONDS)).ignore();
    pipe.query_async::<()>(connection).await?;
    rebuilt.wrote(answers.len() as u64);
    Ok(())
}

/// See [`crate::Hotstate::discard`].
pub(crate) async fn discard(connection: &mut Connection, rebuilt: &Rebuilt) -> Result<(), HotstateError> {
    Ok(redis::cmd("UNLINK").arg(&rebuilt.key).query_async(connection).await?)
}

pub(crate) async fn position(
    connection: &mut Connection,
    keys: &Keys,
    committed: u64,
) -> Result<Option<Position>, HotstateError> {
    let mut pipe = redis::pipe();
    pipe.atomic().cmd("HMGET").arg(&keys.state).arg("seq").arg("head");
    pipe.xrange_count(&keys.outbox, format!("{}-0", committed + 1), "+", 1);
    let ((seq, head), next): ((Option<String>, Option<String>), redis::streams::StreamRangeReply) =
        pipe.query_async(connection).await?;
    let (Some(seq), Some(head)) = (seq, head) else { return Ok(None) };
    let parsed = |text: &str| text.parse::<Head>().map_err(|_| unreadable("state", format!("{text:?} is no head")));
    let next_prev = match next.ids.first() {
        Some(entry) => {
            let prev: Option<String> = entry.get("prev");
            Some(parsed(&prev.ok_or_else(|| unreadable("outbox", "no prev"))?)?)
        }
        None => None,
    };
    Ok(Some(Position { mark: Mark { seq: number(&seq)?, head: parsed(&head)? }, next_prev }))
}

/// See [`crate::Hotstate::restore`].
pub(crate) async fn restore(
    connection: &mut Connection,
    scripts: &Scripts,
    keys: &Keys,
    seen: Option<Mark>,
    restoration: &Restoration<'_>,
    rebuilt: &Rebuilt,
) -> Result<bool, HotstateError> {
    let mut call = scripts.restore.prepare_invoke();
    keys.all(&mut call);
    call.key(&rebuilt.key);
    match seen {
        Some(mark) => call.arg(mark.seq.to_string()).arg(mark.head.to_string()),
        None => call.arg("").arg(""),
    };
    let seconds =
        restoration.over_for_ms.map_or(0, |over| u64::from(ENDED_KEYS_SECONDS).saturating_sub(over / 1000).max(1));
    call.arg(rebuilt.count);
    call.arg(seconds).arg(top(restoration.state)).arg(restoration.recent.len().min(MAX_RECENT_BIDS));
    call.arg(restoration.prebids.len());
    for bid in restoration.recent.iter().take(MAX_RECENT_BIDS) {
        call.arg(recent(bid));
    }
    for kept in restoration.prebids {
        call.arg(kept.user_id.to_string()).arg(prebid(kept));
    }
    for (name, value) in fields(restoration) {
        call.arg(name).arg(value);
    }
    match call.invoke_async::<Value>(connection).await? {
        Value::BulkString(word) if word == b"restored" => Ok(true),
        Value::BulkString(word) if word == b"moved" => Ok(false),
        other => Err(unreadable("restore", format!("{other:?}"))),
    }
}

/// The fields of the state, as the deciding scripts write them.
fn fields(restoration: &Restoration<'_>) -> Vec<(&'static str, String)> {
    let state = restoration.state;
    let number = |number: u64| number.to_string();
    let or_empty = |text: Option<String>| text.unwrap_or_default();
    let mut fields = vec![
        ("status", state.status.to_string()),
        ("seq", number(restoration.mark.seq)),
        ("head", restoration.mark.head.to_string()),
        ("last_now", number(restoration.last_now.0)),
        ("host_user_id", state.host_user_id.to_string()),
        ("host_username", state.host_username.clone()),
        ("starting_bid_cents", number(state.starting_bid.cents())),
        (if state.options.allow_prebids { "length_ms" } else { "duration_ms" }, number(state.duration_ms)),
        ("anti_snipe_mode", state.anti_snipe_mode.to_string()),
        ("anti_snipe_window_ms", number(state.anti_snipe_window_ms)),
        ("anti_snipe_extension_ms", number(state.anti_snipe_extension_ms)),
        ("anti_snipe_max_extensions", number(state.anti_snipe_max_extensions.into())),
        ("created_at", number(state.created_at)),
        ("end_time", number(state.end_time)),
        ("extension_count", number(state.extension_count.into())),
        ("bid_count", number(state.bid_count)),
        ("current_high_bid", or_empty(state.high_bid.map(|amount| amount.to_string()))),
        ("high_bidder_id", or_empty(state.high_bidder_id.map(|id| id.to_string()))),
        ("high_bidder_username", or_empty(state.high_bidder_username.clone())),
    ];
    match &state.options.follows {
        None => fields.push(("starts_at", number(state.starts_at))),
        Some(follows) => {
            fields.extend([("follows", follows.to_string()), ("gap_ms", number(state.options.gap_ms))]);
            fields.extend(state.shown_start().map(|opened_at| ("opens_at", number(opened_at))));
        }
    }
    fields.extend(standing(state, restoration.secrets.as_ref()));
    let ByHost { pauses, remaining_ms, blocked } = &state.by_host;
    if *pauses > 0 {
        fields.push(("pauses", number((*pauses).into())));
        fields.push(("remaining_ms", or_empty(remaining_ms.map(number))));
    }
    if state.recoveries > 0 {
        fields.push(("recoveries", number(state.recoveries.into())));
    }
    if let Some(blocked) = blocked {
        fields.push(("blocked", blocked.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")));
    }
    // Only an ending writes these fields.
    if let (Some(ended_at), Some(outcome)) = (state.ended_at, &state.outcome) {
        fields.extend([
            ("ended_at", number(ended_at)),
            ("reason", or_empty(state.reason.as_ref().map(ToString::to_string))),
            ("outcome", outcome.to_string()),
            ("winner_id", or_empty(state.winner_id.map(|id| id.to_string()))),
            ("winner_username", or_empty(state.winner_username.clone())),
            ("winning_bid_cents", or_empty(state.winning_bid.map(|amount| number(amount.cents())))),
        ]);
    }
    fields
}

/// The fields whose names say which version of the scripts knows the auction: see prelude.lua.
fn standing(state: &Snapshot, secrets: Option<&Secrets>) -> Vec<(&'static str, String)> {
    let cents = |amount: Option<Amount>| amount.map(|amount| amount.cents().to_string()).unwrap_or_default();
    let (price, top) = (cents(state.high_bid), top(state));
    if secrets.is_none() && state.is_plain() {
        let increment = state.increment.cents().to_string();
        return vec![("increment_cents", increment), ("high_bid_cents", price), ("top", top)];
    }
    let increments = state.options.increments.as_ref().map(ToString::to_string);
    let increments = increments.unwrap_or_else(|| state.increment.cents().to_string());
    let mut fields = vec![
        ("ranking", top),
        ("self_raise", flag(state.options.allow_self_raise).to_owned()),
        ("buy_now_cents", cents(state.options.buy_now)),
    ];
    let Some(Secrets { reserve, maximum, prebid, answers }) = secrets else {
        fields.extend([("rules", "2".to_owned()), ("increments", increments), ("price_cents", price)]);
        return fields;
    };
    let (reserve, maximum) = (reserve.as_ref(), maximum.as_ref());
    fields.extend([
        ("rules", WITH_SECRETS.to_owned()),
        ("ladder", increments),
        ("standing_cents", price),
        ("reserve_cents", cents(reserve.map(|reserve| reserve.amount))),
        ("reserve_sealed", reserve.map(|reserve| reserve.sealed.to_string()).unwrap_or_default()),
        ("maximum_cents", cents(maximum.map(|maximum| maximum.amount))),
        ("maximum_sealed", maximum.map(|maximum| maximum.sealed.to_string()).unwrap_or_default()),
        ("maximum_bid_id", maximum.map(|maximum| maximum.bid_id.to_string()).unwrap_or_default()),
        ("answers", answers.to_string()),
    ]);
    if state.options.allow_prebids {
        fields.push(("prebids", flag(true).to_owned()));
    }
    if let Some(LatestPrebid { bid_id, username, sealed }) = prebid {
        fields.extend([
            ("prebid_bid_id", bid_id.to_string()),
            ("prebid_username", username.clone()),
            ("prebid_sealed", sealed.to_string()),
        ]);
    }
    fields
}

/// A pre-bid in the form in which `place_bid.lua` stores it.
fn prebid(kept: &Prebid) -> String {
    let Prebid { seq, username, maximum: Maximum { bid_id, amount, sealed }, set, .. } = kept;
    format!("{seq} {} {set} {bid_id} {sealed} {username}", amount.cents())
}

/// An answer in the form in which `place_bid.lua` stores it.
fn answer(stored: &StoredAnswer) -> Result<Vec<u8>, HotstateError> {
    let StoredAnswer { user_id, amount, seq, timestamp, end_time, extended, extension_count, proxy, .. } = stored;
    let (cents, left, extended) = (amount.cents(), end_time.since(*timestamp), u8::from(*extended));
    let mut answer = user_id.bytes().to_vec();
    answer.extend(format!("{cents} {seq} {} {left} {extended} {extension_count}", timestamp.0).bytes());
    let Some(StoredProxy { price, leads, offer }) = proxy else { return Ok(answer) };
    let offer = match offer {
        None => Offer::Exact(*amount),
        Some(StoredOffer::Open(offer)) => offer.clone(),
        Some(StoredOffer::Sealed(_)) => return Err(unreadable("answer", "an offer that was not decrypted")),
    };
    let in_cents = |amount: Option<Amount>| amount.map_or(0, Amount::cents);
    let (given, maximum, sealed) = (in_cents(offer.amount()), in_cents(offer.maximum()), offer.sealed());
    let sealed = sealed.map_or(UNSEALED, |sealed| sealed.as_str());
    answer.extend(format!(" {} {} {given} {maximum} {sealed}", in_cents(*price), u8::from(*leads)).bytes());
    Ok(answer)
}

fn top(state: &Snapshot) -> String {
    let top: Vec<[String; 3]> = state
        .top_bids
        .iter()
        .map(|bid| [bid.user_id.to_string(), bid.username.clone(), bid.amount.cents().to_string()])
        .collect();
    serde_json::json!(top).to_string()
}

fn recent(bid: &Bid) -> String {
    let Bid { seq, bid_id, user_id, username, amount, timestamp, kind, sealed } = bid;
    let mut fields = vec![
        seq.to_string(),
        bid_id.to_string(),
        user_id.to_string(),
        username.clone(),
        amount.cents().to_string(),
        timestamp.to_string(),
    ];
    if *kind != BidKind::Bid || sealed.is_some() {
        fields.push(kind.to_string());
    }
    fields.extend(sealed.as_ref().map(ToString::to_string));
    serde_json::json!(fields).to_string()
}

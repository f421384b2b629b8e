//! Replies of the scripts, read into types once.

use std::collections::HashMap;
use std::fmt::Display;
use std::str::FromStr;

use domain::{Accepted, Acted, Amount, AuctionId, BidKind, Decision, Ladder, Millis, Offer, Refusal, Secrets, Status};
use protocol::wire::Named;
use protocol::{Bid, ByHost, CommittedState, Mark, Options, RankedBid, Snapshot};
use redis::{FromRedisValue, Value};

use crate::HotstateError;
use crate::outbox::{self, OutboxEntry};
use crate::secrets::secrets;

/// The error for a reply that cannot be read, with its cause.
pub(crate) fn unreadable(
    script: &'static str,
    cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> HotstateError {
    HotstateError::Reply { script, source: cause.into() }
}

pub(crate) fn number<T: FromStr>(text: &str) -> Result<T, HotstateError> {
    text.parse().map_err(|_| unreadable("state", format!("{text:?} is no number")))
}

pub(crate) fn parsed<T: FromStr<Err: Display>>(text: &str) -> Result<T, HotstateError> {
    text.parse().map_err(|error| unreadable("state", format!("{text:?}: {error}")))
}

pub(crate) fn cents(text: &str) -> Result<Amount, HotstateError> {
    Amount::from_stored(number(text)?).ok_or_else(|| unreadable("state", "0 is no amount"))
}

pub(crate) fn filled(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// The field `rules` of an auction with secrets.
pub(crate) const WITH_SECRETS: &str = "3";

/// A flag in the state: `1`, or empty.
pub(crate) const fn flag(is_set: bool) -> &'static str {
    if is_set { "1" } else { "" }
}

fn value<T: FromRedisValue>(script: &'static str, value: Value) -> Result<T, HotstateError> {
    redis::from_redis_value(value).map_err(|error| unreadable(script, error))
}

fn mark(seq: u64, head: &str) -> Result<Mark, HotstateError> {
    Ok(Mark { seq, head: parsed(head)? })
}

/// The reply to a creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The auction was created.
    Created(Mark),
    /// The auction existed already.
    Exists(Mark),
    /// The request came after its `valid_until`; nothing was created.
    Late,
}

impl Created {
    pub(crate) fn read(reply: Value) -> Result<Self, HotstateError> {
        let (word, seq, head): (String, u64, String) = value("create", reply)?;
        match word.as_str() {
            "created" => Ok(Self::Created(mark(seq, &head)?)),
            "exists" => Ok(Self::Exists(mark(seq, &head)?)),
            "late" => Ok(Self::Late),
            other => Err(unreadable("create", other)),
        }
    }
}

/// The reply to an opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// The auction was opened.
    Opened(Mark),
    /// The auction is open or over.
    Already(Mark),
    /// The start has not come.
    Early(Mark),
    /// It follows another auction, and the call did not say when it is due.
    Waits(Mark),
}

impl Opened {
    pub(crate) fn read(reply: Value) -> Result<Option<Self>, HotstateError> {
        let Some((word, seq, head)) = value::<Option<(String, u64, String)>>("open", reply)? else { return Ok(None) };
        let mark = mark(seq, &head)?;
        match word.as_str() {
            "opened" => Ok(Some(Self::Opened(mark))),
            "already" => Ok(Some(Self::Already(mark))),
            "early" => Ok(Some(Self::Early(mark))),
            "waits" => Ok(Some(Self::Waits(mark))),
            other => Err(unreadable("open", other)),
        }
    }

    /// The mark that the reply rests on.
    #[must_use]
    pub const fn mark(self) -> Mark {
        match self {
            Self::Opened(mark) | Self::Already(mark) | Self::Early(mark) | Self::Waits(mark) => mark,
        }
    }
}

/// The reply to a closing or a cancellation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// The auction was closed or cancelled.
    Closed(Mark),
    /// The closing was late: the auction goes on.
    Resumed(Mark),
    /// The auction was over already.
    Already(Mark),
    /// The end has not passed.
    Early(Mark),
    /// The auction is not open yet, or paused.
    NotLive(Mark),
    /// The person who asked is not the host.
    NotHost(Mark),
}

impl Closed {
    pub(crate) fn read(script: &'static str, reply: Value) -> Result<Option<Self>, HotstateError> {
        let Some((word, seq, head, _end)) = value::<Option<(String, u64, String, u64)>>(script, reply)? else {
            return Ok(None);
        };
        let mark = mark(seq, &head)?;
        match word.as_str() {
            "closed" | "cancelled" => Ok(Some(Self::Closed(mark))),
            "resumed" => Ok(Some(Self::Resumed(mark))),
            "already" => Ok(Some(Self::Already(mark))),
            "early" => Ok(Some(Self::Early(mark))),
            "not_live" => Ok(Some(Self::NotLive(mark))),
            "not_host" => Ok(Some(Self::NotHost(mark))),
            other => Err(unreadable(script, other)),
        }
    }

    /// The mark that the reply rests on.
    #[must_use]
    pub const fn mark(self) -> Mark {
        match self {
            Self::Closed(mark)
            | Self::Resumed(mark)
            | Self::Already(mark)
            | Self::Early(mark)
            | Self::NotLive(mark)
            | Self::NotHost(mark) => mark,
        }
    }
}

/// The reply to something that the host did to a running auction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostActed {
    /// The result.
    pub acted: Acted,
    /// The mark that the reply rests on.
    pub mark: Mark,
}

impl HostActed {
    pub(crate) fn read(reply: Value) -> Result<Option<Self>, HotstateError> {
        let Some((word, seq, head)) = value::<Option<(String, u64, String)>>("act", reply)? else { return Ok(None) };
        let acted = match word.as_str() {
            "done" => Acted::Done,
            "already" => Acted::Already,
            "not_host" => Acted::NotHost,
            "wrong_state" => Acted::WrongState,
            "full" => Acted::Full,
            other => return Err(unreadable("act", other)),
        };
        Ok(Some(Self { acted, mark: mark(seq, &head)? }))
    }
}

/// The verdicts of one call, in the order of its bids, and the mark they all rest on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdicts {
    /// The mark after the call.
    pub mark: Mark,
    /// One decision a bid.
    pub decisions: Vec<Decision>,
    /// The facts of the call, as they stand in the outbox. None if no bid was accepted.
    pub appended: Option<OutboxEntry>,
}

impl Verdicts {
    pub(crate) fn read(reply: Value, expected: usize) -> Result<Option<Self>, HotstateError> {
        let Some(mut parts) = value::<Option<Vec<Value>>>("place_bid", reply)? else { return Ok(None) };
        if parts.len() != expected + 3 {
            return Err(unreadable(
                "place_bid",
                format!("{} verdicts for {expected} bids", parts.len().saturating_sub(3)),
            ));
        }
        let verdicts = parts.split_off(3);
        let (seq, head, entry): (u64, String, Vec<String>) = value("place_bid", Value::Array(parts))?;
        let mark = mark(seq, &head)?;
        let decisions = verdicts.into_iter().map(decision).collect::<Result<_, _>>()?;
        Ok(Some(Self { mark, decisions, appended: outbox::appended(mark, &entry)? }))
    }
}

fn decision(verdict: Value) -> Result<Decision, HotstateError> {
    let parts: Vec<String> = value("place_bid", verdict)?;
    match parts.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["accepted", answer] => Ok(Decision::Accepted { accepted: accepted(answer)?, found: false }),
        ["found", answer] => Ok(Decision::Accepted { accepted: accepted(answer)?, found: true }),
        [code, seq, high_bid, minimum] => Ok(Decision::Refused {
            refusal: refusal(code)?,
            seq: number(seq)?,
            high_bid: filled(high_bid).map(cents).transpose()?,
            minimum_bid: cents(minimum)?,
        }),
        _ => Err(unreadable("place_bid", "unknown form of a verdict")),
    }
}

fn refusal(code: &str) -> Result<Refusal, HotstateError> {
    Ok(match code {
        "bid_id_reused" => Refusal::BidIdReused,
        "auction_not_started" => Refusal::NotStarted,
        "auction_paused" => Refusal::Paused,
        "auction_closed" => Refusal::Closed,
        "host_cannot_bid" => Refusal::HostCannotBid,
        "bidder_blocked" => Refusal::Blocked,
        "already_leading" => Refusal::AlreadyLeading,
        "bid_too_low" => Refusal::TooLow,
        "prebids_full" => Refusal::PrebidsFull,
        other => return Err(unreadable("place_bid", other)),
    })
}

fn accepted(answer: &str) -> Result<Accepted, HotstateError> {
    let parts: Vec<&str> = answer.split(' ').collect();
    let Some((&[user_id, amount, seq, timestamp, minimum, end_time, extended, extensions], proxy)) =
        parts.split_first_chunk()
    else {
        return Err(unreadable("place_bid", "unknown form of an answer"));
    };
    let amount = cents(amount)?;
    let (price, leads, offer) = match *proxy {
        [] => (Some(amount), true, amount.into()),
        [price, leads, given, maximum, sealed] => {
            (Amount::from_stored(number(price)?), leads == "1", offer(given, maximum, sealed)?)
        }
        _ => return Err(unreadable("place_bid", "unknown form of an answer")),
    };
    Ok(Accepted {
        user_id: parsed(user_id)?,
        amount,
        seq: number(seq)?,
        timestamp: Millis(number(timestamp)?),
        price,
        leads,
        minimum_bid: cents(minimum)?,
        end_time: Millis(number(end_time)?),
        extended: extended == "1",
        extension_count: number(extensions)?,
        offer,
    })
}

/// In place of an encrypted offer where there is none.
pub(crate) const UNSEALED: &str = "-";

/// An offer as the script stores it: 0 for an amount that was left out, and for no maximum.
fn offer(given: &str, maximum: &str, sealed: &str) -> Result<Offer, HotstateError> {
    let amount = Amount::from_stored(number(given)?);
    match (amount, Amount::from_stored(number(maximum)?)) {
        (amount, Some(maximum)) => Ok(Offer::UpTo { amount, maximum, sealed: parsed(sealed)? }),
        (Some(amount), None) if sealed == UNSEALED => Ok(Offer::Exact(amount)),
        (Some(amount), None) => Ok(Offer::Kept { amount, sealed: parsed(sealed)? }),
        (None, None) => Err(unreadable("place_bid", "an answer to nothing")),
    }
}

/// One bid as the scripts write it: seq, bid id, user id, username, cents, time, and where they are not those of every
/// bid the kind and the sealed offer.
pub(crate) fn bid(fields: &[String]) -> Result<Bid, HotstateError> {
    let Some(([seq, bid_id, user_id, username, amount, timestamp], more)) = fields.split_first_chunk() else {
        return Err(unreadable("bids", "unknown form of a bid"));
    };
    Ok(Bid {
        seq: number(seq)?,
        bid_id: parsed(bid_id)?,
        user_id: parsed(user_id)?,
        username: username.clone(),
        amount: cents(amount)?,
        timestamp: number(timestamp)?,
        kind: more.first().map_or(BidKind::Bid.into(), |kind| Named::read(kind)),
        sealed: more.get(1).map(|sealed| parsed(sealed)).transpose()?,
    })
}

/// The state and the newest bids at one moment, and the mark they rest on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The mark that the state rests on.
    pub mark: Mark,
    /// The state. Its `stream_seq` is 0: only the committer knows where in the log it stands.
    pub committed: CommittedState,
    /// The state that only the bidder or the host may see.
    pub secrets: Option<Secrets>,
}

impl View {
    pub(crate) fn read(
        auction_id: AuctionId,
        state: &HashMap<String, String>,
        recent: &[String],
        slow_mode_seconds: u64,
    ) -> Result<Option<Self>, HotstateError> {
        if state.is_empty() {
            return Ok(None);
        }
        let recent_bids = recent
            .iter()
            .map(|text| bid(&serde_json::from_str::<Vec<String>>(text).map_err(|error| unreadable("recent", error))?))
            .collect::<Result<_, _>>()?;
        let mark = mark(number(field(state, "seq")?)?, field(state, "head")?)?;
        let participant_count = number(field(state, "participant_count")?)?;
        let secrets = secrets(state)?;
        let state = snapshot(state)?;
        Ok(Some(Self {
            mark,
            committed: CommittedState {
                auction_id,
                seq: mark.seq,
                head: mark.head,
                stream_seq: 0,
                state,
                recent_bids,
                participant_count,
                slow_mode_seconds,
                has_secrets: secrets.is_some(),
                opens_at: None,
            },
            secrets,
        }))
    }
}

pub(crate) fn field<'a>(state: &'a HashMap<String, String>, name: &'static str) -> Result<&'a str, HotstateError> {
    state.get(name).map(String::as_str).ok_or_else(|| unreadable("state", format!("no {name}")))
}

/// The public state, from the fields of the hash.
pub(crate) fn snapshot(state: &HashMap<String, String>) -> Result<Snapshot, HotstateError> {
    let text = |name| field(state, name);
    // Fields that only an ending writes are absent before it; others are empty until the first bid.
    let optional = |name: &str| state.get(name).and_then(|text| filled(text));
    // See prelude.lua: an auction that is not plain has three fields under other names.
    let [increments, price, top] = match state.get("rules").map(String::as_str) {
        None => ["increment_cents", "high_bid_cents", "top"],
        Some(WITH_SECRETS) => ["ladder", "standing_cents", "ranking"],
        Some(_) => ["increments", "price_cents", "ranking"],
    };
    let top: Vec<Vec<String>> = serde_json::from_str(text(top)?).map_err(|error| unreadable("top", error))?;
    let starting_bid = cents(text("starting_bid_cents")?)?;
    let increments: Ladder = parsed(text(increments)?)?;
    let high_bid = optional(price).map(cents).transpose()?;
    let buy_now = optional("buy_now_cents").map(cents).transpose()?;
    let reserve = optional("reserve_cents").map(cents).transpose()?;
    let increment = increments.step(high_bid.unwrap_or(starting_bid));
    let status: Named<Status> = Named::read(text("status")?);
    let blocked = state.get("blocked").map(|ids| ids.split_whitespace().map(parsed).collect::<Result<_, _>>());
    let keeps_prebids = optional("prebids").is_some();
    let remaining_ms = optional("remaining_ms").filter(|_| status == Status::Paused).map(number).transpose()?;
    Ok(Snapshot {
        by_host: ByHost {
            pauses: optional("pauses").map(number).transpose()?.unwrap_or(0),
            remaining_ms,
            blocked: blocked.transpose()?,
        },
        status,
        host_user_id: parsed(text("host_user_id")?)?,
        host_username: text("host_username")?.to_owned(),
        starting_bid,
        increment,
        options: Options {
            increments: increments.flat_step().is_none().then_some(increments),
            allow_self_raise: optional("self_raise").is_some(),
            buy_now,
            allow_prebids: keeps_prebids,
            follows: optional("follows").map(parsed).transpose()?,
            gap_ms: optional("gap_ms").map(number).transpose()?.unwrap_or(0),
        },
        duration_ms: number(text(if keeps_prebids { "length_ms" } else { "duration_ms" })?)?,
        anti_snipe_mode: Named::read(text("anti_snipe_mode")?),
        anti_snipe_window_ms: number(text("anti_snipe_window_ms")?)?,
        anti_snipe_extension_ms: number(text("anti_snipe_extension_ms")?)?,
        anti_snipe_max_extensions: number(text("anti_snipe_max_extensions")?)?,
        created_at: number(text("created_at")?)?,
        starts_at: match state.get("follows") {
            None => number(text("starts_at")?)?,
            Some(_) => optional("opens_at").map(number).transpose()?.unwrap_or(Millis::NOT_YET.0),
        },
        end_time: number(text("end_time")?)?,
        extension_count: number(text("extension_count")?)?,
        recoveries: optional("recoveries").map(number).transpose()?.unwrap_or(0),
        bid_count: number(text("bid_count")?)?,
        high_bid,
        high_bidder_id: optional("high_bidder_id").map(parsed).transpose()?,
        high_bidder_username: optional("high_bidder_username").map(str::to_owned),
        minimum_bid: high_bid.map_or(starting_bid, |price| {
            let next = price.plus(increment);
            buy_now.map_or(next, |buy_now| next.min(buy_now))
        }),
        reserve_met: reserve.map(|reserve| high_bid.is_some_and(|high_bid| high_bid >= reserve)),
        top_bids: top.iter().map(|bid| ranked_bid(bid)).collect::<Result<_, _>>()?,
        ended_at: optional("ended_at").map(number).transpose()?,
        reason: optional("reason").map(Named::read),
        outcome: optional("outcome").map(Named::read),
        winner_id: optional("winner_id").map(parsed).transpose()?,
        winner_username: optional("winner_username").map(str::to_owned),
        winning_bid: optional("winning_bid_cents").map(cents).transpose()?,
    })
}

fn ranked_bid(fields: &[String]) -> Result<RankedBid, HotstateError> {
    let [user_id, username, amount] = fields else { return Err(unreadable("top", "unknown form of a bid")) };
    Ok(RankedBid { user_id: parsed(user_id)?, username: username.clone(), amount: cents(amount)? })
}

//! The log on its own: dense (I3), legal (I4).

use std::collections::BTreeMap;

use serde_json::Value;
use sha1::{Digest, Sha1};

use crate::fields::{Bid, read_bid, text, whole};
use crate::history::{History, Logged};
use crate::invariant::Invariant;
use crate::prebids::{self, Opening};
use crate::proxy::{self, Change};
use crate::sequences;
use crate::state::State;
use crate::verdict::Verdict;

/// One auction as replayed from its records, up to the first record that is wrong.
#[derive(Debug, Default)]
pub struct Folded {
    pub bids: Vec<Bid>,
    /// Changes of a leader's maximum, and pre-bids.
    pub changes: Vec<Change>,
    /// The bids that were kept until the opening.
    pub opening: Option<Opening>,
    /// The state after each fact, by its seq.
    pub states: BTreeMap<u64, State>,
    /// The closing record and its line.
    pub closing: Option<(usize, Value)>,
    /// No record was wrong, so the states can be relied on.
    pub is_whole: bool,
}

impl Folded {
    pub fn last_seq(&self) -> u64 {
        self.states.last_key_value().map_or(0, |(seq, _)| *seq)
    }
}

const GENESIS: &str = "0000000000000000";

/// Replays the records of an auction.
pub fn fold(history: &History, auction: &str, verdict: &mut Verdict) -> Folded {
    let bids = history.records_of(auction).flat_map(|logged| {
        let bids = logged.record["bids"].as_array().map_or(&[][..], Vec::as_slice);
        bids.iter().filter_map(|bid| read_bid(logged.line, bid))
    });
    let mut folded = Folded { is_whole: true, bids: bids.collect(), ..Folded::default() };
    let mut replay = Replay { head: GENESIS.to_owned(), ..Replay::default() };
    for logged in history.records_of(auction) {
        if let Err((invariant, message)) = replay.step(logged, &mut folded) {
            verdict.add(invariant, format!("{auction}: {message}"), replay.line.into_iter().chain([logged.line]));
            // The records that follow rest on this one.
            folded.is_whole = false;
            break;
        }
        replay.line = Some(logged.line);
    }
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for bid in &folded.bids {
        if let Some(first) = seen.insert(&bid.bid_id, bid.line) {
            verdict.add(
                Invariant::Dense,
                format!("{auction}: bid {} is in the log twice", bid.bid_id),
                [first, bid.line],
            );
        }
    }
    folded
}

/// The state of a replay after some records.
#[derive(Default)]
struct Replay {
    head: String,
    seq: u64,
    time: u64,
    state: State,
    line: Option<usize>,
    /// The leader before the last bid.
    led: Option<String>,
}

/// The invariant that a record breaks, and how.
type Wrong = (Invariant, String);

fn illegal(reason: String) -> Wrong {
    (Invariant::Legal, reason)
}

impl Replay {
    fn step(&mut self, logged: &Logged, folded: &mut Folded) -> Result<(), Wrong> {
        let record = &logged.record;
        let (kind, state) = (text(record, "type"), &record["state"]);
        if record["prev"] != self.head {
            return Err((
                Invariant::Dense,
                format!("a record continues {} instead of {}: the chain is broken", record["prev"], self.head),
            ));
        }
        if self.state.is_over() {
            return Err((Invariant::OneClose, format!("a record of type {kind} follows the closing record")));
        }
        let bids = record["bids"].as_array().map_or(&[][..], Vec::as_slice);
        let facts = if kind == "bids" { bids.len() as u64 } else { 1 };
        if whole(record, "seq") != self.seq + facts || facts == 0 {
            return Err((Invariant::Dense, format!("seq {} after {} with {facts} facts", record["seq"], self.seq)));
        }
        let mut heads = BTreeMap::new();
        let mut opening = None;
        match kind {
            "bids" => {
                if bids.first().is_some_and(|bid| bid["kind"] == "prebid") {
                    let bids: Vec<Bid> = bids.iter().filter_map(|bid| read_bid(logged.line, bid)).collect();
                    opening = Some(prebids::open(&mut self.state, &bids).map_err(illegal)?);
                }
                for (nth, bid) in bids.iter().enumerate() {
                    let before = nth.checked_sub(1).map(|nth| &bids[nth]);
                    let after = bids.get(nth + 1).filter(|next| next["kind"] == "proxy");
                    self.bid(logged.line, bid, before, after)?;
                    heads.insert(self.seq, self.head.clone());
                    folded.states.insert(self.seq, self.state.clone());
                }
            }
            "maximum" => {
                self.maximum(record, folded)?;
                heads.insert(self.seq, self.head.clone());
                folded.states.insert(self.seq, self.state.clone());
            }
            _ => {
                self.other(kind, record, state)?;
                heads.insert(self.seq, self.head.clone());
                folded.states.insert(self.seq, self.state.clone());
            }
        }
        if record["head"] != self.head {
            return Err((
                Invariant::Dense,
                format!("the head of seq {} is {} instead of {}", self.seq, record["head"], self.head),
            ));
        }
        for mark in record["marks"].as_array().into_iter().flatten() {
            if heads.get(&whole(mark, "seq")).is_none_or(|head| mark["head"] != *head) {
                return Err((Invariant::Dense, format!("the mark {mark} is not on the chain")));
            }
        }
        self.compare(state)?;
        self.state.reserve_met = state["reserve_met"].as_bool();
        if let Some(kept) = opening {
            folded.opening = Some(Opening::new(logged.line, kept, &self.state));
        }
        if let Some(last) = folded.states.get_mut(&self.seq) {
            last.reserve_met = self.state.reserve_met;
        }
        if self.state.is_over() {
            folded.closing = Some((logged.line, record.clone()));
        }
        Ok(())
    }

    /// A changed maximum of the leader, or a pre-bid.
    fn maximum(&mut self, record: &Value, folded: &mut Folded) -> Result<(), Wrong> {
        let (seq, time) = (self.seq + 1, whole(record, "time"));
        let changed = match self.state.status.as_str() {
            "scheduled" => prebids::keep(record, &mut self.state, seq, time),
            _ => proxy::change(record, &self.state, seq, time),
        };
        let (fact, change) = changed.map_err(illegal)?;
        self.time = time;
        self.chain(&fact);
        folded.changes.push(change);
        Ok(())
    }

    fn chain(&mut self, fact: &str) {
        let digest = Sha1::digest(format!("{}\n{fact}", self.head));
        self.head = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        self.seq += 1;
    }

    /// A bid, between the ones before and after it in its record; `after` only if it is a counter-bid.
    fn bid(&mut self, line: usize, bid: &Value, before: Option<&Value>, after: Option<&Value>) -> Result<(), Wrong> {
        let bid = read_bid(line, bid).ok_or_else(|| (Invariant::Legal, format!("failed to parse the bid {bid}")))?;
        let state = &mut self.state;
        let illegal =
            |reason: String| Err((Invariant::Legal, format!("bid {} of seq {}: {reason}", bid.bid_id, bid.seq)));
        if bid.seq != self.seq + 1 {
            return Err((Invariant::Dense, format!("bid seq {} after {}", bid.seq, self.seq)));
        }
        // Whether they may be bid was decided for all of them.
        let is_prebid = bid.kind == "prebid";
        if state.status != "live" && !is_prebid {
            return illegal(format!("the auction is {}", state.status));
        }
        if (bid.timestamp >= state.end_time && !is_prebid) || bid.timestamp < self.time {
            return illegal(format!(
                "its time {} is not between the last record at {} and the end at {}",
                bid.timestamp, self.time, state.end_time
            ));
        }
        if state.is_bought() {
            return illegal("the auction was bought".to_owned());
        }
        let is_counter = bid.kind == "proxy";
        if is_counter {
            let follows = before.is_some_and(|before| before["kind"] == "bid");
            if let Some(reason) = proxy::wrong_counter(&bid, state, self.led.as_deref(), follows) {
                return illegal(reason);
            }
        } else if let Some(reason) = state.objection(&bid).filter(|_| !is_prebid) {
            return illegal(reason);
        }
        self.led = state.leader().map(|(leader, ..)| leader.clone());
        let price = after.map_or(bid.cents, |after| whole(after, "amount_cents"));
        let buys = state.buy_now == Some(price);
        let moved = match state.snipe_mode.as_str() {
            _ if buys || is_counter || is_prebid => state.end_time,
            "extend" if state.end_time - bid.timestamp < state.window => state.end_time + state.extension,
            "reset" => bid.timestamp + state.extension,
            _ => state.end_time,
        };
        if moved > state.end_time && (state.max_extensions == 0 || state.extensions < state.max_extensions) {
            state.end_time = moved;
            state.extensions += 1;
        }
        state.bid_count += 1;
        state.top.retain(|(user, ..)| *user != bid.user_id);
        state.top.insert(0, (bid.user_id.clone(), bid.username.clone(), bid.cents));
        state.top.truncate(3);
        self.time = bid.timestamp;
        let Bid { seq, bid_id, user_id, username, cents, timestamp, kind, sealed, .. } = &bid;
        let sealed = sealed.as_ref().map(|sealed| format!("\n{sealed}")).unwrap_or_default();
        self.chain(&format!("{seq}\n{kind}\n{bid_id}\n{user_id}\n{username}\n{cents}\n{timestamp}{sealed}"));
        Ok(())
    }

    /// The rules that the first record sets. Each option in use adds a line to its fact.
    fn created(&mut self, record: &Value, state: &Value, time: u64) {
        let options = &state["options"];
        let bands = options["increments"].as_array().map_or(&[][..], Vec::as_slice);
        let mut increments: Vec<_> =
            bands.iter().map(|band| (whole(band, "from_cents"), whole(band, "step_cents"))).collect();
        let mut increments_text: String =
            increments.iter().map(|(from, step)| format!("{from}:{step}")).collect::<Vec<_>>().join(" ");
        if increments.is_empty() {
            increments = vec![(0, whole(state, "increment_cents"))];
            increments_text = whole(state, "increment_cents").to_string();
        }
        self.state = State {
            status: "scheduled".to_owned(),
            host: text(state, "host_user_id").to_owned(),
            starting_bid: whole(state, "starting_bid_cents"),
            increments,
            self_raise: options["allow_self_raise"] == true,
            buy_now: options["buy_now_cents"].as_u64(),
            reserve_met: state["reserve_met"].as_bool(),
            allow_prebids: options["allow_prebids"] == true,
            follows: sequences::follows(options),
            duration: whole(state, "duration_ms"),
            snipe_mode: text(state, "anti_snipe_mode").to_owned(),
            window: whole(state, "anti_snipe_window_ms"),
            extension: whole(state, "anti_snipe_extension_ms"),
            max_extensions: whole(state, "anti_snipe_max_extensions"),
            end_time: whole(state, "starts_at") + whole(state, "duration_ms"),
            ..State::default()
        };
        let State { host, starting_bid, duration, snipe_mode, window, extension, .. } = &self.state;
        let (id, name) = (text(record, "auction_id"), text(state, "host_username"));
        let (max, starts) = (self.state.max_extensions, whole(state, "starts_at"));
        let mut fact = format!(
            "1\ncreated\n{time}\n{id}\n{host}\n{name}\n{starting_bid}\n{increments_text}\n{duration}\n{snipe_mode}\n\
             {window}\n{extension}\n{max}\n{starts}"
        );
        fact.push_str(&self.state.option_lines(record["sealed"]["reserve"].as_str()));
        self.chain(&fact);
    }

    fn other(&mut self, kind: &str, record: &Value, state: &Value) -> Result<(), Wrong> {
        let (time, seq) = (whole(record, "time"), self.seq + 1);
        if time < self.time {
            return Err((Invariant::Legal, format!("the time goes back from {} to {time}", self.time)));
        }
        self.time = time;
        let wrong_state =
            |status: &str| Err((Invariant::Legal, format!("a record of type {kind} in an auction that is {status}")));
        match kind {
            "created" if self.seq == 0 => self.created(record, state, time),
            "opened" if self.state.status == "scheduled" => {
                if self.state.kept.iter().any(|kept| !self.state.is_blocked(&kept.user_id)) {
                    return Err(illegal("the opening leaves out bids that were kept".to_owned()));
                }
                self.state.status = "live".to_owned();
                self.state.end_time = time + self.state.duration;
                let by = text(record, "by");
                let by = if by.is_empty() { String::new() } else { format!("\n{by}") };
                self.chain(&format!("{seq}\nopened\n{time}\n{}{by}", self.state.end_time));
            }
            "resumed" if text(record, "by").is_empty() => {
                if !self.state.recovers_at(time) || self.state.is_bought() {
                    return Err(illegal("the auction is given more time without an outage over its end".to_owned()));
                }
                self.state.end_time = time + self.state.late_ms();
                self.state.recoveries += 1;
                self.chain(&format!("{seq}\nresumed\n{time}\n\n{}", self.state.end_time));
            }
            "paused" | "resumed" | "blocked" | "unblocked" => return self.by_host(kind, record, time),
            "closed" if self.state.status == "live" || self.state.status == "paused" => {
                let (reason, by) = (text(state, "reason").to_owned(), text(record, "by").to_owned());
                if (reason == "buy_now") != (self.state.is_bought() && reason != "host") {
                    return Err((Invariant::OneClose, format!("closed for the reason {reason}, with another state")));
                }
                if self.state.status == "paused" && reason != "host" {
                    return wrong_state(&self.state.status);
                }
                let end = self.state.end_time;
                if time < end && reason == "ended" {
                    return Err((Invariant::OneClose, format!("closed at {time}, before the end {end}")));
                }
                if reason == "ended" && self.state.recovers_at(time) {
                    let message = format!("closed at {time}, after an outage over the end {end}");
                    return Err((Invariant::OneClose, message));
                }
                let sells = self.state.reserve_met != Some(false);
                let (outcome, winner, cents) = match self.state.leader().filter(|_| sells) {
                    Some((user, _, cents)) => ("sold", user.clone(), cents.to_string()),
                    None => ("unsold", String::new(), String::new()),
                };
                let recorded = (text(state, "outcome"), text(state, "winner_id"), state["winning_bid_cents"].as_u64());
                if recorded != (outcome, winner.as_str(), cents.parse().ok()) {
                    return Err((
                        Invariant::OneWinner,
                        format!("the closing record says {recorded:?}, the bids give {outcome} {winner} {cents}"),
                    ));
                }
                self.chain(&format!("{seq}\nclosed\n{time}\n{reason}\n{by}\n{outcome}\n{winner}\n{cents}"));
                self.state.status = "closed".to_owned();
            }
            "cancelled" if self.seq > 0 => {
                self.chain(&format!("{seq}\ncancelled\n{time}\n{}", text(record, "by")));
                self.state.status = "cancelled".to_owned();
            }
            _ => return wrong_state(&self.state.status),
        }
        Ok(())
    }

    /// An act of the host on a running auction.
    fn by_host(&mut self, kind: &str, record: &Value, time: u64) -> Result<(), Wrong> {
        let (seq, by, user_id) = (self.seq + 1, text(record, "by"), text(record, "user_id").to_owned());
        let state = &mut self.state;
        let illegal = |reason: &str| Err((Invariant::Legal, format!("seq {seq}, {kind}: {reason}")));
        if by != state.host {
            return illegal("not by the host");
        }
        let detail = match (kind, state.status.as_str()) {
            ("paused", "live") if time < state.end_time && !state.is_bought() => {
                state.remaining = state.end_time - time;
                state.pauses += 1;
                state.status = "paused".to_owned();
                state.remaining.to_string()
            }
            ("resumed", "paused") => {
                state.end_time = time + state.remaining;
                state.status = "live".to_owned();
                state.end_time.to_string()
            }
            ("blocked", "scheduled" | "live" | "paused") if user_id != state.host && !state.is_blocked(&user_id) => {
                state.blocked.get_or_insert_default().push(user_id.clone());
                user_id
            }
            ("unblocked", "scheduled" | "live" | "paused") if state.is_blocked(&user_id) => {
                state.blocked.get_or_insert_default().retain(|blocked| *blocked != user_id);
                user_id
            }
            (_, status) => return illegal(&format!("the auction is {status}, or it is so already")),
        };
        self.chain(&format!("{seq}\n{kind}\n{time}\n{by}\n{detail}"));
        Ok(())
    }

    /// The state that a record carries is the one that its facts lead to.
    fn compare(&self, recorded: &Value) -> Result<(), Wrong> {
        let state = &self.state;
        let leader = state.leader();
        let top: Vec<(String, String, u64)> = recorded["top_bids"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|bid| (text(bid, "user_id").to_owned(), text(bid, "username").to_owned(), whole(bid, "amount_cents")))
            .collect();
        let pairs = [
            ("status", recorded["status"] == state.status),
            ("by_host", state.by_host_is(&recorded["by_host"])),
            ("end_time", recorded["end_time"] == state.end_time),
            ("extension_count", recorded["extension_count"] == state.extensions),
            ("recoveries", recorded["recoveries"].as_u64().unwrap_or(0) == state.recoveries),
            ("bid_count", recorded["bid_count"] == state.bid_count),
            ("high_bid_cents", recorded["high_bid_cents"].as_u64() == leader.map(|leader| leader.2)),
            ("high_bidder_id", recorded["high_bidder_id"].as_str() == leader.map(|leader| leader.0.as_str())),
            ("increment_cents", recorded["increment_cents"] == state.step(leader.map_or(state.starting_bid, |l| l.2))),
            ("minimum_bid_cents", recorded["minimum_bid_cents"] == state.minimum()),
            ("top_bids", top == state.top),
            ("reserve_met", proxy::reserve_follows(state, &recorded["reserve_met"])),
        ];
        match pairs.iter().find(|(_, same)| !same) {
            None => Ok(()),
            Some((field, _)) => {
                Err((Invariant::Legal, format!("after seq {} the record has {field} {}", self.seq, recorded[*field])))
            }
        }
    }
}

//! One auction as the frames of the edge show it.

use std::collections::VecDeque;

use domain::Amount;
use serde_json::Value;

use crate::terminal::{clean, grouped, money};

/// Bids kept for the list and the curve of prices. More than any terminal has lines.
const MAX_BIDS: usize = 300;
/// Chat messages kept.
const MAX_MESSAGES: usize = 200;

/// A bid as it is listed.
#[derive(Debug, Clone)]
pub struct Bid {
    /// Its number in the auction.
    pub seq: u64,
    /// The name of the bidder.
    pub name: String,
    /// The price offered.
    pub amount: Amount,
}

/// A chat message as it is listed.
#[derive(Debug, Clone)]
pub struct Message {
    id: String,
    user_id: String,
    /// The name of its author.
    pub name: String,
    /// Its text.
    pub text: String,
    /// Whether the host wrote it.
    pub is_host: bool,
}

/// The state of the connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Link {
    /// There was none yet.
    #[default]
    Connecting,
    /// Frames arrive.
    Live,
    /// It was lost; what is shown may be old.
    Lost,
}

/// One auction.
#[derive(Debug, Default)]
pub struct Auction {
    /// Its title, if the API knows one.
    pub title: String,
    /// The name of its host.
    pub host: String,
    /// The currency of its prices.
    pub currency: String,
    /// `scheduled`, `live`, `closed` or `cancelled`.
    pub status: String,
    /// The highest bid.
    pub price: Option<Amount>,
    /// The lowest next bid.
    pub minimum: Option<Amount>,
    /// The name of the leader.
    pub leader: Option<String>,
    /// Accepted bids.
    pub bid_count: u64,
    /// People who watch.
    pub people: u64,
    /// Extensions so far.
    pub extensions: u64,
    /// Its end, in milliseconds since 1970.
    pub end_time: Option<u64>,
    /// How it ended, in a sentence.
    pub ending: Option<String>,
    /// The newest first.
    pub bids: VecDeque<Bid>,
    /// The newest last.
    pub chat: VecDeque<Message>,
    /// The state of the connection.
    pub link: Link,
    /// The server's clock minus this machine's, in milliseconds.
    clock_ahead_ms: i64,
    /// Time left while the host has paused it; the clock is stopped.
    paused_left_ms: Option<u64>,
}

impl Auction {
    /// Takes title, host and currency from the reply of `GET /auctions/ID`.
    pub fn describe(&mut self, object: &Value) {
        let text = |name: &str| clean(object[name].as_str().unwrap_or_default());
        (self.title, self.host, self.currency) = (text("title"), text("host_username"), text("currency"));
    }

    /// Time left on the server's clock, in milliseconds. None before the auction has an end.
    pub fn left_ms(&self, now_ms: u64) -> Option<u64> {
        if self.ending.is_none() && self.paused_left_ms.is_some() {
            return self.paused_left_ms;
        }
        let end = self.end_time?;
        Some(if self.ending.is_some() {
            0
        } else {
            end.saturating_sub(now_ms.saturating_add_signed(self.clock_ahead_ms))
        })
    }

    /// Whether nothing more will happen.
    pub fn is_over(&self) -> bool {
        self.ending.is_some()
    }

    /// Takes a frame that arrived now. Returns what happened, in sentences for people who read line by line.
    pub fn apply(&mut self, event: &str, data: &Value, now_ms: u64) -> Vec<String> {
        if let Some(server_time) = data["server_time"].as_u64() {
            self.clock_ahead_ms = server_time.cast_signed().saturating_sub(now_ms.cast_signed());
        }
        match event {
            "joined_auction" => self.join(data),
            "bid_update" => self.bids(data),
            "timer_update" => self.tick(data),
            "auction_started" => {
                "live".clone_into(&mut self.status);
                self.end_time = data["end_time"].as_u64();
                vec!["bidding is open".to_owned()]
            }
            "auction_paused" => {
                self.state(data);
                vec!["paused by the host".to_owned()]
            }
            "auction_resumed" => {
                self.state(data);
                let cause = if data["reason"] == "outage" { ": more time after an outage" } else { "" };
                vec![format!("bidding goes on{cause}")]
            }
            "auction_ended" => self.end("closed", data),
            "auction_cancelled" => self.end("cancelled", data),
            "chat_message" => self.message(data).into_iter().collect(),
            "chat_deleted" => {
                self.chat.retain(|message| data["message_id"] != message.id.as_str());
                Vec::new()
            }
            "user_joined" | "user_left" | "presence_update" => {
                self.people = data["participant_count"].as_u64().unwrap_or(self.people);
                let verb = if event == "user_joined" { "joined" } else { "left" };
                data["username"].as_str().map(|name| format!("{} {verb}", clean(name))).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    /// Everything, after joining or when something that was shown is withdrawn.
    fn join(&mut self, data: &Value) -> Vec<String> {
        self.state(data);
        self.link = Link::Live;
        self.price = amount(&data["current_high_bid"]);
        self.bids = data["recent_bids"].as_array().into_iter().flatten().filter_map(bid).take(MAX_BIDS).collect();
        self.chat.clear();
        for message in data["chat_messages"].as_array().into_iter().flatten() {
            self.message(message);
        }
        self.ending = None;
        let mut news = vec![format!(
            "{}: {}, {} bids, {} people",
            if self.title.is_empty() { "auction" } else { &self.title },
            self.status,
            self.bid_count,
            self.people
        )];
        news.extend(self.standing());
        if !data["outcome"].is_null() {
            let status = self.status.clone();
            news.extend(self.end(&status, data));
        }
        news
    }

    /// The fields that several frames have under the same names.
    fn state(&mut self, data: &Value) {
        let number = |name: &str, known: u64| data[name].as_u64().unwrap_or(known);
        self.bid_count = number("bid_count", self.bid_count);
        self.people = number("participant_count", self.people);
        self.extensions = number("extension_count", self.extensions);
        self.end_time = data["end_time"].as_u64().or(self.end_time);
        self.minimum = amount(&data["minimum_bid"]).or(self.minimum);
        if let Some(status) = data["status"].as_str() {
            self.status = clean(status);
            self.paused_left_ms = (status == "paused").then(|| data["time_remaining_ms"].as_u64()).flatten();
        }
        if let Some(leader) = data.get("high_bidder_username") {
            self.leader = leader.as_str().map(clean);
        }
    }

    fn bids(&mut self, data: &Value) -> Vec<String> {
        let before = self.extensions;
        self.state(data);
        self.price = amount(&data["high_bid"]).or(self.price);
        let mut news = Vec::new();
        for bid in data["bids"].as_array().into_iter().flatten().filter_map(bid) {
            if self.bids.front().is_none_or(|newest| newest.seq < bid.seq) {
                news.push(format!("{} bids {}", bid.name, self.priced(bid.amount)));
                self.bids.push_front(bid);
            }
        }
        self.bids.truncate(MAX_BIDS);
        if self.extensions > before {
            news.push(format!("extended (extension {})", self.extensions));
        }
        news
    }

    fn tick(&mut self, data: &Value) -> Vec<String> {
        if !self.is_over() {
            self.state(data);
        }
        Vec::new()
    }

    fn message(&mut self, data: &Value) -> Option<String> {
        let text = |name: &str| clean(data[name].as_str().unwrap_or_default());
        let message = Message {
            id: text("message_id"),
            user_id: text("user_id"),
            name: text("username"),
            text: text("message"),
            is_host: data["is_host"] == true,
        };
        // A message that is sent again is the same.
        if self.chat.iter().any(|known| known.id == message.id && known.user_id == message.user_id) {
            return None;
        }
        let line = format!("{}: {}", message.name, message.text);
        self.chat.push_back(message);
        if self.chat.len() > MAX_MESSAGES {
            self.chat.pop_front();
        }
        Some(line)
    }

    fn end(&mut self, status: &str, data: &Value) -> Vec<String> {
        status.clone_into(&mut self.status);
        self.end_time = data["end_time"].as_u64().or(self.end_time);
        let winner = data["winner_username"].as_str().map(clean);
        let ending = match (data["outcome"].as_str(), winner, money(&data["winning_bid"])) {
            (Some("sold"), Some(winner), Some(price)) => format!("SOLD to {winner} for {price} {}", self.currency),
            (Some("cancelled"), ..) => "CANCELLED".to_owned(),
            _ => "UNSOLD".to_owned(),
        };
        let ending = ending.trim_end().to_owned();
        self.ending = Some(ending.clone());
        vec![ending]
    }

    /// The leader, and the price.
    fn standing(&self) -> Option<String> {
        Some(format!("{} leads at {}", self.leader.as_ref()?, self.priced(self.price?)))
    }

    /// An amount in the auction's currency.
    pub fn priced(&self, amount: Amount) -> String {
        format!("{} {}", grouped(amount), self.currency).trim_end().to_owned()
    }
}

fn amount(value: &Value) -> Option<Amount> {
    Amount::parse(&value.to_string()).ok()
}

fn bid(value: &Value) -> Option<Bid> {
    let (seq, amount) = (value["seq"].as_u64()?, amount(&value["amount"])?);
    Some(Bid { seq, name: clean(value["username"].as_str()?), amount })
}

#[cfg(test)]
pub mod tests {
    use serde_json::json;

    use super::*;

    /// The moment at which the frames of these tests arrive.
    pub const NOW: u64 = 1_800_000_000_000;

    fn bid_of(seq: u64, name: &str, amount: f64) -> Value {
        json!({"seq": seq, "bid_id": "b", "user_id": "u", "username": name, "amount": amount, "timestamp": NOW, "kind": "bid"})
    }

    /// An auction with two bids and a message, on a server whose clock is two seconds ahead.
    pub fn joined() -> Auction {
        let mut auction = Auction::default();
        auction.describe(&json!({"title": "Cello, 1780", "host_username": "hanna", "currency": "EUR"}));
        let news = auction.apply(
            "joined_auction",
            &json!({
                "status": "live", "seq": 4, "current_high_bid": 12_345.5, "minimum_bid": 12_350, "bid_count": 2,
                "high_bidder_username": "anna", "participant_count": 17, "extension_count": 0,
                "recent_bids": [bid_of(4, "anna", 12_345.5), bid_of(3, "ben", 9_000.0)],
                "server_time": NOW + 2_000, "end_time": NOW + 279_000, "outcome": null,
                "chat_messages": [
                    {"message_id": "m1", "user_id": "h", "username": "hanna", "message": "Good evening", "is_host": true}
                ],
            }),
            NOW,
        );
        assert_eq!(news, ["Cello, 1780: live, 2 bids, 17 people", "anna leads at 12,345.50 EUR"]);
        auction
    }

    #[test]
    fn clock_is_the_servers() {
        let auction = joined();
        assert_eq!(auction.left_ms(NOW), Some(277_000));
        assert_eq!(auction.left_ms(NOW + 300_000), Some(0));
        assert_eq!(Auction::default().left_ms(NOW), None);
    }

    #[test]
    fn bids_extensions_chat_and_end_are_news_once() {
        let mut auction = joined();
        let update = json!({
            "seq": 5, "previous_seq": 3, "bids": [bid_of(4, "anna", 12_345.5), bid_of(5, "ben\u{1b}", 13_000.0)],
            "high_bid": 13_000, "high_bidder_username": "ben", "bid_count": 3, "participant_count": 18,
            "minimum_bid": 13_010, "end_time": NOW + 290_000, "extension_count": 1, "status": "live",
        });
        let news = auction.apply("bid_update", &update, NOW);
        assert_eq!(news, ["ben  bids 13,000.00 EUR", "extended (extension 1)"]);
        assert_eq!(auction.apply("bid_update", &update, NOW), Vec::<String>::new());
        assert_eq!((auction.bids.len(), auction.people, auction.leader.as_deref()), (3, 18, Some("ben")));

        let message = json!({"message_id": "m2", "user_id": "u", "username": "anna", "message": "oh no"});
        assert_eq!(auction.apply("chat_message", &message, NOW), ["anna: oh no"]);
        assert!(auction.apply("chat_message", &message, NOW).is_empty());
        auction.apply("chat_deleted", &json!({"message_id": "m2"}), NOW);
        assert_eq!(auction.chat.len(), 1);

        let end =
            json!({"outcome": "sold", "winner_username": "ben", "winning_bid": 13_000, "end_time": NOW + 290_000});
        assert_eq!(auction.apply("auction_ended", &end, NOW), ["SOLD to ben for 13,000.00 EUR"]);
        assert!(auction.is_over());
        auction.apply("timer_update", &json!({"status": "live", "end_time": NOW + 1}), NOW);
        assert_eq!((auction.status.as_str(), auction.left_ms(NOW)), ("closed", Some(0)));
    }

    #[test]
    fn clock_of_a_paused_auction_stands_still() {
        let mut auction = joined();
        let paused = json!({"seq": 5, "status": "paused", "end_time": null, "time_remaining_ms": 60_000});
        assert_eq!(auction.apply("auction_paused", &paused, NOW), ["paused by the host"]);
        auction.apply("presence_update", &json!({"participant_count": 3}), NOW);
        assert_eq!((auction.status.as_str(), auction.left_ms(NOW + 500_000)), ("paused", Some(60_000)));
        let resumed = json!({"seq": 6, "status": "live", "end_time": NOW + 92_000, "time_remaining_ms": 60_000});
        assert_eq!(auction.apply("auction_resumed", &resumed, NOW + 30_000), ["bidding goes on"]);
        assert_eq!(auction.left_ms(NOW + 30_000), Some(60_000));
    }

    #[test]
    fn state_that_replaces_all_withdraws_bids() {
        let mut auction = joined();
        let state = json!({"status": "live", "current_high_bid": null, "high_bidder_username": null, "bid_count": 0,
            "recent_bids": [], "chat_messages": []});
        assert_eq!(auction.apply("joined_auction", &state, NOW), ["Cello, 1780: live, 0 bids, 17 people"]);
        assert!(auction.price.is_none() && auction.leader.is_none() && auction.bids.is_empty());
    }

    #[test]
    fn lists_are_bounded() {
        let mut auction = joined();
        for seq in 5..1_000 {
            let bids = json!({"bids": [bid_of(seq, "anna", 20_000.0)]});
            auction.apply("bid_update", &bids, NOW);
            let id = format!("n{seq}");
            auction.apply("chat_message", &json!({"message_id": id, "username": "a", "message": "b"}), NOW);
        }
        assert_eq!((auction.bids.len(), auction.chat.len()), (MAX_BIDS, MAX_MESSAGES));
    }
}

//! The comparison of two rounds: rates, and trouble.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;

use super::collect::{Round, Service};
use crate::terminal::{clean, countdown, money};

/// Messages that a consumer may be behind. bid-persistence writes more in a second.
const MANY_BEHIND: u64 = 1_000;
/// Fill level of the log from which it is trouble: that of the alarm `FlashLogFilling`.
const LOG_FILLING: f64 = 0.7;
/// Codes of answers with which the system fails its client.
const FAILURES: [&str; 3] = ["\"unavailable\"", "\"overloaded\"", "\"outcome_unknown\""];

/// One auction.
#[derive(Debug, PartialEq, Eq)]
pub struct Auction {
    /// Title, time left, price, leader.
    pub texts: [String; 4],
    /// Accepted bids.
    pub bids: u64,
    /// Bids a second since the round before.
    pub rate: Option<u64>,
    /// People who watch.
    pub people: u64,
    /// Its id.
    pub id: String,
}

/// Everything that is shown.
#[derive(Debug)]
pub struct Report {
    /// Live auctions, those without a row included.
    pub total: u64,
    /// Bids a second of all rows.
    pub rate: Option<u64>,
    /// The most active first, then those that end first.
    pub rows: Vec<Auction>,
    /// Name, status and figures of each service.
    pub services: Vec<[String; 3]>,
    /// One sentence each.
    pub trouble: Vec<String>,
}

impl Report {
    /// The report of a round and the one before it.
    pub fn of(before: Option<&Round>, now: &Round) -> Self {
        let passed = before.map(|before| now.at.duration_since(before.at));
        let counts = |round: &Round| -> HashMap<String, u64> {
            let auctions = round.auctions.iter().flatten();
            auctions.filter_map(|auction| Some((id(auction)?, auction["bid_count"].as_u64()?))).collect()
        };
        let earlier = before.map(counts).unwrap_or_default();
        let mut rows: Vec<Auction> =
            now.auctions.iter().flatten().filter_map(|auction| row(auction, &earlier, passed)).collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.rate));
        let rate = before.map(|_| rows.iter().filter_map(|row| row.rate).sum());
        let services = now.services.iter().map(|service| {
            let earlier = service_before(before, service);
            [service.name.clone(), service.status.clone(), figures(service, earlier, now, passed)]
        });
        Self { total: now.total, rate, rows, services: services.collect(), trouble: trouble(before, now) }
    }

    /// The report for people and programs that read lines.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("{} live auctions, {} bids/s", self.total, shown(self.rate))];
        lines.extend(self.services.iter().map(|cells| cells.join("  ").trim_end().to_owned()));
        lines.extend(self.rows.iter().map(|row| {
            let Auction { texts: [title, left, price, leader], bids, rate, people, id } = row;
            format!("{id}  {left}  {price}  {leader}  {bids} bids  {}/s  {people} watching  {title}", shown(*rate))
        }));
        lines.extend(self.trouble.iter().map(|trouble| format!("TROUBLE: {trouble}")));
        lines
    }
}

/// A rate, or that it is not known yet.
pub fn shown(rate: Option<u64>) -> String {
    rate.map_or_else(|| "-".to_owned(), |rate| rate.to_string())
}

fn id(auction: &Value) -> Option<String> {
    auction["auction_id"].as_str().map(clean)
}

fn row(auction: &Value, earlier: &HashMap<String, u64>, passed: Option<Duration>) -> Option<Auction> {
    let id = id(auction)?;
    let bids = auction["bid_count"].as_u64().unwrap_or_default();
    let text = |name: &str| clean(auction[name].as_str().unwrap_or("-"));
    let seconds = auction["time_remaining_seconds"].as_u64().unwrap_or_default();
    let price = money(&auction["current_high_bid"]).unwrap_or_else(|| "-".to_owned());
    let rate = passed.zip(earlier.get(&id)).map(|(passed, before)| per_second(bids.saturating_sub(*before), passed));
    let people = auction["participant_count"].as_u64().unwrap_or_default();
    let texts = [text("title"), countdown(seconds.saturating_mul(1000)), price, text("high_bidder_username")];
    Some(Auction { texts, bids, rate, people, id })
}

/// Rounded to whole ones.
fn per_second(count: u64, passed: Duration) -> u64 {
    let ms = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX).max(1);
    count.saturating_mul(1000).saturating_add(ms / 2) / ms
}

/// The same service in the round before. One that did not answer then has no counts to compare with.
fn service_before<'a>(before: Option<&'a Round>, service: &Service) -> Option<&'a Service> {
    before?.services.iter().find(|other| other.name == service.name && !other.metrics.is_empty())
}

/// The important figures of a service, in a few words.
fn figures(service: &Service, before: Option<&Service>, round: &Round, passed: Option<Duration>) -> String {
    let get = |name: &str| service.metrics.get(name).unwrap_or_default();
    // A process that has started again counts from 0.
    let growth =
        |name: &str| (get(name) - before.and_then(|before| before.metrics.get(name)).unwrap_or_default()).max(0.0);
    let mean = |name: &str| {
        let count = growth(&format!("{name}_count"));
        if before.is_none() || count < 1.0 {
            return "-".to_owned();
        }
        format!("{:.1} ms", growth(&format!("{name}_sum")) / count * 1000.0)
    };
    let rate = |name: &str| match passed {
        Some(passed) if before.is_some() => format!("{:.0}/s", growth(name) / passed.as_secs_f64().max(0.001)),
        _ => "-/s".to_owned(),
    };
    let behind = |name: &str| {
        let consumer = round.consumers.iter().find(|consumer| consumer.name == name);
        consumer.map_or_else(String::new, |consumer| format!("{} behind", consumer.behind))
    };
    match service.name.as_str() {
        "bid-processing" => format!(
            "accepted {}, answer {}, append {}, log {:.0} % full",
            rate("flash_bids_accepted_total"),
            mean("flash_bid_seconds"),
            mean("flash_log_append_seconds"),
            get("flash_log_used_ratio") * 100.0
        ),
        "websocket" => format!(
            "{} connections, {:.0} KiB queued, bid to room {}",
            get("flash_connections"),
            get("flash_send_queue_bytes") / 1024.0,
            mean("flash_record_delivery_seconds")
        ),
        "timer" => format!("ticks {}, close lag {}", rate("flash_ticks_sent_total"), mean("flash_close_lag_seconds")),
        "bid-persistence" => behind(protocol::subject::PERSISTENCE_CONSUMER),
        "auction-management" => behind(protocol::subject::RESULTS_CONSUMER),
        "auction-notifications" => format!("mails {}", rate("flash_mails_sent_total")),
        _ => String::new(),
    }
}

fn trouble(before: Option<&Round>, now: &Round) -> Vec<String> {
    let mut found: Vec<String> = now.auctions.as_ref().err().cloned().into_iter().collect();
    for service in &now.services {
        if service.status != "ready" {
            found.push(format!("{} is {}", service.name, service.status.replace('_', " ")));
        }
        let Some(earlier) = service_before(before, service) else { continue };
        let failed = |service: &Service| service.metrics.sum("flash_bid_answers_total{", &FAILURES);
        let failures = failed(service) - failed(earlier);
        if failures > 0.0 {
            found.push(format!("{failures} bids unavailable, overloaded or of unknown outcome"));
        }
        let halted = |service: &Service| service.metrics.get("flash_auctions_halted_total").unwrap_or_default();
        if halted(service) > halted(earlier) {
            found.push("an auction was halted: its log or state is inconsistent".to_owned());
        }
    }
    let used = now.services.iter().filter_map(|service| service.metrics.get("flash_log_used_ratio"));
    if let Some(used) = used.reduce(f64::max).filter(|used| *used >= LOG_FILLING) {
        found.push(format!("the log is {:.0} % full", used * 100.0));
    }
    if now.has_silent_monitor {
        found.push("the monitor of nats-server does not answer".to_owned());
    }
    for consumer in now.consumers.iter().filter(|consumer| consumer.behind >= MANY_BEHIND) {
        found.push(format!("{} is {} messages behind", consumer.name, consumer.behind));
    }
    if now.dead_letters > 0 {
        found.push(format!("{} dead letters", now.dead_letters));
    }
    found
}

#[cfg(test)]
pub mod tests {
    use serde_json::json;
    use tokio::time::Instant;

    use super::super::collect::{Consumer, Metrics};
    use super::*;

    fn service(name: &str, status: &str, metrics: &str) -> Service {
        Service { name: name.to_owned(), status: status.to_owned(), metrics: Metrics::parse(metrics) }
    }

    /// A round with two auctions, this many seconds after `start`.
    pub fn round(start: Instant, seconds: u64, bids: u64, metrics: &str) -> Round {
        let auction = |id: &str, title: &str, bids: u64| {
            json!({"auction_id": id, "title": title, "bid_count": bids, "current_high_bid": 1500.5,
                "high_bidder_username": "anna", "participant_count": 3, "time_remaining_seconds": 61})
        };
        Round {
            at: start + Duration::from_secs(seconds),
            auctions: Ok(vec![auction("a1", "Lamp", 4), auction("a2", "Cello\u{1b}[2J", bids)]),
            total: 2,
            services: vec![service("bid-processing", "ready", metrics)],
            consumers: vec![Consumer { name: "bid-persistence".to_owned(), behind: 3 }],
            dead_letters: 0,
            has_silent_monitor: false,
        }
    }

    #[test]
    fn service_that_was_silent_or_started_again_is_not_compared() {
        let start = Instant::now();
        let metrics = "flash_bids_accepted_total 90000\nflash_auctions_halted_total 3\n\
                       flash_bid_answers_total{code=\"unavailable\"} 7\n";
        let (silent, answers) = (round(start, 0, 10, ""), round(start, 2, 10, metrics));
        let report = Report::of(Some(&silent), &answers);
        assert_eq!(report.services[0][2], "accepted -/s, answer -, append -, log 0 % full");
        assert_eq!(report.trouble, Vec::<String>::new());
        let report = Report::of(Some(&answers), &round(start, 4, 10, "flash_bids_accepted_total 5\n"));
        assert_eq!(report.services[0][2], "accepted 0/s, answer -, append -, log 0 % full");
    }

    #[test]
    fn rates_are_those_between_two_rounds_and_the_busiest_comes_first() {
        let start = Instant::now();
        let first = round(start, 0, 10, "flash_bid_seconds_sum 1\nflash_bid_seconds_count 100\n");
        let report = Report::of(None, &first);
        assert_eq!((report.rate, report.rows[0].rate), (None, None));
        let metrics = "flash_bid_seconds_sum 1.4\nflash_bid_seconds_count 300\nflash_log_used_ratio 0.5\n";
        let report = Report::of(Some(&first), &round(start, 2, 50, metrics));
        assert_eq!((report.total, report.rate), (2, Some(20)));
        assert_eq!(report.rows[0].texts, ["Cello [2J", "1:01", "1,500.50", "anna"].map(str::to_owned));
        assert_eq!((report.rows[0].rate, report.rows[1].rate), (Some(20), Some(0)));
        assert_eq!(report.services[0][2], "accepted 0/s, answer 2.0 ms, append -, log 50 % full");
        assert_eq!(report.trouble, Vec::<String>::new());
        let lines = report.lines();
        assert_eq!(lines[0], "2 live auctions, 20 bids/s");
        assert_eq!(lines[2], "a2  1:01  1,500.50  anna  50 bids  20/s  3 watching  Cello [2J");
    }

    #[test]
    fn each_kind_of_trouble_is_named() {
        let start = Instant::now();
        let answers = |count: u32| format!("flash_bid_answers_total{{code=\"unavailable\"}} {count}\n");
        let first = round(start, 0, 10, &answers(1));
        let mut now =
            round(start, 2, 10, &format!("{}flash_auctions_halted_total 1\nflash_log_used_ratio 0.8\n", answers(4)));
        now.services.push(service("timer", "not_ready", ""));
        now.consumers[0].behind = MANY_BEHIND;
        now.dead_letters = 2;
        now.has_silent_monitor = true;
        assert_eq!(
            Report::of(Some(&first), &now).trouble,
            [
                "3 bids unavailable, overloaded or of unknown outcome",
                "an auction was halted: its log or state is inconsistent",
                "timer is not ready",
                "the log is 80 % full",
                "the monitor of nats-server does not answer",
                "bid-persistence is 1000 messages behind",
                "2 dead letters",
            ]
        );
        now.auctions = Err("connection refused".to_owned());
        assert_eq!(Report::of(None, &now).trouble[0], "connection refused");
    }
}

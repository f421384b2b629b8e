//! One round of questions: the live auctions, the services and their metrics, the consumers of the log.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use futures_util::future::join_all;
use serde_json::Value;
use testkit::http;
use tokio::time::Instant;

/// Auctions asked for, those that end first. A terminal has fewer lines.
const AUCTIONS: u32 = 100;

/// Time for one answer. A round must not outlast its interval.
const ANSWER_WITHIN: Duration = Duration::from_millis(1_500);

/// Where the answers come from.
pub struct Sources {
    /// The address below which the API is, such as `http://127.0.0.1:8001/api`.
    pub api: String,
    /// Name and address of each service instance.
    pub services: Vec<(String, String)>,
    /// The address of the monitor of nats-server.
    pub monitor: Option<String>,
}

/// A service instance.
#[derive(Debug, Default)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// The status that it reports, or that it does not answer.
    pub status: String,
    /// Samples by name, with their labels as they are written.
    pub metrics: Metrics,
}

/// The samples of `/metrics`.
#[derive(Debug, Default)]
pub struct Metrics(BTreeMap<String, f64>);

/// A consumer of a stream, and the messages that it has not got yet.
#[derive(Debug)]
pub struct Consumer {
    /// Its name.
    pub name: String,
    /// Messages that wait for it.
    pub behind: u64,
}

/// All answers of one round.
#[derive(Debug)]
pub struct Round {
    /// When the last answer came.
    pub at: Instant,
    /// The auctions, or why there are none.
    pub auctions: Result<Vec<Value>, String>,
    /// Live auctions, those that were not asked for included.
    pub total: u64,
    /// The service instances.
    pub services: Vec<Service>,
    /// The consumers.
    pub consumers: Vec<Consumer>,
    /// Messages that were given up.
    pub dead_letters: u64,
    /// The monitor of nats-server is known and did not answer.
    pub has_silent_monitor: bool,
}

impl Metrics {
    /// Whether there is no sample: the service did not answer.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads the text format.
    pub fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let sample = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Self(samples.filter_map(sample).collect())
    }

    /// A sample without labels.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// The sum of the samples of a name whose labels contain one of these texts.
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let of_name = self.0.range(name.to_owned()..).take_while(|(sample, _)| sample.starts_with(name));
        of_name
            .filter(|(sample, _)| labels.iter().any(|label| sample.contains(label)))
            .fold(0.0, |sum, (_, value)| sum + value)
    }
}

impl Sources {
    /// Asks everything at once. A service that does not answer is shown as such.
    pub async fn round(&self) -> Round {
        let services = join_all(self.services.iter().map(|(name, url)| service(name, url)));
        let (page, services, streams) = tokio::join!(self.auctions(), services, self.streams());
        let total = page.as_ref().ok().and_then(|page| page["total"].as_u64()).unwrap_or_default();
        let list = |page: Value| page["auctions"].as_array().cloned().unwrap_or_default();
        let auctions = page.map(list).map_err(|error| format!("{error:#}"));
        let has_silent_monitor = self.monitor.is_some() && streams.is_none();
        let (consumers, dead_letters) = streams.unwrap_or_default();
        Round { at: Instant::now(), auctions, total, services, consumers, dead_letters, has_silent_monitor }
    }

    async fn auctions(&self) -> Result<Value> {
        let reply = get(&format!("{}/auctions?status=live&sort=ending&limit={AUCTIONS}", self.api)).await?;
        anyhow::ensure!(reply.status == 200, "the API replied {}: {}", reply.status, reply.text);
        Ok(reply.json)
    }

    /// The durable consumers, and the number of dead letters.
    async fn streams(&self) -> Option<(Vec<Consumer>, u64)> {
        let url = format!("{}/jsz?streams=true&consumers=true", self.monitor.as_ref()?);
        let reply = get(&url).await.ok().filter(|reply| reply.status == 200)?;
        Some(streams(&reply.json))
    }
}

/// Consumers and dead letters in the reply of the monitor of nats-server.
pub fn streams(jsz: &Value) -> (Vec<Consumer>, u64) {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let details: Vec<Value> =
        list(&jsz["account_details"]).iter().flat_map(|account| list(&account["stream_detail"])).collect();
    let durable = [protocol::subject::PERSISTENCE_CONSUMER, protocol::subject::RESULTS_CONSUMER];
    let consumer = |detail: &Value| {
        let name = detail["name"].as_str().filter(|name| durable.contains(name))?.to_owned();
        Some(Consumer { name, behind: detail["num_pending"].as_u64()? })
    };
    let consumers =
        details.iter().flat_map(|stream| list(&stream["consumer_detail"])).filter_map(|detail| consumer(&detail));
    let dead = details.iter().find(|stream| stream["name"] == protocol::subject::DEAD_LETTER_STREAM);
    (consumers.collect(), dead.and_then(|stream| stream["state"]["messages"].as_u64()).unwrap_or_default())
}

async fn get(url: &str) -> Result<http::Reply> {
    tokio::time::timeout(ANSWER_WITHIN, http::get(url, None)).await?
}

async fn service(name: &str, url: &str) -> Service {
    let (ready, metrics) = (format!("{url}/ready"), format!("{url}/metrics"));
    let (ready, metrics) = tokio::join!(get(&ready), get(&metrics));
    let status = ready.ok().and_then(|reply| Some(reply.json["status"].as_str()?.to_owned()));
    let metrics = metrics.ok().filter(|reply| reply.status == 200);
    let metrics = metrics.map(|reply| Metrics::parse(&reply.text)).unwrap_or_default();
    Service { name: name.to_owned(), status: status.unwrap_or_else(|| "no answer".to_owned()), metrics }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn samples_are_found_by_name_and_summed_by_label() {
        let text = "# TYPE flash_bid_answers_total counter\nflash_bid_answers_total{code=\"accepted\"} 7\n\
                    flash_bid_answers_total{code=\"unavailable\"} 2\nflash_bid_answers_total{code=\"overloaded\"} 1\n\
                    flash_bid_answers_total_other{code=\"overloaded\"} 9\nflash_log_used_ratio 0.25\nbroken\n";
        let metrics = Metrics::parse(text);
        assert_eq!((metrics.get("flash_log_used_ratio"), metrics.get("flash_timer_elected")), (Some(0.25), None));
        let sum = |labels: &[&str]| metrics.sum("flash_bid_answers_total{", labels).to_string();
        assert_eq!((sum(&["unavailable", "overloaded"]), sum(&["outcome_unknown"])), ("3".to_owned(), "0".to_owned()));
    }

    #[test]
    fn consumers_and_dead_letters_are_those_of_the_monitor() {
        let jsz = json!({"account_details": [{"stream_detail": [
            {"name": "AUCTION_LOG", "state": {"messages": 9}, "consumer_detail": [
                {"name": "bid-persistence", "num_pending": 4}, {"name": "auction-results", "num_pending": 0},
                {"name": "an ordered one", "num_pending": 9}]},
            {"name": "AUCTION_DLQ", "state": {"messages": 2}},
        ]}]});
        let (consumers, dead) = streams(&jsz);
        let found: Vec<_> = consumers.iter().map(|consumer| (consumer.name.as_str(), consumer.behind)).collect();
        assert_eq!((found, dead), (vec![("bid-persistence", 4), ("auction-results", 0)], 2));
        let (consumers, dead) = streams(&Value::Null);
        assert!(consumers.is_empty() && dead == 0);
    }
}

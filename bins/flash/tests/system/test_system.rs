//! One running system for one test, with the requests that clients and operators send to it.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use flash::stack::{Name, connections};
use flash::{Options, Ports, Stack};
use serde_json::{Value, json};
use testkit::http::{self, Reply};
use testkit::scratch::{Scratch, tools};
use testkit::socket::{Socket, Transport};
use testkit::{Proxy, Topology};

/// The program that runs a service as a separate process.
pub fn program() -> std::path::PathBuf {
    env!("CARGO_BIN_EXE_flash").into()
}

/// A running system with a directory of its own.
pub struct TestSystem {
    pub stack: Stack,
    // Declared after the stack, so that the servers end before their data is removed.
    scratch: Scratch,
}

impl TestSystem {
    /// Starts one instance of each service, all in this process.
    pub async fn start(test: &str) -> Result<Self> {
        Self::start_with(test, |_| {}).await
    }

    /// Starts with these settings; `processes` makes each service a separate process.
    pub async fn with(test: &str, settings: Vec<(String, String)>, processes: bool) -> Result<Self> {
        Self::start_with(test, |options| {
            options.settings = settings;
            options.processes = processes.then(program);
        })
        .await
    }

    /// Replaces bid-processing by an instance that reaches Redis through a proxy.
    pub async fn redis_behind_a_proxy(&mut self) -> Result<Proxy> {
        let servers = &self.stack.servers;
        let proxy = Proxy::start(servers.redis[0].port).await?;
        let url = servers.redis_url().replace(&servers.redis[0].port.to_string(), &proxy.port.to_string());
        self.stack.add_instance_with(Name::BidProcessing, &[("REDIS_URL", url)]).await?;
        self.stack.kill_instance(Name::BidProcessing, 0).await?;
        Ok(proxy)
    }

    /// The directory of its data.
    pub fn path(&self) -> &std::path::Path {
        self.scratch.path()
    }

    /// Starts with this number of bid-processing instances.
    pub async fn with_instances(test: &str, count: usize) -> Result<Self> {
        Self::start_with(test, |options| options.instances = BTreeMap::from([(Name::BidProcessing, count)])).await
    }

    /// Starts after `change` has changed the defaults: one server and one instance of each, all services in this
    /// process.
    pub async fn start_with(test: &str, change: impl FnOnce(&mut Options)) -> Result<Self> {
        let scratch = Scratch::new(test)?;
        let mut options = Options {
            directory: scratch.path().to_owned(),
            tools: tools(),
            ports: Ports::Free,
            topology: Topology::default(),
            instances: BTreeMap::new(),
            processes: None,
            settings: Vec::new(),
        };
        change(&mut options);
        let stack = Stack::start(options, &|step| eprintln!("{step} …")).await?;
        Ok(Self { stack, scratch })
    }

    /// Stops everything and removes the data. Called by tests that passed; fails if a service asked for what it has no
    /// right to.
    pub async fn end(self) {
        let refused = self.stack.servers.refusals().await.expect("the log of NATS");
        assert!(refused.is_empty(), "a service lacks a right of libs/protocol/src/rights.rs: {refused:#?}");
        self.end_with_refusals().await;
    }

    /// The same for a test that tries what a login may not.
    pub async fn end_with_refusals(self) {
        self.stack.stop().await;
        self.scratch.remove();
    }

    /// A token of the user with this name.
    pub fn token(&self, name: &str) -> Result<String> {
        self.stack.issuer.token(name)
    }

    /// The address of a path of auction-management.
    pub fn management(&self, path: &str) -> String {
        format!("{}{path}", self.stack.url(Name::AuctionManagement))
    }

    /// Creates an auction and returns it.
    pub async fn create(&self, host: &str, auction: &Value) -> Result<Value> {
        let reply = http::post(&self.management("/auctions"), Some(&self.token(host)?), auction).await?;
        ensure!(reply.status == 201, "{} {}", reply.status, reply.text);
        Ok(reply.json)
    }

    /// Creates an auction and returns its id.
    pub async fn auction(&self, auction: &Value) -> Result<String> {
        Ok(self.create("host", auction).await?["auction_id"].as_str().context("an id")?.to_owned())
    }

    /// Places a bid at the `nth` instance of bid-processing.
    pub async fn bid_at(&self, nth: usize, token: &str, bid: &Value) -> Result<Reply> {
        let urls = self.stack.urls(Name::BidProcessing);
        http::post(&format!("{}/bids", urls[nth % urls.len()]), Some(token), bid).await
    }

    /// Places a bid of the user with this name.
    pub async fn bid(&self, name: &str, auction_id: &str, amount: &Value) -> Result<Reply> {
        self.bid_at(0, &self.token(name)?, &json!({"auction_id": auction_id, "amount": amount})).await
    }

    /// A connected socket, with its `connected` frame read.
    pub async fn socket(&self, name: &str) -> Result<Socket> {
        self.socket_at(self.stack.url(Name::Websocket), name).await
    }

    /// The same at this edge.
    pub async fn socket_at(&self, edge: &str, name: &str) -> Result<Socket> {
        Socket::enter(edge, Transport::Plain, &self.token(name)?).await
    }

    /// Every record of an auction, as JSON.
    pub async fn log(&self, auction_id: &str) -> Result<Vec<Value>> {
        let bus = self.bus().await?;
        let log = bus::Log::open(&bus).await?;
        let records = log.records(auction_id.parse()?, 0).await?.collect().await?;
        records.iter().map(|logged| Ok(serde_json::to_value(&logged.record)?)).collect()
    }

    /// The value of a metric without labels at each instance of a service.
    pub async fn metric<T>(&self, service: Name, metric: &str) -> Result<Vec<T>>
    where
        T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
    {
        let mut values = Vec::new();
        for url in self.stack.urls(service) {
            let text = http::get(&format!("{url}/metrics"), None).await?.text;
            let value = text.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
            values.push(value.with_context(|| format!("{metric} is not in {text}"))?.parse()?);
        }
        Ok(values)
    }

    /// A connection to NATS with a login that may do everything.
    pub async fn bus(&self) -> Result<bus::Bus> {
        Ok(bus::Bus::connect(&connections::nats(&self.stack.servers), "test").await?)
    }

    /// Every bid in the log, after a check that seq is dense and in order and that the chain of heads is unbroken.
    pub async fn checked_bids(&self, auction_id: &str) -> Result<Vec<protocol::Bid>> {
        let bus = self.bus().await?;
        let records = bus::Log::open(&bus).await?.records(auction_id.parse()?, 0).await?.collect().await?;
        let (mut seq, mut head, mut stream_seq) = (0, domain::Head::GENESIS, 0);
        let mut bids = Vec::new();
        for logged in records {
            let record = logged.record;
            ensure!(logged.stream_seq > stream_seq, "the records are not in the order of the stream");
            ensure!(record.prev == head, "record {} does not continue the chain", record.seq);
            let facts = record.bids.len().max(1) as u64;
            ensure!(record.seq == seq + facts, "seq {} after {seq} with {facts} facts", record.seq);
            let mut chain = head;
            for (bid, expected) in record.bids.iter().zip(seq + 1..) {
                ensure!(bid.seq == expected, "bid {} at place {expected}", bid.seq);
                chain = chain.next(&bid.fact().text());
            }
            ensure!(
                record.bids.is_empty() || chain == record.head,
                "record {} has another head than its bids give",
                record.seq
            );
            (seq, head, stream_seq) = (record.seq, record.head, logged.stream_seq);
            bids.extend(record.bids);
        }
        Ok(bids)
    }

    /// Waits until the history in DynamoDB has `count` bids; returns them, oldest first.
    pub async fn history(&self, auction_id: &str, count: usize) -> Result<Vec<Value>> {
        let mut bids = Vec::new();
        for _ in 0..400 {
            bids.clear();
            let mut before = String::new();
            loop {
                let url = self.management(&format!("/auctions/{auction_id}/bids?limit=100{before}"));
                let page = http::get(&url, None).await?;
                ensure!(page.status == 200, "{}", page.text);
                bids.extend(page.json["bids"].as_array().context("bids")?.iter().cloned());
                match page.json["next_before_seq"].as_u64() {
                    Some(seq) => before = format!("&before_seq={seq}"),
                    None => break,
                }
            }
            if bids.len() >= count {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        ensure!(bids.len() == count, "{} of {count} bids in the history", bids.len());
        bids.reverse();
        Ok(bids)
    }

    /// Waits until the auction's row in PostgreSQL has the result.
    pub async fn closed_row(&self, auction_id: &str) -> Result<protocol::Stored> {
        let store = store::Store::connect(&self.stack.servers.postgres_url()).await?;
        testkit::eventually("the row has the result", async || {
            let row = store.auction(auction_id.parse()?).await?.context("a row")?;
            Ok(row.outcome.is_some().then_some(row))
        })
        .await
    }

    /// Sends GET requests to auction-management until an answer fits, for ten seconds.
    pub async fn wait_for(&self, path: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        self.wait_at(&self.management(path), fits).await
    }

    /// The same for any address.
    pub async fn wait_at(&self, url: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = Value::Null;
        let found = testkit::eventually("the expected answer", async || {
            let Ok(reply) = http::get(url, None).await else { return Ok(None) };
            last = reply.json;
            Ok(fits(&last).then(|| last.clone()))
        });
        let found = found.await;
        found.with_context(|| format!("{url} returned last: {last}"))
    }
}

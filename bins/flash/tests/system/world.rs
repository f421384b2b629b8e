//! One running system for one test, and what an outsider does with it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use flash::stack::Name;
use flash::{Options, Ports, Stack};
use serde_json::{Value, json};
use testkit::Topology;
use testkit::http::{self, Reply};
use testkit::scratch::{Scratch, tools};
use testkit::socket::{Socket, Transport};

/// Runs a service as a process of its own.
pub fn program() -> std::path::PathBuf {
    env!("CARGO_BIN_EXE_flash").into()
}

pub struct World {
    pub stack: Stack,
    // After the stack: the servers end before their data goes.
    scratch: Scratch,
}

impl World {
    pub async fn start(test: &str) -> Result<Self> {
        Self::shaped(test, |_| {}).await
    }

    /// With these settings, each service a process of its own or not.
    pub async fn with(test: &str, settings: Vec<(String, String)>, processes: bool) -> Result<Self> {
        Self::shaped(test, |options| {
            options.settings = settings;
            options.processes = processes.then(program);
        })
        .await
    }

    pub fn path(&self) -> &std::path::Path {
        self.scratch.path()
    }

    /// With so many instances of bid-processing.
    pub async fn with_instances(test: &str, count: usize) -> Result<Self> {
        Self::shaped(test, |options| options.instances = BTreeMap::from([(Name::BidProcessing, count)])).await
    }

    /// With whatever differs from one server and one instance of each, all services in this process.
    pub async fn shaped(test: &str, shape: impl FnOnce(&mut Options)) -> Result<Self> {
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
        shape(&mut options);
        let stack = Stack::start(options, &|step| eprintln!("{step} …")).await?;
        Ok(Self { stack, scratch })
    }

    /// The test has passed: everything ends, and nothing is left.
    pub async fn end(self) {
        self.stack.stop().await;
        self.scratch.remove();
    }

    pub fn token(&self, name: &str) -> Result<String> {
        self.stack.issuer.token(name)
    }

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

    pub async fn bid(&self, name: &str, auction_id: &str, amount: &Value) -> Result<Reply> {
        self.bid_at(0, &self.token(name)?, &json!({"auction_id": auction_id, "amount": amount})).await
    }

    /// A connected socket, with its `connected` frame read.
    pub async fn socket(&self, name: &str) -> Result<Socket> {
        self.socket_at(self.stack.url(Name::Websocket), name).await
    }

    pub async fn socket_at(&self, edge: &str, name: &str) -> Result<Socket> {
        Socket::enter(edge, Transport::Plain, &self.token(name)?).await
    }

    /// Every record of an auction, as a person reads them.
    pub async fn log(&self, auction_id: &str) -> Result<Vec<Value>> {
        let bus = self.bus().await?;
        let log = bus::Log::open(&bus).await?;
        let records = log.all(auction_id.parse()?).await?;
        records.iter().map(|logged| Ok(serde_json::to_value(&logged.record)?)).collect()
    }

    pub async fn bus(&self) -> Result<bus::Bus> {
        let settings = bus::Settings { url: self.stack.servers.nats_url(), credentials_file: None };
        Ok(bus::Bus::connect(&settings, "test").await?)
    }

    /// Every bid in the log, after checking that seq is dense, in order, and that the chain holds.
    pub async fn checked_bids(&self, auction_id: &str) -> Result<Vec<protocol::Bid>> {
        let bus = self.bus().await?;
        let records = bus::Log::open(&bus).await?.all(auction_id.parse()?).await?;
        let (mut seq, mut head, mut stream_seq) = (0, domain::Head::GENESIS, 0);
        let mut bids = Vec::new();
        for logged in records {
            let record = logged.record;
            ensure!(logged.stream_seq > stream_seq, "order of the stream");
            ensure!(record.prev == head, "record {} does not continue the chain", record.seq);
            let facts = record.bids.len().max(1) as u64;
            ensure!(record.seq == seq + facts, "seq {} after {seq} with {facts} facts", record.seq);
            let mut chain = head;
            for (bid, expected) in record.bids.iter().zip(seq + 1..) {
                ensure!(bid.seq == expected, "bid {} at place {expected}", bid.seq);
                chain = chain.next(&bid.fact().text());
            }
            ensure!(record.bids.is_empty() || chain == record.head, "the head of record {} is another", record.seq);
            (seq, head, stream_seq) = (record.seq, record.head, logged.stream_seq);
            bids.extend(record.bids);
        }
        Ok(bids)
    }

    /// The history in DynamoDB once it has `count` bids, oldest first.
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

    /// The auction's row in PostgreSQL once it has the result.
    pub async fn closed_row(&self, auction_id: &str) -> Result<protocol::Stored> {
        let store = store::Store::connect(&self.stack.servers.postgres_url()).await?;
        for _ in 0..400 {
            let row = store.auction(auction_id.parse()?).await?.context("a row")?;
            if row.outcome.is_some() {
                return Ok(row);
            }
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
        anyhow::bail!("the row never got its result")
    }

    /// Asks until the answer satisfies, for ten seconds.
    pub async fn wait_for(&self, path: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        self.wait_at(&self.management(path), fits).await
    }

    pub async fn wait_at(&self, url: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = Value::Null;
        for _ in 0..400 {
            if let Ok(reply) = http::get(url, None).await {
                last = reply.json;
                if fits(&last) {
                    return Ok(last);
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
        anyhow::bail!("{url} never became what was expected: {last}")
    }
}

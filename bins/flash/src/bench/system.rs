//! The stack that is measured: a private one, or the one that `flash up` runs here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use testkit::http::{self, Caller};

use super::Impossible;
use super::processes::Watched;
use crate::checkout;
use crate::stack::{Issuer, Name, Stack, connections, description};

/// Auctions that are created at the same time: enough for the services to share their syncs.
const CREATING: usize = 32;
/// Auctions of one host: half of what the default of `MAX_OPEN_AUCTIONS_PER_USER` allows.
const AUCTIONS_OF_A_HOST: u64 = 50;

/// Addresses, logins and processes of a stack.
pub struct System {
    urls: BTreeMap<Name, String>,
    issuer: Issuer,
    nats: bus::Settings,
    /// Its processes, and this one.
    pub watched: Vec<Watched>,
    /// A part of the names of all people, so that the limits of one run on a running stack do not meet those of another.
    run: String,
    created: AtomicU64,
}

impl System {
    /// A private stack as it is now.
    pub fn of(stack: &Stack) -> Self {
        // The first instance stands for its service, which may be stopped.
        let first = |name| Some((name, (*stack.urls(name).first()?).to_owned()));
        let urls = Name::ALL.into_iter().filter_map(first).collect();
        let (issuer, nats) = (stack.issuer.clone(), connections::nats(&stack.servers));
        Self { urls, issuer, nats, watched: watched(stack), run: String::new(), created: AtomicU64::new(0) }
    }

    /// The running stack of this checkout.
    ///
    /// # Errors
    /// When there is none, or it does not answer.
    pub async fn running() -> Result<Self> {
        let directory = checkout::directory();
        let stack = description::read(&directory).map_err(|error| Impossible(format!("{error:#}")))?;
        let mut urls = BTreeMap::new();
        for name in Name::ALL {
            urls.insert(name, description::text(&stack["services"][name.text()]["url"])?);
        }
        for url in urls.values() {
            if let Err(error) = http::get(&format!("{url}/health"), None).await {
                return Err(
                    Impossible(format!("the stack that stack.json describes does not answer: {error:#}")).into()
                );
            }
        }
        let url = description::nats_url_of(&directory, &stack, testkit::DEVELOPER)?;
        Ok(Self {
            urls,
            issuer: description::issuer(&directory, &stack)?,
            nats: bus::Settings { url, ..description::operator(&stack)? },
            watched: described(&stack)?,
            run: format!("-{}", &uuid::Uuid::new_v4().simple().to_string()[..6]),
            created: AtomicU64::new(0),
        })
    }

    /// The address of a service.
    pub fn url(&self, name: Name) -> &str {
        self.urls.get(&name).map_or("", String::as_str)
    }

    /// The name of a person who takes part.
    pub fn person(&self, nth: u64) -> String {
        format!("bench{}-{nth}", self.run)
    }

    /// A token of the person with this name.
    pub fn token(&self, name: &str) -> Result<String> {
        self.issuer.token(name)
    }

    /// A connection to NATS with all rights.
    pub async fn bus(&self) -> Result<bus::Bus> {
        Ok(bus::Bus::connect(&self.nats, "flash bench").await?)
    }

    /// The metrics of a service.
    pub async fn metrics(&self, name: Name) -> Result<String> {
        Ok(http::get(&format!("{}/metrics", self.url(name)), None).await?.text)
    }

    /// Creates this number of auctions, several at once, of as many hosts as their limits take; returns their ids. Each
    /// request is made when its turn comes.
    pub async fn create(&self, count: u64, auction: impl Fn(u64) -> Result<Value>) -> Result<Vec<String>> {
        let first = self.created.fetch_add(count, Ordering::Relaxed);
        let host = |nth: u64| (first + nth) / AUCTIONS_OF_A_HOST;
        let mut tokens = BTreeMap::new();
        for host in host(0)..=host(count.max(1) - 1) {
            tokens.insert(host, self.token(&format!("bench{}-host-{host}", self.run))?);
        }
        let (url, caller) = (format!("{}/auctions", self.url(Name::AuctionManagement)), Caller::new());
        let creating = stream::iter(0..count).map(|nth| {
            let (auction, token) = (auction(nth), tokens.get(&host(nth)).map(String::as_str));
            let (caller, url) = (&caller, &url);
            async move {
                let created = caller.post(url, token, &auction?).await?;
                let id = created.json["auction_id"].as_str();
                let id = id.with_context(|| format!("failed to create an auction: {}", created.text))?;
                anyhow::Ok(id.to_owned())
            }
        });
        creating.buffered(CREATING).try_collect().await
    }

    /// Creates this number of auctions that take bids for the longest benchmark.
    pub async fn create_for_bids(&self, count: u64) -> Result<Vec<String>> {
        let auction = |nth| {
            Ok(json!({"title": format!("Bench {nth}"), "duration": 3_600, "starting_bid": 1, "video": false,
                "minimum_increment": "0.01"}))
        };
        self.create(count, auction).await
    }
}

/// The processes of a private stack.
pub fn watched(stack: &Stack) -> Vec<Watched> {
    let servers = &stack.servers;
    let instances = stack.instances.iter().map(|instance| Watched::alone(instance.name.text(), instance.pid()));
    let nats = servers.nats.iter().map(|nats| Watched::alone("nats-server", nats.process.pid()));
    let redis = servers.redis.iter().map(|redis| Watched::alone("redis-server", redis.process.pid()));
    let postgres = Watched { has_children: true, ..Watched::alone("postgres", servers.postgres.pid()) };
    let others = [postgres, Watched::alone("AWS emulator", servers.aws.pid()), Watched::load()];
    instances.chain(nats).chain(redis).chain(others).collect()
}

/// The processes of a described stack.
fn described(stack: &Value) -> Result<Vec<Watched>> {
    let pid = |part: &Value| part["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).context("a pid");
    let mut watched: Vec<Watched> = Vec::new();
    for name in Name::ALL {
        let process = Watched::alone(name.text(), pid(&stack["services"][name.text()])?);
        // By default one process runs all services.
        match watched.iter_mut().find(|other| other.pid == process.pid) {
            Some(shared) => shared.name = "all services".to_owned(),
            None => watched.push(process),
        }
    }
    for (name, part) in [("nats-server", "nats"), ("redis-server", "redis"), ("AWS emulator", "aws")] {
        watched.push(Watched::alone(name, pid(&stack[part])?));
    }
    let postgres = Watched::alone("postgres", pid(&stack["postgres"])?);
    watched.extend([Watched { has_children: true, ..postgres }, Watched::load()]);
    Ok(watched)
}

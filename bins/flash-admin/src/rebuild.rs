//! `flash-admin rebuild`: asks for the state of every running auction, which restores those that Redis has lost.
//!
//! bid-processing restores an auction by itself when it is next used. This command uses all of them, before bidders do.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use domain::AuctionId;
use protocol::{Reply, StateReply, StateRequest, subject};
use service::{Environment, Mistakes, Reader};

/// Time that one auction may take. bid-processing answers or gives up within 3 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The arguments of `rebuild`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only this auction; without it every auction that is not over
    #[arg(conflicts_with = "all")]
    auction: Option<String>,
    /// Every auction that is not over, as without an argument
    #[arg(long)]
    all: bool,
}

/// The settings of `rebuild`.
#[derive(Clone)]
pub struct Config {
    /// Where NATS is.
    pub nats: bus::Settings,
}

impl Config {
    /// Reads `NATS_URL` and `NATS_CREDS`.
    ///
    /// # Errors
    /// Every mistake in the settings at once.
    pub fn read(environment: &Environment) -> Result<Self, Mistakes> {
        let mut reader = Reader::new(environment);
        let nats = reader.part(bus::Settings::read);
        reader.finish(Self { nats })
    }
}

pub(crate) async fn run(arguments: &Arguments, environment: &Environment) -> Result<ExitCode> {
    let config = Config::read(environment)?;
    let bus = bus::Bus::connect(&config.nats, "flash-admin rebuild").await?;
    let auctions: Vec<AuctionId> = match &arguments.auction {
        Some(text) => vec![text.parse().with_context(|| format!("{text} is not the id of an auction"))?],
        None => {
            let mut last = bus::Log::open(&bus).await?.last_of_each().await?;
            let mut running = Vec::new();
            while let Some(logged) = last.next().await? {
                if logged.record.state.outcome.is_none() {
                    running.push(logged.record.auction_id);
                }
            }
            running
        }
    };
    let mut failed = 0;
    for auction_id in &auctions {
        let result = match state(&bus, *auction_id).await {
            Ok(seq) => format!("seq {seq}"),
            Err(error) => {
                failed += 1;
                format!("failed: {error:#}")
            }
        };
        println!("{auction_id}  {result}");
    }
    println!("{} auctions checked, {failed} failed", auctions.len());
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The seq of the auction's committed state, restored if Redis had lost it.
async fn state(bus: &bus::Bus, auction_id: AuctionId) -> Result<u64> {
    let request = StateRequest { auction_id };
    let reply: StateReply = bus::request(bus, subject::AUCTIONS_STATE, &request, ANSWER_TIMEOUT).await?;
    match reply {
        Reply::Ok(state) => Ok(state.seq),
        Reply::Failed(failure) => anyhow::bail!("{} ({})", failure.error, failure.code.name()),
    }
}

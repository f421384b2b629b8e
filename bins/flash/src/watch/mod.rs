//! `cargo flash watch`: a live auction on the terminal, from the same WebSocket that browsers use.

mod auction;
mod digits;
mod feed;
mod screen;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use domain::AuctionId;
use tokio::sync::mpsc::{self, Receiver};

use crate::checkout;
use crate::stack::description;
use crate::terminal::{MAX_WAITING, show};
use auction::{Auction, Link};
use feed::Feed;
use screen::{Update, now_ms};

/// The arguments of `watch`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Id of the auction
    #[arg(value_parser = |text: &str| text.parse::<AuctionId>().map(|id| id.to_string()))]
    auction: String,
    #[command(flatten)]
    edge: Edge,
    /// Print what happens line by line, as is done without a terminal
    #[arg(long)]
    plain: bool,
}

/// An edge that is not the running stack's.
#[derive(Debug, clap::Args)]
pub struct Edge {
    /// Address of an edge, in place of the running stack
    #[arg(long)]
    url: Option<String>,
    /// Certificates of the authorities that may have signed the edge's
    #[arg(long, value_name = "FILE", default_value = "/etc/ssl/certs/ca-certificates.crt")]
    ca_file: PathBuf,
}

/// Shows the auction until `q`, or prints lines until it ends.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let edge = match arguments.edge.address()? {
        Some(edge) => edge,
        None => description::text(&description::read(&checkout::directory())?["services"]["websocket"]["url"])?,
    };
    let feed = Feed { edge, auction_id: arguments.auction.clone() };
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let (sender, mut updates) = mpsc::channel(MAX_WAITING);
        let mut auction = Auction::default();
        let showing = async {
            if arguments.plain || !std::io::stdout().is_terminal() {
                print_lines(&mut auction, &mut updates).await
            } else {
                show(&mut auction, &mut updates).await
            }
        };
        tokio::select! {
            ended = feed.run(sender) => ended?,
            shown = showing => shown?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

impl Edge {
    /// The address, if one is given. The authorities are trusted from then on.
    pub fn address(&self) -> Result<Option<String>> {
        let Some(url) = &self.url else { return Ok(None) };
        let address = with_port(url).context("--url is an address such as https://auctions.example")?;
        if address.starts_with("https://") {
            let failed = || format!("failed to read the authorities in {}", self.ca_file.display());
            testkit::tls::trust(&self.ca_file).with_context(failed)?;
        }
        Ok(Some(address))
    }
}

/// The address of a server with its port, without a path.
fn with_port(url: &str) -> Option<String> {
    let (scheme, authority) = url.trim_end_matches('/').split_once("://")?;
    let port = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let is_bare = !authority.is_empty() && !authority.contains('/');
    is_bare.then(|| if has_port { format!("{scheme}://{authority}") } else { format!("{scheme}://{authority}:{port}") })
}

/// Prints what happens until the auction is over.
async fn print_lines(auction: &mut Auction, updates: &mut Receiver<Update>) -> Result<()> {
    let mut output = std::io::stdout();
    while let Some(update) = updates.recv().await {
        let news = match update {
            Update::Object(object) => {
                auction.describe(&object);
                Vec::new()
            }
            Update::Frame(event, data) => auction.apply(&event, &data, now_ms()),
            Update::Link(Link::Lost) => vec!["connection lost, trying again".to_owned()],
            Update::Link(_) => Vec::new(),
        };
        for line in news {
            writeln!(output, "{line}")?;
        }
        output.flush()?;
        if auction.is_over() {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::with_port;

    #[test]
    fn address_of_an_edge_has_a_port_and_no_path() {
        for (given, address) in [
            ("http://127.0.0.1:8001", Some("http://127.0.0.1:8001")),
            ("https://auctions.example/", Some("https://auctions.example:443")),
            ("http://[::1]", Some("http://[::1]:80")),
            ("auctions.example", None),
            ("ws://auctions.example", None),
            ("https://auctions.example/ws", None),
            ("https://", None),
        ] {
            assert_eq!(with_port(given).as_deref(), address, "{given}");
        }
    }
}

//! The load of a benchmark of bids, shared with its raw limits.

use testkit::socket::Transport;

use super::Impossible;

/// Cents between two bids. At one cent only the order of bids decides which of them are high enough.
pub const STEP_CENTS: u64 = 1;
/// Cents between two bids where some have a maximum. A maximum reaches to the amount of the bid after it, and so makes
/// one counter-bid; the counter-bid, and a rival maximum that meets this one, leave the next bid high enough.
pub const PROXY_STEP_CENTS: u64 = 4 * STEP_CENTS;
/// Bids of one script call, in the raw limit of batches.
pub const BATCH: usize = 64;

/// The arguments of `bench bids` and `bench ceiling`.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Load {
    /// Seconds of the measurement
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=300))]
    pub seconds: u64,
    /// Bids in flight, each of another user
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=2_000))]
    pub in_flight: u64,
    /// Auctions that the bids are spread over
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=20_000))]
    pub auctions: u64,
    /// Percentage of bids that are below the price
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=99))]
    pub too_low: u64,
    /// Share of bids with a maximum, from 0 to 1; the raw limits are those of plain bids
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    pub proxy: f64,
    /// The door that bids come through. Over `ws` and `socketio` each user has joined one auction and bids on it. Over
    /// `http`, `ws` and `socketio` bids of different people overtake each other, as those of real clients do, and
    /// overtaken bids are rejected as too low; over `nats`, which the edge uses, they stay in order
    #[arg(long, alias = "transport", value_enum, default_value_t = BidTransport::Nats)]
    pub door: BidTransport,
    /// Each person bids the next amount that it knows of, from answers and updates, as soon as it does not lead; through
    /// the doors with updates, `ws` and `socketio`
    #[arg(long, conflicts_with_all = ["rate", "too_low", "proxy"])]
    pub chase: bool,
    /// People who have joined the first auction over plain sockets, and do not bid
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=9_000))]
    pub watchers: u64,
    /// Bids per second by a schedule that does not wait for answers; without it each user bids again after each
    /// answer
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub rate: Option<u64>,
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "a share is a number such as 0.3".to_owned())?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("a share is from 0 to 1".to_owned()) }
}

/// The door that a bid comes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum BidTransport {
    /// A plain WebSocket of the edge
    Ws,
    /// Socket.IO over a WebSocket of the edge
    Socketio,
    /// `POST /bids` of bid-processing
    Http,
    /// Requests over NATS, as the edge sends them
    Nats,
}

impl BidTransport {
    /// Its name in arguments and results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Socketio => "socketio",
            Self::Http => "http",
            Self::Nats => "nats",
        }
    }

    /// The transport of its connections to the edge, if it is one of the edge.
    pub const fn transport(self) -> Option<Transport> {
        match self {
            Self::Ws => Some(Transport::Plain),
            Self::Socketio => Some(Transport::SocketIo),
            Self::Http | Self::Nats => None,
        }
    }
}

impl Load {
    /// Refuses numbers that no load can have together.
    pub fn check(&self) -> Result<(), Impossible> {
        let (door, people, auctions) = (self.door.name(), self.in_flight, self.auctions);
        match self.door.transport() {
            None if self.chase => {
                Err(Impossible(format!("callers over {door} see no updates: they cannot chase each other")))
            }
            Some(_) if self.chase && people < 2 * auctions => Err(Impossible(format!(
                "{people} people cannot chase each other in {auctions} auctions: that takes two in each; set --in-flight"
            ))),
            Some(_) if people < auctions => Err(Impossible(format!(
                "{people} people cannot bid on {auctions} auctions over {door}, where each joins one; set --in-flight"
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(arguments: &str) -> Result<Load, clap::Error> {
        #[derive(clap::Parser)]
        struct Command {
            #[command(flatten)]
            load: Load,
        }
        let words = std::iter::once("bids").chain(arguments.split_whitespace());
        Ok(<Command as clap::Parser>::try_parse_from(words)?.load)
    }

    #[test]
    fn sockets_need_people_in_each_auction_and_a_chase_needs_two_with_updates() {
        for (arguments, is_possible) in [
            ("", true),
            ("--door http --rate 10", true),
            ("--door ws --chase", true),
            ("--door socketio --chase --auctions 32", true),
            ("--door ws --chase --auctions 33", false),
            ("--door ws --auctions 64", true),
            ("--door ws --auctions 65", false),
            ("--auctions 65", true),
            ("--door http --chase", false),
            ("--chase", false),
        ] {
            assert_eq!(load(arguments).expect("parsed").check().is_ok(), is_possible, "{arguments}");
        }
        assert!(load("--door ws --chase --rate 10").is_err(), "a chase has no rate");
    }

    #[test]
    fn share_is_a_number_from_0_to_1() {
        assert_eq!(["0", "0.3", "1"].map(share), [Ok(0.0), Ok(0.3), Ok(1.0)]);
        for wrong in ["", "30", "-0.1", "1.01", "NaN", "inf", "0,3", "30%"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }
}

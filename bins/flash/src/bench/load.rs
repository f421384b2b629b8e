//! The load of a benchmark of bids, shared with its raw limits.

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
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub auctions: u64,
    /// Percentage of bids that are below the price
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=99))]
    pub too_low: u64,
    /// Share of bids with a maximum, from 0 to 1; the raw limits are those of plain bids
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    pub proxy: f64,
    /// Transport of the bids. Over `http` bids overtake each other, as those of real clients do, and overtaken bids are
    /// rejected as too low; over `nats`, which the edge uses, they stay in order
    #[arg(long, value_enum, default_value_t = BidTransport::Nats)]
    pub transport: BidTransport,
    /// Bids per second by a schedule that does not wait for answers; without it each user bids again after each
    /// answer
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub rate: Option<u64>,
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "a share is a number such as 0.3".to_owned())?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("a share is from 0 to 1".to_owned()) }
}

/// The way of a bid to bid-processing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum BidTransport {
    /// Requests over NATS, as the edge sends them
    Nats,
    /// `POST /bids`
    Http,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_is_a_number_from_0_to_1() {
        assert_eq!(["0", "0.3", "1"].map(share), [Ok(0.0), Ok(0.3), Ok(1.0)]);
        for wrong in ["", "30", "-0.1", "1.01", "NaN", "inf", "0,3", "30%"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }
}

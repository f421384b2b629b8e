//! `cargo flash simulate`: runs the real auctioneer, committer, rebuild, schedule, ticker and consumer thousands of
//! times in a simulated environment, each time on one seed. The environment loses, delays and repeats calls,
//! empties Redis or rolls it back, writes batches in part, and sets the clock. [`checker`] judges every run.
//!
//! A run uses one thread, a clock that jumps to the next event, and no randomness except that of the seed: the same
//! seed gives the same run, event by event.

mod backend;
mod instances;
mod network;
mod persistence;
mod predecessor;
mod redis;
mod run;
mod timer;

use std::process::ExitCode;

use anyhow::{Context, Result};
use bid_processing::LogKeys;

use checker::report;
pub use run::{Played, play};

/// The arguments of `simulate`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Number of runs
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// Seed of the first run; the others follow it
    #[arg(long, default_value_t = 1)]
    from: u64,
}

/// The key of maximums in the simulated log.
pub fn log_keys() -> LogKeys {
    LogKeys::parse(&"5a".repeat(32)).unwrap_or_default().repeatable()
}

/// Runs the seeds and judges each.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let (mut wrong, mut total) = (Vec::new(), Played::default());
    for seed in arguments.from..arguments.from + arguments.seeds {
        let played = play(seed).with_context(|| format!("seed {seed}"))?;
        if !played.verdict.violations.is_empty() {
            println!("seed {seed}\n{}", report(&played.history, &played.verdict));
            wrong.push(seed);
        }
        total.add(&played);
    }
    let Played { accepted, rejected, unknown, rebuilt, killed, .. } = total;
    println!(
        "{} runs: {accepted} bids accepted, {rejected} rejected, {unknown} unknown; {rebuilt} rebuilds, {killed} kills",
        arguments.seeds
    );
    if wrong.is_empty() {
        println!("every invariant held in every run");
        return Ok(ExitCode::SUCCESS);
    }
    println!("failed seeds: {wrong:?}");
    Ok(ExitCode::FAILURE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_invariant_holds_on_a_thousand_seeds() {
        let mut total = Played::default();
        for seed in 1..=1_000 {
            let played = play(seed).expect("a run");
            let report = report(&played.history, &played.verdict);
            assert!(played.verdict.violations.is_empty(), "seed {seed}\n{report}");
            total.add(&played);
        }
        let Played { accepted, rejected, unknown, rebuilt, killed, .. } = total;
        println!("accepted {accepted}, rejected {rejected}, unknown {unknown}, rebuilt {rebuilt}, killed {killed}");
        // Runs that hit nothing prove nothing.
        assert!(accepted > 20_000 && rejected > 5_000 && unknown > 1_000 && rebuilt > 500 && killed > 1_000);
    }

    /// Seeds that failed once, and the defect that they found. A change of the simulated environment changes the
    /// runs of all seeds. After such a change, reintroduce the defect and store a seed that finds it.
    const FAILED_ONCE: [(u64, &str); 2] = [
        (
            142,
            "both timers asked for the closing by a clock that was ahead, were refused because it was early, and did not \
             ask again after the clock was set back: the auction was never closed",
        ),
        (
            700_042,
            "Redis was rolled back and its clock set back, so that it accepted a repeated bid as it had before; a refusal \
             of the same script call rested on the state before that bid, which had been answered",
        ),
    ];

    #[test]
    fn seeds_that_failed_once_pass() {
        for (seed, defect) in FAILED_ONCE {
            let played = play(seed).expect("a run");
            let report = report(&played.history, &played.verdict);
            assert!(played.verdict.violations.is_empty(), "seed {seed}: {defect}\n{report}");
        }
    }

    #[test]
    fn same_seed_gives_same_run() {
        for seed in 1..=5 {
            let (once, again) = (play(seed).expect("a run"), play(seed).expect("a run"));
            assert_eq!(once.history.lines, again.history.lines, "seed {seed}");
        }
    }
}

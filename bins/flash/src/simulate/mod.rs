//! `cargo flash simulate`: thousands of runs of the real auctioneer, committer, rebuild, schedule, ticker and
//! consumer, each on one seed, in a world that loses, delays, repeats, empties, rolls back, answers in part and
//! sets its clock; every run is judged by `flash check`.
//!
//! One thread, a clock that jumps to the next thing that happens, and no randomness but the seed's: the same
//! seed plays the same run, event by event.

mod books;
mod redis;
mod run;
mod timer;
mod world;

use std::process::ExitCode;

use anyhow::{Context, Result};

pub use run::{Played, play};

use crate::check::report;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// How many runs
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    from: u64,
}

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
    let Played { accepted, refused, unknown, rebuilt, killed, .. } = total;
    println!(
        "{} runs: accepted {accepted}, refused {refused}, unknown {unknown}; rebuilt {rebuilt} times, {killed} kills",
        arguments.seeds
    );
    if wrong.is_empty() {
        println!("every invariant held in each");
        return Ok(ExitCode::SUCCESS);
    }
    println!("seeds that fail: {wrong:?}");
    Ok(ExitCode::FAILURE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_seeds_hold() {
        let mut total = Played::default();
        for seed in 1..=1_000 {
            let played = play(seed).expect("a run");
            let report = report(&played.history, &played.verdict);
            assert!(played.verdict.violations.is_empty(), "seed {seed}\n{report}");
            total.add(&played);
        }
        let Played { accepted, refused, unknown, rebuilt, killed, .. } = total;
        println!("accepted {accepted}, refused {refused}, unknown {unknown}, rebuilt {rebuilt}, killed {killed}");
        // Runs that hit nothing prove nothing.
        assert!(accepted > 20_000 && refused > 5_000 && unknown > 1_000 && rebuilt > 500 && killed > 1_000);
    }

    /// Seeds that failed once, and what was wrong then. A change of this world makes other runs of them: whoever
    /// changes it breaks what is named here once more, and takes the seed that finds it then.
    const FAILED_ONCE: [(u64, &str); 1] = [(
        80,
        "both timers had asked for the closing by a clock that was ahead, were told that it was early, and asked \
         no more once the clock had been set back: the auction was never closed",
    )];

    #[test]
    fn seeds_that_failed_once_hold() {
        for (seed, what) in FAILED_ONCE {
            let played = play(seed).expect("a run");
            let report = report(&played.history, &played.verdict);
            assert!(played.verdict.violations.is_empty(), "seed {seed}: {what}\n{report}");
        }
    }

    #[test]
    fn one_seed_is_one_run() {
        for seed in 1..=5 {
            let (once, again) = (play(seed).expect("a run"), play(seed).expect("a run"));
            assert_eq!(once.history.lines, again.history.lines, "seed {seed}");
        }
    }
}

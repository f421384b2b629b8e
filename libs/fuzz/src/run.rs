//! One run of a target: from the corpus, over mutated inputs, to the first that fails.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::mutate::mutated;
use crate::targets::{Outcome, Target};

/// Time for one input. The slowest takes some milliseconds; another process may hold the processor for longer.
const MAX_TIME: Duration = Duration::from_millis(500);
/// Attempts of an input that took too long, the quickest of which counts.
const ATTEMPTS: usize = 3;
/// Inputs that are mutated further. Each new outcome adds one.
const MAX_POOL: usize = 1_024;

/// A run without a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Inputs that were tried.
    pub inputs: u64,
    /// Those that the parser accepted.
    pub accepted: u64,
    /// Different outcomes.
    pub outcomes: usize,
}

/// An input that breaks a rule.
#[derive(Debug, thiserror::Error)]
#[error("{target}: {broken}")]
pub struct Failed {
    /// The name of the target.
    pub target: &'static str,
    /// The rule that is broken.
    pub broken: String,
    /// The input.
    pub input: Vec<u8>,
}

/// The corpus of a target: one file an input, in the order of their names.
///
/// # Errors
/// When the folder cannot be read or is empty.
pub fn corpus(folder: &Path, target: &Target) -> std::io::Result<Vec<Vec<u8>>> {
    let entries = std::fs::read_dir(folder.join(target.name))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    let inputs = paths.iter().map(std::fs::read).collect::<std::io::Result<Vec<_>>>()?;
    if inputs.is_empty() { Err(std::io::ErrorKind::NotFound.into()) } else { Ok(inputs) }
}

/// Tries the corpus as it is, then mutations of it, `inputs` in all.
///
/// # Errors
/// The first input that breaks a rule.
pub fn run(target: &Target, corpus: &[Vec<u8>], inputs: u64, seed: u64) -> Result<Summary, Failed> {
    let mut rng = Rng::with_seed(seed ^ hash(target.name));
    let mut pool = corpus.to_vec();
    let mut known = HashSet::new();
    let mut summary = Summary { inputs: 0, accepted: 0, outcomes: 0 };
    let mut planned = corpus.iter();
    while summary.inputs < inputs {
        let input = match planned.next() {
            Some(input) => input.clone(),
            None => {
                let (one, other) = (rng.usize(..pool.len()), rng.usize(..pool.len()));
                mutated(&mut rng, &pool[one], &pool[other])
            }
        };
        let outcome = replay(target, &input)?;
        summary.inputs += 1;
        summary.accepted += u64::from(outcome == Outcome::Accepted);
        if known.len() < MAX_POOL && known.insert(hash(&outcome)) && pool.len() < MAX_POOL {
            pool.push(input);
        }
    }
    summary.outcomes = known.len();
    Ok(summary)
}

/// Tries one input.
///
/// # Errors
/// When it breaks a rule: the target's own, or it panics, or takes too long.
pub fn replay(target: &Target, input: &[u8]) -> Result<Outcome, Failed> {
    let failed = |broken: String| Failed { target: target.name, broken, input: input.to_vec() };
    let mut quickest = Duration::MAX;
    for _ in 0..ATTEMPTS {
        let began = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| (target.check)(input)));
        let outcome = outcome.map_err(|_| failed("it panicked".to_owned()))?.map_err(failed)?;
        quickest = quickest.min(began.elapsed());
        if quickest < MAX_TIME {
            return Ok(outcome);
        }
    }
    Err(failed(format!("it took {quickest:?}")))
}

fn hash(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::targets::TARGETS;

    /// Inputs of one target. With all targets it takes seconds.
    const INPUTS: u64 = 20_000;

    #[test]
    fn parsers_keep_their_rules() {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus");
        for target in TARGETS {
            let corpus = corpus(&folder, target).expect("a corpus");
            let summary = match run(target, &corpus, INPUTS, 1) {
                Ok(summary) => summary,
                Err(failed) => panic!("{failed}: {:?}", String::from_utf8_lossy(&failed.input)),
            };
            // A target that accepts or refuses everything tests half of its parser.
            assert!(summary.accepted > 0, "{}: nothing was accepted", target.name);
            let all_accepted = summary.accepted == INPUTS;
            assert!(!all_accepted && summary.outcomes > 1, "{}: {summary:?}", target.name);
        }
    }

    #[test]
    fn runs_with_the_same_seed_are_equal() {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus");
        let target = &TARGETS[0];
        let corpus = corpus(&folder, target).expect("a corpus");
        let run = |seed| run(target, &corpus, 500, seed).expect("no failure");
        assert_eq!(run(7), run(7));
        assert_ne!(run(7).accepted, run(8).accepted);
    }

    #[test]
    fn panic_slowness_and_broken_rules_fail() {
        fn check(input: &[u8]) -> Result<Outcome, String> {
            match input {
                b"panic" => panic!("on purpose"),
                b"slow" => std::thread::sleep(MAX_TIME),
                b"rule" => return Err("a rule".to_owned()),
                _ => {}
            }
            Ok(Outcome::Accepted)
        }
        let target = Target { name: "test", check };
        for (input, expected) in [("panic", "it panicked"), ("slow", "it took"), ("rule", "a rule")] {
            let failed = replay(&target, input.as_bytes()).expect_err(input);
            assert!(failed.broken.starts_with(expected), "{failed}");
            assert_eq!(failed.input, input.as_bytes());
        }
        assert_eq!(replay(&target, b"fine").expect("fine"), Outcome::Accepted);
    }
}

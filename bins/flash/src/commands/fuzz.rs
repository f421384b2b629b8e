//! `cargo flash fuzz`: tries the parsers of [`fuzz`] with mutated inputs.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::builder::PossibleValuesParser;
use fuzz::{Failed, Summary, TARGETS, Target};

use crate::checkout;

/// The arguments of `fuzz`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Inputs for each target
    #[arg(long, default_value_t = 100_000)]
    inputs: u64,
    /// Determines the mutations; default: another one each time
    #[arg(long)]
    seed: Option<u64>,
    /// Only this target
    #[arg(long, value_parser = PossibleValuesParser::new(TARGETS.iter().map(|target| target.name)))]
    target: Option<String>,
    /// Try only this input, which an earlier run saved
    #[arg(long, value_name = "FILE", requires = "target")]
    replay: Option<PathBuf>,
}

/// Runs the targets, several at once. Fails if an input breaks a rule, after it has saved the input.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let is_chosen = |target: &&Target| arguments.target.as_ref().is_none_or(|name| name == target.name);
    let chosen: Vec<&Target> = TARGETS.iter().filter(is_chosen).collect();
    if let Some(file) = &arguments.replay {
        let input = std::fs::read(file).with_context(|| file.display().to_string())?;
        let Some(target) = chosen.first() else { bail!("there is no such target") };
        println!("{}: {:?}", target.name, fuzz::replay(target, &input)?);
        return Ok(ExitCode::SUCCESS);
    }
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("{} inputs for each of {} targets, seed {seed}", arguments.inputs, chosen.len());
    let waiting = Mutex::new(chosen.into_iter());
    let began = Instant::now();
    let worker = || -> Result<(u64, bool)> {
        let (mut tried, mut is_ok) = (0, true);
        loop {
            let next = waiting.lock().map(|mut waiting| waiting.next());
            let Ok(Some(target)) = next else { return Ok((tried, is_ok)) };
            match run_target(target, arguments.inputs, seed)? {
                Ok(Summary { inputs, accepted, outcomes }) => {
                    println!("{}: {inputs} inputs, {accepted} accepted, {outcomes} outcomes", target.name);
                    tried += inputs;
                }
                Err(failed) => {
                    println!("{failed}; saved as {}", save(&failed, seed)?.display());
                    is_ok = false;
                }
            }
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let results: Vec<Result<(u64, bool)>> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked"))))
            .collect()
    });
    let (mut tried, mut is_ok) = (0, true);
    for result in results {
        let (more, ok) = result?;
        tried += more;
        is_ok &= ok;
    }
    println!("{tried} inputs in {:.0} s", began.elapsed().as_secs_f64());
    Ok(if is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_target(target: &Target, inputs: u64, seed: u64) -> Result<Result<Summary, Failed>> {
    let folder = checkout::root().join("libs/fuzz/corpus");
    let corpus = fuzz::corpus(&folder, target).with_context(|| format!("the corpus of {}", target.name))?;
    Ok(fuzz::run(target, &corpus, inputs, seed))
}

/// Writes the input to a file. Copied into the corpus, it is tried in every later run.
fn save(failed: &Failed, seed: u64) -> Result<PathBuf> {
    let folder = checkout::directory().join("fuzz");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{}-{seed}", failed.target));
    std::fs::write(&file, &failed.input)?;
    Ok(file)
}

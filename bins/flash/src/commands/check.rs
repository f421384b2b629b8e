//! `cargo flash check`: judges recorded histories by [`checker`].

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use checker::history::{History, Kind};
use checker::{Demands, Invariant, check, report};
use clap::builder::{PossibleValuesParser, TypedValueParser};

/// The arguments of `check`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Histories as JSON lines; `-` is the standard input
    #[arg(required_unless_present = "explain")]
    files: Vec<PathBuf>,
    /// Fail if fewer faults than this were injected
    #[arg(long, default_value_t = 0)]
    least_faults: usize,
    /// Fail if fewer calls than this had an unknown outcome
    #[arg(long, default_value_t = 0)]
    least_unknown: usize,
    /// Kinds of lines that may be missing
    #[arg(long, value_parser = kinds())]
    without: Vec<Kind>,
    /// Print what an invariant such as I6 demands, and exit
    #[arg(long, value_name = "INVARIANT", conflicts_with = "files")]
    explain: Option<Invariant>,
}

fn kinds() -> impl TypedValueParser<Value = Kind> {
    PossibleValuesParser::new(Kind::ALL.map(Kind::name)).try_map(|name| name.parse::<Kind>())
}

/// Judges the histories, or explains an invariant.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Some(invariant) = arguments.explain {
        println!("{invariant} ({}): {}", invariant.title(), invariant.explanation());
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = String::new();
    for file in &arguments.files {
        if file.as_os_str() == "-" {
            std::io::stdin().read_to_string(&mut text)?;
        } else {
            text += &std::fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))?;
        }
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    let history = History::parse(&text)?;
    let without = arguments.without.iter().copied().collect();
    let (faults, unknown) = (arguments.least_faults, arguments.least_unknown);
    let demands = Demands { faults, unknown, without, ..Demands::default() };
    let verdict = check(&history, &demands);
    print!("{}", report(&history, &verdict));
    Ok(if verdict.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(arguments: &[&str]) -> Result<Arguments, clap::Error> {
        Line::try_parse_from(["check"].iter().chain(arguments)).map(|line| line.arguments)
    }

    #[test]
    fn explain_needs_no_history_and_lists_the_invariants_for_an_unknown_name() {
        assert_eq!(parse(&["--explain", "I6"]).expect("an invariant").explain, Some(Invariant::JustRefusals));
        let error = parse(&["--explain", "I-17"]).map(drop).expect_err("an error").to_string();
        assert!(error.contains("I1     durable") && error.contains("I16    narrow path"), "{error}");
        assert!(parse(&[]).is_err(), "neither a history nor an invariant");
    }

    #[test]
    fn kinds_that_may_be_missing_are_named_by_their_field() {
        let arguments = parse(&["--without", "row", "--without", "mail", "-"]).expect("two kinds");
        assert_eq!(arguments.without, [Kind::Row, Kind::Mail]);
        assert!(parse(&["--without", "rows", "-"]).is_err());
    }
}

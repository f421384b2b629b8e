//! `flash-admin limit`: what a person may lead with at once, in all auctions together.
//!
//! auction-management has the table, and publishes each change to bid-processing. The command can be repeated.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use domain::{Amount, UserId};
use protocol::{Limit, LimitRequest, LimitShown, Reply, subject};
use service::{Environment, Mistakes, Reader};

/// Time for auction-management to read or write a row. A statement of PostgreSQL is given up after 5 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(6);

/// The arguments of `limit`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The person's id, a UUID
    #[arg(long, value_parser = user)]
    user: UserId,
    /// The most that the person may lead with at once, such as 5000.00, or `none` for no limit; without it and
    /// `--remove` the limit is shown
    #[arg(long, value_parser = limit, conflicts_with = "remove")]
    amount: Option<Limit>,
    /// Remove the person's own limit: the default of bid-processing applies
    #[arg(long)]
    remove: bool,
}

fn user(text: &str) -> Result<UserId, String> {
    text.parse().map_err(|_| "the id of a person is a UUID".to_owned())
}

fn limit(text: &str) -> Result<Limit, String> {
    if text == "none" {
        return Ok(Limit::None);
    }
    Amount::parse(text).map(|amount| Limit::Amount { amount }).map_err(|error| error.to_string())
}

/// The settings of `limit`.
#[derive(Clone)]
pub struct Config {
    nats: bus::Settings,
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
    let bus = bus::Bus::connect(&config.nats, "flash-admin limit").await?;
    let set = if arguments.remove { Some(Limit::Default) } else { arguments.amount };
    let request = LimitRequest { user_id: arguments.user, set };
    let asked = bus::request(&bus, subject::USERS_LIMIT, &request, ANSWER_TIMEOUT).await;
    match asked.context("failed to ask auction-management")? {
        Reply::Ok(shown) => println!("{}  {}", arguments.user, text(&shown)),
        Reply::Failed(failure) => bail!("{} ({})", failure.error, failure.code.name()),
    }
    Ok(ExitCode::SUCCESS)
}

fn text(shown: &LimitShown) -> String {
    let name = shown.username.as_deref().unwrap_or("(has not appeared yet)");
    let limit = match shown.limit {
        Limit::Default => "the default: DEFAULT_PERSON_LIMIT of bid-processing".to_owned(),
        Limit::None => "no limit".to_owned(),
        Limit::Amount { amount } => amount.to_string(),
    };
    format!("{name}  {limit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_exactly_or_not_at_all() {
        let amount = Amount::from_cents(500_050).expect("an amount");
        assert_eq!(limit("5000.50"), Ok(Limit::Amount { amount }));
        assert_eq!(limit("none"), Ok(Limit::None));
        for wrong in ["0", "-1", "1.001", "1e3", "None", "", "100000000"] {
            assert!(limit(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn limit_is_printed_with_the_name() {
        let amount = Amount::from_cents(500_000).expect("an amount");
        let shown = LimitShown { username: Some("anna".to_owned()), limit: Limit::Amount { amount } };
        assert_eq!(text(&shown), "anna  5000.00");
        let unknown = LimitShown { username: None, limit: Limit::None };
        assert_eq!(text(&unknown), "(has not appeared yet)  no limit");
    }
}

//! `cargo flash token`: prints development tokens.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use domain::UserId;
use identity::development::DevelopmentUser;

use crate::checkout;
use crate::stack::description;
use crate::stack::issuer::DEFAULT_TOKEN_SECONDS;

/// The arguments of `token`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Name of the user; can be repeated and then prints one line each. One name is always the same user
    #[arg(long, required = true)]
    user: Vec<String>,
    /// Id of the user, in place of the one derived from the name
    #[arg(long)]
    user_id: Option<String>,
    /// E-mail address of the user, in place of the one derived from the name
    #[arg(long)]
    email: Option<String>,
    /// Seconds until the token expires
    #[arg(long, default_value_t = DEFAULT_TOKEN_SECONDS, value_parser = clap::value_parser!(u64).range(1..=86_400 * 365))]
    ttl: u64,
}

/// Prints a token for each name.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    ensure!(
        arguments.user.len() == 1 || (arguments.user_id.is_none() && arguments.email.is_none()),
        "--user-id and --email need exactly one --user"
    );
    let directory = checkout::directory();
    let issuer = description::issuer(&directory, &description::read(&directory)?)?;
    for name in &arguments.user {
        let mut user = DevelopmentUser::named(name);
        if let Some(id) = &arguments.user_id {
            user.user_id = id.parse::<UserId>().context("--user-id is not the id of a user")?;
        }
        if let Some(email) = &arguments.email {
            user.email.clone_from(email);
        }
        println!("{}", issuer.token_of(&user, arguments.ttl)?);
    }
    Ok(ExitCode::SUCCESS)
}

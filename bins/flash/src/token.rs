//! `cargo flash token`.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use domain::UserId;
use identity::development::DevelopmentUser;

use crate::issuer::DEFAULT_TOKEN_SECONDS;
use crate::stack_file;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Whose token; several print one line each. The same name is the same person
    #[arg(long, required = true)]
    user: Vec<String>,
    /// An id other than the one that follows from the name
    #[arg(long)]
    user_id: Option<String>,
    /// An e-mail address other than the one that follows from the name
    #[arg(long)]
    email: Option<String>,
    /// Seconds the token lives
    #[arg(long, default_value_t = DEFAULT_TOKEN_SECONDS, value_parser = clap::value_parser!(u64).range(1..=86_400 * 365))]
    ttl: u64,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    ensure!(
        arguments.user.len() == 1 || (arguments.user_id.is_none() && arguments.email.is_none()),
        "--user-id and --email go with one --user"
    );
    let directory = crate::directory();
    let issuer = stack_file::issuer(&directory, &stack_file::read(&directory)?)?;
    for name in &arguments.user {
        let mut user = DevelopmentUser::named(name);
        if let Some(id) = &arguments.user_id {
            user.user_id = id.parse::<UserId>().context("--user-id")?;
        }
        if let Some(email) = &arguments.email {
            user.email.clone_from(email);
        }
        println!("{}", issuer.token_of(&user, arguments.ttl)?);
    }
    Ok(ExitCode::SUCCESS)
}

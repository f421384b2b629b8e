//! The operator's commands on the running stack: `migrate`, `streams`, `log archive`, `backup`, `restore`, `rebuild`,
//! `dlq`, `limit`, `ready`.

use std::process::ExitCode;

use anyhow::Result;
use protocol::rights;
use service::{Environment, Reader};

use crate::checkout::directory;
use crate::stack::description;

/// Runs a command of `flash-admin`: with the settings of this process if they name a NATS server, otherwise with
/// those of the running stack.
pub fn run(command: &flash_admin::Command) -> Result<ExitCode> {
    let environment = Environment::of_process();
    let is_configured = Reader::new(&environment).optional("NATS_URL").is_some();
    let environment = match nats_user(command) {
        Some(user) if !is_configured => of_the_stack(environment, user)?,
        _ => environment,
    };
    flash_admin::run(command, &environment)
}

/// The NATS user of a command: its own if it has one, or that of people who repair. None if it needs no server.
const fn nats_user(command: &flash_admin::Command) -> Option<&'static str> {
    use flash_admin::Command;

    match command {
        Command::Ready(_) => None,
        Command::Migrate => Some("migrate"),
        Command::Log(_) => Some("log-archive"),
        Command::Streams(_)
        | Command::Backup(_)
        | Command::Restore(_)
        | Command::Dlq(_)
        | Command::Limit(_)
        | Command::Rebuild(_) => Some(rights::ADMIN),
    }
}

/// The environment of this process with the addresses of the running stack.
fn of_the_stack(mut environment: Environment, nats_user: &str) -> Result<Environment> {
    let directory = directory();
    let stack = description::read(&directory)?;
    environment.set("NATS_URL", description::nats_url_of(&directory, &stack, nats_user)?);
    environment.set("NATS_CREDS", "");
    environment.set("REDIS_URL", description::text(&stack["redis"]["url"])?);
    environment.set("DATABASE_URL", description::text(&stack["postgres"]["url"])?);
    for (name, value) in description::tls_settings(&stack) {
        environment.set(name, value);
    }
    let aws = &stack["aws"];
    for (name, value) in [
        ("AWS_REGION", &aws["region"]),
        ("AWS_ENDPOINT_URL", &aws["endpoint"]),
        ("AWS_ACCESS_KEY_ID", &aws["access_key_id"]),
        ("AWS_SECRET_ACCESS_KEY", &aws["secret_access_key"]),
        ("SQS_NOTIFICATION_QUEUE_URL", &stack["notification_queue_url"]),
    ] {
        environment.set(name, description::text(value)?);
    }
    Ok(environment)
}

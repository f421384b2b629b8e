//! The operator's commands on the running stack: `migrate`, `streams`, `log archive`, `backup`, `restore`, `rebuild`,
//! `dlq`.

use std::process::ExitCode;

use anyhow::Result;
use service::{Environment, Reader};

use crate::checkout::directory;
use crate::stack::description;

/// Runs a command of `flash-admin`: with the settings of this process if they name a NATS server, otherwise with
/// those of the running stack.
pub fn run(command: &flash_admin::Command) -> Result<ExitCode> {
    let environment = Environment::of_process();
    let is_configured = Reader::new(&environment).optional("NATS_URL").is_some();
    let environment = if is_configured { environment } else { of_the_stack(environment)? };
    flash_admin::run(command, &environment)
}

/// The environment of this process with the addresses of the running stack.
fn of_the_stack(mut environment: Environment) -> Result<Environment> {
    let directory = directory();
    let stack = description::read(&directory)?;
    environment.set("NATS_URL", description::services_nats_url(&directory, &stack)?);
    environment.set("NATS_CREDS", "");
    environment.set("REDIS_URL", description::text(&stack["redis"]["url"])?);
    environment.set("DATABASE_URL", description::text(&stack["postgres"]["url"])?);
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

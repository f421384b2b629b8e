//! `.flash/stack.json`: describes the running stack for scripts (CONTRACT.md, stack.json).

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::issuer::{Issuer, development_key};
use crate::services::Name;
use crate::stack::Stack;

const FILE: &str = "stack.json";

pub fn describe(stack: &Stack) -> Value {
    let servers = &stack.servers;
    let mut services = Map::new();
    for name in Name::ALL {
        // The first instance stands for the service.
        if let Some(instance) = stack.instances.iter().find(|instance| instance.name == name) {
            services.insert(name.text().to_owned(), json!({"url": instance.url, "pid": instance.pid()}));
        }
    }
    let (access_key_id, secret_access_key) = servers.aws_credentials();
    json!({
        "services": services,
        "nats": {
            "url": format!("nats://127.0.0.1:{}", servers.nats[0].port),
            "monitor": format!("http://127.0.0.1:{}", servers.nats[0].monitor_port),
            "user": "operator",
            "password": servers.secrets.nats_operator,
            "pid": servers.nats[0].process.pid(),
        },
        "redis": {"url": servers.redis_url(), "pid": servers.redis[0].process.pid()},
        "postgres": {"url": servers.postgres_url(), "pid": servers.postgres.pid()},
        "aws": {
            "endpoint": servers.aws_endpoint(),
            "region": servers.aws_region(),
            "access_key_id": access_key_id,
            "secret_access_key": secret_access_key,
            "pid": servers.aws.pid(),
        },
        "bids_table": stack.prepared.bids_table,
        "notification_queue_url": stack.prepared.notification_queue_url,
        "cognito": {"user_pool_id": stack.prepared.user_pool_id, "client_id": stack.prepared.client_id},
        "issuer": stack.issuer.issuer,
        "flash_pid": std::process::id(),
    })
}

pub fn write(directory: &Path, description: &Value) -> Result<()> {
    testkit::write_private(&directory.join(FILE), &serde_json::to_vec_pretty(description)?)
}

pub fn read(directory: &Path) -> Result<Value> {
    let text =
        std::fs::read(directory.join(FILE)).context("no stack is running here; start one with `cargo flash up`")?;
    Ok(serde_json::from_slice(&text)?)
}

/// Who signs tokens for the stack that is described.
pub fn issuer(directory: &Path, stack: &Value) -> Result<Issuer> {
    Ok(Issuer {
        issuer: text(&stack["issuer"])?,
        client_id: text(&stack["cognito"]["client_id"])?,
        key: development_key(directory)?,
    })
}

/// The operator's way into the described stack's NATS: reads everything, publishes nothing.
pub fn operator(stack: &Value) -> Result<bus::Settings> {
    let nats = &stack["nats"];
    let (user, password) = (text(&nats["user"])?, text(&nats["password"])?);
    let url = text(&nats["url"])?.replacen("://", &format!("://{user}:{password}@"), 1);
    Ok(bus::Settings { url, credentials_file: None })
}

pub fn text(value: &Value) -> Result<String> {
    value.as_str().map(str::to_owned).context("stack.json is damaged")
}

pub fn remove(directory: &Path) {
    if let Err(error) = std::fs::remove_file(directory.join(FILE)) {
        tracing::debug!(%error, "stack.json");
    }
}

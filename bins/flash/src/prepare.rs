//! What the servers need before a service starts: tables, streams, the user pool.

use anyhow::{Context, Result};
use protocol::subject::{LOG_STREAM, PERSISTENCE_CONSUMER};
use serde_json::{Value, json};
use testkit::Servers;
use testkit::http::aws_json;

const TABLE: &str = "bids_history";
const QUEUE: &str = "notification-queue";

/// What the emulator was given, and what became of the history.
pub struct Prepared {
    pub bids_table: &'static str,
    pub notification_queue_url: String,
    pub user_pool_id: String,
    pub client_id: String,
    pub issuer: String,
    pub pool_keys: Value,
    /// The log has records that the emulator, which lives in memory, has forgotten: they are written anew.
    pub history_is_rewritten: bool,
}

/// Migrates, declares and creates; everything here is repeatable.
///
/// # Errors
/// What was refused, and by whom.
pub async fn prepare(servers: &Servers) -> Result<Prepared> {
    let (_, history_is_rewritten, pool) =
        tokio::try_join!(migrate(servers), streams_and_history(servers), user_pool(servers))?;
    let queue = aws_json(&servers.aws_endpoint(), "sqs", "AmazonSQS.CreateQueue", &json!({"QueueName": QUEUE})).await?;
    Ok(Prepared {
        bids_table: TABLE,
        notification_queue_url: text(&queue["QueueUrl"])?,
        issuer: format!("https://cognito-idp.{}.amazonaws.com/{}", servers.aws_region(), pool.id),
        user_pool_id: pool.id,
        client_id: pool.client_id,
        pool_keys: pool.keys,
        history_is_rewritten,
    })
}

async fn migrate(servers: &Servers) -> Result<()> {
    let store = store::Store::connect(&servers.postgres_url()).await?;
    store.migrate().await?;
    store.close().await;
    Ok(())
}

async fn streams_and_history(servers: &Servers) -> Result<bool> {
    let settings = bus::Settings { url: servers.nats_url(), credentials_file: None };
    let bus = bus::Bus::connect(&settings, "flash").await?;
    bus::declare(&bus.jetstream, 1).await.map_err(anyhow::Error::from_boxed)?;
    let (id, secret) = servers.aws_credentials();
    let aws = cloud::Settings {
        region: servers.aws_region().to_owned(),
        endpoint: Some(servers.aws_endpoint()),
        credentials: Some((id.to_owned(), secret.to_owned())),
    };
    let table_is_new = cloud::History::new(&cloud::configuration(&aws).await, TABLE).ensure_table().await?;
    let log = bus.jetstream.get_stream(LOG_STREAM).await?;
    let rewrite = table_is_new && log.cached_info().state.messages > 0;
    if rewrite {
        bus::restart_consumer(&bus.jetstream, PERSISTENCE_CONSUMER).await.map_err(anyhow::Error::from_boxed)?;
    }
    Ok(rewrite)
}

struct Pool {
    id: String,
    client_id: String,
    keys: Value,
}

async fn user_pool(servers: &Servers) -> Result<Pool> {
    let endpoint = servers.aws_endpoint();
    let call = async |name: &str, body: Value| {
        aws_json(&endpoint, "cognito-idp", &format!("AWSCognitoIdentityProviderService.{name}"), &body).await
    };
    let pool = call("CreateUserPool", json!({"PoolName": "flash"})).await?;
    let id = text(&pool["UserPool"]["Id"])?;
    let client = call("CreateUserPoolClient", json!({"UserPoolId": id, "ClientName": "flash"})).await?;
    let client_id = text(&client["UserPoolClient"]["ClientId"])?;
    // The emulator tells the pool by the host the request was made to.
    let keys = testkit::http::get(&format!("{endpoint}/{id}/.well-known/jwks.json"), None).await?;
    Ok(Pool { id, client_id, keys: keys.json })
}

fn text(value: &Value) -> Result<String> {
    Ok(value.as_str().context("the emulator's answer lacks a field")?.to_owned())
}

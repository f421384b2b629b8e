//! What the servers need before a service starts: tables, streams, the user pool.

use anyhow::{Context, Result};
use protocol::subject::{LOG_STREAM, PERSISTENCE_CONSUMER};
use serde_json::{Value, json};
use testkit::Servers;
use testkit::http::aws_json;

const TABLE: &str = "bids_history";
const QUEUE: &str = "notification-queue";
const FROM_EMAIL: &str = "auctions@example.com";
/// Receives of a message before it goes to the dead letters. CONTRACT.md, Mail queue.
const MAX_RECEIVES: u32 = 5;

/// What the emulator was given, and what became of the history.
pub struct Prepared {
    pub bids_table: &'static str,
    pub notification_queue_url: String,
    pub from_email: &'static str,
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
    let nats = bus::Settings { url: servers.nats_url(), credentials_file: None };
    Box::pin(migrate(&servers.postgres_url(), &nats, servers.nats.len())).await?;
    let aws = aws(servers);
    let (emulated, pool) = tokio::try_join!(Box::pin(emulate(&aws, &nats, FROM_EMAIL)), user_pool(servers))?;
    Ok(Prepared {
        bids_table: TABLE,
        notification_queue_url: emulated.notification_queue_url,
        from_email: FROM_EMAIL,
        issuer: format!("https://cognito-idp.{}.amazonaws.com/{}", servers.aws_region(), pool.id),
        user_pool_id: pool.id,
        client_id: pool.client_id,
        pool_keys: pool.keys,
        history_is_rewritten: emulated.history_is_rewritten,
    })
}

/// The emulator, as the services are told of it.
#[must_use]
pub fn aws(servers: &Servers) -> cloud::Settings {
    let (id, secret) = servers.aws_credentials();
    cloud::Settings {
        region: servers.aws_region().to_owned(),
        endpoint: Some(servers.aws_endpoint()),
        credentials: Some((id.to_owned(), secret.to_owned())),
    }
}

/// Brings tables, streams and consumers to this version. Repeatable, safe to run twice at once.
///
/// # Errors
/// What was refused, and by whom.
pub async fn migrate(database_url: &str, nats: &bus::Settings, replicas: usize) -> Result<()> {
    let tables = async {
        let store = store::Store::connect(database_url).await?;
        store.migrate().await?;
        store.close().await;
        Ok(())
    };
    let streams = async {
        let bus = bus::Bus::connect(nats, "migrate").await?;
        bus::declare(&bus.jetstream, replicas).await.map_err(anyhow::Error::from_boxed)
    };
    tokio::try_join!(tables, streams).map(|_| ())
}

/// What was made in an AWS emulator.
pub struct Emulated {
    pub notification_queue_url: String,
    pub history_is_rewritten: bool,
}

/// Makes table, queue and sender in an AWS emulator, which lives in memory: where the log has records that
/// the table has forgotten, the history is written anew.
///
/// # Errors
/// What was refused.
pub async fn emulate(aws: &cloud::Settings, nats: &bus::Settings, from_email: &str) -> Result<Emulated> {
    let configuration = cloud::configuration(aws).await;
    let table_is_new = cloud::History::new(&configuration, TABLE).ensure_table().await?;
    let bus = bus::Bus::connect(nats, "flash").await?;
    let log = bus.jetstream.get_stream(LOG_STREAM).await?;
    let rewrite = table_is_new && log.cached_info().state.messages > 0;
    if rewrite {
        bus::restart_consumer(&bus.jetstream, PERSISTENCE_CONSUMER).await.map_err(anyhow::Error::from_boxed)?;
    }
    cloud::Mail::new(&configuration, from_email).verify_sender().await?;
    let endpoint = aws.endpoint.as_deref().context("an emulator has an address")?;
    Ok(Emulated { notification_queue_url: notification_queue(endpoint).await?, history_is_rewritten: rewrite })
}

/// The queue with its dead letters.
async fn notification_queue(endpoint: &str) -> Result<String> {
    let call = async |name: &str, body: Value| aws_json(endpoint, "sqs", &format!("AmazonSQS.{name}"), &body).await;
    let dead = call("CreateQueue", json!({"QueueName": format!("{QUEUE}-dlq")})).await?;
    let wanted = json!({"QueueUrl": dead["QueueUrl"], "AttributeNames": ["QueueArn"]});
    let dead = call("GetQueueAttributes", wanted).await?;
    let redrive = json!({"deadLetterTargetArn": dead["Attributes"]["QueueArn"], "maxReceiveCount": MAX_RECEIVES});
    let attributes = json!({"RedrivePolicy": redrive.to_string()});
    let queue = call("CreateQueue", json!({"QueueName": QUEUE, "Attributes": attributes})).await?;
    text(&queue["QueueUrl"])
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

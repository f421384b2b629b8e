//! Prepares the servers before a service starts: tables, streams, the AWS emulator, the user pool.

use anyhow::{Context, Result};
use flash_admin::migrate::{Config, migrate};
use protocol::rights;
use protocol::subject::{LOG_STREAM, PERSISTENCE_CONSUMER};
use serde_json::{Value, json};
use testkit::Servers;
use testkit::http::aws_json;

use super::connections;

const TABLE: &str = "bids_history";
const QUEUE: &str = "notification-queue";
const PHOTO_BUCKET: &str = "flash-photos";
const FROM_EMAIL: &str = "auctions@example.com";
/// Receives of one message before it goes to the dead letters. CONTRACT.md, Mail queue.
const MAX_RECEIVES: u32 = 5;

/// Names and addresses of everything that was created in the emulator.
pub struct Prepared {
    /// The table of the history.
    pub bids_table: &'static str,
    /// The queue of notifications.
    pub notification_queue_url: String,
    /// The bucket of photos.
    pub photo_bucket: &'static str,
    /// The verified sender of mails.
    pub from_email: &'static str,
    /// The user pool.
    pub user_pool_id: String,
    /// The app client of the user pool.
    pub client_id: String,
    /// The `iss` claim of its tokens.
    pub issuer: String,
    /// The JWKS of the user pool.
    pub pool_keys: Value,
    /// Whether bid-persistence writes the history again from the log, because the emulator lost it: it keeps its
    /// data in memory.
    pub history_is_rewritten: bool,
}

/// Migrates, declares and creates. Can be repeated.
///
/// # Errors
/// The server that refused, and its reason.
pub async fn prepare(servers: &Servers) -> Result<Prepared> {
    let nats = connections::nats_of(servers, "migrate");
    let passwords = &servers.secrets.postgres_users;
    let logins = passwords.iter().filter_map(|(name, password)| rights::login(name).zip(Some(password.clone())));
    let migration = Config {
        database_url: servers.postgres_url(),
        nats: nats.clone(),
        replicas: servers.nats.len(),
        logins: logins.collect(),
    };
    Box::pin(migrate(&migration)).await?;
    let aws = aws(servers);
    let (emulated, pool, ()) =
        tokio::try_join!(Box::pin(emulate(&aws, &nats, FROM_EMAIL)), user_pool(servers), photo_bucket(servers))?;
    Ok(Prepared {
        bids_table: TABLE,
        notification_queue_url: emulated.notification_queue_url,
        photo_bucket: PHOTO_BUCKET,
        from_email: FROM_EMAIL,
        issuer: format!("https://cognito-idp.{}.amazonaws.com/{}", servers.aws_region(), pool.id),
        user_pool_id: pool.id,
        client_id: pool.client_id,
        pool_keys: pool.keys,
        history_is_rewritten: emulated.history_is_rewritten,
    })
}

/// The settings of the services for the emulator.
#[must_use]
pub fn aws(servers: &Servers) -> cloud::Settings {
    let (id, secret) = servers.aws_credentials();
    cloud::Settings {
        region: servers.aws_region().to_owned(),
        endpoint: Some(servers.aws_endpoint()),
        credentials: Some((id.to_owned(), secret.to_owned())),
    }
}

/// The result of [`emulate`].
pub struct Emulated {
    /// The queue of notifications.
    pub notification_queue_url: String,
    /// As [`Prepared::history_is_rewritten`].
    pub history_is_rewritten: bool,
}

/// Creates table, queue and sender in an AWS emulator. The emulator keeps its data in memory: if the table is new
/// and the log has records, bid-persistence reads the log from its beginning again.
///
/// # Errors
/// The call that failed.
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
    let endpoint = aws.endpoint.as_deref().context("AWS_ENDPOINT_URL must be the address of an emulator")?;
    Ok(Emulated { notification_queue_url: notification_queue(endpoint).await?, history_is_rewritten: rewrite })
}

/// Creates the queue of notifications and that of its dead letters; returns the address of the first.
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

/// Creates the bucket of photos: any page may send signed files to it, and reading needs no signature.
async fn photo_bucket(servers: &Servers) -> Result<()> {
    let cors = "<CORSConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><CORSRule>\
        <AllowedOrigin>*</AllowedOrigin><AllowedMethod>PUT</AllowedMethod>\
        <AllowedHeader>content-type</AllowedHeader><AllowedHeader>if-none-match</AllowedHeader>\
        </CORSRule></CORSConfiguration>";
    let policy = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*",
        "Action": "s3:GetObject", "Resource": format!("arn:aws:s3:::{PHOTO_BUCKET}/photos/*")}]});
    let signature = testkit::http::emulator_authorization("s3", servers.aws_region());
    for (query, kind, body) in [
        ("", "application/xml", ""),
        ("?cors", "application/xml", cors),
        ("?policy", "application/json", &policy.to_string()),
    ] {
        let url = format!("{}/{PHOTO_BUCKET}{query}", servers.aws_endpoint());
        let request = testkit::http::request("PUT", &url, None);
        let request = request.header("content-type", kind).header("authorization", &signature);
        let reply = testkit::http::send(request.body(body.to_owned().into())?).await?;
        anyhow::ensure!((200..300).contains(&reply.status), "{url}: {} {}", reply.status, reply.text);
    }
    Ok(())
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
    // The emulator serves the keys of each pool under the pool's id.
    let keys = testkit::http::get(&format!("{endpoint}/{id}/.well-known/jwks.json"), None).await?;
    Ok(Pool { id, client_id, keys: keys.json })
}

fn text(value: &Value) -> Result<String> {
    Ok(value.as_str().context("a field is missing in the answer of the emulator")?.to_owned())
}

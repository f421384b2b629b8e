//! Declares streams, consumers and the bucket of leases from the files that the nats CLI takes as well.

use async_nats::jetstream::context::{CreateKeyValueError, GetStreamErrorKind};
use async_nats::jetstream::{ErrorCode, consumer, context::Context, kv, stream};
use errors::BoxError;
use protocol::LEASE;
use protocol::subject::{LEASES_BUCKET, LOG_STREAM};

/// Files of the streams.
const STREAMS: [&str; 4] = [
    include_str!("../../../nats/streams/AUCTION_LOG.json"),
    include_str!("../../../nats/streams/AUCTION_CHAT.json"),
    include_str!("../../../nats/streams/AUCTION_CHECKPOINTS.json"),
    include_str!("../../../nats/streams/AUCTION_DLQ.json"),
];

/// Files of the durable consumers of the log.
const LOG_CONSUMERS: [&str; 2] = [
    include_str!("../../../nats/consumers/bid-persistence.json"),
    include_str!("../../../nats/consumers/auction-results.json"),
];

/// Most bytes of the bucket of leases. It holds one short entry for each lease.
const LEASES_BYTES: i64 = 1024 * 1024;

/// The server did not accept a declaration.
#[derive(Debug, thiserror::Error)]
#[error("failed to declare {what}")]
struct Rejected {
    what: String,
    source: BoxError,
}

fn rejected<E: Into<BoxError>>(what: String) -> impl FnOnce(E) -> Rejected {
    move |error| Rejected { what, source: error.into() }
}

/// Creates missing streams, consumers and buckets and updates the others to their files. Repeatable.
///
/// # Errors
/// Names the stream, consumer or bucket that the server rejected, with the server's error as source.
pub async fn declare(jetstream: &Context, replicas: usize) -> Result<(), async_nats::Error> {
    for text in STREAMS {
        let mut config: stream::Config = serde_json::from_str(text)?;
        config.num_replicas = replicas;
        let name = config.name.clone();
        jetstream.create_or_update_stream(config).await.map_err(rejected(format!("stream {name}")))?;
    }
    for text in LOG_CONSUMERS {
        declare_consumer(jetstream, serde_json::from_str(text)?).await?;
    }
    declare_leases(jetstream, replicas).await.map_err(rejected(format!("bucket {LEASES_BUCKET}")))?;
    Ok(())
}

/// The bucket of leases. Its storage is files, so that the bucket is still there after a restart of a single
/// nats-server.
fn leases(replicas: usize) -> kv::Config {
    kv::Config {
        bucket: LEASES_BUCKET.to_owned(),
        description: "Elected instances; an entry expires unless it is renewed".to_owned(),
        history: 1,
        max_age: LEASE,
        max_bytes: LEASES_BYTES,
        storage: stream::StorageType::File,
        num_replicas: replicas,
        ..Default::default()
    }
}

async fn declare_leases(jetstream: &Context, replicas: usize) -> Result<(), BoxError> {
    match jetstream.get_stream(format!("KV_{LEASES_BUCKET}")).await {
        // No server changes the storage of a stream. The bucket contains nothing that lives longer than a lease.
        Ok(bucket) if bucket.cached_info().config.storage != stream::StorageType::File => {
            jetstream.delete_key_value(LEASES_BUCKET).await?;
        }
        Ok(_) => {}
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(cause) if cause.error_code() == ErrorCode::STREAM_NOT_FOUND => {}
            _ => return Err(error.into()),
        },
    }
    jetstream.create_or_update_key_value(leases(replicas)).await?;
    Ok(())
}

/// Creates the bucket of leases with as many replicas as the log has. An existing bucket is not changed.
pub async fn create_leases(jetstream: &Context) -> Result<kv::Store, CreateLeasesError> {
    let log = jetstream.get_stream(LOG_STREAM).await.map_err(|error| CreateLeasesError::Replicas(error.into()))?;
    let replicas = log.cached_info().config.num_replicas;
    Ok(jetstream.create_key_value(leases(replicas)).await?)
}

/// Why the bucket of leases was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateLeasesError {
    /// The log, whose number of replicas the bucket takes, cannot be read.
    #[error("failed to read the number of replicas of the log")]
    Replicas(#[source] BoxError),
    /// The server did not accept the bucket.
    #[error("the server did not create the bucket")]
    Create(#[from] CreateKeyValueError),
}

// `create_consumer` updates an existing consumer; `get_or_create` would ignore a changed file.
async fn declare_consumer(jetstream: &Context, config: consumer::pull::Config) -> Result<(), async_nats::Error> {
    let name = config.durable_name.clone().unwrap_or_default();
    jetstream.create_consumer_on_stream(config, LOG_STREAM).await.map_err(rejected(format!("consumer {name}")))?;
    Ok(())
}

/// Makes a durable consumer of the log start again from the first record.
///
/// # Errors
/// When the server rejects it or there is no file for `name`.
pub async fn restart_consumer(jetstream: &Context, name: &str) -> Result<(), async_nats::Error> {
    jetstream.delete_consumer_from_stream(name, LOG_STREAM).await?;
    for text in LOG_CONSUMERS {
        let config: consumer::pull::Config = serde_json::from_str(text)?;
        if config.durable_name.as_deref() == Some(name) {
            return declare_consumer(jetstream, config).await;
        }
    }
    Err(format!("there is no file for the consumer {name}").into())
}

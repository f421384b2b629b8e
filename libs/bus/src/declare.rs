//! Declares streams, consumers and the bucket of leases from the files that the nats CLI takes as well.

use std::time::Duration;

use async_nats::jetstream::{consumer, context::Context, kv, stream};
use errors::BoxError;
use protocol::subject::{LEASES_BUCKET, LOG_STREAM};

/// Files of the streams.
const STREAMS: [&str; 3] = [
    include_str!("../../../nats/streams/AUCTION_LOG.json"),
    include_str!("../../../nats/streams/AUCTION_CHAT.json"),
    include_str!("../../../nats/streams/AUCTION_DLQ.json"),
];

/// Files of the durable consumers of the log.
const LOG_CONSUMERS: [&str; 2] = [
    include_str!("../../../nats/consumers/bid-persistence.json"),
    include_str!("../../../nats/consumers/auction-results.json"),
];

/// Lifetime of a lease that is not renewed. `lease.rs` relies on it.
const LEASE_SECONDS: u64 = 2;

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
    let leases = kv::Config {
        bucket: LEASES_BUCKET.to_owned(),
        description: "Elected instances; an entry expires unless it is renewed".to_owned(),
        history: 1,
        max_age: Duration::from_secs(LEASE_SECONDS),
        max_bytes: 1024 * 1024,
        storage: stream::StorageType::Memory,
        num_replicas: replicas,
        ..Default::default()
    };
    jetstream.create_or_update_key_value(leases).await.map_err(rejected(format!("bucket {LEASES_BUCKET}")))?;
    Ok(())
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

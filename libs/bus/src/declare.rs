//! Streams, consumers and the bucket, from the same files that the nats CLI takes.

use std::time::Duration;

use async_nats::jetstream::{consumer, context::Context, kv, stream};
use protocol::subject::{LEASES_BUCKET, LOG_STREAM};

const STREAMS: [&str; 3] = [
    include_str!("../../../nats/streams/AUCTION_LOG.json"),
    include_str!("../../../nats/streams/AUCTION_CHAT.json"),
    include_str!("../../../nats/streams/AUCTION_DLQ.json"),
];

const LOG_CONSUMERS: [&str; 2] = [
    include_str!("../../../nats/consumers/bid-persistence.json"),
    include_str!("../../../nats/consumers/auction-results.json"),
];

/// How long a lease lives without being renewed: the bucket's only setting that matters.
const LEASE_SECONDS: u64 = 2;

/// Creates what is missing and brings the rest to what the files say. Repeatable.
///
/// # Errors
/// Which stream, consumer or bucket the server refused, and why.
pub async fn declare(jetstream: &Context, replicas: usize) -> Result<(), async_nats::Error> {
    for text in STREAMS {
        let mut config: stream::Config = serde_json::from_str(text)?;
        config.num_replicas = replicas;
        let name = config.name.clone();
        jetstream.create_or_update_stream(config).await.map_err(|error| format!("stream {name}: {error}"))?;
    }
    for text in LOG_CONSUMERS {
        declare_consumer(jetstream, serde_json::from_str(text)?).await?;
    }
    let leases = kv::Config {
        bucket: LEASES_BUCKET.to_owned(),
        description: "Who is elected; an entry lives as long as it is renewed".to_owned(),
        history: 1,
        max_age: Duration::from_secs(LEASE_SECONDS),
        max_bytes: 1024 * 1024,
        storage: stream::StorageType::Memory,
        num_replicas: replicas,
        ..Default::default()
    };
    jetstream.create_or_update_key_value(leases).await.map_err(|error| format!("bucket {LEASES_BUCKET}: {error}"))?;
    Ok(())
}

// `create_consumer` updates what exists; `get_or_create` would overlook that the file has changed.
async fn declare_consumer(jetstream: &Context, config: consumer::pull::Config) -> Result<(), async_nats::Error> {
    let name = config.durable_name.clone().unwrap_or_default();
    jetstream
        .create_consumer_on_stream(config, LOG_STREAM)
        .await
        .map_err(|error| format!("consumer {name}: {error}"))?;
    Ok(())
}

/// Makes a durable consumer of the log read everything again from the first record.
///
/// # Errors
/// When the server refuses.
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

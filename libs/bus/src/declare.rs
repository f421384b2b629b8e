//! Declares streams, consumers and the bucket of leases from the files that the nats CLI takes as well.
//!
//! A change that an operator has made on the server is never undone silently: every difference is reported, and one whose
//! repair could lose data (less room, fewer copies) is left as it is unless its stream is named.

use std::collections::BTreeSet;
use std::fmt;

use async_nats::jetstream::context::{CreateStreamError, KeyValueError};
use async_nats::jetstream::{consumer, context::Context, kv, stream};
use errors::BoxError;
use protocol::subject::{LEASES_BUCKET, LOG_STREAM};
use serde_json::{Map, Value, json};

use crate::api::{self, ApiError};
use crate::compare::{FieldDifference, Handling, compare, merged};

/// Files of the streams. The bucket is a stream as well.
const STREAMS: [&str; 5] = [
    include_str!("../../../nats/streams/AUCTION_LOG.json"),
    include_str!("../../../nats/streams/AUCTION_CHAT.json"),
    include_str!("../../../nats/streams/AUCTION_CHECKPOINTS.json"),
    include_str!("../../../nats/streams/AUCTION_DLQ.json"),
    LEASES,
];

/// File of the bucket of leases. Its storage is files, so that the bucket is still there after a restart of a single
/// nats-server.
const LEASES: &str = include_str!("../../../nats/streams/KV_leases.json");

/// Files of the durable consumers of the log.
const LOG_CONSUMERS: [&str; 2] = [
    include_str!("../../../nats/consumers/bid-persistence.json"),
    include_str!("../../../nats/consumers/auction-results.json"),
];

/// The server did not accept a declaration.
#[derive(Debug, thiserror::Error)]
#[error("failed to declare {what}")]
struct Rejected {
    what: String,
    source: BoxError,
}

/// How something declared differs from what the server has.
#[derive(Debug, Clone, PartialEq)]
pub enum Deviation {
    /// The server does not have it.
    Missing,
    /// A field differs.
    Field(FieldDifference),
}

/// A difference between a file and the server.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// The kind and the name: `stream AUCTION_LOG`, `consumer bid-persistence`, `bucket leases`.
    pub what: String,
    /// The difference.
    pub deviation: Deviation,
}

impl Difference {
    /// Whether `apply` leaves it as it is.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        matches!(&self.deviation, Deviation::Field(field) if field.handling == Handling::Kept)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.deviation {
            Deviation::Missing => write!(f, "{}: missing", self.what),
            Deviation::Field(FieldDifference { field, declared, actual, .. }) => {
                write!(f, "{}: {field} is {actual}, declared is {declared}", self.what)
            }
        }
    }
}

/// Something that is declared.
struct Declared {
    what: String,
    /// The name that permits to lose data: that of the stream.
    name: String,
    /// Operations of the API that read, create and change it.
    info: String,
    create: String,
    update: String,
    config: Map<String, Value>,
    is_consumer: bool,
}

fn file(text: &str) -> Result<Map<String, Value>, BoxError> {
    Ok(serde_json::from_str(text)?)
}

fn name_of(config: &Map<String, Value>) -> String {
    config.get("name").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Everything that is declared, streams first.
fn all(replicas: usize) -> Result<Vec<Declared>, BoxError> {
    let mut declared = Vec::new();
    for text in STREAMS {
        let mut config = file(text)?;
        config.insert("num_replicas".to_owned(), json!(replicas));
        let name = name_of(&config);
        let what = match name.strip_prefix("KV_") {
            Some(bucket) => format!("bucket {bucket}"),
            None => format!("stream {name}"),
        };
        let operation = |verb: &str| format!("STREAM.{verb}.{name}");
        let (info, create, update) = (operation("INFO"), operation("CREATE"), operation("UPDATE"));
        declared.push(Declared { what, name, info, create, update, config, is_consumer: false });
    }
    for text in LOG_CONSUMERS {
        let config = file(text)?;
        let name = name_of(&config);
        let filter = config.get("filter_subject").and_then(Value::as_str).unwrap_or_default();
        let create = format!("CONSUMER.CREATE.{LOG_STREAM}.{name}.{filter}");
        declared.push(Declared {
            what: format!("consumer {name}"),
            info: format!("CONSUMER.INFO.{LOG_STREAM}.{name}"),
            update: create.clone(),
            create,
            name,
            config,
            is_consumer: true,
        });
    }
    Ok(declared)
}

impl Declared {
    /// The server's configuration. None if it does not have it.
    async fn actual(&self, jetstream: &Context) -> Result<Option<Map<String, Value>>, ApiError> {
        match api::call(jetstream, &self.info, &json!({})).await {
            Ok(info) => Ok(Some(info["config"].as_object().cloned().unwrap_or_default())),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The server's configuration, and how it differs.
    async fn examine(
        &self,
        jetstream: &Context,
        shrink: &BTreeSet<String>,
    ) -> Result<(Option<Map<String, Value>>, Vec<Difference>), Rejected> {
        let actual = self.actual(jetstream).await.map_err(rejected(&self.what))?;
        let differences = self.differences(actual.as_ref(), shrink);
        Ok((actual, differences))
    }

    /// The request that creates or changes it.
    fn request(&self, config: Value) -> Value {
        if self.is_consumer { json!({ "stream_name": LOG_STREAM, "config": config }) } else { config }
    }

    fn differences(&self, actual: Option<&Map<String, Value>>, shrink: &BTreeSet<String>) -> Vec<Difference> {
        let deviations = match actual {
            None => vec![Deviation::Missing],
            Some(actual) => {
                // A consumer stores nothing: no change of it loses data.
                let may_shrink = self.is_consumer || shrink.contains(&self.name);
                compare(&self.config, actual, may_shrink).into_iter().map(Deviation::Field).collect()
            }
        };
        let with_name = |deviation| Difference { what: self.what.clone(), deviation };
        deviations.into_iter().map(with_name).collect()
    }

    async fn apply(
        &self,
        jetstream: &Context,
        actual: Option<Map<String, Value>>,
        differences: &[Difference],
    ) -> Result<(), ApiError> {
        let create = self.request(Value::Object(self.config.clone()));
        let Some(actual) = actual else {
            return api::call(jetstream, &self.create, &create).await.map(drop);
        };
        if differences.iter().all(Difference::is_kept) {
            return Ok(());
        }
        // No server changes the storage of a stream. The bucket contains nothing that lives longer than a lease.
        let is_bucket = self.name.starts_with("KV_");
        if is_bucket && actual.get("storage") != self.config.get("storage") {
            api::call(jetstream, &format!("STREAM.DELETE.{}", self.name), &json!({})).await?;
            return api::call(jetstream, &self.create, &create).await.map(drop);
        }
        let fields: Vec<FieldDifference> = differences
            .iter()
            .filter_map(|difference| match &difference.deviation {
                Deviation::Field(field) => Some(field.clone()),
                Deviation::Missing => None,
            })
            .collect();
        api::call(jetstream, &self.update, &self.request(merged(&actual, &fields))).await.map(drop)
    }
}

/// Every difference between the files and the server. `shrink` names the streams whose repair may lose data.
///
/// # Errors
/// Names the stream, consumer or bucket that cannot be read.
pub async fn differences(
    jetstream: &Context,
    replicas: usize,
    shrink: &BTreeSet<String>,
) -> Result<Vec<Difference>, async_nats::Error> {
    let mut found = Vec::new();
    for declared in all(replicas)? {
        found.extend(declared.examine(jetstream, shrink).await?.1);
    }
    Ok(found)
}

/// Creates what is missing and changes what differs, except for changes that could lose data of a stream that `shrink`
/// does not name. Returns every difference that there was. Repeatable.
///
/// # Errors
/// Names the stream, consumer or bucket that the server rejected, with the server's error as source.
pub async fn apply(
    jetstream: &Context,
    replicas: usize,
    shrink: &BTreeSet<String>,
) -> Result<Vec<Difference>, async_nats::Error> {
    let mut found = Vec::new();
    for declared in all(replicas)? {
        let (actual, differences) = declared.examine(jetstream, shrink).await?;
        declared.apply(jetstream, actual, &differences).await.map_err(rejected(&declared.what))?;
        found.extend(differences);
    }
    Ok(found)
}

fn rejected(what: &str) -> impl FnOnce(ApiError) -> Rejected {
    let what = what.to_owned();
    move |error| Rejected { what, source: error.into() }
}

/// [`apply`] without permission to lose data.
///
/// # Errors
/// As [`apply`].
pub async fn declare(jetstream: &Context, replicas: usize) -> Result<(), async_nats::Error> {
    apply(jetstream, replicas, &BTreeSet::new()).await.map(drop)
}

/// The names of the declared streams, except for the bucket, which holds nothing that lives longer than a lease.
#[must_use]
pub fn stored_streams() -> Vec<String> {
    let names = STREAMS.iter().filter_map(|text| file(text).ok()).map(|config| name_of(&config));
    names.filter(|name| !name.starts_with("KV_")).collect()
}

/// Creates the bucket of leases with as many replicas as the log has. An existing bucket is not changed.
pub async fn create_leases(jetstream: &Context) -> Result<kv::Store, CreateLeasesError> {
    let log = jetstream.get_stream(LOG_STREAM).await.map_err(|error| CreateLeasesError::Replicas(error.into()))?;
    let mut config: stream::Config = serde_json::from_str(LEASES)?;
    config.num_replicas = log.cached_info().config.num_replicas;
    jetstream.create_stream(config).await?;
    Ok(jetstream.get_key_value(LEASES_BUCKET).await?)
}

/// Why the bucket of leases was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateLeasesError {
    /// The log, whose number of replicas the bucket takes, cannot be read.
    #[error("failed to read the number of replicas of the log")]
    Replicas(#[source] BoxError),
    /// The file of the bucket cannot be parsed.
    #[error("failed to parse the file of the bucket")]
    File(#[from] serde_json::Error),
    /// The server did not accept the bucket.
    #[error("the server did not create the bucket")]
    Create(#[from] CreateStreamError),
    /// The bucket was created and cannot be opened.
    #[error("failed to open the new bucket")]
    Open(#[from] KeyValueError),
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
            jetstream.create_consumer_on_stream(config, LOG_STREAM).await?;
            return Ok(());
        }
    }
    Err(format!("there is no file for the consumer {name}").into())
}

#[cfg(test)]
mod tests {
    use protocol::LEASE;

    use super::*;

    #[test]
    fn files_are_readable_and_the_bucket_lives_as_long_as_a_lease() {
        let names: Vec<String> = all(3).expect("the files").into_iter().map(|declared| declared.what).collect();
        assert_eq!(
            names,
            [
                "stream AUCTION_LOG",
                "stream AUCTION_CHAT",
                "stream AUCTION_CHECKPOINTS",
                "stream AUCTION_DLQ",
                "bucket leases",
                "consumer bid-persistence",
                "consumer auction-results"
            ]
        );
        for text in STREAMS {
            let config: stream::Config = serde_json::from_str(text).expect("a stream");
            assert!(config.max_bytes > 0 && config.description.is_some(), "{}", config.name);
        }
        let leases: stream::Config = serde_json::from_str(LEASES).expect("a stream");
        assert_eq!((leases.max_age, leases.duplicate_window), (LEASE, LEASE));
        assert_eq!(leases.name, format!("KV_{LEASES_BUCKET}"));
    }
}

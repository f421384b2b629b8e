//! The NATS requests of operators: the backlog, and putting a dead letter back.

use std::sync::Arc;
use std::time::Duration;

use bus::{About, Backlog, Bus, Consumer, Log, LogError, Micro};
use protocol::{Code, RedriveRequest, Reply, subject};
use serde_json::{Value, json};
use service::Stop;
use tokio::sync::watch;

use crate::backend::Backend;
use crate::persist::Persist;

/// Interval between two measurements of the backlog: two small requests.
const MEASURE_EVERY: Duration = Duration::from_secs(2);

/// A task that measures the backlog, and what it has measured last.
pub fn backlog(consumer: Consumer) -> (impl Future<Output = ()> + Send, watch::Receiver<Option<Backlog>>) {
    let (sender, receiver) = watch::channel(None);
    let measuring = async move {
        loop {
            match consumer.backlog().await {
                Ok(backlog) => _ = sender.send_replace(Some(backlog)),
                Err(error) => {
                    tracing::debug!(error = %errors::chain(&*error), "failed to measure the backlog");
                }
            }
            tokio::time::sleep(MEASURE_EVERY).await;
        }
    };
    (measuring, receiver)
}

/// The numbers that `nats micro stats` shows about this instance.
pub fn status(backlog: Option<Backlog>, items_written: u64) -> Value {
    json!({ "backlog": backlog, "items_written": items_written })
}

/// Registers as a NATS micro service and answers its requests.
///
/// # Errors
/// When NATS rejects the registration or a subscription.
pub async fn serve<B: Backend>(
    bus: &Bus,
    status: impl Fn() -> Value + Send + Sync + 'static,
    stop: &Stop,
    log: Log,
    persist: Persist<B>,
) -> Result<Micro, Box<dyn std::error::Error + Send + Sync>> {
    let about = About {
        name: crate::NAME,
        version: service::VERSION,
        description: "Copies every bid of the log into the history",
        status: Arc::new(status),
    };
    let micro = Micro::start(bus, about, stop.child_token()).await?;
    let redrive = move |request: RedriveRequest| {
        let (log, persist) = (log.clone(), persist.clone());
        async move { Reply::from(redrive(&log, &persist, request.stream_seq).await.map_err(Into::into)) }
    };
    micro.serve(subject::HISTORY_REDRIVE, unreadable, redrive).await?;
    Ok(micro)
}

/// Writes the bids of one record again. False if the log no longer has the record.
async fn redrive<B: Backend>(log: &Log, persist: &Persist<B>, stream_seq: u64) -> Result<bool, Code> {
    let failed =
        |error: &LogError| tracing::warn!(stream_seq, error = %errors::chain(error), "failed to read a record");
    match log.at(stream_seq).await {
        Ok(None) => Ok(false),
        Ok(Some(logged)) if persist.write(&logged.record).await => Ok(true),
        Ok(Some(_)) => Err(Code::Unavailable),
        // It cannot be read now either.
        Err(error @ LogError::Record { .. }) => {
            failed(&error);
            Err(Code::InvalidRequest)
        }
        Err(error) => {
            failed(&error);
            Err(Code::Unavailable)
        }
    }
}

fn unreadable(error: &str) -> Reply<bool> {
    tracing::warn!(error, "failed to read a request");
    Reply::Failed(Code::InvalidRequest.into())
}

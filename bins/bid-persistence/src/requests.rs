//! The NATS requests of operators: the state of an instance, and putting a dead letter back.

use std::sync::Arc;

use bus::{About, Backlog, Bus, Log, LogError, Micro};
use protocol::{Code, RedriveRequest, Reply, subject};
use serde_json::{Value, json};
use service::Stop;

use crate::backend::Backend;
use crate::persist::Persist;

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
    let read = |error: LogError| {
        tracing::warn!(stream_seq, error = %errors::chain(&error), "failed to read a record");
        if matches!(error, LogError::Record { .. }) { Code::InvalidRequest } else { Code::Unavailable }
    };
    let Some(logged) = log.at(stream_seq).await.map_err(read)? else { return Ok(false) };
    // A forged record stays one.
    if !log.is_next(&logged).await.map_err(read)? {
        tracing::warn!(stream_seq, "refused to handle a record again: it does not continue the log");
        return Err(Code::InvalidRequest);
    }
    persist.write(&logged.record).await.map(|()| true).map_err(|never| match never {
        Some(reason) => {
            tracing::warn!(stream_seq, reason, "failed to handle a record again");
            Code::InvalidRequest
        }
        None => Code::Unavailable,
    })
}

fn unreadable(error: &str) -> Reply<bool> {
    tracing::warn!(error, "failed to read a request");
    Reply::Failed(Code::InvalidRequest.into())
}

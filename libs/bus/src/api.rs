//! The JetStream API as JSON, for requests that the client has no call for and for fields that it does not know.

use std::time::Duration;

use async_nats::jetstream::context::Context;
use errors::BoxError;
use serde_json::Value;

/// Time limit for asking whether something exists. Checks of readiness have a second.
const EXISTS_TIMEOUT: Duration = Duration::from_millis(500);
/// Status of a server that cannot answer now.
const UNAVAILABLE: u64 = 503;
/// Error code for a stream that does not exist.
const STREAM_NOT_FOUND: u64 = 10059;
/// Error code for a consumer that does not exist.
const CONSUMER_NOT_FOUND: u64 = 10014;
/// Error codes for JetStream being switched off, in the server and in the account. A full disk does that.
const NOT_ENABLED: [u64; 2] = [10076, 10039];

/// Why the JetStream API did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The server answered with an error.
    #[error("{description} (code {status}, error code {code})")]
    Refused {
        /// Status, as in HTTP.
        status: u64,
        /// The error code of JetStream.
        code: u64,
        /// The server's text.
        description: String,
    },
    /// There was no readable answer.
    #[error("JetStream did not answer")]
    NoAnswer(#[source] BoxError),
}

impl ApiError {
    /// Whether the stream or consumer certainly does not exist, or JetStream is switched off. An answer that is missing
    /// proves neither: a leader may just be elected.
    #[must_use]
    pub const fn is_missing(&self) -> bool {
        match self {
            Self::Refused { code, .. } => {
                matches!(*code, STREAM_NOT_FOUND | CONSUMER_NOT_FOUND)
                    || *code == NOT_ENABLED[0]
                    || *code == NOT_ENABLED[1]
            }
            Self::NoAnswer(_) => false,
        }
    }

    /// Whether the same request may succeed a moment later: no server answered, or no leader is elected.
    #[must_use]
    pub const fn is_temporary(&self) -> bool {
        match self {
            Self::Refused { status, .. } => *status == UNAVAILABLE,
            Self::NoAnswer(_) => true,
        }
    }

    /// Whether the stream or consumer does not exist.
    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code: STREAM_NOT_FOUND | CONSUMER_NOT_FOUND, .. })
    }
}

/// Sends one request of the API. `operation` is the subject after the prefix.
pub(crate) async fn call(jetstream: &Context, operation: &str, request: &Value) -> Result<Value, ApiError> {
    let answer: Value =
        jetstream.request(operation.to_owned(), request).await.map_err(|error| ApiError::NoAnswer(error.into()))?;
    checked(answer)
}

/// Whether a stream or consumer exists, as far as the server says. True while it does not answer in time: a leader may
/// just be elected. `operation` asks for its information.
pub(crate) async fn exists(jetstream: &Context, operation: &str) -> bool {
    match tokio::time::timeout(EXISTS_TIMEOUT, call(jetstream, operation, &serde_json::json!({}))).await {
        Ok(Err(error)) => !error.is_missing(),
        Ok(Ok(_)) | Err(_) => true,
    }
}

/// The answer, unless it is an error.
pub(crate) fn checked(answer: Value) -> Result<Value, ApiError> {
    let error = &answer["error"];
    if error.is_null() {
        return Ok(answer);
    }
    Err(ApiError::Refused {
        status: error["code"].as_u64().unwrap_or_default(),
        code: error["err_code"].as_u64().unwrap_or_default(),
        description: error["description"].as_str().unwrap_or("no description").to_owned(),
    })
}

//! AWS: the history of bids in DynamoDB, the notification queue in SQS, mails by SES, video channels of
//! IVS, photos in S3, each behind one small struct.
//!
//! **Owns** the schema of the history's table and items.
//!
//! **Never** decides, and never acknowledges anything: callers learn exactly which items were written.
//!
//! **Invariants**
//! - An item is keyed by (auction, seq), so writing it again changes nothing.
//! - A call that is not idempotent (a mail, a new channel) is sent once: the SDK repeats only the others, so that what
//!   is repeated is known and counted by the caller.
//! - A batch has at most 25 items and no key twice; items that DynamoDB leaves unprocessed are sent again with growing
//!   pauses, and reported if they stay unprocessed.

#![warn(missing_docs)]

mod dead_letters;
mod history;
mod mail;
mod queue;
mod uploads;
mod video;

use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_smithy_http_client::tls;

pub use dead_letters::{QueueDeadLetters, QueuedLetter};
pub use history::{Before, History, HistoryError, MAX_BATCH_ITEMS, OwnBid, Page, Unwritten};
pub use mail::{Mail, MailError};
pub use queue::{Queue, QueueError, Received};
pub use uploads::{PhotoBucket, PhotoType, SignedUpload, UploadError, Uploads};
pub use video::{Streaming, Video, VideoError};

/// Region, endpoint and credentials of AWS.
#[derive(Clone, Default)]
pub struct Settings {
    /// The AWS region.
    pub region: String,
    /// Another address for every AWS service: the emulator.
    pub endpoint: Option<String>,
    /// Access key id and secret. None: the SDK's default chain finds them.
    pub credentials: Option<(String, String)>,
}

impl Settings {
    /// Reads `AWS_REGION`, `AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.
    ///
    /// # Errors
    /// The names of the missing variables.
    pub fn read(find: &dyn Fn(&str) -> Option<String>) -> Result<Self, Vec<&'static str>> {
        let (region, endpoint) = (find("AWS_REGION"), find("AWS_ENDPOINT_URL"));
        let credentials = find("AWS_ACCESS_KEY_ID").zip(find("AWS_SECRET_ACCESS_KEY"));
        Ok(Self { region: region.ok_or_else(|| vec!["AWS_REGION"])?, endpoint, credentials })
    }
}

/// Time limit for opening a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit of one attempt of a call, so that the SDK has time for a second one.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit of one call with all the SDK's retries.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(10);

/// The configuration of every client: rustls as the one TLS stack, a time limit on every call.
pub async fn configuration(settings: &Settings) -> SdkConfig {
    let https = aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
        .build_https();
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .operation_timeout(OPERATION_TIMEOUT)
        .build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(https)
        .timeout_config(timeouts)
        .region(Region::new(settings.region.clone()));
    if let Some(endpoint) = &settings.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if let Some((id, secret)) = &settings.credentials {
        loader =
            loader.credentials_provider(aws_sdk_dynamodb::config::Credentials::new(id, secret, None, None, "settings"));
    }
    loader.load().await
}

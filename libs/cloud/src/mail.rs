//! Mails through SES: plain text, one recipient each.

use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_sdk_ses::Client;
use aws_sdk_ses::error::{BuildError, ProvideErrorMetadata, SdkError};
use aws_sdk_ses::operation::send_email::SendEmailError;
use aws_sdk_ses::types::{Body, Content, Destination, Message};
use errors::BoxError;

/// Why a mail was not confirmed.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// Certainly not sent, because of this mail: its address, or what it holds.
    #[error("SES rejected the mail")]
    Rejected(#[source] BoxError),
    /// Certainly not sent: the account sends faster than it may, or its daily quota is used up.
    #[error("SES throttles the account")]
    Throttled(#[source] BoxError),
    /// Certainly not sent: SES cannot be reached, or sends no mail of this account at present.
    #[error("SES is not available")]
    Unavailable(#[source] BoxError),
    /// Whether the mail was sent is unknown.
    #[error("it is unknown whether the mail was sent")]
    Unknown(#[source] BoxError),
}

impl From<BuildError> for MailError {
    fn from(error: BuildError) -> Self {
        Self::Rejected(error.into())
    }
}

/// The sender of all mails. A cheap handle; clones share the client.
#[derive(Clone)]
pub struct Mail {
    client: Client,
    from: String,
}

impl Mail {
    /// A client that sends from the address `from`. Sends nothing yet.
    #[must_use]
    pub fn new(config: &SdkConfig, from: &str) -> Self {
        // A repeated SendEmail is a second mail: no call is repeated by the SDK.
        let config = aws_sdk_ses::config::Builder::from(config).retry_config(RetryConfig::disabled()).build();
        Self { client: Client::from_conf(config), from: from.to_owned() }
    }

    /// Whether SES answers.
    pub async fn is_reachable(&self) -> bool {
        self.client.get_send_quota().send().await.is_ok()
    }

    /// Registers the sender's address with SES. At AWS itself the owner of the address must confirm it by a link in a
    /// mail; the emulator accepts it at once.
    ///
    /// # Errors
    /// When SES does not answer.
    pub async fn verify_sender(&self) -> Result<(), MailError> {
        let asked = self.client.verify_email_identity().email_address(&self.from).send().await;
        asked.map(drop).map_err(|error| MailError::Unknown(error.into()))
    }

    /// Sends one mail.
    ///
    /// # Errors
    /// Says whether the mail may have been sent.
    pub async fn send(&self, to: &str, subject: &str, text: &str) -> Result<(), MailError> {
        let content = |text: &str| Content::builder().data(text).charset("UTF-8").build();
        let message = Message::builder().subject(content(subject)?).body(Body::builder().text(content(text)?).build());
        let call = self.client.send_email().source(&self.from);
        let call = call.destination(Destination::builder().to_addresses(to).build()).message(message.build());
        match call.send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(classify(error)),
        }
    }
}

/// Codes of SES for an account that sends too much. The daily quota has the same as the rate.
const THROTTLING: [&str; 5] =
    ["Throttling", "ThrottlingException", "TooManyRequestsException", "LimitExceededException", "RequestLimitExceeded"];
/// Codes with which SES refuses a mail for its address or content.
const REJECTIONS: [&str; 3] = ["MessageRejected", "InvalidParameterValue", "ValidationError"];

/// Whether the mail was certainly not sent, and whose fault it is. A lost answer is not certain, nor is a 5xx: SES may
/// have failed after it took the mail.
fn classify(error: SdkError<SendEmailError>) -> MailError {
    let is_refused = match &error {
        SdkError::ConstructionFailure(_) => return MailError::Rejected(error.into()),
        SdkError::ServiceError(answer) => answer.raw().status().is_client_error(),
        // No connection, so no request.
        SdkError::DispatchFailure(_) => is_connection_refused(&error),
        _ => false,
    };
    match error.code() {
        Some(code) if THROTTLING.contains(&code) => MailError::Throttled(error.into()),
        Some(code) if is_refused && REJECTIONS.contains(&code) => MailError::Rejected(error.into()),
        _ if is_refused => MailError::Unavailable(error.into()),
        _ => MailError::Unknown(error.into()),
    }
}

fn is_connection_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused) {
            return true;
        }
        cause = error.source();
    }
    false
}

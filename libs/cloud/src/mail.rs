//! Mails through SES: plain text, one recipient each.

use aws_config::SdkConfig;
use aws_sdk_ses::Client;
use aws_sdk_ses::error::{BuildError, SdkError};
use aws_sdk_ses::types::{Body, Content, Destination, Message};
use errors::BoxError;

/// Why a mail was not confirmed.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// Certainly not sent.
    #[error("SES rejected the mail")]
    Rejected(#[source] BoxError),
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
        Self { client: Client::new(config), from: from.to_owned() }
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
            // A rejection, or a request that was never sent, is certain; a lost answer is not.
            Err(error @ (SdkError::ServiceError(_) | SdkError::ConstructionFailure(_))) => {
                Err(MailError::Rejected(error.into()))
            }
            Err(error) => Err(MailError::Unknown(error.into())),
        }
    }
}

//! Mails through SES: plain text, one recipient each.

use aws_config::SdkConfig;
use aws_sdk_ses::Client;
use aws_sdk_ses::error::{BuildError, DisplayErrorContext, SdkError};
use aws_sdk_ses::types::{Body, Content, Destination, Message};

#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// Certainly not sent.
    #[error("SES refused the mail: {0}")]
    Refused(String),
    /// Sent or not.
    #[error("it is not known whether the mail was sent: {0}")]
    Unknown(String),
}

impl From<BuildError> for MailError {
    fn from(error: BuildError) -> Self {
        Self::Refused(error.to_string())
    }
}

#[derive(Clone)]
pub struct Mail {
    client: Client,
    from: String,
}

impl Mail {
    #[must_use]
    pub fn new(config: &SdkConfig, from: &str) -> Self {
        Self { client: Client::new(config), from: from.to_owned() }
    }

    /// Whether SES answers.
    pub async fn is_reachable(&self) -> bool {
        self.client.get_send_quota().send().await.is_ok()
    }

    /// Asks SES to let us send as ourselves; where SES is real, somebody must confirm it.
    ///
    /// # Errors
    /// When SES does not answer.
    pub async fn verify_sender(&self) -> Result<(), MailError> {
        let asked = self.client.verify_email_identity().email_address(&self.from).send().await;
        asked.map(|_| ()).map_err(|error| MailError::Unknown(DisplayErrorContext(&error).to_string()))
    }

    /// Sends one mail.
    ///
    /// # Errors
    /// Says whether it may have been sent.
    pub async fn send(&self, to: &str, subject: &str, text: &str) -> Result<(), MailError> {
        let content = |text: &str| Content::builder().data(text).charset("UTF-8").build();
        let message = Message::builder().subject(content(subject)?).body(Body::builder().text(content(text)?).build());
        let call = self.client.send_email().source(&self.from);
        let call = call.destination(Destination::builder().to_addresses(to).build()).message(message.build());
        match call.send().await {
            Ok(_) => Ok(()),
            // An answer that says no, or a request that never left, is certain; a lost answer is not.
            Err(error @ (SdkError::ServiceError(_) | SdkError::ConstructionFailure(_))) => {
                Err(MailError::Refused(DisplayErrorContext(&error).to_string()))
            }
            Err(error) => Err(MailError::Unknown(DisplayErrorContext(&error).to_string())),
        }
    }
}

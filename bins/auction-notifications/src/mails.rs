//! Receives messages about ended auctions and sends their mails.

use std::time::Duration;

use cloud::{Mail, MailError, Queue, Received};
use futures_util::{StreamExt, stream};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use protocol::{AUCTION_CLOSED, AuctionClosed, Contact, MailKind};
use service::{Stop, fault};
use store::{MailClaim, Store, StoreError};

use crate::texts;

/// Mails of one message being sent at once. SES allows a new account one mail a second, an established one dozens.
const CONCURRENT_MAILS: usize = 8;
/// Seconds before redelivery of a message with mails that were not sent.
const RETRY_SECONDS: i32 = 5;
/// Interval between extensions of a message's visibility: a third of it, so that two may fail.
const KEEP_EVERY: Duration = Duration::from_secs(10);
/// Pause after a failed receive.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// The consumer of the queue.
#[derive(Clone)]
pub struct Mails {
    queue: Queue,
    mail: Mail,
    store: Store,
    sent: Counter,
    repeated: Counter,
    unreachable: Counter,
}

/// Why a mail was not sent.
#[derive(Debug, thiserror::Error)]
enum NotSent {
    #[error("another instance is sending the mail")]
    Busy,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Mail(#[from] MailError),
}

impl Mails {
    pub fn new(queue: Queue, mail: Mail, store: Store, registry: &mut Registry) -> Self {
        let (sent, repeated, unreachable) = (Counter::default(), Counter::default(), Counter::default());
        registry.register("mails_sent", "Mails accepted by SES", sent.clone());
        registry.register(
            "mails_resent",
            "Mails sent again after an attempt whose outcome is unknown",
            repeated.clone(),
        );
        registry.register(
            "recipients_without_address",
            "Recipients without an e-mail address, who get no mail",
            unreachable.clone(),
        );
        Self { queue, mail, store, sent, repeated, unreachable }
    }

    pub async fn run(self, stop: Stop) {
        // A running receive is not interrupted: its message would stay hidden until the visibility timeout.
        while !stop.is_cancelled() {
            match self.queue.receive().await {
                Ok(Some(message)) => self.process(&message).await,
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(error = %errors::chain(&error), "failed to receive from SQS; will retry");
                    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                }
            }
        }
    }

    async fn process(&self, message: &Received) {
        let done = match serde_json::from_str::<AuctionClosed>(&message.body) {
            Ok(closed) if closed.kind == AUCTION_CLOSED => {
                tokio::select! {
                    done = self.send_all(&closed) => done,
                    () = self.keep(message) => false,
                }
            }
            Ok(closed) => {
                tracing::error!(kind = closed.kind, "received a message of an unknown kind");
                false
            }
            Err(error) => {
                tracing::error!(error = %errors::chain(&error), "failed to parse a message");
                false
            }
        };
        let answered = if done {
            self.queue.delete(message).await
        } else {
            // After five receives the queue itself moves the message to the dead letters.
            self.queue.retry_in(message, RETRY_SECONDS).await
        };
        if let Err(error) = answered {
            tracing::warn!(error = %errors::chain(&error), "failed to delete or release a message; SQS will redeliver it");
        }
    }

    /// Keeps the message hidden from other instances. Never returns; dropped when the work is done.
    async fn keep(&self, message: &Received) {
        loop {
            tokio::time::sleep(KEEP_EVERY).await;
            if let Err(error) = self.queue.keep(message).await {
                tracing::warn!(error = %errors::chain(&error), "failed to extend the visibility of a message; SQS may redeliver it");
            }
        }
    }

    /// True when every recipient with an address has been sent a mail.
    async fn send_all(&self, closed: &AuctionClosed) -> bool {
        let recipients: Vec<(MailKind, Contact)> =
            closed.recipients().map(|(kind, contact)| (kind, contact.clone())).collect();
        let sent = stream::iter(recipients).map(|(kind, contact)| async move {
            match self.send_one(closed, kind, &contact).await {
                Ok(()) => true,
                Err(error) => {
                    tracing::warn!(
                        auction_id = %closed.auction_id, user_id = %contact.user_id, kind = kind.name(),
                        error = %errors::chain(&error), "failed to send a mail; will retry"
                    );
                    false
                }
            }
        });
        // Every mail is tried, also after one has failed.
        sent.buffer_unordered(CONCURRENT_MAILS).fold(true, |all, sent| async move { all && sent }).await
    }

    async fn send_one(&self, closed: &AuctionClosed, kind: MailKind, contact: &Contact) -> Result<(), NotSent> {
        let Some(email) = &contact.email else {
            self.unreachable.inc();
            return Ok(());
        };
        let (auction_id, user_id) = (closed.auction_id, contact.user_id);
        match self.store.claim_mail(auction_id, user_id, kind).await? {
            MailClaim::Sent => return Ok(()),
            MailClaim::Busy => return Err(NotSent::Busy),
            MailClaim::Ours { again } => self.repeated.inc_by(u64::from(again)),
        };
        let (subject, text) = texts::text(closed, kind, contact);
        if kind == MailKind::Lost && fault::is_on(service::fault::FaultPoint::ForgetLoser, &auction_id) {
            return Ok(self.store.mail_sent(auction_id, user_id, kind).await?);
        }
        if fault::is_on(service::fault::FaultPoint::MailTwice, &auction_id) {
            self.mail.send(email, &subject, &text).await?;
        }
        match self.mail.send(email, &subject, &text).await {
            Ok(()) => {
                self.sent.inc();
                Ok(self.store.mail_sent(auction_id, user_id, kind).await?)
            }
            Err(error @ MailError::Rejected(_)) => {
                self.store.release_mail(auction_id, user_id, kind).await?;
                Err(error.into())
            }
            Err(error @ MailError::Unknown(_)) => Err(error.into()),
        }
    }
}

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
/// Seconds before redelivery of a message with mails that were certainly not sent.
const RETRY_SECONDS: i32 = 5;
/// Seconds before redelivery of a message with mails that another instance has claimed. If that one is dead, its claims
/// expire within the receives that are left.
const RETRY_BUSY_SECONDS: i32 = 10;
/// Seconds before redelivery of a message with mails whose outcome is unknown: the claims made here have expired then, so
/// that no receive is used up by asking too early.
const RETRY_UNKNOWN_SECONDS: i32 = 31;
/// Receives after which the queue moves a message to the dead letters.
const MAX_RECEIVES: i64 = 5;
const _: () = assert!(RETRY_BUSY_SECONDS as i64 * (MAX_RECEIVES - 1) > store::CLAIM_SECONDS);
const _: () = assert!(RETRY_UNKNOWN_SECONDS as i64 > store::CLAIM_SECONDS);
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

/// The mails of a message that are left to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    /// Every recipient with an address has been sent a mail.
    Nothing,
    /// Mails that were certainly not sent.
    Unsent,
    /// Mails that another instance has claimed.
    Busy,
    /// Mails that may have been sent: their claims have to expire first.
    Unknown,
}

impl Left {
    /// Seconds before redelivery; None if the message is done.
    const fn retry_in_seconds(self) -> Option<i32> {
        match self {
            Self::Nothing => None,
            Self::Unsent => Some(RETRY_SECONDS),
            Self::Busy => Some(RETRY_BUSY_SECONDS),
            Self::Unknown => Some(RETRY_UNKNOWN_SECONDS),
        }
    }
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

impl NotSent {
    const fn left(&self) -> Left {
        match self {
            Self::Busy => Left::Busy,
            Self::Mail(MailError::Unknown(_)) => Left::Unknown,
            Self::Store(_) | Self::Mail(MailError::Rejected(_)) => Left::Unsent,
        }
    }
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
        let left = match serde_json::from_str::<AuctionClosed>(&message.body) {
            Ok(closed) if closed.kind == AUCTION_CLOSED => {
                tokio::select! {
                    left = self.send_all(&closed) => left,
                    () = self.keep(message) => Left::Unsent,
                }
            }
            Ok(closed) => {
                tracing::error!(kind = closed.kind, "received a message of an unknown kind");
                Left::Unsent
            }
            Err(error) => {
                tracing::error!(error = %errors::chain(&error), "failed to parse a message");
                Left::Unsent
            }
        };
        let answered = match left.retry_in_seconds() {
            None => self.queue.delete(message).await,
            // After MAX_RECEIVES the queue itself moves the message to the dead letters.
            Some(seconds) => self.queue.retry_in(message, seconds).await,
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

    /// Tries every mail of a message that has not been sent.
    async fn send_all(&self, closed: &AuctionClosed) -> Left {
        let recipients: Vec<(MailKind, Contact)> =
            closed.recipients().map(|(kind, contact)| (kind, contact.clone())).collect();
        let sent = stream::iter(recipients).map(|(kind, contact)| async move {
            match self.send_one(closed, kind, &contact).await {
                Ok(()) => Left::Nothing,
                Err(error) => {
                    tracing::warn!(
                        auction_id = %closed.auction_id, user_id = %contact.user_id, kind = kind.name(),
                        error = %errors::chain(&error), "failed to send a mail; will retry"
                    );
                    error.left()
                }
            }
        });
        // Every mail is tried, also after one has failed.
        sent.buffer_unordered(CONCURRENT_MAILS).fold(Left::Nothing, |all, left| async move { all.max(left) }).await
    }

    async fn send_one(&self, closed: &AuctionClosed, kind: MailKind, contact: &Contact) -> Result<(), NotSent> {
        let Some(email) = &contact.email else {
            self.unreachable.inc();
            return Ok(());
        };
        let (auction_id, user_id) = (closed.auction_id, contact.user_id);
        let again = match self.store.claim_mail(auction_id, user_id, kind).await? {
            MailClaim::Sent => return Ok(()),
            MailClaim::Busy => return Err(NotSent::Busy),
            MailClaim::Ours { again } => again,
        };
        let (subject, text) = texts::text(closed, kind, contact);
        if kind == MailKind::Lost && fault::is_on(service::fault::FaultPoint::ForgetLoser, &auction_id) {
            return Ok(self.store.mail_sent(auction_id, user_id, kind).await?);
        }
        if fault::is_on(service::fault::FaultPoint::MailTwice, &auction_id) {
            self.mail.send(email, &subject, &text).await?;
        }
        let sent = self.mail.send(email, &subject, &text).await;
        if again && !matches!(sent, Err(MailError::Rejected(_))) {
            self.repeated.inc();
        }
        match sent {
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

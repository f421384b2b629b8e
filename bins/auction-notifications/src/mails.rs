//! From the queue to SES.

use std::time::Duration;

use cloud::{Mail, MailError, Queue, Received};
use futures_util::{StreamExt, stream};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use protocol::{AUCTION_CLOSED, AuctionClosed, Contact, MailKind};
use service::{Stop, fault};
use store::{MailClaim, Store, StoreError};

use crate::texts;

/// Mails of one message on their way to SES at once; SES allows a new account one a second, a grown one
/// dozens.
const CONCURRENT_MAILS: usize = 8;
/// A message some of whose mails were not sent comes again after this.
const RETRY_SECONDS: i32 = 5;
/// A third of the time after which others would see the message.
const KEEP_EVERY: Duration = Duration::from_secs(10);
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub struct Mails {
    queue: Queue,
    mail: Mail,
    store: Store,
    sent: Counter,
    repeated: Counter,
    unreachable: Counter,
}

#[derive(Debug, thiserror::Error)]
enum NotSent {
    #[error("somebody else is sending it")]
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
            "Recipients without a verified e-mail address",
            unreachable.clone(),
        );
        Self { queue, mail, store, sent, repeated, unreachable }
    }

    pub async fn run(self, stop: Stop) {
        // A receive under way is finished: what it brings would otherwise wait for its visibility to end.
        while !stop.is_cancelled() {
            match self.queue.receive().await {
                Ok(Some(message)) => self.tell(&message).await,
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "the queue gives nothing");
                    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                }
            }
        }
    }

    async fn tell(&self, message: &Received) {
        let done = match serde_json::from_str::<AuctionClosed>(&message.body) {
            Ok(closed) if closed.kind == AUCTION_CLOSED => {
                tokio::select! {
                    done = self.send_all(&closed) => done,
                    () = self.keep(message) => false,
                }
            }
            Ok(closed) => {
                tracing::error!(kind = closed.kind, "a message of a kind that is not known");
                false
            }
            Err(error) => {
                tracing::error!(%error, "a message cannot be read");
                false
            }
        };
        let answered = if done {
            self.queue.delete(message).await
        } else {
            // After five receives the queue itself puts it to the dead letters.
            self.queue.retry_in(message, RETRY_SECONDS).await
        };
        if let Err(error) = answered {
            tracing::warn!(%error, "a message comes again");
        }
    }

    /// Keeps the message from others for as long as we are at it.
    async fn keep(&self, message: &Received) {
        loop {
            tokio::time::sleep(KEEP_EVERY).await;
            if let Err(error) = self.queue.keep(message).await {
                tracing::warn!(%error, "a message may come again while it is worked on");
            }
        }
    }

    /// True when everybody who can be written to has been.
    async fn send_all(&self, closed: &AuctionClosed) -> bool {
        let recipients: Vec<(MailKind, Contact)> =
            closed.recipients().map(|(kind, contact)| (kind, contact.clone())).collect();
        let sent = stream::iter(recipients).map(|(kind, contact)| async move {
            match self.send_one(closed, kind, &contact).await {
                Ok(()) => true,
                Err(error) => {
                    tracing::warn!(auction_id = %closed.auction_id, user_id = %contact.user_id, kind = kind.name(), %error, "not told yet");
                    false
                }
            }
        });
        // All are tried, also after one has failed.
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

//! Receives messages about ended auctions and sends their mails.
//!
//! SQS moves a message to the dead letters after five receives, whatever they failed of. So only a message that can never
//! be sent uses them up. After trouble that passes (SES or PostgreSQL away, a claim of another instance) the message is
//! sent to the queue again as a new one, with a delay, and the old one is deleted. Holding it hidden for an hour would do
//! the same, but every restart would cost a receive, and the messages held would keep others from being tried. Throttling
//! is no failure: the mails of a message wait here for their turns.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cloud::{Mail, MailError, Queue, Received};
use domain::UserId;
use futures_util::{StreamExt, stream};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use protocol::{AUCTION_CLOSED, AuctionClosed, Contact, MailKind};
use service::{Latency, Stop, fault};
use store::{MailClaim, Store, StoreError};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::pace::Pace;
use crate::texts;

/// Messages being worked on at once, so that one with many recipients does not hold up the others.
const CONCURRENT_MESSAGES: usize = 4;
/// Mails of one message being sent at once.
const CONCURRENT_MAILS: usize = 8;
/// Seconds before another attempt at mails that were certainly not sent.
const RETRY_SECONDS: i32 = 10;
/// Seconds before another attempt at mails whose outcome is unknown, or that another instance has claimed: the claims
/// have expired then.
const RETRY_CLAIMED_SECONDS: i32 = 31;
const _: () = assert!(RETRY_CLAIMED_SECONDS as i64 > store::CLAIM_SECONDS);
/// Seconds before the redelivery of a message that failed for its own fault, by its number of receives. They grow, so that
/// an operator can repair what SES objects to before the last receive.
const REDELIVER_SECONDS: [i32; 4] = [5, 60, 600, 3_600];
/// Age of an auction's end up to which its messages are sent again after trouble that passes. Older ones use up their
/// receives: mails about them are no news.
const RESEND_FOR: Duration = Duration::from_secs(3 * 24 * 60 * 60);
/// Longest time in which one message's mails wait for turns while SES throttles. Far below the 12 hours for which SQS
/// hides a message; the rest then waits in the queue.
const MAX_HOLD: Duration = Duration::from_secs(60 * 60);
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
    pace: Arc<Pace>,
    counters: Counters,
}

#[derive(Clone, Default)]
pub struct Counters {
    sent: Counter,
    repeated: Counter,
    throttled: Counter,
    rejected: Counter,
    postponed: Counter,
    lag: Latency,
}

impl Counters {
    /// The numbers that `nats micro stats` shows about this instance.
    pub fn status(&self) -> serde_json::Value {
        serde_json::json!({
            "mails_sent": self.sent.get(),
            "mails_rejected": self.rejected.get(),
            "mails_throttled": self.throttled.get(),
            "messages_postponed": self.postponed.get(),
        })
    }
}

/// The mails of a message that are left to send. The worst one decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    /// Every recipient with an address has been sent a mail.
    Nothing,
    /// SES rejects the rest, or the message cannot be read.
    Rejected,
    /// Mails that were certainly not sent, for no fault of theirs.
    Unsent,
    /// Mails that may have been sent, or that another instance has claimed.
    Claimed,
}

/// Why a mail was not sent.
#[derive(Debug, thiserror::Error)]
enum NotSent {
    #[error("another instance is sending the mail")]
    Busy,
    #[error("the service is stopping")]
    Stopping,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Mail(#[from] MailError),
}

impl NotSent {
    const fn left(&self) -> Left {
        match self {
            Self::Busy | Self::Mail(MailError::Unknown(_)) => Left::Claimed,
            Self::Mail(MailError::Rejected(_)) => Left::Rejected,
            Self::Stopping | Self::Store(_) | Self::Mail(MailError::Throttled(_) | MailError::Unavailable(_)) => {
                Left::Unsent
            }
        }
    }
}

impl Mails {
    pub fn new(queue: Queue, mail: Mail, store: Store, registry: &mut Registry) -> Self {
        let counters = Counters::default();
        let mut register = |name: &str, help: &str, counter: &Counter| registry.register(name, help, counter.clone());
        register("mails_sent", "Mails accepted by SES", &counters.sent);
        register("mails_resent", "Mails sent again after an attempt whose outcome is unknown", &counters.repeated);
        register("mails_throttled", "Mails that SES put off for the account's rate or quota", &counters.throttled);
        register("mails_rejected", "Mails that SES rejected for their address or content", &counters.rejected);
        register(
            "mail_messages_postponed",
            "Messages sent to the queue again because SES or PostgreSQL was not available",
            &counters.postponed,
        );
        counters.lag.register(registry, "mail_lag_seconds", "Time from the end of an auction to each of its mails");
        Self { queue, mail, store, pace: Arc::default(), counters }
    }

    /// The counters, which go on counting.
    pub fn counters(&self) -> Counters {
        self.counters.clone()
    }

    /// Receives and sends until the stop.
    pub async fn run(self, stop: Stop) {
        let places = Arc::new(Semaphore::new(CONCURRENT_MESSAGES));
        let mut running = JoinSet::new();
        // A running receive is not interrupted: its message would stay hidden until the visibility timeout.
        while !stop.is_cancelled() {
            while running.try_join_next().is_some() {}
            // The semaphore is never closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
            match self.queue.receive().await {
                Ok(Some(message)) => {
                    let (mails, stop) = (self.clone(), stop.clone());
                    running.spawn(async move {
                        mails.process(&message, &stop).await;
                        drop(place);
                    });
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(error = %errors::chain(&error), "failed to receive from SQS; will retry");
                    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                }
            }
        }
        while running.join_next().await.is_some() {}
    }

    async fn process(&self, message: &Received, stop: &Stop) {
        let (left, ended_at) = match serde_json::from_str::<AuctionClosed>(&message.body) {
            Ok(closed) if closed.kind == AUCTION_CLOSED => {
                let left = tokio::select! {
                    left = self.send_all(&closed, stop) => left,
                    () = self.keep(message) => Left::Unsent,
                };
                (left, closed.timestamp)
            }
            Ok(closed) => {
                tracing::error!(kind = closed.kind, "received a message of an unknown kind");
                (Left::Rejected, 0)
            }
            Err(error) => {
                tracing::error!(error = %errors::chain(&error), "failed to parse a message");
                (Left::Rejected, 0)
            }
        };
        let answered = match retry(left, is_recent(ended_at), message.receives) {
            Retry::No => self.queue.delete(message).await,
            Retry::Receive(seconds) => self.queue.retry_in(message, seconds).await,
            Retry::Resend(seconds) => self.resend(message, seconds).await,
        };
        if let Err(error) = answered {
            tracing::warn!(error = %errors::chain(&error), "failed to delete or release a message; SQS will redeliver it");
        }
    }

    /// Sends the message again as a new one and deletes this one. If the deletion fails there are two of them, which does
    /// no harm: each mail is claimed.
    async fn resend(&self, message: &Received, seconds: i32) -> Result<(), cloud::QueueError> {
        self.counters.postponed.inc();
        self.queue.send_in(&message.body, seconds).await?;
        self.queue.delete(message).await
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
    async fn send_all(&self, closed: &AuctionClosed, stop: &Stop) -> Left {
        let recipients = closed.recipients().filter(|(_, contact)| contact.email.is_some());
        let mut recipients: Vec<(MailKind, Contact)> =
            recipients.map(|(kind, contact)| (kind, contact.clone())).collect();
        let people: Vec<UserId> = recipients.iter().map(|(_, contact)| contact.user_id).collect();
        // Mails that are already sent take no turn.
        let sent: HashSet<(UserId, String)> = match self.store.sent_mails(closed.auction_id, &people).await {
            Ok(sent) => sent,
            Err(error) => {
                tracing::warn!(error = %errors::chain(&error), "failed to read which mails were sent; will retry");
                return Left::Unsent;
            }
        };
        recipients.retain(|(kind, contact)| !sent.contains(&(contact.user_id, kind.name().to_owned())));
        let hold_until = Instant::now() + MAX_HOLD;
        let sent = stream::iter(recipients).map(|(kind, contact)| async move {
            match self.send_in_turn(closed, kind, &contact, hold_until, stop).await {
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

    /// Sends one mail as soon as the account's rate allows it.
    async fn send_in_turn(
        &self,
        closed: &AuctionClosed,
        kind: MailKind,
        contact: &Contact,
        hold_until: Instant,
        stop: &Stop,
    ) -> Result<(), NotSent> {
        loop {
            // Before the claim, which does not last as long as some turns take.
            let turn = tokio::select! {
                turn = self.pace.turn() => turn,
                () = stop.cancelled() => return Err(NotSent::Stopping),
            };
            match self.send_one(closed, kind, contact).await {
                Err(error @ NotSent::Mail(MailError::Throttled(_))) => {
                    self.counters.throttled.inc();
                    self.pace.throttled(turn);
                    if Instant::now() > hold_until {
                        return Err(error);
                    }
                    tracing::debug!(error = %errors::chain(&error), "SES throttles the account; slowed down");
                }
                sent => {
                    if sent.is_ok() {
                        self.pace.accepted();
                    }
                    return sent;
                }
            }
        }
    }

    async fn send_one(&self, closed: &AuctionClosed, kind: MailKind, contact: &Contact) -> Result<(), NotSent> {
        let Some(email) = &contact.email else { return Ok(()) };
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
        if again && matches!(sent, Ok(()) | Err(MailError::Unknown(_))) {
            self.counters.repeated.inc();
        }
        match sent {
            Ok(()) => {
                self.counters.sent.inc();
                self.counters.lag.record_since(closed.timestamp);
                Ok(self.store.mail_sent(auction_id, user_id, kind).await?)
            }
            // The claim stays until it expires.
            Err(error @ MailError::Unknown(_)) => Err(error.into()),
            Err(error) => {
                if matches!(error, MailError::Rejected(_)) {
                    self.counters.rejected.inc();
                }
                self.store.release_mail(auction_id, user_id, kind).await?;
                Err(error.into())
            }
        }
    }
}

/// How a message is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Retry {
    /// It is done.
    No,
    /// By another receive after these seconds. After five the queue itself moves it to the dead letters.
    Receive(i32),
    /// As a new message after these seconds.
    Resend(i32),
}

fn retry(left: Left, is_recent: bool, receives: u32) -> Retry {
    let receive = usize::try_from(receives).unwrap_or(usize::MAX).clamp(1, REDELIVER_SECONDS.len());
    let of_itself = Retry::Receive(REDELIVER_SECONDS[receive - 1]);
    match left {
        Left::Nothing => Retry::No,
        Left::Rejected => of_itself,
        Left::Unsent | Left::Claimed if !is_recent => of_itself,
        Left::Unsent => Retry::Resend(RETRY_SECONDS),
        Left::Claimed => Retry::Resend(RETRY_CLAIMED_SECONDS),
    }
}

/// Whether an auction ended a short time ago. Its end is a time in milliseconds since 1970.
fn is_recent(ended_at: u64) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_millis(ended_at)) < RESEND_FOR
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_poison_uses_up_receives() {
        let check = |left, is_recent, receives, expected| {
            assert_eq!(retry(left, is_recent, receives), expected, "{left:?} {is_recent} {receives}");
        };
        check(Left::Nothing, true, 1, Retry::No);
        check(Left::Rejected, true, 1, Retry::Receive(5));
        check(Left::Rejected, true, 4, Retry::Receive(3_600));
        check(Left::Rejected, true, 9, Retry::Receive(3_600));
        for receives in [1, 4] {
            check(Left::Unsent, true, receives, Retry::Resend(10));
            check(Left::Claimed, true, receives, Retry::Resend(31));
        }
        // Nor does a message go round for ever.
        check(Left::Unsent, false, 2, Retry::Receive(60));
        assert!(!is_recent(1) && is_recent(u64::MAX));
    }

    #[test]
    fn trouble_that_passes_outweighs_rejections() {
        let source = || errors::BoxError::from("source");
        let left = |error: MailError| NotSent::from(error).left();
        assert_eq!(left(MailError::Rejected(source())), Left::Rejected);
        assert_eq!(left(MailError::Unavailable(source())), Left::Unsent);
        assert_eq!(left(MailError::Unknown(source())), Left::Claimed);
        assert_eq!(NotSent::Busy.left(), Left::Claimed);
        assert!(Left::Nothing < Left::Rejected && Left::Rejected < Left::Unsent && Left::Unsent < Left::Claimed);
    }
}

//! Moves notifications of ended auctions from the outbox table into the queue.
//!
//! The outbox row was written with the result, in one transaction. Each row is tried by itself: several at once, again
//! after growing pauses, and parked if it can never be sent, so that none waits for another. A notification may be sent
//! twice (its mark was lost); that does no harm, because each mail is claimed before it is sent.
//!
//! Recipients without an address do not hold up the others. They are remembered as late recipients: a token that brings
//! the address makes their mail due, which is sent as a part of its own.

use std::collections::HashMap;
use std::time::Duration;

use bus::{Log, LogError};
use cloud::{Queue, QueueError};
use domain::{AuctionId, UserId};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use protocol::{AUCTION_CLOSED, AuctionClosed, Contact, MailKind, Person, Stored};
use store::{DueNotification, LateRecipient, Store, StoreError};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Interval between reads of the tables while nothing is due.
const POLL_EVERY: Duration = Duration::from_millis(500);
/// Notifications being sent at once: 10,000 auctions that end together take some minutes.
const CONCURRENT: usize = 16;
/// Pause after the tables could not be read.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(2);
/// Seconds before the second attempt of a notification. They double up to [`MAX_PAUSE_SECONDS`].
const FIRST_PAUSE_SECONDS: u64 = 2;
/// Most seconds between two attempts, so that mails leave soon after an outage.
const MAX_PAUSE_SECONDS: u64 = 60;
/// Seconds after the end for which a notification is tried. An outage of the queue is shorter; later a mail is no news.
const PARK_AFTER_SECONDS: u64 = 3 * 24 * 60 * 60;
/// People in one query.
const PEOPLE_IN_QUERY: usize = 5_000;
/// Interval between removals of late recipients whose address has not arrived in time.
const FORGET_EVERY: Duration = Duration::from_secs(60 * 60);

/// The service's metrics about notifications.
#[derive(Clone, Default)]
pub struct Counters {
    parked: Counter,
    without_address: Counter,
    late: Counter,
}

impl Counters {
    /// Registers the metrics.
    pub fn registered(registry: &mut Registry) -> Self {
        let counters = Self::default();
        registry.register("notifications_parked", "Notifications that can never be sent", counters.parked.clone());
        registry.register(
            "recipients_without_address",
            "Recipients without a verified e-mail address when their auction's notification was sent",
            counters.without_address.clone(),
        );
        registry.register(
            "notifications_late",
            "Notifications of recipients whose address arrived after the end",
            counters.late.clone(),
        );
        counters
    }
}

/// The relay; several instances may run at once.
#[derive(Clone)]
pub struct Relay {
    pub store: Store,
    pub log: Log,
    pub queue: Queue,
    pub currency: String,
    pub counters: Counters,
}

/// Why a notification was not sent.
#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error("failed to read or write the tables")]
    Store(#[from] StoreError),
    #[error("failed to read the bidders from the log")]
    Log(#[from] LogError),
    #[error("failed to write the message")]
    Json(#[from] serde_json::Error),
    #[error("failed to send a part")]
    Queue(#[from] QueueError),
}

impl RelayError {
    /// Whether another attempt fails for certain. An unreadable record may be one of a newer version.
    const fn is_permanent(&self) -> bool {
        matches!(self, Self::Queue(QueueError::Rejected(_)) | Self::Json(_))
    }
}

/// An auction that ended, and those to notify of it.
struct Ended {
    auction_id: AuctionId,
    stored: Stored,
    people: HashMap<UserId, Contact>,
}

impl Relay {
    /// Relays forever.
    pub async fn run(self) {
        let mut running = JoinSet::new();
        let mut forget_at = Instant::now();
        loop {
            while running.try_join_next().is_some() {}
            let free = CONCURRENT - running.len();
            if let Err(error) = self.start(free, &mut running, &mut forget_at).await {
                tracing::warn!(error = %errors::chain(&error), "failed to read due notifications; will retry");
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
            tokio::select! {
                _ = running.join_next(), if !running.is_empty() => {}
                () = tokio::time::sleep(POLL_EVERY) => {}
            }
        }
    }

    /// Starts to send what is due, up to `free` notifications.
    async fn start(&self, free: usize, running: &mut JoinSet<()>, forget_at: &mut Instant) -> Result<(), StoreError> {
        for due in self.store.take_notifications(free as u64).await? {
            let relay = self.clone();
            running.spawn(async move { relay.send(due).await });
        }
        let free = CONCURRENT.saturating_sub(running.len());
        for late in self.store.take_late(free as u64).await? {
            let relay = self.clone();
            running.spawn(async move { relay.send_late(late).await });
        }
        if Instant::now() >= *forget_at {
            *forget_at = Instant::now() + FORGET_EVERY;
            self.store.forget_late().await?;
        }
        Ok(())
    }

    /// Sends one notification, and notes what became of it.
    async fn send(&self, due: DueNotification) {
        let auction_id = due.auction_id;
        let noted = match Box::pin(self.send_parts(auction_id)).await {
            Ok(()) => self.store.notification_sent(auction_id).await,
            Err(error) if error.is_permanent() || due.age_seconds > PARK_AFTER_SECONDS => {
                self.counters.parked.inc();
                tracing::error!(%auction_id, error = %errors::chain(&error), "parked a notification");
                self.store.park_notification(auction_id, &errors::chain(&error).to_string()).await
            }
            Err(error) => {
                tracing::warn!(%auction_id, error = %errors::chain(&error), "failed to relay a notification; will retry");
                let reason = errors::chain(&error).to_string();
                self.store.postpone_notification(auction_id, pause_seconds(due.attempts), &reason).await
            }
        };
        if let Err(error) = noted {
            tracing::warn!(%auction_id, error = %errors::chain(&error), "failed to mark a notification; will send it again");
        }
    }

    async fn send_parts(&self, auction_id: AuctionId) -> Result<(), RelayError> {
        // The result and the outbox row are one transaction, so there is nothing to send without an outcome.
        let Some(ended) = Box::pin(self.ended(auction_id)).await? else { return Ok(()) };
        let late: Vec<(UserId, MailKind)> = ended
            .people
            .values()
            .filter(|contact| contact.email.is_none())
            .map(|of| (of.user_id, ended.kind(of)))
            .collect();
        for chunk in late.chunks(PEOPLE_IN_QUERY) {
            self.store.remember_late(auction_id, chunk).await?;
        }
        self.counters.without_address.inc_by(late.len() as u64);
        let losers = ended.people.values().filter(|of| of.email.is_some() && ended.kind(of) == MailKind::Lost).cloned();
        let parts = ended.closed(&self.currency, losers.collect()).into_parts()?;
        // A part that SQS rejects does not stop the others.
        let mut rejected = None;
        for part in parts {
            match self.queue.send(&part.body()?).await {
                Err(error @ QueueError::Rejected(_)) => rejected = Some(error),
                sent => sent?,
            }
        }
        rejected.map_or(Ok(()), |error| Err(error.into()))
    }

    /// An auction with its bidders. They come from the log, because the history may lag behind; those without a row get
    /// one. An auction has at most a million facts, which bounds the memory of this.
    async fn ended(&self, auction_id: AuctionId) -> Result<Option<Ended>, RelayError> {
        let Some(stored) = self.store.auction(auction_id).await?.filter(|stored| stored.outcome.is_some()) else {
            return Ok(None);
        };
        let mut people: HashMap<UserId, String> = HashMap::new();
        let mut records = self.log.records(auction_id, 0).await?;
        while let Some(logged) = records.next().await? {
            people.extend(logged.record.bids.into_iter().map(|bid| (bid.user_id, bid.username)));
        }
        people.extend(stored.winner.iter().map(|winner| (winner.user_id, winner.username.clone())));
        people.insert(stored.host.user_id, stored.host.username.clone());
        let people: Vec<Person> = people.into_iter().map(|(user_id, username)| Person { user_id, username }).collect();
        let mut contacts = HashMap::new();
        for chunk in people.chunks(PEOPLE_IN_QUERY) {
            let ids: Vec<UserId> = chunk.iter().map(|person| person.user_id).collect();
            let known = self.store.contacts(&ids).await?;
            contacts.extend(known.into_iter().map(|contact| (contact.user_id, contact)));
            let missing = chunk.iter().filter(|person| !contacts.contains_key(&person.user_id)).cloned();
            let missing: Vec<Person> = missing.collect();
            self.store.insert_missing(&missing).await?;
            contacts.extend(
                missing.into_iter().map(|Person { user_id, username }| {
                    (user_id, Contact { user_id, email: None, name: None, username })
                }),
            );
        }
        Ok(Some(Ended { auction_id, stored, people: contacts }))
    }

    /// Sends the mail of one person whose address arrived after the notification.
    async fn send_late(&self, late: LateRecipient) {
        let sent = async {
            if let Some(part) = self.late_part(late).await? {
                self.queue.send(&part.body()?).await?;
                self.counters.late.inc();
            }
            Ok::<_, RelayError>(())
        };
        let noted = match sent.await {
            Err(error) if !error.is_permanent() => {
                // It is due again after a while, until it is forgotten.
                tracing::warn!(auction_id = %late.auction_id, error = %errors::chain(&error), "failed to send a late notification");
                return;
            }
            Err(error) => {
                self.counters.parked.inc();
                tracing::error!(auction_id = %late.auction_id, error = %errors::chain(&error), "dropped a late notification");
                self.store.late_sent(late).await
            }
            Ok(()) => self.store.late_sent(late).await,
        };
        if let Err(error) = noted {
            tracing::warn!(error = %errors::chain(&error), "failed to mark a late notification; will send it again");
        }
    }

    /// A part for one person. Winner and host are in every part; mails that they were sent are not sent again.
    async fn late_part(&self, late: LateRecipient) -> Result<Option<AuctionClosed>, RelayError> {
        let Some(stored) = self.store.auction(late.auction_id).await? else { return Ok(None) };
        let mut ids = vec![late.user_id, stored.host.user_id];
        ids.extend(stored.winner.as_ref().map(|winner| winner.user_id));
        let contacts = self.store.contacts(&ids).await?;
        let people: HashMap<UserId, Contact> = contacts.into_iter().map(|of| (of.user_id, of)).collect();
        let losers = people.get(&late.user_id).filter(|_| late.kind == MailKind::Lost).cloned();
        let ended = Ended { auction_id: late.auction_id, stored, people };
        Ok(ended.closed(&self.currency, losers.into_iter().collect()).into_parts()?.pop())
    }
}

impl Ended {
    fn kind(&self, contact: &Contact) -> MailKind {
        if self.stored.winner.as_ref().is_some_and(|winner| winner.user_id == contact.user_id) {
            MailKind::Won
        } else if self.stored.host.user_id == contact.user_id {
            MailKind::Hosted
        } else {
            MailKind::Lost
        }
    }

    /// The notification with these losers, not yet split into parts.
    fn closed(&self, currency: &str, losers: Vec<Contact>) -> AuctionClosed {
        let stored = &self.stored;
        let contact = |person: &Person| {
            self.people.get(&person.user_id).cloned().unwrap_or_else(|| Contact {
                user_id: person.user_id,
                email: None,
                name: None,
                username: person.username.clone(),
            })
        };
        AuctionClosed {
            kind: AUCTION_CLOSED.to_owned(),
            auction_id: self.auction_id,
            title: stored.title.clone(),
            final_price: stored.winning_bid,
            currency: currency.to_owned(),
            outcome: stored.outcome.clone().unwrap_or(domain::Outcome::Unsold.into()),
            winner: stored.winner.as_ref().map(contact),
            host: contact(&stored.host),
            losers,
            part: 1,
            parts: 1,
            timestamp: stored.ended_at.unwrap_or_default(),
        }
    }
}

/// Seconds before the attempt after this one.
fn pause_seconds(attempts: u32) -> u64 {
    let doublings = attempts.saturating_sub(1).min(MAX_PAUSE_SECONDS.ilog2());
    (FIRST_PAUSE_SECONDS << doublings).min(MAX_PAUSE_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute() {
        let pauses: Vec<u64> = (1..=8).map(pause_seconds).collect();
        assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(pause_seconds(u32::MAX), 60);
    }
}

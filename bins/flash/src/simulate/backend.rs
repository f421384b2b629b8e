//! The backend of a simulated bid-processing: a Redis and a log that fail, on one seed.
//!
//! Redis decides by `domain::Auction`, which a test compares with the scripts, command by command.

use std::time::Duration;

use bid_processing::{Backend, Decided, Reading, RecallError};
use bus::{AppendError, LogError, Logged, StoredCheckpoint};
use domain::{Amount, Auction, AuctionId, BidId, BidRequest, CloseReason, Head, HostAct, Millis, Status, UserId};
use futures_util::{StreamExt, stream};
use hotstate::{
    Closed, Created, HostActed, HotstateError, Opened, OutboxEntry, Position, Rebuilt, Restoration, Verdicts, View,
};
use protocol::{Checkpoint, CommittedState, CreateRequest, Mark, Record, RecordKind, StoredAnswer};
use tokio::time::sleep;

use super::network::{Endpoint, LOG_TIMEOUT, Outside, Place};
use super::predecessor::PREDECESSOR;
use super::redis::{Hot, MAX_ENTRIES};

impl Backend for Endpoint {
    async fn create(&self, request: &CreateRequest) -> Result<Created, HotstateError> {
        let request = request.clone();
        self.redis(move |outside| {
            let now = outside.now();
            if let Some(hot) = &outside.hot {
                return Created::Exists(hot.mark());
            }
            if now.0 > request.valid_until {
                return Created::Late;
            }
            let starts_at = Millis(request.starts_at.unwrap_or(0)).max(now);
            let auction = Auction::create(request.auction_id, request.rules(), starts_at, now);
            let mut hot = Hot { auction, outbox: Vec::new(), recent: Vec::new(), top: Vec::new() };
            hot.append(RecordKind::Created, Head::GENESIS, now, Some(request.host.user_id), Vec::new());
            let mark = hot.mark();
            outside.hot = Some(hot);
            Created::Created(mark)
        })
        .await
    }

    async fn open(&self, _: AuctionId, due: Option<Millis>) -> Decided<Opened> {
        self.redis(move |outside| {
            let now = outside.now();
            let hot = outside.hot.as_mut()?;
            let follows = hot.auction.rules.follows.is_some();
            let due = due.filter(|_| follows).unwrap_or(hot.auction.starts_at);
            let is_due = hot.auction.last_now().max(now) >= due;
            Some(if hot.auction.status != Status::Scheduled {
                Opened::Already(hot.mark())
            } else if due == Millis::NOT_YET {
                Opened::Waits(hot.mark())
            } else if hot.open(is_due, None, now) {
                Opened::Opened(hot.mark())
            } else {
                Opened::Early(hot.mark())
            })
        })
        .await
    }

    async fn close(&self, _: AuctionId, by: Option<UserId>) -> Decided<Closed> {
        self.redis(move |outside| {
            let now = outside.now();
            Some(outside.hot.as_mut()?.close(by, now))
        })
        .await
    }

    async fn cancel(&self, _: AuctionId, by: UserId, _: CloseReason) -> Decided<Closed> {
        self.redis(move |outside| {
            let now = outside.now();
            let hot = outside.hot.as_mut()?;
            let prev = hot.auction.head;
            if !hot.auction.cancel(by, now) {
                return Some(Closed::Already(hot.mark()));
            }
            hot.append(RecordKind::Cancelled, prev, now, Some(by), Vec::new());
            Some(Closed::Closed(hot.mark()))
        })
        .await
    }

    async fn act(&self, _: AuctionId, act: HostAct, by: UserId) -> Decided<HostActed> {
        self.redis(move |outside| {
            let now = outside.now();
            Some(outside.hot.as_mut()?.act(act, by, now))
        })
        .await
    }

    async fn place(&self, _: AuctionId, bids: &[BidRequest], committed: u64) -> Decided<Verdicts> {
        let bids = bids.to_vec();
        self.redis(move |outside| {
            let now = outside.now();
            Some(outside.hot.as_mut()?.place(&bids, committed, now))
        })
        .await
    }

    async fn prebid(&self, _: AuctionId, user_id: UserId) -> Result<Option<Amount>, HotstateError> {
        self.redis(move |outside| outside.hot.as_ref()?.auction.prebid_of(user_id).map(|prebid| prebid.maximum.amount))
            .await
    }

    async fn view(&self, auction_id: AuctionId) -> Decided<View> {
        self.redis(move |outside| {
            let hot = outside.hot.as_ref()?;
            let committed = CommittedState {
                auction_id,
                seq: hot.auction.seq,
                head: hot.auction.head,
                stream_seq: 0,
                state: hot.snapshot(),
                recent_bids: hot.recent.clone(),
                participant_count: 0,
                slow_mode_seconds: 0,
                has_secrets: hot.auction.answers.is_some(),
                opens_at: None,
            };
            Some(View { mark: hot.mark(), committed, secrets: hot.auction.secrets() })
        })
        .await
    }

    async fn view_with_answer(&self, _: AuctionId, _: BidId) -> Decided<(View, bool)> {
        unreachable!("bids are limited before the auctioneer, which the simulation leaves out")
    }

    async fn outbox(&self, _: AuctionId, committed: u64) -> Result<Vec<OutboxEntry>, HotstateError> {
        self.redis(move |outside| {
            let Some(hot) = outside.hot.as_mut() else { return Vec::new() };
            hot.outbox.retain(|entry| entry.mark.seq > committed);
            hot.outbox.iter().take(MAX_ENTRIES).cloned().collect()
        })
        .await
    }

    async fn position(&self, _: AuctionId, committed: u64) -> Decided<Position> {
        self.redis(move |outside| {
            let hot = outside.hot.as_ref()?;
            let next = hot.outbox.iter().find(|entry| entry.mark.seq > committed);
            Some(Position { mark: hot.mark(), next_prev: next.map(|entry| entry.prev) })
        })
        .await
    }

    async fn write_answers(&self, rebuilt: &mut Rebuilt, answers: &[StoredAnswer]) -> Result<(), HotstateError> {
        if answers.is_empty() {
            return Ok(());
        }
        let (key, written) = (rebuilt.key().to_owned(), answers.len() as u64);
        self.redis(move |outside| *outside.rebuilt.entry(key).or_default() += written).await?;
        rebuilt.wrote(written);
        Ok(())
    }

    async fn discard(&self, rebuilt: &Rebuilt) -> Result<(), HotstateError> {
        let key = rebuilt.key().to_owned();
        self.redis(move |outside| {
            outside.rebuilt.remove(&key);
        })
        .await
    }

    async fn restore(
        &self,
        _: AuctionId,
        seen: Option<Mark>,
        restoration: &Restoration<'_>,
        rebuilt: &Rebuilt,
    ) -> Result<bool, HotstateError> {
        let (mark, key, answers) = (restoration.mark, rebuilt.key().to_owned(), rebuilt.count());
        self.redis(move |outside| {
            if std::mem::take(&mut outside.empties_next_restore) {
                outside.empty_redis();
            }
            let written = outside.rebuilt.get(&key).copied().unwrap_or(0);
            if outside.hot.as_ref().map(Hot::mark) != seen || written != answers {
                return false;
            }
            outside.rebuilt.remove(&key);
            let hot = Hot::restored(&outside.log, mark);
            let ids = hot.as_ref().map(|hot| hot.auction.accepted().len() as u64);
            if ids != Some(written) {
                outside.violations.push(format!("{written} bid ids were restored at {mark:?}, the log has {ids:?}"));
            }
            outside.hot = hot;
            true
        })
        .await
    }

    async fn append(&self, record: &Record, expected: u64) -> Result<u64, AppendError> {
        let record = record.clone();
        let sent = self.send(Place::Nats, LOG_TIMEOUT, move |outside| {
            let last = outside.log.last().map_or(0, |logged| logged.stream_seq);
            if last != expected {
                return Err(AppendError::Conflict);
            }
            // Records of other auctions lie in between.
            let stream_seq = last + outside.random.u64(1..4);
            let logged = Logged { stream_seq, previous_stream_seq: Some(last), record, trace: Default::default() };
            outside.log.push(logged.clone());
            outside.grown.notify();
            outside.republish(&logged);
            Ok(stream_seq)
        });
        sent.await.unwrap_or_else(|| Err(AppendError::Unknown("no answer".into())))
    }

    async fn last(&self, auction_id: AuctionId) -> Result<Option<Logged>, LogError> {
        let is_own = auction_id != PREDECESSOR;
        self.read(move |outside| if is_own { outside.log.last().cloned() } else { outside.predecessor() }).await
    }

    async fn next(&self, _: AuctionId, from: u64) -> Result<Option<Logged>, LogError> {
        self.read(move |outside| outside.log.iter().find(|logged| logged.stream_seq >= from).cloned()).await
    }

    async fn records(&self, _: AuctionId, from: u64) -> Result<Reading<Logged>, LogError> {
        let after = move |outside: &mut Outside| {
            outside.log.iter().filter(|logged| logged.stream_seq >= from).cloned().collect::<Vec<_>>()
        };
        Ok(Box::pin(stream::iter(self.read(after).await?).map(Ok)))
    }

    async fn checkpoints(&self, _: AuctionId) -> Result<Reading<StoredCheckpoint>, LogError> {
        Ok(Box::pin(stream::iter(self.read(|outside| outside.checkpoints.clone()).await?).map(Ok)))
    }

    async fn last_checkpoint(&self, _: AuctionId) -> Result<Option<StoredCheckpoint>, LogError> {
        self.read(|outside| outside.checkpoints.last().cloned()).await
    }

    async fn append_checkpoint(&self, checkpoint: &Checkpoint, expected: u64) -> Result<u64, AppendError> {
        let checkpoint = checkpoint.clone();
        let sent = self.send(Place::Nats, LOG_TIMEOUT, move |outside| {
            let position = outside.checkpoints.len() as u64;
            if position != expected {
                return Err(AppendError::Conflict);
            }
            outside.checkpoints.push(StoredCheckpoint { position: position + 1, checkpoint });
            Ok(position + 1)
        });
        sent.await.unwrap_or_else(|| Err(AppendError::Unknown("no answer".into())))
    }

    async fn recall(&self, _: AuctionId) -> Result<bool, RecallError> {
        Ok(false)
    }

    fn now(&self) -> Millis {
        self.measured_now()
    }

    fn connection(&self) -> Option<u64> {
        Some(1)
    }
}

impl Outside {
    /// Publishes a record to each instance: late, in any order, sometimes twice and sometimes not at all.
    fn republish(&mut self, logged: &Logged) {
        for nth in 0..self.subscribers.len() {
            let Some(subscriber) = self.subscribers[nth].clone() else { continue };
            let times = match self.random.u8(..20) {
                0 => 0,
                1 => 2,
                _ => 1,
            };
            for _ in 0..times {
                let delay = Duration::from_millis(self.random.u64(0..30));
                let (subscriber, logged) = (subscriber.clone(), logged.clone());
                tokio::spawn(async move {
                    sleep(delay).await;
                    // A full or closed subscription loses it, and reads the log.
                    drop(subscriber.try_send(Box::new(logged)));
                });
            }
        }
    }
}

//! Bids through each door: over HTTP, over sockets of the edge, and over NATS as the edge sends them. Each either waits for
//! the answer to the bid before, or keeps to a schedule that does not.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::HeaderMap;
use domain::{Amount, BidId};
use futures_util::StreamExt;
use protocol::{Answer, Person, PlaceBid, subject};
use serde_json::{Value, json};
use testkit::bidder::new_bid;
use testkit::http::Caller;
use testkit::socket::Socket;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use super::answers::{Answers, Counted, OwnLag, code_of};
use super::frames::Frame;
use super::load::{Load, PROXY_STEP_CENTS, STEP_CENTS};
use super::schedule::{CANNOT_FOLLOW, MAX_UNANSWERED, Schedule};

/// Time to wait for an answer. bid-processing answers or gives up within 3 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// An auction that bids are placed on.
pub struct Lot {
    pub auction_id: String,
    /// The amount of the next bid, in cents.
    pub price: AtomicU64,
}

impl Lot {
    pub const fn new(auction_id: String) -> Self {
        Self { auction_id, price: AtomicU64::new(100) }
    }

    /// The amount of the next bid, and its maximum if it has one.
    fn next_cents(&self, load: Load) -> (u64, Option<u64>) {
        if fastrand::u64(0..100) < load.too_low {
            return (1, None);
        }
        let step = if load.proxy > 0.0 { PROXY_STEP_CENTS } else { STEP_CENTS };
        let amount = self.price.fetch_add(step, Ordering::Relaxed);
        (amount, (fastrand::f64() < load.proxy).then_some(amount + step))
    }

    /// The next bid, as `POST /bids` and `place_bid` take it.
    fn next_bid(&self, load: Load) -> Result<Value> {
        let (amount, maximum) = self.next_cents(load);
        let mut bid = new_bid(&self.auction_id, amount);
        if let Some(maximum) = maximum {
            bid["max_amount"] = json!(Amount::from_cents(maximum)?.to_string());
        }
        Ok(bid)
    }
}

/// The load of one run, which all its people share.
#[derive(Clone)]
pub struct Run {
    pub load: Load,
    pub lots: Arc<Vec<Lot>>,
    /// Bids that are scheduled earlier warm up and are not counted.
    pub begin: Instant,
    pub end: Instant,
}

impl Run {
    fn lot(&self, turn: u64) -> Result<&Lot> {
        Ok(&self.lots[usize::try_from(turn)? % self.lots.len()])
    }

    /// Unanswered bids of one of the people.
    fn most_unanswered(&self) -> Result<usize> {
        Ok(MAX_UNANSWERED / usize::try_from(self.load.in_flight.max(1))?)
    }
}

/// The results of one person, or of all.
pub struct Seen {
    pub answers: Answers,
    pub own_lag: OwnLag,
}

impl Seen {
    pub fn new() -> Result<Self> {
        Ok(Self { answers: Answers::new(Counted::All)?, own_lag: OwnLag::new()? })
    }

    /// Counts how late a request is sent, unless it warms up.
    fn sent(&mut self, run: &Run, scheduled: Instant) {
        if scheduled >= run.begin {
            self.own_lag.note(scheduled);
        }
    }

    /// Counts an answer, unless its bid warms up.
    fn answered(&mut self, run: &Run, scheduled: Instant, took: Duration, code: &str) {
        if scheduled >= run.begin {
            self.answers.note_code(code, took);
        }
    }

    pub fn add(&mut self, other: &Self) -> Result<()> {
        self.answers.add(&other.answers)?;
        self.own_lag.add(&other.own_lag)
    }
}

/// One person over HTTP: one connection, or with a schedule as many as bids are unanswered.
pub async fn over_http(person: u64, run: Run, mut schedule: Schedule, url: String, token: String) -> Result<Seen> {
    let (caller, mut seen, mut asked) = (Caller::new(), Seen::new()?, JoinSet::new());
    let most = run.most_unanswered()?;
    for turn in person.. {
        let scheduled = schedule.next(true).await?;
        if scheduled >= run.end {
            break;
        }
        let bid = run.lot(turn)?.next_bid(run.load)?;
        let (caller, url, token) = (caller.clone(), url.clone(), token.clone());
        let asking = async move {
            let answer = caller.post(&url, Some(&token), &bid).await?;
            anyhow::Ok((scheduled, scheduled.elapsed(), answer.json))
        };
        // Without a schedule each bid waits for the answer to the one before.
        if !schedule.has_times() {
            let (scheduled, took, answer) = asking.await?;
            seen.answered(&run, scheduled, took, code_of(&answer));
            continue;
        }
        seen.sent(&run, scheduled);
        asked.spawn(asking);
        ensure!(asked.len() <= most, CANNOT_FOLLOW);
        while let Some(answered) = asked.try_join_next() {
            let (scheduled, took, answer) = answered??;
            seen.answered(&run, scheduled, took, code_of(&answer));
        }
    }
    while let Some(answered) = asked.join_next().await {
        let (scheduled, took, answer) = answered??;
        seen.answered(&run, scheduled, took, code_of(&answer));
    }
    Ok(seen)
}

/// One person over a socket of the edge, who has joined one auction.
pub async fn over_socket(person: u64, run: Run, mut schedule: Schedule, mut socket: Socket) -> Result<Seen> {
    let (mut seen, mut waiting) = (Seen::new()?, HashMap::new());
    let (most, mut turn, mut is_over) = (run.most_unanswered()?, person, false);
    while !is_over || !waiting.is_empty() {
        let silence = if waiting.is_empty() { Duration::MAX } else { ANSWER_TIMEOUT };
        tokio::select! {
            scheduled = schedule.next(waiting.is_empty()), if !is_over => {
                let scheduled = scheduled?;
                is_over = scheduled >= run.end;
                if is_over {
                    continue;
                }
                if schedule.has_times() {
                    seen.sent(&run, scheduled);
                }
                socket.request("place_bid", run.lot(person)?.next_bid(run.load)?, turn).await?;
                waiting.insert(turn, scheduled);
                ensure!(waiting.len() <= most, CANNOT_FOLLOW);
                turn += 1;
            }
            text = socket.next_text(silence) => {
                let text = text?;
                let Some(frame) = Frame::parse(socket.transport(), &text)? else { continue };
                // Frames without a known number are updates.
                if let Some(sent) = frame.id.and_then(|id| waiting.remove(&id)) {
                    seen.answered(&run, sent, sent.elapsed(), frame.data.code());
                }
            }
        }
    }
    Ok(seen)
}

/// The answers over NATS: each is matched with the time at which its bid was scheduled.
async fn listen(
    run: Run,
    mut answers: async_nats::Subscriber,
    mut to_answer: mpsc::Receiver<(u64, Instant)>,
    answered: Arc<Semaphore>,
) -> Result<Answers> {
    let (mut seen, mut waiting, mut is_over) = (Answers::new(Counted::All)?, HashMap::new(), false);
    while !is_over || !waiting.is_empty() {
        let silence = if waiting.is_empty() { Duration::MAX } else { ANSWER_TIMEOUT };
        tokio::select! {
            // Each bid is noted before it is sent, and so before its answer is taken.
            biased;
            asked = to_answer.recv(), if !is_over => match asked {
                Some((number, scheduled)) => _ = waiting.insert(number, scheduled),
                None => is_over = true,
            },
            answer = tokio::time::timeout(silence, answers.next()) => {
                let answer = answer.context("no more answers arrive")?.context("the connection was closed")?;
                let number: u64 = answer.subject.rsplit('.').next().unwrap_or_default().parse()?;
                let scheduled: Instant = waiting.remove(&number).context("an answer without a bid")?;
                answered.add_permits(1);
                if scheduled >= run.begin {
                    match serde_json::from_slice(&answer.payload)? {
                        Answer::Accepted(_) => seen.note_code("accepted", scheduled.elapsed()),
                        Answer::Rejected(rejected) => seen.note_code(rejected.code.name(), scheduled.elapsed()),
                    }
                }
            }
        }
    }
    Ok(seen)
}

/// All people over one NATS connection, as an edge uses it.
pub async fn over_nats(
    run: Run,
    mut schedule: Schedule,
    bus: bus::Bus,
    people: Vec<(Person, HeaderMap)>,
) -> Result<Seen> {
    let load = run.load;
    let free = Arc::new(Semaphore::new(usize::try_from(load.in_flight)?));
    let inbox = bus.client.new_inbox();
    let answers = bus.client.subscribe(format!("{inbox}.*")).await?;
    let (sent, to_answer) = mpsc::channel::<(u64, Instant)>(MAX_UNANSWERED);
    let listener = tokio::spawn(listen(run.clone(), answers, to_answer, Arc::clone(&free)));
    let mut own_lag = OwnLag::new()?;
    for number in 0.. {
        if !schedule.has_times() {
            free.acquire().await?.forget();
        }
        let scheduled = schedule.next(true).await?;
        if scheduled >= run.end {
            break;
        }
        if schedule.has_times() && scheduled >= run.begin {
            own_lag.note(scheduled);
        }
        // Another person for the next auction, and for the next bid in the same one.
        let auctions = run.lots.len() as u64;
        let bidder = (number / auctions + number % auctions) % load.in_flight.max(2);
        let (user, headers) = &people[usize::try_from(bidder)?];
        let lot = run.lot(number)?;
        let (amount, maximum) = lot.next_cents(load);
        let bid = PlaceBid {
            auction_id: lot.auction_id.parse()?,
            bid_id: Some(BidId::from_uuid(Uuid::new_v4())),
            amount: Some(Amount::from_cents(amount)?),
            max_amount: maximum.map(Amount::from_cents).transpose()?,
            user: user.clone(),
        };
        ensure!(sent.try_send((number, scheduled)).is_ok(), CANNOT_FOLLOW);
        let payload = serde_json::to_vec(&bid)?;
        let subject = maximum.map_or(subject::BIDS_PLACE, |_| subject::BIDS_PLACE_WITH_MAXIMUM);
        let reply_to = format!("{inbox}.{number}");
        bus.client.publish_with_reply_and_headers(subject, reply_to, headers.clone(), payload.into()).await?;
    }
    drop(sent);
    Ok(Seen { answers: listener.await??, own_lag })
}

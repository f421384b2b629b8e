//! People who chase each other: each bids the least amount it knows of, from answers and updates, as soon as it does not
//! lead.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use serde_json::json;
use testkit::bidder::new_bid;
use testkit::socket::{Socket, Transport};
use tokio::time::Instant;

use super::answers::{Answers, Counted};
use super::frames::{Data, Frame};
use super::system::System;
use crate::stack::Name;

/// Time after which a person in a chase whose frames do not come looks at the clock.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Ids of requests that bid. Those of [`Socket::ask`], by which a person joins, begin with 1.
const FIRST_BID_ID: u64 = 1_000_000;

/// A person who takes part in an auction.
pub struct Chaser {
    socket: Socket,
    auction_id: String,
}

/// Connects a person and joins an auction.
pub async fn join(system: &System, transport: Transport, name: &str, auction_id: &str) -> Result<Socket> {
    let token = system.token(name)?;
    let mut socket = Socket::enter(system.url(Name::Websocket), transport, &token).await?;
    let joined = socket.ask("join_auction", json!({"auction_id": auction_id})).await?;
    ensure!(joined["data"]["auction_id"] == auction_id, "{joined}");
    Ok(socket)
}

/// Joins this number of people, spread over these auctions.
pub async fn enter(system: &System, transport: Transport, people: u64, auction_ids: &[String]) -> Result<Vec<Chaser>> {
    let mut chasers = Vec::new();
    for nth in 0..people {
        let auction_id = &auction_ids[usize::try_from(nth)? % auction_ids.len()];
        let socket = join(system, transport, &system.person(nth), auction_id).await?;
        chasers.push(Chaser { socket, auction_id: auction_id.clone() });
    }
    Ok(chasers)
}

/// Lets these people chase each other until `end`; returns the answers to bids that were sent from `begin` on.
pub async fn run(chasers: Vec<Chaser>, begin: Instant, end: Instant) -> Result<Answers> {
    let chasing = chasers.into_iter().map(|chaser| tokio::spawn(chaser.run(begin, end)));
    let mut answers = Answers::new(Counted::Accepted)?;
    for person in try_join_all(chasing).await? {
        answers.add(&person?)?;
    }
    Ok(answers)
}

/// The knowledge of one person about the auction.
struct Known {
    seq: u64,
    minimum_cents: u64,
    leads: bool,
}

impl Known {
    /// Learns from an answer or an update. An update may be older than an answer that came before it.
    fn learn(&mut self, data: &Data<'_>) {
        let Some(seq) = data.seq.filter(|seq| *seq >= self.seq) else { return };
        self.seq = seq;
        self.minimum_cents = data.minimum_cents().unwrap_or(self.minimum_cents);
        self.leads = data.leads();
    }
}

impl Chaser {
    async fn run(mut self, begin: Instant, end: Instant) -> Result<Answers> {
        let mut answers = Answers::new(Counted::Accepted)?;
        let mut known = Known { seq: 0, minimum_cents: 100, leads: false };
        let (mut id, mut asked) = (FIRST_BID_ID, None);
        while Instant::now() < end || asked.is_some() {
            if asked.is_none() && !known.leads {
                id += 1;
                asked = Some(Instant::now());
                self.socket.request("place_bid", new_bid(&self.auction_id, known.minimum_cents), id).await?;
            }
            let next = tokio::time::timeout(LOOK_AGAIN, self.socket.next_text(Duration::MAX)).await;
            let Ok(text) = next else { continue };
            let text = text?;
            let Some(frame) = Frame::parse(self.socket.transport(), &text)? else { continue };
            let is_answer = frame.id == Some(id);
            if let Some(sent) = asked.take_if(|_| is_answer).filter(|sent: &Instant| *sent >= begin) {
                answers.note_code(frame.data.code(), sent.elapsed());
            }
            if is_answer || frame.is("bid_update") || frame.is("outbid") {
                known.learn(&frame.data);
            }
        }
        Ok(answers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_update_changes_nothing() {
        let mut known = Known { seq: 0, minimum_cents: 100, leads: false };
        let mut learn = |text: &str| {
            known.learn(&serde_json::from_str(text).expect("data"));
            (known.seq, known.minimum_cents, known.leads)
        };
        assert_eq!(learn(r#"{"seq": 5, "minimum_bid": 2.5, "is_highest": true}"#), (5, 250, true));
        assert_eq!(learn(r#"{"seq": 4, "minimum_bid": 2.4, "you_are_winning": false}"#), (5, 250, true));
        assert_eq!(learn(r#"{"seq": 6, "minimum_bid": 2.6, "you_are_winning": false}"#), (6, 260, false));
    }
}

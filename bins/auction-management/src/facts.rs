//! The facts of auctions that are over, from the log: readers can compute the chain themselves.

use std::sync::Arc;
use std::time::Duration;

use bus::Log;
use domain::AuctionId;
use protocol::{Code, FactPage, Failure, Naming};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use warp::http::StatusCode;

use crate::context::{Answered, Context, Query};

/// Records of one page, each a request to the log of half a millisecond.
const MAX_RECORDS_ON_PAGE: usize = 100;
/// Facts after which a page ends, some 250 bytes each. The last record may add some hundred.
const FACTS_ON_PAGE: usize = 500;
/// Pages that are read at once: the log serves bids first.
const MAX_READINGS: usize = 4;
/// Longest wait for the turn of a page, and for its reading.
const WAIT: Duration = Duration::from_secs(2);
const READ_WITHIN: Duration = Duration::from_secs(5);

/// `GET /auctions/{id}/facts`.
#[derive(Clone)]
pub struct Facts {
    context: Context,
    log: Log,
    readings: Arc<Semaphore>,
}

impl Facts {
    /// Reads nothing yet.
    pub fn new(context: Context, log: Log) -> Self {
        Self { context, log, readings: Arc::new(Semaphore::new(MAX_READINGS)) }
    }

    /// A page of the facts of an auction that is over. Their texts have names, without which a reader cannot compute the
    /// chain: where names are hidden, they are for the host alone.
    pub async fn page(&self, id: &str, token: Option<&str>, query: &Query) -> Answered {
        let viewer = self.context.viewer(token).await?;
        let auction_id = protocol::input::id("auction_id", id)?;
        let after = match query.find("after") {
            None => 0,
            Some(text) => text
                .parse::<u64>()
                .ok()
                .filter(|after| *after < i64::MAX.cast_unsigned())
                .ok_or_else(|| Failure::new(Code::InvalidRequest, "after must be the next_after of another page"))?,
        };
        let stored = self.context.stored(auction_id).await?;
        if self.context.naming(auction_id, stored.host.user_id, viewer) != Naming::Names {
            let error = "Names are hidden here, so that only the host may read the facts";
            return Err(Failure::new(Code::NotHost, error));
        }
        if stored.outcome.is_none() {
            return Err(Failure::new(Code::WrongState, "The facts are public once the auction is over"));
        }
        // The semaphore is never closed.
        let Ok(Ok(_reading)) = timeout(WAIT, self.readings.acquire()).await else {
            return Err(Code::Overloaded.into());
        };
        let page = timeout(READ_WITHIN, self.read(auction_id, after)).await.map_err(|_| Code::Unavailable)??;
        Ok(service::http::json(StatusCode::OK, &page))
    }

    /// The facts after the stream sequence of a record.
    async fn read(&self, auction_id: AuctionId, mut after: u64) -> Result<FactPage, Failure> {
        let mut facts = Vec::new();
        for _ in 0..MAX_RECORDS_ON_PAGE {
            let logged = self.log.next(auction_id, after + 1).await.map_err(|error| {
                tracing::warn!(%auction_id, error = %errors::chain(&error), "failed to read the facts of an auction");
                Failure::from(Code::Unavailable)
            })?;
            let Some(logged) = logged else { return Ok(FactPage { facts, next_after: None }) };
            // An instance of a newer version can read it.
            facts.extend(logged.record.public_facts().ok_or(Code::Unavailable)?);
            after = logged.stream_seq;
            if facts.len() >= FACTS_ON_PAGE {
                break;
            }
        }
        Ok(FactPage { facts, next_after: Some(after.to_string()) })
    }
}

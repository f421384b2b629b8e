//! Creating an auction, step by step, and finishing what a crash left behind.
//!
//! 1. A row in status `creating`, with the host's and the idempotency key: nobody sees it.
//! 2. The video channel, named by the auction's id, noted in the row.
//! 3. `auctions.create`: Redis, then the log. From here on the auction exists.
//! 4. The row gets the log's state and is visible.
//!
//! A crash before 3 leaves a row that the sweep removes, with every channel of that name: the request of
//! step 3 carries `valid_until`, so it cannot take effect later. A crash after 3 leaves a row that the
//! sweep, or the result writer, completes. Each step may be repeated.

use std::time::Duration;

use bus::{Bus, LOG_FULL_RATIO, RequestError};
use cloud::Video;
use domain::{AntiSnipeMode, AuctionId};
use protocol::{
    AuctionCreate, Channel, Code, CommittedState, CreateRequest, Failure, Person, StateReply, StateRequest, Stored,
    subject,
};
use sha1::{Digest, Sha1};
use store::{Claimed, NewAuction, Store};

use crate::doors::Doors;
use crate::video;

const ASK_TIMEOUT: Duration = Duration::from_secs(4);
/// A request for creation takes effect within this or never.
const VALID_FOR_MS: u64 = 20_000;
/// Older rows in creation are given up: longer than [`VALID_FOR_MS`] by far more than clocks differ.
const STUCK_AFTER_SECONDS: u64 = 60;
const SWEEP_EVERY: Duration = Duration::from_secs(10);
const SWEEP_MOST: u64 = 100;
const MAX_KEY_CHARACTERS: usize = 200;

pub struct Created {
    pub stored: Stored,
    pub standing: CommittedState,
    pub channel: Option<Channel>,
}

impl Doors {
    pub async fn create(
        &self,
        host: &Person,
        create: &AuctionCreate,
        key: Option<&str>,
        body: &[u8],
    ) -> Result<Created, Failure> {
        if key.is_some_and(|key| key.is_empty() || key.len() > MAX_KEY_CHARACTERS) {
            return Err(Failure::new(Code::InvalidRequest, "Idempotency-Key must have 1 to 200 characters"));
        }
        let defaults = &self.defaults;
        let new = NewAuction {
            auction_id: AuctionId::from_uuid(uuid::Uuid::new_v4()),
            host,
            create,
            increment: create.increment.unwrap_or(defaults.increment),
            anti_snipe_mode: create.anti_snipe_mode.unwrap_or(AntiSnipeMode::Extend),
            // A default window longer than the auction would make every bid a late one.
            anti_snipe_window_seconds: create
                .anti_snipe_window_seconds
                .unwrap_or_else(|| defaults.anti_snipe_window_seconds.min(create.duration_seconds)),
            anti_snipe_extension_seconds: create
                .anti_snipe_extension_seconds
                .unwrap_or(defaults.anti_snipe_extension_seconds),
            anti_snipe_max_extensions: create
                .anti_snipe_max_extensions
                .map_or(defaults.max_extensions, |most| u32::try_from(most).unwrap_or(u32::MAX)),
        };
        let body_hash = hash(body);
        // bid-processing would refuse it later, but then there would be a row and a channel to clean up.
        if self.log.used_ratio().await.is_ok_and(|used| used >= LOG_FULL_RATIO) {
            return Err(Failure::new(Code::Unavailable, "No auctions can be created at the moment; try again later"));
        }
        let claimed = self.store.start_auction(&new, key.map(|key| (key, body_hash.as_str()))).await;
        let auction_id = match claimed.map_err(|error| self.trouble(&error))? {
            Claimed::New => new.auction_id,
            // Finished or not: asking again finds it or makes it, under the same id.
            Claimed::Earlier(auction_id) => auction_id,
            Claimed::OtherBody => {
                return Err(Failure::new(Code::InvalidRequest, "This Idempotency-Key was used with another body"));
            }
        };
        let channel =
            if create.video { Some(video::ensure(&self.video, &self.store, auction_id).await?) } else { None };
        let standing = self.begin(auction_id, &new).await?;
        if let Err(error) = self.store.write_state(auction_id, standing.seq, &standing.state).await {
            // The auction exists; the result writer completes the row.
            tracing::warn!(%auction_id, %error, "a new auction is not visible yet");
        }
        let stored = match self.store.auction(auction_id).await {
            Ok(Some(stored)) => stored,
            Ok(None) => return Err(Code::Unavailable.into()),
            Err(error) => return Err(self.trouble(&error)),
        };
        Ok(Created { stored, standing, channel })
    }

    async fn begin(&self, auction_id: AuctionId, new: &NewAuction<'_>) -> Result<CommittedState, Failure> {
        let request = CreateRequest {
            auction_id,
            host: new.host.clone(),
            starting_bid: new.create.starting_bid,
            increment: new.increment,
            duration_ms: new.create.duration_seconds * 1000,
            anti_snipe_mode: new.anti_snipe_mode,
            anti_snipe_window_ms: new.anti_snipe_window_seconds * 1000,
            anti_snipe_extension_ms: new.anti_snipe_extension_seconds * 1000,
            anti_snipe_max_extensions: new.anti_snipe_max_extensions,
            valid_until: self.clock.now().0 + VALID_FOR_MS,
        };
        let asked: Result<StateReply, RequestError> =
            bus::request(&self.bus, subject::AUCTIONS_CREATE, &request, ASK_TIMEOUT).await;
        match asked {
            Ok(reply) => reply.into_result(),
            Err(error) => {
                tracing::warn!(%auction_id, %error, "an auction may or may not have been created; the sweep will tell");
                Err(Code::Unavailable.into())
            }
        }
    }
}

/// Tells a repeated body from another one, across restarts and versions.
fn hash(body: &[u8]) -> String {
    format!("{:x}", Sha1::digest(body))
}

/// Finishes or removes what was left in creation.
pub async fn sweep(store: Store, bus: Bus, video: Video) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let stuck = match store.stuck_creations(STUCK_AFTER_SECONDS, SWEEP_MOST).await {
            Ok(stuck) => stuck,
            Err(error) => {
                tracing::warn!(%error, "creations cannot be swept");
                continue;
            }
        };
        for auction_id in stuck {
            let asked: Result<StateReply, _> =
                bus::request(&bus, subject::AUCTIONS_STATE, &StateRequest { auction_id }, ASK_TIMEOUT).await;
            let done = match asked.map(StateReply::into_result) {
                Ok(Ok(standing)) => store.write_state(auction_id, standing.seq, &standing.state).await.map(|_| ()),
                Ok(Err(failure)) if failure.code == Code::AuctionNotFound => {
                    // First the channel: without the row nothing would remember it.
                    if let Err(error) = video.remove_named(auction_id).await {
                        tracing::warn!(%auction_id, %error, "a channel could not be removed");
                        continue;
                    }
                    store.forget_creation(auction_id).await
                }
                Ok(Err(_)) | Err(_) => Ok(()),
            };
            match done {
                Ok(()) => tracing::info!(%auction_id, "swept a creation"),
                Err(error) => tracing::warn!(%auction_id, %error, "a creation could not be swept"),
            }
        }
    }
}

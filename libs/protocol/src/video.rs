//! An auction's video channel, and the auctions whose hosts stream.

use std::fmt;

use domain::AuctionId;
use serde::{Deserialize, Serialize};

use crate::wire::texts;

/// Auctions in one message: as many live streams as are read from IVS. With 39 bytes each they are 390 KB, which a message
/// on NATS may have.
pub const MAX_ON_AIR: usize = 10_000;

/// `video.on_air`: every running auction whose host streams, as one instance of auction-management has found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnAir {
    /// The auctions, at most [`MAX_ON_AIR`].
    #[serde(with = "texts")]
    pub auctions: Vec<AuctionId>,
    /// Milliseconds for which this is believed if no other message comes.
    pub valid_for_ms: u64,
}

/// An IVS channel. Its key lets its bearer stream under the auction's name, so the host alone receives it.
#[derive(Clone, PartialEq, Eq)]
pub struct Channel {
    /// Identifier at AWS.
    pub arn: String,
    /// Where viewers watch.
    pub playback_url: String,
    /// Where the host streams to.
    pub ingest_endpoint: String,
    /// Secret key for streaming.
    pub stream_key: String,
}

/// Leaves out the key, because printed values end up in logs.
impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("arn", &self.arn).finish_non_exhaustive()
    }
}

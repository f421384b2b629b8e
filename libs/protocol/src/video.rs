//! An auction's video channel.

use std::fmt;

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

//! Where an auction's video comes in and goes out.

use std::fmt;

/// An IVS channel. Its key lets anybody stream under the auction's name: it goes to the host alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Channel {
    pub arn: String,
    pub playback_url: String,
    pub ingest_endpoint: String,
    pub stream_key: String,
}

/// Without the key: what is printed ends up in logs.
impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("arn", &self.arn).finish_non_exhaustive()
    }
}

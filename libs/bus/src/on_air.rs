//! Messages on the auctions whose hosts stream.

use futures_util::StreamExt;
use protocol::{OnAir, subject};

use crate::Bus;

/// Reports each message to `hear`, until the connection to NATS is closed for good.
pub async fn follow_on_air(bus: Bus, hear: impl Fn(OnAir) + Send) {
    let mut messages = match bus.client.subscribe(subject::VIDEO_ON_AIR).await {
        Ok(messages) => messages,
        Err(error) => {
            return tracing::error!(error = %errors::chain(&error), "failed to subscribe to the auctions on air");
        }
    };
    while let Some(message) = messages.next().await {
        match serde_json::from_slice(&message.payload) {
            Ok(message) => hear(message),
            Err(error) => {
                tracing::warn!(error = %errors::chain(&error), "failed to parse a message on the auctions on air");
            }
        }
    }
}

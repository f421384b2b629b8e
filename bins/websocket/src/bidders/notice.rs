//! Notices to the sockets of people, outside the broadcasts of rooms.

use std::sync::Arc;

use crate::event::Event;
use crate::transport::send_queue::{Delivery, SendQueue};

/// Notices that are sent before other tasks have their turn: a fifth of a millisecond.
const SENDS_IN_A_ROW: usize = 32;

/// An event for some sockets.
pub struct Notice {
    pub(super) queues: Vec<Arc<SendQueue>>,
    pub(super) delivery: Delivery,
    pub(super) event: Event,
}

impl Notice {
    /// Sends notices, each to all its sockets.
    pub async fn send_all(notices: Vec<Self>) {
        let mut sent = 0usize;
        for Self { queues, delivery, event } in &notices {
            for queue in queues {
                queue.send_events(&[(*delivery, event)]);
                sent += 1;
                if sent.is_multiple_of(SENDS_IN_A_ROW) {
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}

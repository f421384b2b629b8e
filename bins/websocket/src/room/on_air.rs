//! Whether the host streams, as auction-management publishes it: a hint that is only shown.

use std::time::Instant;

use protocol::frames::StreamChanged;

use crate::event::Event;
use crate::room::open::OpenRoom;

/// The host's stream, as the members of a room know it.
#[derive(Debug, Clone, Copy)]
pub struct Stream {
    /// As far as it is known now.
    pub is_live: Option<bool>,
    /// The state that the members were sent last.
    sent_live: bool,
}

impl Stream {
    /// The stream at the opening of a room.
    pub fn new(is_live: Option<bool>) -> Self {
        Self { is_live, sent_live: is_live == Some(true) }
    }

    /// Takes what is known now. Returns the event that the members get.
    fn see(&mut self, is_live: Option<bool>) -> Option<&'static str> {
        let was_known = self.is_live.is_some();
        self.is_live = is_live;
        let is_live = is_live?;
        // Members that joined while it was not known are sent a running stream as well.
        if is_live == self.sent_live && (was_known || !is_live) {
            return None;
        }
        self.sent_live = is_live;
        Some(if is_live { "stream_started" } else { "stream_ended" })
    }
}

impl OpenRoom {
    /// Once a second: broadcasts that the stream has begun or ended, until the auction is over.
    pub(super) async fn see_stream(&mut self) {
        if self.committed.state.outcome.is_some() {
            return;
        }
        let auction_id = self.auction_id;
        if let Some(event) = self.stream.see(self.context.on_air.contains(auction_id, Instant::now())) {
            let timestamp = self.context.clock.now().0;
            self.send_all(Event::new(event, StreamChanged { auction_id, timestamp })).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The state that is known, and the event that the members get.
    type Step = (Option<bool>, Option<&'static str>);

    #[test]
    fn members_are_sent_each_change_once() {
        let cases: &[(Option<bool>, &[Step])] = &[
            (
                Some(false),
                &[
                    (Some(false), None),
                    (Some(true), Some("stream_started")),
                    (Some(true), None),
                    (Some(false), Some("stream_ended")),
                    (Some(false), None),
                ],
            ),
            // A room that opens before anything is known, of an auction without video.
            (None, &[(None, None), (Some(false), None), (None, None), (Some(false), None)]),
            // Members that join while it is not known are sent a running stream when it is known again.
            (
                Some(true),
                &[
                    (None, None),
                    (Some(true), Some("stream_started")),
                    (None, None),
                    (Some(false), Some("stream_ended")),
                ],
            ),
        ];
        for (opened, steps) in cases {
            let mut stream = Stream::new(*opened);
            for (number, (is_live, event)) in steps.iter().enumerate() {
                assert_eq!(stream.see(*is_live), *event, "{opened:?}, step {number}");
                assert_eq!(stream.is_live, *is_live);
            }
        }
    }
}

//! The host of a simulated auction.

use std::sync::Arc;
use std::time::Duration;

use bid_processing::{Call, Command};
use domain::{HostAct, UserId};
use tokio::time::sleep;
use uuid::Uuid;

use super::{BIDDERS, HOST, INSTANCES, Run};

/// Interval between resumptions after the bidding.
const RESUME_EVERY: Duration = Duration::from_millis(500);

impl Run {
    /// The host: pauses and resumes, blocks and unblocks. After the bidding it resumes again and again, so that the auction
    /// ends: a pause whose outcome is unknown may take effect late.
    pub(super) async fn moderate(self: Arc<Self>) {
        if self.random(|random| random.bool()) {
            return;
        }
        let bidder = |nth: u128| UserId::from_uuid(Uuid::from_u128(2 + nth));
        while self.began.elapsed() < self.bidding {
            sleep(Duration::from_millis(self.random(|random| random.u64(100..3_000)))).await;
            let act = self.random(|random| match random.u8(..6) {
                0 | 1 => HostAct::Pause,
                2 => HostAct::Resume,
                5 => HostAct::Start,
                3 => HostAct::Block(bidder(random.u128(..BIDDERS))),
                _ => HostAct::Unblock(bidder(random.u128(..BIDDERS))),
            });
            self.act(act).await;
            if act == HostAct::Pause {
                sleep(Duration::from_millis(self.random(|random| random.u64(..1_000)))).await;
                self.resume().await;
            }
        }
        loop {
            self.resume().await;
            sleep(RESUME_EVERY).await;
        }
    }

    /// Repeats the request until the auction is certainly not paused.
    async fn resume(&self) {
        loop {
            match self.act(HostAct::Resume).await {
                Some(Ok(_)) => return,
                Some(Err(failure)) if failure.code == protocol::Code::WrongState => return,
                _ => sleep(Duration::from_millis(100)).await,
            }
        }
    }

    async fn act(&self, act: HostAct) -> Option<Result<protocol::CommittedState, protocol::Failure>> {
        let nth = self.random(|random| random.usize(..INSTANCES));
        self.instances.call(nth, |reply| Call::Command(Command::Act(act, HOST), reply)).await
    }
}

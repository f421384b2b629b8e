//! Calls for one auction, as they wait for its auctioneer.

use admission::Exceeded;
use domain::{Amount, BidRequest, CloseReason, HostAct, UserId};
use protocol::{Answer, CommittedState, CreateRequest, Failure};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Where the auctioneer sends the result of a [`Command`].
pub type CommandReply = oneshot::Sender<Result<CommittedState, Failure>>;

/// A call for one auction. Bids wait for each other and are decided together, commands one by one.
pub enum Call {
    /// A bid, and where its answer goes.
    Bid(BidRequest, oneshot::Sender<Answer>),
    /// A bid above its person's limit: rejected, unless it was accepted before. Boxed, because queues have room for every
    /// kind of call.
    OverLimit(Box<(BidRequest, Exceeded)>, oneshot::Sender<Answer>),
    /// Anything else that has an answer.
    Command(Command, CommandReply),
    /// Reads how far the auction bids for this person; None if it does not.
    Maximum(UserId, oneshot::Sender<Result<Option<Amount>, Failure>>),
    /// Commits facts that another instance left in the outbox. Nothing waits for the result.
    FlushOutbox,
}

/// A request about the auction itself. Each may be repeated, and answers with the committed state.
#[derive(Debug)]
pub enum Command {
    /// Creates and opens the auction. Boxed for the same reason.
    Create(Box<CreateRequest>),
    /// Opens the auction if its start has come.
    Open,
    /// Closes the auction: because its end has passed, or at once for its host.
    Close(Option<UserId>),
    /// Cancels the auction in the name of its host.
    Cancel(UserId, CloseReason),
    /// Does something else to the auction for this person, who must be the host.
    Act(HostAct, UserId),
    /// Reads the committed state.
    State,
}

/// A call in the queue of an auctioneer.
pub struct Waiting {
    /// The call.
    pub call: Call,
    /// When the answer must be on its way; later work for it is given up.
    pub answer_by: Instant,
    /// The span of the call, if its trace is exported.
    pub trace: traces::Context,
}

/// How an auction is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Its end has passed.
    Due,
    /// Its host closes it.
    Closed(UserId),
    /// It is cancelled in the name of its host.
    Cancelled(UserId, CloseReason),
}

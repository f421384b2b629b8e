//! The NATS requests of other services: `bids.place` and `auctions.*`.

use std::sync::Arc;

use bus::{About, Bus, Micro};
use domain::CloseReason;
use protocol::wire::Named;
use protocol::{
    Answer, CancelRequest, CloseRequest, Code, CreateRequest, Failure, PlaceBid, RefusedBid, Reply, StateReply,
    StateRequest, subject,
};
use service::Stop;

use crate::backend::Backend;
use crate::call::Command;
use crate::intake::Intake;

/// Registers as a NATS micro service and answers its requests.
///
/// # Errors
/// When NATS rejects the registration or a subscription.
pub async fn serve<B: Backend>(
    intake: &Intake<B>,
    status: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
    bus: &Bus,
    stop: &Stop,
) -> Result<Micro, Box<dyn std::error::Error + Send + Sync>> {
    let about = About {
        name: crate::NAME,
        version: service::VERSION,
        description: "Decides bids, openings and endings, and appends them to the log",
        status,
    };
    let micro = Micro::start(bus, about, stop.child_token()).await?;
    let bids = intake.clone();
    let place = move |request: PlaceBid| {
        let bids = bids.clone();
        async move { bids.place(request).await }
    };
    let unreadable_bid = |error: &str| Answer::Rejected(RefusedBid::of(unreadable(error), None));
    micro.serve(subject::BIDS_PLACE, unreadable_bid, place).await?;

    // Serves one subject: the type of its requests, and the command that a request becomes.
    macro_rules! serve {
        ($subject:expr, |$request:ident: $type:ty| $command:expr) => {
            let commands = intake.clone();
            let execute = move |$request: $type| {
                let commands = commands.clone();
                async move { commands.command($request.auction_id, $command).await }
            };
            micro.serve($subject, unreadable_command, execute).await?;
        };
    }
    serve!(subject::AUCTIONS_CREATE, |request: CreateRequest| Command::Create(Box::new(request)));
    serve!(subject::AUCTIONS_OPEN, |request: StateRequest| Command::Open);
    serve!(subject::AUCTIONS_CLOSE, |request: CloseRequest| Command::Close(request.by));
    serve!(subject::AUCTIONS_CANCEL, |request: CancelRequest| Command::Cancel(request.by, reason_of(&request)));
    serve!(subject::AUCTIONS_STATE, |request: StateRequest| Command::State);
    Ok(micro)
}

/// Why an auction is cancelled. A reason of a newer version counts as the host's wish: the record must be readable here.
fn reason_of(request: &CancelRequest) -> CloseReason {
    request.reason.as_ref().and_then(Named::known).unwrap_or(CloseReason::Host)
}

fn unreadable(error: &str) -> Failure {
    tracing::warn!(error, "failed to read a request");
    Code::InvalidRequest.into()
}

fn unreadable_command(error: &str) -> StateReply {
    Reply::Failed(unreadable(error))
}

//! The NATS requests of other services: `bids.place` and `auctions.*`. A request for a person carries the person's token,
//! which is verified here too: a service that can publish on NATS cannot act for anybody whose token it does not have.

use std::sync::Arc;

use bus::{About, Bus, Micro};
use domain::{CloseReason, HostAct};
use identity::Verifier;
use protocol::wire::Named;
use protocol::{
    Answer, BlockRequest, CancelRequest, CloseRequest, Code, CreateRequest, Failure, HostRequest, MaximumRequest,
    OwnMaximum, PlaceBid, RefusedBid, Reply, StateReply, StateRequest, subject,
};
use service::Stop;

use crate::backend::Backend;
use crate::call::Command;
use crate::intake::Intake;

/// The subjects of creations: a newer one for each kind of auction that the version before would create by fewer rules.
const CREATIONS: [&str; 5] = [
    subject::AUCTIONS_CREATE,
    subject::AUCTIONS_CREATE_WITH_RULES,
    subject::AUCTIONS_CREATE_WITH_RESERVE,
    subject::AUCTIONS_CREATE_WITH_PREBIDS,
    subject::AUCTIONS_CREATE_FOLLOWER,
];

/// Registers as a NATS micro service and answers its requests.
///
/// # Errors
/// When NATS rejects the registration or a subscription.
pub async fn serve<B: Backend>(
    intake: &Intake<B>,
    status: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
    verifier: &Verifier,
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
    for subject in [subject::BIDS_PLACE, subject::BIDS_PLACE_WITH_MAXIMUM] {
        serve_bids(&micro, subject, intake, verifier).await?;
    }
    serve_maximums(&micro, intake, verifier).await?;

    // Serves one subject: the type of its requests, the person that a request is for, if any, and the command that it
    // becomes.
    macro_rules! serve {
        ($subject:expr, |$request:ident: $type:ty| $person:expr, $command:expr) => {
            let (commands, callers) = (intake.clone(), verifier.clone());
            let execute = move |$request: $type, token: Option<String>| {
                let (commands, callers) = (commands.clone(), callers.clone());
                async move {
                    if let Some(user_id) = $person
                        && let Err(error) = callers.verify_caller(token.as_deref(), user_id).await
                    {
                        return Reply::Failed(error.into());
                    }
                    commands.command($request.auction_id, $command).await
                }
            };
            micro.serve_for($subject, unreadable_command, execute).await?;
        };
    }
    // An opening or closing that is due takes effect only when it is due, whichever client asks.
    let nobody = None::<domain::UserId>;
    for subject in CREATIONS {
        let (creations, callers) = (intake.clone(), verifier.clone());
        let create = move |request: CreateRequest, token: Option<String>| {
            let (creations, callers) = (creations.clone(), callers.clone());
            async move {
                match callers.verify_caller(token.as_deref(), request.host.user_id).await {
                    Ok(()) => creations.create(request).await,
                    Err(error) => Reply::Failed(error.into()),
                }
            }
        };
        micro.serve_for(subject, unreadable_command, create).await?;
    }
    serve!(subject::AUCTIONS_OPEN, |request: StateRequest| nobody, Command::Open);
    serve!(subject::AUCTIONS_CLOSE, |request: CloseRequest| request.by, Command::Close(request.by));
    serve!(subject::AUCTIONS_START, |request: HostRequest| Some(request.by), Command::Act(HostAct::Start, request.by));
    serve!(subject::AUCTIONS_PAUSE, |request: HostRequest| Some(request.by), Command::Act(HostAct::Pause, request.by));
    serve!(
        subject::AUCTIONS_RESUME,
        |request: HostRequest| Some(request.by),
        Command::Act(HostAct::Resume, request.by)
    );
    serve!(
        subject::AUCTIONS_BLOCK,
        |request: BlockRequest| Some(request.by),
        Command::Act(HostAct::Block(request.user_id), request.by)
    );
    serve!(
        subject::AUCTIONS_UNBLOCK,
        |request: BlockRequest| Some(request.by),
        Command::Act(HostAct::Unblock(request.user_id), request.by)
    );
    serve!(subject::AUCTIONS_STATE, |request: StateRequest| nobody, Command::State);
    serve_cancellations(&micro, intake, verifier).await?;
    Ok(micro)
}

/// Serves bids of verified callers.
async fn serve_bids<B: Backend>(
    micro: &Micro,
    subject: &'static str,
    intake: &Intake<B>,
    verifier: &Verifier,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (bids, bidders) = (intake.clone(), verifier.clone());
    let place = move |request: PlaceBid, token: Option<String>| {
        let (bids, bidders) = (bids.clone(), bidders.clone());
        async move {
            // A remembered token is verified without waiting, so that bids keep the order of their arrival.
            match bidders.verify_caller(token.as_deref(), request.user.user_id).await {
                Ok(()) => bids.place(request).await,
                Err(error) => Answer::Rejected(RefusedBid::of(error.into(), request.bid_id)),
            }
        }
    };
    let unreadable_bid = |error: &str| Answer::Rejected(RefusedBid::of(unreadable(error), None));
    micro.serve_for(subject, unreadable_bid, place).await
}

/// Serves the question of a verified caller for the caller's own maximum.
async fn serve_maximums<B: Backend>(
    micro: &Micro,
    intake: &Intake<B>,
    verifier: &Verifier,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (intake, verifier) = (intake.clone(), verifier.clone());
    let maximum = move |request: MaximumRequest, token: Option<String>| {
        let (intake, verifier) = (intake.clone(), verifier.clone());
        async move {
            match verifier.verify_caller(token.as_deref(), request.user_id).await {
                Ok(()) => intake.maximum(request.auction_id, request.user_id).await,
                Err(error) => Reply::Failed(error.into()),
            }
        }
    };
    let unreadable_question = |error: &str| Reply::<OwnMaximum>::Failed(unreadable(error));
    micro.serve_for(subject::BIDS_MAXIMUM, unreadable_question, maximum).await
}

/// Serves cancellations by the host. While the log is being restored they come from `flash-admin restore`, which has no
/// host's token. Nothing else is decided then.
async fn serve_cancellations<B: Backend>(
    micro: &Micro,
    intake: &Intake<B>,
    verifier: &Verifier,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (intake, verifier) = (intake.clone(), verifier.clone());
    let cancel = move |request: CancelRequest, token: Option<String>| {
        let (intake, verifier) = (intake.clone(), verifier.clone());
        async move {
            let CancelRequest { auction_id, by, reason } = request;
            let reason = reason.as_ref().and_then(Named::known);
            if reason == Some(CloseReason::Restored) && intake.is_log_held() {
                return intake.command(auction_id, Command::Cancel(by, CloseReason::Restored)).await;
            }
            if let Err(error) = verifier.verify_caller(token.as_deref(), by).await {
                return Reply::Failed(error.into());
            }
            intake.command(auction_id, Command::Cancel(by, CloseReason::Host)).await
        }
    };
    micro.serve_for(subject::AUCTIONS_CANCEL, unreadable_command, cancel).await
}

fn unreadable(error: &str) -> Failure {
    tracing::warn!(error, "failed to read a request");
    Code::InvalidRequest.into()
}

fn unreadable_command(error: &str) -> StateReply {
    Reply::Failed(unreadable(error))
}

//! The closed list of codes in error replies, each with its HTTP status and a sentence for a person.

use domain::Refusal;
use http::StatusCode;
use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($variant:ident $name:literal $status:literal $sentence:literal;)*) => {
        /// The reason of a failure, for programs.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        pub enum Code {
            $(#[doc = $sentence] #[serde(rename = $name)] $variant,)*
        }

        impl Code {
            /// The name in replies.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The status of an HTTP reply with this code.
            #[must_use]
            pub fn status(self) -> StatusCode {
                let number: u16 = match self { $(Self::$variant => $status,)* };
                StatusCode::from_u16(number).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }

            /// The English sentence of a failure that has none more exact.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }
        }
    };
}

codes! {
    InvalidRequest "invalid_request" 400 "The request could not be understood";
    InvalidAmount "invalid_amount" 400 "The amount is not valid";
    Unauthenticated "unauthenticated" 401 "A valid token is required";
    TokenExpired "token_expired" 401 "The token has expired; sign in again";
    NotHost "not_host" 403 "Only the host of the auction may do this";
    HostCannotBid "host_cannot_bid" 403 "The host cannot bid in their own auction";
    BidderBlocked "bidder_blocked" 403 "The host has blocked you in this auction";
    LimitExceeded "limit_exceeded" 403 "This is more than one person may have";
    NotFound "not_found" 404 "There is nothing at this path";
    AuctionNotFound "auction_not_found" 404 "There is no such auction";
    MethodNotAllowed "method_not_allowed" 405 "This path does not take that method";
    WrongState "wrong_state" 409 "The auction is not in a state that allows this";
    BidTooLow "bid_too_low" 409 "The bid is below the minimum";
    AlreadyLeading "already_leading" 409 "You already hold the highest bid";
    AuctionNotStarted "auction_not_started" 409 "Auction has not started";
    AuctionPaused "auction_paused" 409 "Auction is paused";
    AuctionClosed "auction_closed" 409 "Auction is closed";
    TooLarge "too_large" 413 "The request is larger than allowed";
    BidIdReused "bid_id_reused" 422 "This bid id was used for a different bid";
    RateLimited "rate_limited" 429 "Too many requests; slow down";
    Unavailable "unavailable" 503 "The service cannot do this right now; nothing was changed, try again";
    Overloaded "overloaded" 503 "Too much is waiting; the bid was not accepted, try again";
    OutcomeUnknown "outcome_unknown" 503 "It is not known whether the request took effect; ask again, a bid with the same bid_id";
    UnknownEvent "unknown_event" 400 "There is no such event";
    NotJoined "not_joined" 400 "Join the auction first";
    RoomFull "room_full" 503 "This auction's room is full";
    Muted "muted" 403 "The host has muted you in this chat";
    ChatTooFast "chat_too_fast" 429 "Too many messages; slow down";
    VideoQuota "video_quota" 503 "No more video channels can be opened now; try again later or create the auction with video false";
}

impl Code {
    /// Seconds to wait before the next try; sent as `Retry-After`.
    #[must_use]
    pub const fn retry_after_seconds(self) -> Option<u32> {
        match self {
            Self::RateLimited
            | Self::ChatTooFast
            | Self::VideoQuota
            | Self::Unavailable
            | Self::Overloaded
            | Self::OutcomeUnknown => Some(1),
            _ => None,
        }
    }
}

impl From<Refusal> for Code {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::BidIdReused => Self::BidIdReused,
            Refusal::NotStarted => Self::AuctionNotStarted,
            Refusal::Paused => Self::AuctionPaused,
            Refusal::Closed => Self::AuctionClosed,
            Refusal::HostCannotBid => Self::HostCannotBid,
            Refusal::Blocked => Self::BidderBlocked,
            Refusal::AlreadyLeading => Self::AlreadyLeading,
            Refusal::TooLow => Self::BidTooLow,
            Refusal::PrebidsFull => Self::LimitExceeded,
        }
    }
}

/// An error reply: `{"error", "message", "code"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(into = "ErrorBody")]
#[error("{error} ({})", code.name())]
pub struct Failure {
    /// An English sentence for a person.
    pub error: String,
    /// The reason, for programs.
    pub code: Code,
    /// Seconds to wait before the next try, where they are known better than from the code.
    #[serde(skip)]
    retry_after_seconds: Option<u32>,
}

/// An error reply.
#[derive(Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "Error"))]
pub(crate) struct ErrorBody {
    /// An English sentence for a person.
    error: String,
    /// The same, for clients that read it here.
    message: String,
    /// The reason, for programs.
    code: Code,
}

impl From<Failure> for ErrorBody {
    fn from(failure: Failure) -> Self {
        Self { message: failure.error.clone(), error: failure.error, code: failure.code }
    }
}

impl Failure {
    /// A failure with a sentence that says more than the code's own.
    pub fn new(code: Code, error: impl Into<String>) -> Self {
        Self { error: error.into(), code, retry_after_seconds: None }
    }

    /// The same failure with the number of seconds after which the request may succeed.
    #[must_use]
    pub const fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// Seconds to wait before the next try; sent as `Retry-After`.
    #[must_use]
    pub const fn retry_after_seconds(&self) -> Option<u32> {
        match self.retry_after_seconds {
            None => self.code.retry_after_seconds(),
            known => known,
        }
    }

    /// The answer to a creation that may have taken effect. With an `Idempotency-Key` repeating it is safe.
    #[must_use]
    pub fn creation_unknown(has_key: bool) -> Self {
        let advice = if has_key {
            "ask again with the same Idempotency-Key"
        } else {
            "look for it before you create another, or use an Idempotency-Key"
        };
        Self::new(Code::OutcomeUnknown, format!("It is not known whether the auction was created; {advice}"))
    }

    /// The same failure after a step that may have taken effect, which `unavailable` would deny.
    #[must_use]
    pub fn after_effect(self) -> Self {
        if self.code == Code::Unavailable { Code::OutcomeUnknown.into() } else { self }
    }

    /// Creations are rejected while the log is nearly full, so that running auctions keep the rest of it.
    #[must_use]
    pub fn log_full() -> Self {
        Self::new(Code::Unavailable, "No auctions can be created at the moment; try again later")
    }
}

impl From<Code> for Failure {
    fn from(code: Code) -> Self {
        Self::new(code, code.sentence())
    }
}

/// A reply between services: the requested value, or a failure that clients may see.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply<T> {
    /// The requested value.
    Ok(T),
    /// The failure, which clients may see.
    Failed(Failure),
}

impl<T> From<Result<T, Failure>> for Reply<T> {
    fn from(result: Result<T, Failure>) -> Self {
        match result {
            Ok(value) => Self::Ok(value),
            Err(failure) => Self::Failed(failure),
        }
    }
}

impl<T> Reply<T> {
    /// The reply as a result.
    ///
    /// # Errors
    /// The failure, if it is one.
    pub fn into_result(self) -> Result<T, Failure> {
        match self {
            Self::Ok(value) => Ok(value),
            Self::Failed(failure) => Err(failure),
        }
    }
}

/// An answer of a service that may be a failure.
pub trait MayFail {
    /// The code, if the service could not do what it was asked to. A refusal by the rules is none.
    fn failed_with(&self) -> Option<Code>;
}

/// An answer that may have nothing to say.
impl<T> MayFail for Option<T> {
    fn failed_with(&self) -> Option<Code> {
        None
    }
}

impl<T> MayFail for Reply<T> {
    fn failed_with(&self) -> Option<Code> {
        match self {
            Self::Ok(_) => None,
            Self::Failed(failure) => Some(failure.code).filter(|code| code.status().is_server_error()),
        }
    }
}

//! Schemas of requests and of small bodies that services parse or write field by field.
//!
//! The parsers in `auction.rs`, `bid.rs` and `people.rs` name the field in each error, so they do not deserialize these
//! types; the contract test holds the two together, by requests that must pass and requests that must fail.
#![expect(dead_code, reason = "the types exist for their schemas")]

use schemars::JsonSchema;

use crate::auction::{
    DURATION_SECONDS, MAX_ADDRESS_CHARACTERS, MAX_ANTI_SNIPE_SECONDS, MAX_DESCRIPTION_CHARACTERS, MAX_EXTENSIONS,
    MAX_GAP_SECONDS, MAX_IMAGES, MAX_SHORT_TEXT_CHARACTERS, MAX_TITLE_CHARACTERS,
};
use crate::people::{MAX_NAME_CHARACTERS, MAX_PHONE_CHARACTERS};
use crate::shapes::{AnyMoney, AnyMoneyOrZero, Id, StartTime};
use crate::wire::Named;
use crate::{MAX_CHAT_CHARACTERS, MAX_MUTE_SECONDS, MAX_SLOW_MODE_SECONDS};

/// Body of `POST /auctions`.
#[derive(JsonSchema)]
pub struct CreateAuction {
    /// Title of the item.
    #[schemars(length(min = 1, max = MAX_TITLE_CHARACTERS))]
    title: String,
    /// Description of the item.
    #[schemars(length(max = MAX_DESCRIPTION_CHARACTERS))]
    description: Option<String>,
    /// Seconds
    #[schemars(range(min = *DURATION_SECONDS.start(), max = *DURATION_SECONDS.end()))]
    duration: u64,
    /// Free text for filters.
    #[schemars(length(min = 1, max = MAX_SHORT_TEXT_CHARACTERS))]
    category: Option<String>,
    /// Lowest first bid.
    starting_bid: AnyMoney,
    /// Smallest step between two bids; by default that of the deployment.
    minimum_increment: Option<AnyMoney>,
    /// Instead of `minimum_increment`: steps by the height of the price.
    increments: Option<Increments>,
    /// Whether the leader may raise their own bid; false by default.
    allow_self_raise: Option<bool>,
    /// The price at which the auction ends at once, sold; at least the starting bid.
    buy_now_price: Option<AnyMoney>,
    /// The price below which the auction does not sell: at least the starting bid, at most the buy-now price. Only the
    /// host is shown it.
    reserve_price: Option<AnyMoney>,
    /// Whether bids are kept until the opening; false by default. Needs `starts_at` or `follows`.
    allow_prebids: Option<bool>,
    /// Main image: an http or https address.
    #[schemars(length(min = 1, max = MAX_ADDRESS_CHARACTERS))]
    image_url: Option<String>,
    /// Further images: http or https addresses.
    #[schemars(length(max = MAX_IMAGES))]
    images: Option<Vec<String>>,
    /// Condition of the item.
    #[schemars(length(min = 1, max = MAX_SHORT_TEXT_CHARACTERS))]
    condition: Option<String>,
    /// Name to show beside the host's.
    #[schemars(length(min = 1, max = MAX_SHORT_TEXT_CHARACTERS))]
    seller_name: Option<String>,
    /// How late bids move the end.
    anti_snipe: Option<AntiSnipeRequest>,
    /// When bidding opens; at once by default. In UTC, in the future, at most 30 days ahead.
    starts_at: Option<StartTime>,
    /// Instead of `starts_at`: another auction of the host that has not ended. Its end opens this one.
    follows: Option<Id>,
    /// With `follows`: seconds from that end to the opening; 0 by default.
    #[schemars(range(max = MAX_GAP_SECONDS))]
    gap: Option<u64>,
    /// Whether the auction gets a video channel; true by default.
    video: Option<bool>,
}

/// Steps by the height of the price.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum Increments {
    /// A ladder that is chosen by its name.
    Preset(Named<domain::Preset>),
    /// Bands by rising prices. No step is smaller than the one before it.
    Bands(#[schemars(length(min = 1, max = domain::Ladder::MAX_BANDS))] Vec<IncrementBandRequest>),
}

/// The step that applies from a price upwards; the first one also applies below.
#[derive(JsonSchema)]
struct IncrementBandRequest {
    /// Lowest price of the band.
    from: AnyMoneyOrZero,
    /// Smallest step between two bids.
    step: AnyMoney,
}

/// How late bids move the end; absent fields take the defaults of the deployment.
#[derive(JsonSchema)]
struct AntiSnipeRequest {
    /// Whether a late bid moves the end; `extend` by default.
    mode: Option<Named<domain::AntiSnipeMode>>,
    /// Seconds; a bid this close to the end is late.
    #[schemars(range(max = MAX_ANTI_SNIPE_SECONDS))]
    window: Option<u64>,
    /// Seconds that a late bid adds.
    #[schemars(range(max = MAX_ANTI_SNIPE_SECONDS))]
    extension: Option<u64>,
    /// Most extensions of the auction.
    #[schemars(range(max = MAX_EXTENSIONS))]
    max_extensions: Option<u64>,
}

/// Body of `POST /auctions/{id}/block` and `POST /auctions/{id}/unblock`.
#[derive(JsonSchema)]
pub struct BlockBidder {
    /// The person to block or unblock.
    user_id: Id,
}

/// Body of `POST /auctions/{id}/chat`.
#[derive(JsonSchema)]
pub struct SetSlowMode {
    /// Seconds between two messages of a person; 0 for the usual second.
    #[schemars(range(max = MAX_SLOW_MODE_SECONDS))]
    slow_mode_seconds: u64,
}

/// Body of `PUT /users/me`. An absent field stays as it is; empty text clears it.
#[derive(JsonSchema)]
pub struct ChangeProfile {
    /// Full name.
    #[schemars(length(max = MAX_NAME_CHARACTERS))]
    name: Option<String>,
    /// Phone number: digits, blanks, brackets and dashes.
    #[schemars(length(max = MAX_PHONE_CHARACTERS))]
    phone: Option<String>,
}

/// Body of `POST /uploads`.
#[derive(JsonSchema)]
pub struct AskUpload {
    /// Type of the photo.
    #[schemars(extend("enum" = ["image/jpeg", "image/png", "image/webp", "image/avif", "image/gif"]))]
    content_type: String,
    /// Size of the photo in bytes.
    #[schemars(range(min = 1, max = crate::MAX_PHOTO_BYTES))]
    size: u64,
}

/// A bid: an amount, a maximum, or both.
#[derive(JsonSchema)]
#[schemars(extend("anyOf" = [{"required": ["amount"]}, {"required": ["max_amount"]}]))]
pub struct PlaceBid {
    /// The auction.
    auction_id: Id,
    /// The price offered. Beside a maximum it may be left out and is then the least that is needed.
    amount: Option<AnyMoney>,
    /// How far the auction bids for the caller; not below the amount. Only the caller is shown it.
    max_amount: Option<AnyMoney>,
    /// Makes the request repeatable: the same id is one bid with one answer.
    bid_id: Option<Id>,
}

/// Renews the token of a connection.
#[derive(JsonSchema)]
pub struct Authenticate {
    /// An id or access token of the Cognito user pool; absent in a first one that asks to watch without a token.
    token: Option<String>,
}

/// Joins the room of an auction.
#[derive(JsonSchema)]
pub struct JoinAuction {
    /// The auction.
    auction_id: Id,
    /// Sequence number of the last fact that the client saw; the answer then holds the bids after it.
    last_seq: Option<u64>,
}

/// An auction's room.
#[derive(JsonSchema)]
pub struct AuctionRoom {
    /// The auction.
    auction_id: Id,
}

/// Writes a chat message.
#[derive(JsonSchema)]
pub struct WriteMessage {
    /// The auction.
    auction_id: Id,
    /// The text.
    #[schemars(length(min = 1, max = MAX_CHAT_CHARACTERS))]
    message: String,
}

/// Erases a chat message.
#[derive(JsonSchema)]
pub struct DeleteMessage {
    /// The auction.
    auction_id: Id,
    /// The message.
    message_id: Id,
}

/// Mutes a person in the chat.
#[derive(JsonSchema)]
pub struct MutePerson {
    /// The auction.
    auction_id: Id,
    /// The person.
    user_id: Id,
    /// Duration of the mute; 0 ends it.
    #[schemars(range(max = MAX_MUTE_SECONDS))]
    seconds: u64,
}

/// No fields are read.
#[derive(JsonSchema)]
#[schemars(extend("additionalProperties" = true))]
pub struct Nothing {}

/// Reply of `GET /health`.
#[derive(JsonSchema)]
pub struct Health {
    /// Always `healthy`.
    #[schemars(extend("const" = "healthy"))]
    status: String,
    /// Name of the service.
    service: String,
    /// Version of the build.
    version: String,
}

/// Reply of `GET /ready`.
#[derive(JsonSchema)]
pub struct Ready {
    /// Whether the service takes requests.
    status: Readiness,
    /// Name of the service.
    service: String,
    /// The state of each dependency.
    dependencies: std::collections::BTreeMap<String, Reachability>,
    /// Requests that NATS refused because the service's login lacks a right.
    refused: Vec<String>,
}

/// Whether a service takes requests.
#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case", inline)]
enum Readiness {
    Ready,
    NotReady,
    Draining,
}

/// Whether a dependency answers.
#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case", inline)]
enum Reachability {
    Up,
    Down,
}

/// Reply of `GET /time`.
#[derive(JsonSchema)]
pub struct Time {
    /// Milliseconds since 1970, by the clock of the auction's Redis
    server_time: u64,
}

/// When the token of a connection expires.
#[derive(JsonSchema)]
pub struct TokenExpiry {
    /// Milliseconds since 1970; null for a connection without a token
    expires_at: Option<u64>,
}

/// A chat message was stored.
#[derive(JsonSchema)]
pub struct ChatSent {
    /// Identifier of the message.
    message_id: Id,
}

/// The server is about to close the connection.
#[derive(JsonSchema)]
pub struct Draining {
    /// Milliseconds to wait before reconnecting.
    retry_after_ms: u64,
}

/// The server is there.
#[derive(JsonSchema)]
pub struct Pong {
    /// Milliseconds since 1970, by the clock of the auction's Redis
    timestamp: u64,
}

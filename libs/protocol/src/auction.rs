//! Requests about auctions: creation by a client, and the requests between services.

use std::ops::RangeInclusive;

use domain::{Amount, AntiSnipeMode, AuctionId, CloseReason, UserId};
use serde::{Deserialize, Serialize};

use crate::input::Fields;
use crate::live::CommittedState;
use crate::wire::{Named, cents, optional_text, text};
use crate::{Code, Failure};

/// A person as a token or the log names them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Person {
    /// Identifier from the token's `sub`.
    #[serde(with = "text")]
    pub user_id: UserId,
    /// Public name.
    pub username: String,
}

/// `users.seen`: the claims of a person whose token a service verified. Repeatable.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UserSeen {
    /// Identifier and public name.
    #[serde(flatten)]
    pub person: Person,
    /// Mail address, if the token holds one.
    pub email: Option<String>,
    /// Whether the issuer verified the address.
    pub email_verified: bool,
    /// Full name, if the token holds one.
    pub name: Option<String>,
    /// When the token was issued, in seconds since 1970. If two people claim one address, the newer token gets it.
    pub issued_at: u64,
}

/// `auctions.create`. Repeatable: the same id never makes a second auction.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateRequest {
    /// Identifier of the new auction.
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    /// The person who sells.
    pub host: Person,
    /// Lowest first bid.
    #[serde(rename = "starting_bid_cents", with = "cents")]
    pub starting_bid: Amount,
    /// Smallest step between two bids.
    #[serde(rename = "increment_cents", with = "cents")]
    pub increment: Amount,
    /// Milliseconds from opening to the end.
    pub duration_ms: u64,
    /// Whether a late bid moves the end.
    #[serde(with = "text")]
    pub anti_snipe_mode: AntiSnipeMode,
    /// A bid this close to the end is late.
    pub anti_snipe_window_ms: u64,
    /// Milliseconds that a late bid adds.
    pub anti_snipe_extension_ms: u64,
    /// Most extensions of the auction.
    pub anti_snipe_max_extensions: u32,
    /// Time on the clock of Redis after which the request is rejected. A request that is delivered too late therefore
    /// cannot create an auction whose creation was abandoned.
    pub valid_until: u64,
}

/// `auctions.open` and `auctions.state`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StateRequest {
    /// The auction in question.
    #[serde(with = "text")]
    pub auction_id: AuctionId,
}

/// `auctions.close`. Without `by` it asks for the close that is due; with `by` the host closes the auction early.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CloseRequest {
    /// The auction to close.
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    /// The person who asks; only the host may.
    #[serde(with = "optional_text", default)]
    pub by: Option<UserId>,
}

/// `auctions.cancel`: the host cancels the auction, or an operator in the name of the host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CancelRequest {
    /// The auction to cancel.
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    /// The person who asks; only the host may.
    #[serde(with = "text")]
    pub by: UserId,
    /// Why, if it is not the host's own wish. It is the reason in the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Named<CloseReason>>,
}

/// `history.redrive` and `results.redrive`: handle one record of the log again. Repeatable. The answer says whether the
/// log still has it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct RedriveRequest {
    /// The record's sequence in the stream.
    pub stream_seq: u64,
}

/// The answer to every request about one auction: its committed state afterwards.
pub type StateReply = crate::Reply<CommittedState>;

/// A parsed and validated `POST /auctions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuctionCreate {
    /// 1 to 500 characters.
    pub title: String,
    /// At most 20,000 characters.
    pub description: Option<String>,
    /// Seconds from opening to the end.
    pub duration_seconds: u64,
    /// Free text for filters.
    pub category: Option<String>,
    /// Lowest first bid.
    pub starting_bid: Amount,
    /// Smallest step between two bids; None for the default of the deployment.
    pub increment: Option<Amount>,
    /// Main image.
    pub image_url: Option<String>,
    /// Further images, at most ten.
    pub images: Vec<String>,
    /// Condition of the item.
    pub condition: Option<String>,
    /// Name to show beside the host's.
    pub seller_name: Option<String>,
    /// None for `extend`.
    pub anti_snipe_mode: Option<AntiSnipeMode>,
    /// A bid this close to the end is late; None for the default of the deployment.
    pub anti_snipe_window_seconds: Option<u64>,
    /// Seconds that a late bid adds; None for the default of the deployment.
    pub anti_snipe_extension_seconds: Option<u64>,
    /// Most extensions; None for the default of the deployment.
    pub anti_snipe_max_extensions: Option<u64>,
    /// Whether the auction gets a video channel.
    pub video: bool,
}

/// Fields of later versions. They are rejected by name, because an ignored field would look as if it were honoured.
const LATER_FIELDS: [&str; 8] = [
    "starts_at",
    "increments",
    "reserve_price",
    "buy_now_price",
    "allow_prebids",
    "allow_self_raise",
    "follows",
    "gap",
];

/// Seconds that an auction may last.
pub(crate) const DURATION_SECONDS: RangeInclusive<u64> = 5..=604_800;
/// Most seconds of an anti-snipe window or extension: no more than the longest auction.
pub(crate) const MAX_ANTI_SNIPE_SECONDS: u64 = *DURATION_SECONDS.end();
/// Most extensions of one auction.
pub(crate) const MAX_EXTENSIONS: u64 = 1_000_000;
/// Most images beside the main one.
pub(crate) const MAX_IMAGES: usize = 10;
/// Longest title, in characters.
pub(crate) const MAX_TITLE_CHARACTERS: usize = 500;
/// Longest description, in characters.
pub(crate) const MAX_DESCRIPTION_CHARACTERS: usize = 20_000;
/// Longest category, condition or seller's name, in characters.
pub(crate) const MAX_SHORT_TEXT_CHARACTERS: usize = 200;
/// Longest address of an image, in characters.
pub(crate) const MAX_ADDRESS_CHARACTERS: usize = 2_000;

/// Reads `POST /auctions`.
///
/// # Errors
/// `invalid_request` or `invalid_amount`, naming the field.
pub fn parse_auction_create(body: &[u8]) -> Result<AuctionCreate, Failure> {
    let fields = Fields::parse(body)?;
    fields.refuse(&LATER_FIELDS)?;
    let anti_snipe = fields.object("anti_snipe")?;
    let anti_snipe = anti_snipe.as_ref();
    let seconds = |name| anti_snipe.map_or(Ok(None), |part| part.optional_whole(name, 0, MAX_ANTI_SNIPE_SECONDS));
    let image_url = fields.optional_text("image_url", 1, MAX_ADDRESS_CHARACTERS)?;
    let images = fields.texts("images", MAX_IMAGES)?;
    for address in image_url.iter().chain(&images) {
        check_address(address)?;
    }
    Ok(AuctionCreate {
        title: fields.text("title", 1, MAX_TITLE_CHARACTERS)?,
        description: fields.optional_text("description", 0, MAX_DESCRIPTION_CHARACTERS)?,
        duration_seconds: fields.whole("duration", *DURATION_SECONDS.start(), *DURATION_SECONDS.end())?,
        category: fields.optional_text("category", 1, MAX_SHORT_TEXT_CHARACTERS)?,
        starting_bid: fields.amount("starting_bid")?,
        increment: fields.optional_amount("minimum_increment")?,
        image_url,
        images,
        condition: fields.optional_text("condition", 1, MAX_SHORT_TEXT_CHARACTERS)?,
        seller_name: fields.optional_text("seller_name", 1, MAX_SHORT_TEXT_CHARACTERS)?,
        anti_snipe_mode: anti_snipe.map_or(Ok(None), anti_snipe_mode)?,
        anti_snipe_window_seconds: seconds("window")?,
        anti_snipe_extension_seconds: seconds("extension")?,
        anti_snipe_max_extensions: anti_snipe
            .map_or(Ok(None), |part| part.optional_whole("max_extensions", 0, MAX_EXTENSIONS))?,
        video: fields.optional_flag("video")?.unwrap_or(true),
    })
}

fn anti_snipe_mode(part: &Fields) -> Result<Option<AntiSnipeMode>, Failure> {
    let Some(mode) = part.optional_text("mode", 1, 20)? else { return Ok(None) };
    if mode == "reset" {
        return Err(Failure::new(Code::InvalidRequest, "anti_snipe.mode reset is not supported yet"));
    }
    let unknown = |_| Failure::new(Code::InvalidRequest, "anti_snipe.mode must be extend or off");
    mode.parse().map(Some).map_err(unknown)
}

fn check_address(address: &str) -> Result<(), Failure> {
    let uri = address.parse::<http::Uri>().ok();
    let is_web = uri.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some());
    if is_web && address.chars().count() <= MAX_ADDRESS_CHARACTERS {
        Ok(())
    } else {
        Err(Failure::new(Code::InvalidRequest, "image_url and images must be http or https addresses"))
    }
}

/// The requested part of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pagination {
    /// Most items on the page.
    pub limit: u64,
    /// Items before the page.
    pub offset: u64,
}

/// Reads `limit` (1..=`most`, by default `default`) and `offset`.
///
/// # Errors
/// `invalid_request` naming the parameter.
pub fn parse_pagination(find: impl Fn(&str) -> Option<String>, default: u64, most: u64) -> Result<Pagination, Failure> {
    let number = |name: &str, otherwise, min, max| match find(name) {
        None => Ok(otherwise),
        Some(text) => text.parse().ok().filter(|number| (min..=max).contains(number)).ok_or_else(|| {
            Failure::new(Code::InvalidRequest, format!("{name} must be a whole number from {min} to {max}"))
        }),
    };
    /// Far beyond any list, and within what PostgreSQL's `bigint` takes.
    const MAX_OFFSET: u64 = 1_000_000_000;
    Ok(Pagination { limit: number("limit", default, 1, most)?, offset: number("offset", 0, 0, MAX_OFFSET)? })
}

//! Auctions and people: creation, requests between services, and the object the outside sees.

use domain::{Amount, AntiSnipeMode, AuctionId, Outcome, Status, UserId};
use serde::{Deserialize, Serialize};

use crate::input::Fields;
use crate::live::{CommittedState, time_remaining, whole_seconds};
use crate::wire::{Named, cents, decimal, optional_decimal, optional_rfc3339, optional_text, rfc3339, text};
use crate::{Code, Failure};

/// A person as a token or the log names them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Person {
    #[serde(with = "text")]
    pub user_id: UserId,
    pub username: String,
}

/// `users.seen`: the claims of a person who appeared at some door. Repeatable.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UserSeen {
    #[serde(flatten)]
    pub person: Person,
    pub email: Option<String>,
    pub email_verified: bool,
    pub name: Option<String>,
    /// When the token was issued, in seconds since 1970: an e-mail held twice goes to the newer.
    pub issued_at: u64,
}

/// `auctions.create`. Repeatable: the same id never makes a second auction.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateRequest {
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    pub host: Person,
    #[serde(rename = "starting_bid_cents", with = "cents")]
    pub starting_bid: Amount,
    #[serde(rename = "increment_cents", with = "cents")]
    pub increment: Amount,
    pub duration_ms: u64,
    #[serde(with = "text")]
    pub anti_snipe_mode: AntiSnipeMode,
    pub anti_snipe_window_ms: u64,
    pub anti_snipe_extension_ms: u64,
    pub anti_snipe_max_extensions: u32,
    /// By the clock of Redis. Past it the request is refused, so that one delivered late cannot make
    /// an auction whose creation was given up.
    pub valid_until: u64,
}

/// `auctions.open` and `auctions.state`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StateRequest {
    #[serde(with = "text")]
    pub auction_id: AuctionId,
}

/// `auctions.close`. Without `by` it asks for the close that is due; with it the host closes now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CloseRequest {
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    #[serde(with = "optional_text", default)]
    pub by: Option<UserId>,
}

/// `auctions.cancel`: the host cancels.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CancelRequest {
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    #[serde(with = "text")]
    pub by: UserId,
}

pub type StateReply = crate::Reply<CommittedState>;

/// A checked `POST /auctions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuctionCreate {
    pub title: String,
    pub description: Option<String>,
    pub duration_seconds: u64,
    pub category: Option<String>,
    pub starting_bid: Amount,
    pub increment: Option<Amount>,
    pub image_url: Option<String>,
    pub images: Vec<String>,
    pub condition: Option<String>,
    pub seller_name: Option<String>,
    pub anti_snipe_mode: Option<AntiSnipeMode>,
    pub anti_snipe_window_seconds: Option<u64>,
    pub anti_snipe_extension_seconds: Option<u64>,
    pub anti_snipe_max_extensions: Option<u64>,
    /// Whether it gets a video channel.
    pub video: bool,
}

/// What later versions take and this one refuses by name rather than ignore.
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

/// Seconds an auction may last.
const DURATION_SECONDS: std::ops::RangeInclusive<u64> = 5..=604_800;
/// Seconds of an anti-snipe window or extension: no more than the longest auction.
const MAX_ANTI_SNIPE_SECONDS: u64 = *DURATION_SECONDS.end();
const MAX_EXTENSIONS: u64 = 1_000_000;
const MAX_IMAGES: usize = 10;
const MAX_TITLE_CHARACTERS: usize = 500;
const MAX_DESCRIPTION_CHARACTERS: usize = 20_000;
const MAX_SHORT_TEXT_CHARACTERS: usize = 200;
const MAX_ADDRESS_CHARACTERS: usize = 2_000;

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

/// What PostgreSQL keeps of an auction: all but the live part.
#[derive(Debug, Clone)]
pub struct Stored {
    pub auction_id: AuctionId,
    pub host: Person,
    pub title: String,
    pub description: Option<String>,
    pub category: Option<String>,
    pub image_url: Option<String>,
    pub images: Vec<String>,
    pub condition: Option<String>,
    pub seller_name: Option<String>,
    pub duration_seconds: u64,
    pub starting_bid: Amount,
    pub increment: Amount,
    pub anti_snipe_mode: Named<AntiSnipeMode>,
    pub anti_snipe_window_seconds: u64,
    pub anti_snipe_extension_seconds: u64,
    pub anti_snipe_max_extensions: u32,
    pub created_at: u64,
    pub status: Named<Status>,
    pub starts_at: Option<u64>,
    pub end_time: Option<u64>,
    pub ended_at: Option<u64>,
    pub outcome: Option<Named<Outcome>>,
    pub winner: Option<Person>,
    pub winning_bid: Option<Amount>,
    pub bid_count: u64,
    pub ivs_channel_arn: Option<String>,
    pub ivs_playback_url: Option<String>,
}

#[derive(Debug, Serialize)]
struct PublicAntiSnipe<'a> {
    mode: &'a Named<AntiSnipeMode>,
    window: u64,
    extension: u64,
    max_extensions: u32,
}

#[derive(Debug, Serialize)]
struct Band {
    #[serde(serialize_with = "zero_or_decimal")]
    from: Option<Amount>,
    #[serde(serialize_with = "decimal")]
    step: Amount,
}

fn zero_or_decimal<S: serde::Serializer>(amount: &Option<Amount>, serializer: S) -> Result<S::Ok, S::Error> {
    match amount {
        Some(amount) => decimal(amount, serializer),
        None => serializer.serialize_u8(0),
    }
}

/// The auction as the outside sees it.
#[derive(Debug, Serialize)]
pub struct AuctionObject<'a> {
    #[serde(with = "text")]
    auction_id: AuctionId,
    #[serde(with = "text")]
    host_user_id: UserId,
    host_username: &'a str,
    title: &'a str,
    description: Option<&'a str>,
    category: Option<&'a str>,
    image_url: Option<&'a str>,
    images: &'a [String],
    condition: Option<&'a str>,
    seller_name: Option<&'a str>,
    currency: &'a str,
    duration: u64,
    #[serde(serialize_with = "decimal")]
    starting_bid: Amount,
    increments: [Band; 1],
    #[serde(serialize_with = "decimal")]
    bid_increment: Amount,
    has_reserve: bool,
    reserve_met: bool,
    buy_now_price: Option<()>,
    anti_snipe: PublicAntiSnipe<'a>,
    status: &'a Named<Status>,
    #[serde(serialize_with = "rfc3339")]
    created_at: u64,
    #[serde(serialize_with = "optional_rfc3339")]
    starts_at: Option<u64>,
    #[serde(serialize_with = "optional_rfc3339")]
    end_time: Option<u64>,
    #[serde(serialize_with = "optional_rfc3339")]
    ended_at: Option<u64>,
    outcome: Option<&'a Named<Outcome>>,
    #[serde(with = "optional_text")]
    winner_id: Option<UserId>,
    winner_username: Option<&'a str>,
    #[serde(serialize_with = "optional_decimal")]
    winning_bid: Option<Amount>,
    #[serde(serialize_with = "optional_decimal")]
    current_high_bid: Option<Amount>,
    high_bidder_username: Option<&'a str>,
    #[serde(serialize_with = "optional_decimal")]
    minimum_bid: Option<Amount>,
    bid_count: u64,
    participant_count: u64,
    time_remaining_seconds: u64,
    ivs_channel_arn: Option<&'a str>,
    ivs_playback_url: Option<&'a str>,
}

/// The auction as its host is shown it at creation, and nobody else ever: with what lets one stream.
#[derive(Serialize)]
pub struct HostsAuction<'a> {
    #[serde(flatten)]
    pub auction: AuctionObject<'a>,
    pub ivs_stream_key: Option<&'a str>,
    pub ivs_ingest_endpoint: Option<&'a str>,
}

/// `GET /auctions/{id}/stream`, for the host alone.
#[derive(Serialize)]
pub struct StreamObject<'a> {
    pub ivs_channel_arn: &'a str,
    pub ivs_playback_url: &'a str,
    pub ivs_ingest_endpoint: &'a str,
    pub ivs_stream_key: &'a str,
    /// Null if IVS did not answer.
    pub state: Option<StreamState>,
    pub viewer_count: Option<u64>,
}

/// Whether video arrives at a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamState {
    /// The host is streaming.
    Live,
    /// No video arrives.
    Offline,
}

/// `GET /auctions`.
#[derive(Debug, Serialize)]
pub struct AuctionPage<'a> {
    /// The newest first.
    pub auctions: Vec<AuctionObject<'a>>,
    /// As requested.
    pub limit: u64,
    /// As requested.
    pub offset: u64,
    /// Auctions that match the filter, on all pages.
    pub total: u64,
}

impl Stored {
    /// The auction for the outside. Everything that changes while it lives, status and result
    /// included, comes from `live` alone where there is one, so that an answer is of one moment.
    #[must_use]
    pub fn object<'a>(&'a self, live: Option<&'a CommittedState>, currency: &'a str, now: u64) -> AuctionObject<'a> {
        let state = live.map(|live| &live.state);
        let high_bid = state.map_or(self.winning_bid, |state| state.high_bid);
        let winner = self.winner.as_ref();
        AuctionObject {
            auction_id: self.auction_id,
            host_user_id: self.host.user_id,
            host_username: &self.host.username,
            title: &self.title,
            description: self.description.as_deref(),
            category: self.category.as_deref(),
            image_url: self.image_url.as_deref(),
            images: &self.images,
            condition: self.condition.as_deref(),
            seller_name: self.seller_name.as_deref(),
            currency,
            duration: self.duration_seconds,
            starting_bid: self.starting_bid,
            increments: [Band { from: None, step: self.increment }],
            bid_increment: self.increment,
            has_reserve: false,
            reserve_met: high_bid.is_some(),
            buy_now_price: None,
            anti_snipe: PublicAntiSnipe {
                mode: &self.anti_snipe_mode,
                window: self.anti_snipe_window_seconds,
                extension: self.anti_snipe_extension_seconds,
                max_extensions: self.anti_snipe_max_extensions,
            },
            status: state.map_or(&self.status, |state| &state.status),
            created_at: self.created_at,
            starts_at: state.map_or(self.starts_at, |state| Some(state.starts_at)),
            end_time: state.map_or(self.end_time, |state| Some(state.end_time)),
            ended_at: state.map_or(self.ended_at, |state| state.ended_at),
            outcome: state.map_or(self.outcome.as_ref(), |state| state.outcome.as_ref()),
            winner_id: state.map_or(winner.map(|winner| winner.user_id), |state| state.winner_id),
            winner_username: state
                .map_or(winner.map(|winner| winner.username.as_str()), |state| state.winner_username.as_deref()),
            winning_bid: state.map_or(self.winning_bid, |state| state.winning_bid),
            current_high_bid: high_bid,
            high_bidder_username: state
                .map_or(winner.map(|winner| winner.username.as_str()), |state| state.high_bidder_username.as_deref()),
            minimum_bid: state.map_or_else(|| self.stored_minimum(), |state| Some(state.minimum_bid)),
            bid_count: state.map_or(self.bid_count, |state| state.bid_count),
            participant_count: live.map_or(0, |live| live.participant_count),
            time_remaining_seconds: state.map_or_else(
                || {
                    if self.outcome.is_some() {
                        0
                    } else {
                        whole_seconds(self.end_time.unwrap_or(0).saturating_sub(now))
                    }
                },
                |state| whole_seconds(time_remaining(state, now)),
            ),
            ivs_channel_arn: self.ivs_channel_arn.as_deref(),
            ivs_playback_url: self.ivs_playback_url.as_deref(),
        }
    }

    /// The minimum as far as PostgreSQL can know it: exact when over, unknown while it lives.
    fn stored_minimum(&self) -> Option<Amount> {
        match (self.outcome.is_some(), self.winning_bid) {
            (false, _) => None,
            (true, Some(price)) => Some(price.plus(self.increment)),
            (true, None) => Some(self.starting_bid),
        }
    }
}

/// The part of a list that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pagination {
    pub limit: u64,
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

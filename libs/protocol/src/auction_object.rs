//! The auction as readers see it, made from its row and its committed state.

use std::borrow::Cow;

use domain::{Amount, AntiSnipeMode, AuctionId, Follows, Ladder, Outcome, Status, UserId};
use serde::Serialize;

#[cfg(feature = "schema")]
use crate::auction::{DURATION_SECONDS, MAX_GAP_SECONDS, MAX_IMAGES};
use crate::live::{CommittedState, time_remaining, whole_seconds};
#[cfg(feature = "schema")]
use crate::shapes;
use crate::wire::{Named, decimal, optional_decimal, optional_rfc3339, optional_text, rfc3339, text};
use crate::{Naming, Person, Snapshot};

/// A row of PostgreSQL: everything about an auction but its live part. Times are milliseconds since 1970.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Identifier of the auction.
    pub auction_id: AuctionId,
    /// The person who sells.
    pub host: Person,
    /// As created.
    pub title: String,
    /// As created.
    pub description: Option<String>,
    /// As created.
    pub category: Option<String>,
    /// As created.
    pub image_url: Option<String>,
    /// As created.
    pub images: Vec<String>,
    /// As created.
    pub condition: Option<String>,
    /// As created.
    pub seller_name: Option<String>,
    /// Seconds from opening to the end, without extensions.
    pub duration_seconds: u64,
    /// Lowest first bid.
    pub starting_bid: Amount,
    /// The least amount by which a bid must exceed the highest one.
    pub increments: Ladder,
    /// Whether the leader may raise their own bid.
    pub allow_self_raise: bool,
    /// The price at which the auction ends at once.
    pub buy_now: Option<Amount>,
    /// The price below which the auction does not sell. Only the host may be shown it.
    pub reserve: Option<Amount>,
    /// Whether bids are kept until the opening.
    pub allow_prebids: bool,
    /// The auction whose end opens this one.
    pub follows: Option<Follows>,
    /// Whether a late bid moves the end.
    pub anti_snipe_mode: Named<AntiSnipeMode>,
    /// A bid this close to the end is late.
    pub anti_snipe_window_seconds: u64,
    /// Seconds that a late bid adds.
    pub anti_snipe_extension_seconds: u64,
    /// Most extensions.
    pub anti_snipe_max_extensions: u32,
    /// When the row was written.
    pub created_at: u64,
    /// Status in the last record written to the row.
    pub status: Named<Status>,
    /// When bidding opened.
    pub starts_at: Option<u64>,
    /// When the auction ends or ended, with extensions.
    pub end_time: Option<u64>,
    /// When it really ended.
    pub ended_at: Option<u64>,
    /// None while the auction runs.
    pub outcome: Option<Named<Outcome>>,
    /// The winner, if sold.
    pub winner: Option<Person>,
    /// The hammer price, if sold.
    pub winning_bid: Option<Amount>,
    /// Accepted bids.
    pub bid_count: u64,
    /// The video channel, if it has one.
    pub ivs_channel_arn: Option<String>,
    /// Where viewers watch.
    pub ivs_playback_url: Option<String>,
}

/// How late bids move the end.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "AntiSnipe"))]
struct PublicAntiSnipe<'a> {
    /// Whether a late bid moves the end.
    mode: &'a Named<AntiSnipeMode>,
    /// Seconds; a bid this close to the end is late.
    window: u64,
    /// Seconds that a late bid adds.
    extension: u64,
    /// Most extensions of the auction.
    max_extensions: u32,
}

/// The increment that applies from a price upwards.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "IncrementBand"))]
struct Band {
    /// Price from which the step applies; that of the first band also applies below.
    #[serde(serialize_with = "zero_or_decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::MoneyOrZero"))]
    from: Option<Amount>,
    /// Smallest step between two bids.
    #[serde(serialize_with = "decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Money"))]
    step: Amount,
}

impl From<&domain::Band> for Band {
    fn from(band: &domain::Band) -> Self {
        Self { from: Amount::from_stored(band.from_cents), step: band.step }
    }
}

fn zero_or_decimal<S: serde::Serializer>(amount: &Option<Amount>, serializer: S) -> Result<S::Ok, S::Error> {
    match amount {
        Some(amount) => decimal(amount, serializer),
        None => serializer.serialize_u8(0),
    }
}

/// An auction as every reader sees it.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "Auction"))]
pub struct AuctionObject<'a> {
    /// Identifier of the auction.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    auction_id: AuctionId,
    /// The person who sells.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    host_user_id: UserId,
    /// Public name of the host.
    host_username: &'a str,
    /// Title of the item.
    pub(crate) title: &'a str,
    /// Description of the item.
    description: Option<&'a str>,
    /// Category given by the host.
    category: Option<&'a str>,
    /// Main image: where only `images` were given, the first of them.
    pub(crate) image_url: Option<&'a str>,
    /// Further images.
    #[cfg_attr(feature = "schema", schemars(length(max = MAX_IMAGES)))]
    images: &'a [String],
    /// The same as `images`.
    #[cfg_attr(feature = "schema", schemars(length(max = MAX_IMAGES)))]
    gallery_images: &'a [String],
    /// Condition of the item.
    condition: Option<&'a str>,
    /// Name to show beside the host's.
    seller_name: Option<&'a str>,
    /// ISO 4217 code.
    #[cfg_attr(feature = "schema", schemars(regex(pattern = "^[A-Z]{3}$")))]
    currency: &'a str,
    /// Seconds
    #[cfg_attr(feature = "schema", schemars(range(min = *DURATION_SECONDS.start(), max = *DURATION_SECONDS.end())))]
    duration: u64,
    /// Lowest first bid.
    #[serde(serialize_with = "decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Money"))]
    starting_bid: Amount,
    /// Bands of increments, lowest first.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = Ladder::MAX_BANDS)))]
    increments: Vec<Band>,
    /// Smallest step from the highest bid to the next one.
    #[serde(serialize_with = "decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Money"))]
    bid_increment: Amount,
    /// Whether there is a price below which the host does not sell. The price itself is shown to the host alone.
    has_reserve: bool,
    /// Whether the highest bid has reached the reserve; without a reserve, whether there is a bid.
    reserve_met: bool,
    /// The price at which the auction ends at once; null without one.
    #[serde(serialize_with = "optional_decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<shapes::Money>"))]
    buy_now_price: Option<Amount>,
    /// How late bids move the end.
    anti_snipe: PublicAntiSnipe<'a>,
    /// Whether the leader may raise their own bid.
    allow_self_raise: bool,
    /// Whether bids are kept until the opening.
    allow_prebids: bool,
    /// The auction whose end opens this one; null without one.
    #[serde(with = "optional_text")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<shapes::Id>"))]
    follows: Option<AuctionId>,
    /// Seconds from that end to the opening; null without one.
    #[cfg_attr(feature = "schema", schemars(range(max = MAX_GAP_SECONDS)))]
    gap: Option<u64>,
    /// Where the auction is in its life.
    pub(crate) status: &'a Named<Status>,
    /// When the auction was created.
    #[serde(serialize_with = "rfc3339")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Time"))]
    created_at: u64,
    /// When bidding opens or opened; null while the auction waits for another one to end.
    #[serde(serialize_with = "optional_rfc3339")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<shapes::Time>"))]
    starts_at: Option<u64>,
    /// When the auction ends or ended, with extensions; null while it is paused, or waits for another one to end.
    #[serde(serialize_with = "optional_rfc3339")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<shapes::Time>"))]
    pub(crate) end_time: Option<u64>,
    /// When it really ended; null while it runs.
    #[serde(serialize_with = "optional_rfc3339")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<shapes::Time>"))]
    pub(crate) ended_at: Option<u64>,
    /// Null while the auction runs.
    pub(crate) outcome: Option<&'a Named<Outcome>>,
    /// The winner; null unless sold.
    #[serde(with = "optional_text")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<shapes::Id>"))]
    pub(crate) winner_id: Option<UserId>,
    /// Public name of the winner, or an alias.
    winner_username: Option<Cow<'a, str>>,
    /// The hammer price; null unless sold.
    #[serde(serialize_with = "optional_decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<shapes::Money>"))]
    pub(crate) winning_bid: Option<Amount>,
    /// The highest accepted bid.
    #[serde(serialize_with = "optional_decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<shapes::Money>"))]
    pub(crate) current_high_bid: Option<Amount>,
    /// The leader.
    #[serde(with = "optional_text")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<shapes::Id>"))]
    pub(crate) high_bidder_id: Option<UserId>,
    /// Public name of the leader, or an alias.
    high_bidder_username: Option<Cow<'a, str>>,
    /// The lowest bid that would be accepted now; null while the committed state is unavailable.
    #[serde(serialize_with = "optional_decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<shapes::Money>"))]
    pub(crate) minimum_bid: Option<Amount>,
    /// Accepted bids.
    bid_count: u64,
    /// People who are watching.
    participant_count: u64,
    /// Seconds until the end, rounded up; 0 once it is over.
    pub(crate) time_remaining_seconds: u64,
    /// The video channel; null without video.
    ivs_channel_arn: Option<&'a str>,
    /// Where viewers watch; null without video.
    ivs_playback_url: Option<&'a str>,
    /// Whether the host streams; null without video, once the auction is over, and while it is not known.
    stream_live: Option<bool>,
}

impl AuctionObject<'_> {
    /// The same with what is known of the host's stream.
    #[must_use]
    pub fn with_stream(mut self, is_live: Option<bool>) -> Self {
        self.stream_live = is_live.filter(|_| self.ivs_playback_url.is_some() && self.outcome.is_none());
        self
    }
}

/// An auction as its host is shown it, once, at creation: with the credentials for streaming.
#[derive(Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HostsAuction<'a> {
    /// The auction as every reader sees it.
    #[serde(flatten)]
    pub auction: AuctionObject<'a>,
    /// Secret key for streaming; null without video.
    pub ivs_stream_key: Option<&'a str>,
    /// Where the host streams to; null without video.
    pub ivs_ingest_endpoint: Option<&'a str>,
    /// The price below which the auction does not sell; null without one. Only the host is shown it.
    #[serde(serialize_with = "optional_decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<shapes::Money>"))]
    pub reserve_price: Option<Amount>,
}

/// `GET /auctions/{id}/stream`, for the host alone.
#[derive(Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "Stream"))]
pub struct StreamObject<'a> {
    /// The video channel.
    pub ivs_channel_arn: &'a str,
    /// Where viewers watch.
    pub ivs_playback_url: &'a str,
    /// Where the host streams to.
    pub ivs_ingest_endpoint: &'a str,
    /// Secret key for streaming.
    pub ivs_stream_key: &'a str,
    /// Null if IVS did not answer.
    pub state: Option<StreamState>,
    /// People who watch the video; null if IVS did not answer.
    pub viewer_count: Option<u64>,
}

/// Whether video arrives at a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum StreamState {
    /// The host is streaming.
    Live,
    /// No video arrives.
    Offline,
}

/// `GET /auctions/categories`.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "CategoryList"))]
pub struct Categories {
    /// The most used first, at most 200.
    #[cfg_attr(feature = "schema", schemars(length(max = 200)))]
    pub categories: Vec<CategoryCount>,
}

/// A category, and how many auctions have it.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CategoryCount {
    /// As given by hosts.
    pub category: String,
    /// Auctions that match the filter.
    pub count: u64,
}

/// `GET /auctions`.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AuctionPage<'a> {
    /// In the order that was asked for.
    #[cfg_attr(feature = "schema", schemars(length(max = 100)))]
    pub auctions: Vec<AuctionObject<'a>>,
    /// As requested, at most 100.
    pub limit: u64,
    /// As requested.
    pub offset: u64,
    /// Auctions that match the filter, on all pages.
    pub total: u64,
}

impl Stored {
    /// The auction as readers see it; `naming` gives the names to show. If `live` is given, everything that changes during
    /// an auction, status and result included, comes from it alone, so that an answer shows one moment.
    #[must_use]
    pub fn object<'a>(
        &'a self,
        live: Option<&'a CommittedState>,
        currency: &'a str,
        now: u64,
        naming: Naming,
    ) -> AuctionObject<'a> {
        let state = live.map(|live| &live.state);
        let high_bid = state.map_or(self.winning_bid, |state| state.high_bid);
        let winner = self.winner.as_ref();
        let winner_shown = || winner.map(|winner| naming.name(winner.user_id, &winner.username));
        AuctionObject {
            auction_id: self.auction_id,
            host_user_id: self.host.user_id,
            host_username: &self.host.username,
            title: &self.title,
            description: self.description.as_deref(),
            category: self.category.as_deref(),
            image_url: self.main_image(),
            images: &self.images,
            gallery_images: &self.images,
            condition: self.condition.as_deref(),
            seller_name: self.seller_name.as_deref(),
            currency,
            duration: self.duration_seconds,
            starting_bid: self.starting_bid,
            increments: self.increments.bands().iter().map(Band::from).collect(),
            bid_increment: self.increments.step(high_bid.unwrap_or(self.starting_bid)),
            has_reserve: self.reserve.is_some(),
            // A row alone knows the price only once it is sold.
            reserve_met: state.map_or(high_bid.is_some(), Snapshot::shown_reserve_met),
            buy_now_price: self.buy_now,
            anti_snipe: PublicAntiSnipe {
                mode: &self.anti_snipe_mode,
                window: self.anti_snipe_window_seconds,
                extension: self.anti_snipe_extension_seconds,
                max_extensions: self.anti_snipe_max_extensions,
            },
            allow_self_raise: self.allow_self_raise,
            allow_prebids: self.allow_prebids,
            follows: self.follows.map(|follows| follows.auction_id),
            gap: self.follows.map(Follows::gap_seconds),
            status: state.map_or(&self.status, |state| &state.status),
            created_at: self.created_at,
            starts_at: state.map_or(self.starts_at, Snapshot::shown_start),
            end_time: state.map_or(self.end_time, Snapshot::shown_end),
            ended_at: state.map_or(self.ended_at, |state| state.ended_at),
            outcome: state.map_or(self.outcome.as_ref(), |state| state.outcome.as_ref()),
            winner_id: state.map_or(winner.map(|winner| winner.user_id), |state| state.winner_id),
            winner_username: state
                .map_or_else(winner_shown, |state| naming.optional(state.winner_id, state.winner_username.as_deref())),
            winning_bid: state.map_or(self.winning_bid, |state| state.winning_bid),
            current_high_bid: high_bid,
            high_bidder_id: state.map_or(winner.map(|winner| winner.user_id), |state| state.high_bidder_id),
            high_bidder_username: state.map_or_else(winner_shown, |state| {
                naming.optional(state.high_bidder_id, state.high_bidder_username.as_deref())
            }),
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
            stream_live: None,
        }
    }

    /// The main image, or the first of the others.
    #[must_use]
    pub fn main_image(&self) -> Option<&str> {
        self.image_url.as_deref().or_else(|| self.images.first().map(String::as_str))
    }

    /// The minimum as far as the row determines it: exact once the auction is over, unknown before.
    fn stored_minimum(&self) -> Option<Amount> {
        match (self.outcome.is_some(), self.winning_bid) {
            (false, _) => None,
            (true, Some(price)) => {
                let next = price.plus(self.increments.step(price));
                Some(self.buy_now.map_or(next, |buy_now| next.min(buy_now)))
            }
            (true, None) => Some(self.starting_bid),
        }
    }
}

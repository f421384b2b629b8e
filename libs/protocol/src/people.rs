//! People and their names, and a person's own profile and own bids.

use domain::{Amount, AuctionId, BidId, Status, UserId};
use serde::{Deserialize, Serialize};

use crate::input::Fields;
#[cfg(feature = "schema")]
use crate::shapes;
use crate::wire::{Named, decimal, optional_decimal, optional_text, read_decimal, rfc3339, text};
use crate::{AuctionObject, Bid, Code, Failure, Person, Reply};

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
    /// Whether the reply names the person. The version before reads no name.
    #[serde(default)]
    pub wants_name: bool,
}

/// Reply to `users.seen`: the person under the table's name, if it was asked for.
pub type SeenReply = Reply<Option<Person>>;

/// Names in one reply to `users.names`, half a megabyte at most.
pub const MAX_NAMES_IN_PAGE: usize = 1_000;

/// `users.names`: one service asks another for a page of all people with their names, in the order of their ids;
/// `users.limits`: of those with a limit of their own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NamesRequest {
    /// The last person of the page before.
    #[serde(with = "optional_text")]
    pub after: Option<UserId>,
}

/// A person's own profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Profile {
    /// Identifier of the person.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    pub user_id: UserId,
    /// Public name.
    pub username: String,
    /// Follows the token, as `is_verified` does.
    pub email: Option<String>,
    /// Whether the issuer verified the address.
    pub is_verified: bool,
    /// Full name.
    pub name: Option<String>,
    /// Phone number.
    pub phone: Option<String>,
    /// When the person was first seen.
    #[serde(serialize_with = "rfc3339")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Time"))]
    pub created_at: u64,
    /// When the profile last changed.
    #[serde(serialize_with = "rfc3339")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Time"))]
    pub updated_at: u64,
}

/// A parsed and validated `PUT /users/me`. An absent field stays as it is; empty text clears it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileChange {
    /// Full name.
    pub name: Option<String>,
    /// Phone number.
    pub phone: Option<String>,
}

/// Longest name, in characters.
pub const MAX_NAME_CHARACTERS: usize = 200;
/// Longest phone number, in characters. E.164 allows 15 digits; blanks, brackets and dashes may stand between them.
pub(crate) const MAX_PHONE_CHARACTERS: usize = 32;

/// Reads `PUT /users/me`.
///
/// # Errors
/// `invalid_request` naming the field.
pub fn parse_profile_change(body: &[u8]) -> Result<ProfileChange, Failure> {
    let fields = Fields::parse(body)?;
    let phone = fields.optional_text("phone", 0, MAX_PHONE_CHARACTERS)?;
    let is_phone = |phone: &String| {
        let digits = phone.chars().filter(char::is_ascii_digit).count();
        phone.is_empty() || (digits >= 3 && phone.chars().all(|c| c.is_ascii_digit() || "+-() ./".contains(c)))
    };
    if phone.as_ref().is_some_and(|phone| !is_phone(phone)) {
        return Err(Failure::new(Code::InvalidRequest, "phone must be a phone number, such as +49 30 123456"));
    }
    let name = fields.optional_text("name", 0, MAX_NAME_CHARACTERS)?;
    if name.as_ref().is_some_and(|name| name.contains(['\n', '\r', '\t'])) {
        return Err(Failure::new(Code::InvalidRequest, "name must be one line"));
    }
    Ok(ProfileChange { name, phone })
}

/// `bids.own`: one service asks another for a page of a person's own bids.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OwnBidsRequest {
    /// The person.
    #[serde(with = "text")]
    pub user_id: UserId,
    /// As in the query; parsed by the receiver.
    pub limit: Option<String>,
    /// As in the query; parsed by the receiver.
    pub before: Option<String>,
}

/// The status of a bid, as its bidder sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum BidStatus {
    /// It leads a running auction.
    Winning,
    /// A higher bid leads a running auction.
    Outbid,
    /// It won.
    Won,
    /// The auction ended without this bid winning.
    Lost,
}

impl BidStatus {
    /// The status of `bid` in an auction; None if it runs and its committed state is unavailable.
    fn of(bid: &Bid, auction: &AuctionObject<'_>) -> Option<Self> {
        let is = |person: Option<UserId>, price| person == Some(bid.user_id) && price == Some(bid.amount);
        if auction.outcome.is_some() {
            let has_won = is(auction.winner_id, auction.winning_bid);
            return Some(if has_won { Self::Won } else { Self::Lost });
        }
        // Without a committed state, the row knows neither price nor minimum.
        auction.minimum_bid?;
        let leads = is(auction.high_bidder_id, auction.current_high_bid);
        Some(if leads { Self::Winning } else { Self::Outbid })
    }
}

/// One of a person's own bids.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OwnBid<'a> {
    /// The auction.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    auction_id: AuctionId,
    /// Title of the item.
    title: Option<&'a str>,
    /// The same.
    auction_title: Option<&'a str>,
    /// Main image of the item.
    image_url: Option<&'a str>,
    /// The same.
    auction_image: Option<&'a str>,
    /// Identifier of the bid.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    bid_id: BidId,
    /// Sequence number of the bid in its auction.
    seq: u64,
    /// The price offered.
    #[serde(serialize_with = "decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Money"))]
    amount: Amount,
    /// Milliseconds since 1970, by the clock of the auction's Redis
    timestamp: u64,
    /// Null while the auction's state is unavailable.
    status: Option<BidStatus>,
    /// Where the auction is in its life.
    auction_status: Option<&'a Named<Status>>,
    /// ISO 4217 code.
    currency: &'a str,
    /// The highest accepted bid; null also while the auction's state is unavailable.
    #[serde(serialize_with = "optional_decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<shapes::Money>"))]
    current_high_bid: Option<Amount>,
    /// The lowest bid that would be accepted now; null while the auction's state is unavailable.
    #[serde(serialize_with = "optional_decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<shapes::Money>"))]
    minimum_bid: Option<Amount>,
    /// The hammer price; null unless sold.
    #[serde(serialize_with = "optional_decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<shapes::Money>"))]
    winning_bid: Option<Amount>,
    /// How far the auction bids for the caller; null unless the caller leads it with a maximum.
    #[serde(serialize_with = "optional_decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<shapes::Money>"))]
    your_max_amount: Option<Amount>,
    /// End of the auction, with extensions; once it is over, when it really ended.
    end_time: Option<u64>,
    /// Seconds until the end, rounded up; 0 once it is over.
    time_remaining_seconds: Option<u64>,
}

impl<'a> OwnBid<'a> {
    /// A bid in `auction`; None for an auction of which PostgreSQL has no row (yet). The maximum is the caller's own.
    #[must_use]
    pub fn new(
        auction_id: AuctionId,
        bid: &'a Bid,
        auction: Option<&AuctionObject<'a>>,
        your_max_amount: Option<Amount>,
        currency: &'a str,
    ) -> Self {
        Self {
            auction_id,
            title: auction.map(|auction| auction.title),
            auction_title: auction.map(|auction| auction.title),
            image_url: auction.and_then(|auction| auction.image_url),
            auction_image: auction.and_then(|auction| auction.image_url),
            bid_id: bid.bid_id,
            seq: bid.seq,
            amount: bid.amount,
            timestamp: bid.timestamp,
            status: auction.and_then(|auction| BidStatus::of(bid, auction)),
            auction_status: auction.map(|auction| auction.status),
            currency,
            current_high_bid: auction.and_then(|auction| auction.current_high_bid),
            minimum_bid: auction.and_then(|auction| auction.minimum_bid),
            winning_bid: auction.and_then(|auction| auction.winning_bid),
            your_max_amount,
            end_time: auction.and_then(|auction| auction.ended_at.or(auction.end_time)),
            time_remaining_seconds: auction.map(|auction| auction.time_remaining_seconds),
        }
    }
}

/// An [`OwnBid`] as the edge reads it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PlacedBid {
    /// The auction.
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    /// Sequence number of the bid in its auction.
    pub seq: u64,
    /// The price offered.
    #[serde(deserialize_with = "read_decimal")]
    pub amount: Amount,
    /// The name of its [`BidStatus`], or of a newer one; none while the auction's state is unavailable.
    pub status: Option<Box<str>>,
}

/// [`OwnBids`] as the edge reads them.
#[derive(Debug, Deserialize)]
pub struct PlacedBids {
    /// The newest first.
    pub bids: Vec<PlacedBid>,
}

impl PlacedBid {
    /// Whether the auction is not known to be over.
    #[must_use]
    pub fn is_running(&self) -> bool {
        !matches!(self.status.as_deref(), Some("won" | "lost"))
    }

    /// Whether a higher bid leads.
    #[must_use]
    pub fn is_outbid(&self) -> bool {
        self.status.as_deref() == Some("outbid")
    }
}

/// A page of a person's own bids.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "OwnBidPage"))]
pub struct OwnBids<'a> {
    /// The newest first.
    #[cfg_attr(feature = "schema", schemars(length(max = 100)))]
    pub bids: Vec<OwnBid<'a>>,
    /// `before` of the next page; null on the last page.
    pub next_before: Option<String>,
}

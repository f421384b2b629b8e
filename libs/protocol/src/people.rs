//! A person's own profile and own bids.

use domain::{Amount, AuctionId, BidId, UserId};
use serde::{Deserialize, Serialize};

use crate::input::Fields;
#[cfg(feature = "schema")]
use crate::shapes;
use crate::wire::{decimal, rfc3339, text};
use crate::{Bid, Code, Failure};

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
    /// The status of `bid` in an auction that is over or not, with this winner or leader at this price.
    #[must_use]
    pub fn of(bid: &Bid, over: bool, leader: Option<UserId>, price: Option<Amount>) -> Self {
        match (over, leader == Some(bid.user_id) && price == Some(bid.amount)) {
            (true, true) => Self::Won,
            (true, false) => Self::Lost,
            (false, true) => Self::Winning,
            (false, false) => Self::Outbid,
        }
    }
}

/// One of a person's own bids.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OwnBid<'a> {
    /// The auction.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    pub auction_id: AuctionId,
    /// Title of the item.
    pub auction_title: Option<&'a str>,
    /// Main image of the item.
    pub auction_image: Option<&'a str>,
    /// Identifier of the bid.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Id"))]
    pub bid_id: BidId,
    /// Sequence number of the bid in its auction.
    pub seq: u64,
    /// The price offered.
    #[serde(serialize_with = "decimal")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Money"))]
    pub amount: Amount,
    /// Milliseconds since 1970, by the clock of the auction's Redis
    pub timestamp: u64,
    /// Null while the auction's state is unavailable.
    pub status: Option<BidStatus>,
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

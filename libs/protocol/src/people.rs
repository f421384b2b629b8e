//! People as they see themselves: their profile, their own bids.

use domain::{Amount, AuctionId, BidId, UserId};
use serde::{Deserialize, Serialize};

use crate::input::Fields;
use crate::wire::{decimal, rfc3339, text};
use crate::{Bid, Code, Failure};

/// `GET /users/me`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Profile {
    #[serde(with = "text")]
    pub user_id: UserId,
    pub username: String,
    /// Follows the token, as `is_verified` does.
    pub email: Option<String>,
    pub is_verified: bool,
    pub name: Option<String>,
    pub phone: Option<String>,
    #[serde(serialize_with = "rfc3339")]
    pub created_at: u64,
    #[serde(serialize_with = "rfc3339")]
    pub updated_at: u64,
}

/// A checked `PUT /users/me`: absent leaves as it is, empty text clears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileChange {
    pub name: Option<String>,
    pub phone: Option<String>,
}

const MAX_NAME_CHARACTERS: usize = 200;
/// E.164 allows 15 digits; people write blanks, brackets and dashes between them.
const MAX_PHONE_CHARACTERS: usize = 32;

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
    Ok(ProfileChange { name: fields.optional_text("name", 0, MAX_NAME_CHARACTERS)?, phone })
}

/// `bids.own`: a page of a person's own bids, asked by one service of another.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OwnBidsRequest {
    #[serde(with = "text")]
    pub user_id: UserId,
    pub limit: Option<String>,
    pub before: Option<String>,
}

/// What became of a bid, as its bidder sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BidStatus {
    Winning,
    Outbid,
    Won,
    Lost,
}

impl BidStatus {
    /// Where `bid` stands in an auction that is over or not and has this winner or leader at this price.
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
pub struct OwnBid<'a> {
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    pub auction_title: Option<&'a str>,
    pub auction_image: Option<&'a str>,
    #[serde(with = "text")]
    pub bid_id: BidId,
    pub seq: u64,
    #[serde(serialize_with = "decimal")]
    pub amount: Amount,
    pub timestamp: u64,
    /// None while the auction's state cannot be had.
    pub status: Option<BidStatus>,
}

/// `GET /bids`.
#[derive(Debug, Serialize)]
pub struct OwnBids<'a> {
    pub bids: Vec<OwnBid<'a>>,
    /// For `before` of the next page.
    pub next_before: Option<String>,
}

//! What goes through the notification queue: the end of an auction, and everybody who must be told.

use domain::{Amount, AuctionId, Outcome, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::wire::{Named, optional_decimal, text};

/// Losers in one part. A message has at most 256 KiB, so more go into further parts. CONTRACT.md, Mail queue.
pub const MAX_LOSERS_IN_PART: usize = 500;

/// A person as a mail reaches them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    #[serde(with = "text")]
    pub user_id: UserId,
    /// None while no token has told it: such a person cannot be written to.
    pub email: Option<String>,
    pub name: Option<String>,
    pub username: String,
}

/// One part of what is to be told about an auction that has ended. Winner and host stand in every part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuctionClosed {
    /// Always `auction_closed`.
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    pub title: String,
    #[serde(serialize_with = "optional_decimal", deserialize_with = "price")]
    pub final_price: Option<Amount>,
    pub currency: String,
    pub outcome: Named<Outcome>,
    pub winner: Option<Contact>,
    pub host: Contact,
    pub losers: Vec<Contact>,
    /// From 1 to `parts`.
    pub part: usize,
    pub parts: usize,
    /// When it ended, in milliseconds since 1970.
    pub timestamp: u64,
}

/// The value of [`AuctionClosed::kind`].
pub const AUCTION_CLOSED: &str = "auction_closed";

fn price<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Amount>, D::Error> {
    let raw = Option::<Box<RawValue>>::deserialize(deserializer)?;
    raw.map(|raw| Amount::parse(raw.get()).map_err(serde::de::Error::custom)).transpose()
}

impl AuctionClosed {
    /// Everybody this part tells, and as what.
    pub fn recipients(&self) -> impl Iterator<Item = (MailKind, &Contact)> {
        let winner = self.winner.iter().map(|winner| (MailKind::Won, winner));
        let losers = self.losers.iter().map(|loser| (MailKind::Lost, loser));
        winner.chain(losers).chain([(MailKind::Hosted, &self.host)])
    }
}

/// What a mail about an ended auction says. Each person gets each kind once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MailKind {
    Won,
    Lost,
    Hosted,
}

impl MailKind {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Won => "won",
            Self::Lost => "lost",
            Self::Hosted => "hosted",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_comes_back_as_it_went() {
        let contact = |number| Contact {
            user_id: UserId::from_uuid(uuid::Uuid::from_u128(number)),
            email: Some(format!("{number}@example.com")),
            name: None,
            username: number.to_string(),
        };
        let part = AuctionClosed {
            kind: AUCTION_CLOSED.to_owned(),
            auction_id: AuctionId::from_uuid(uuid::Uuid::from_u128(9)),
            title: "Lamp".to_owned(),
            final_price: Amount::from_cents(1_250).ok(),
            currency: "USD".to_owned(),
            outcome: Outcome::Sold.into(),
            winner: Some(contact(1)),
            host: contact(2),
            losers: vec![contact(3), contact(4)],
            part: 1,
            parts: 1,
            timestamp: 5,
        };
        let text = serde_json::to_string(&part).unwrap();
        assert!(text.contains("\"type\":\"auction_closed\"") && text.contains("\"final_price\":12.50"), "{text}");
        assert_eq!(serde_json::from_str::<AuctionClosed>(&text).unwrap(), part);
        let kinds: Vec<_> = part.recipients().map(|(kind, _)| kind.name()).collect();
        assert_eq!(kinds, ["won", "lost", "lost", "hosted"]);
    }
}

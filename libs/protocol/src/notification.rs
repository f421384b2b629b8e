//! The notification queue: an auction's end, and the people to notify of it.

use domain::{Amount, AuctionId, Outcome, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::wire::{Named, optional_decimal, text};

/// Most losers in one part. A message has at most 256 KiB, so the others go into further parts.
/// CONTRACT.md, Mail queue.
pub const MAX_LOSERS_IN_PART: usize = 500;

/// A person as a mail reaches them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// Identifier of the person.
    #[serde(with = "text")]
    pub user_id: UserId,
    /// None if no token of this person held an address; no mail can be sent.
    pub email: Option<String>,
    /// Full name, for the salutation.
    pub name: Option<String>,
    /// Public name.
    pub username: String,
}

/// One part of the notification about an auction that ended. Every part holds winner and host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuctionClosed {
    /// Always `auction_closed`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The auction.
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    /// Title of the item.
    pub title: String,
    /// The hammer price, if sold.
    #[serde(serialize_with = "optional_decimal", deserialize_with = "price")]
    pub final_price: Option<Amount>,
    /// ISO 4217 code.
    pub currency: String,
    /// The result.
    pub outcome: Named<Outcome>,
    /// The winner, if sold.
    pub winner: Option<Contact>,
    /// The person who sells.
    pub host: Contact,
    /// Bidders who did not win, at most [`MAX_LOSERS_IN_PART`].
    pub losers: Vec<Contact>,
    /// From 1 to `parts`.
    pub part: usize,
    /// Parts of this notification.
    pub parts: usize,
    /// When the auction ended, in milliseconds since 1970.
    pub timestamp: u64,
}

/// The value of [`AuctionClosed::kind`].
pub const AUCTION_CLOSED: &str = "auction_closed";

fn price<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Amount>, D::Error> {
    let raw = Option::<Box<RawValue>>::deserialize(deserializer)?;
    raw.map(|raw| Amount::parse(raw.get()).map_err(serde::de::Error::custom)).transpose()
}

impl AuctionClosed {
    /// The recipients of this part, and the kind of mail for each.
    pub fn recipients(&self) -> impl Iterator<Item = (MailKind, &Contact)> {
        let winner = self.winner.iter().map(|winner| (MailKind::Won, winner));
        let losers = self.losers.iter().map(|loser| (MailKind::Lost, loser));
        winner.chain(losers).chain([(MailKind::Hosted, &self.host)])
    }
}

/// The message of a mail about an ended auction. Each person gets each kind once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MailKind {
    /// To the winner.
    Won,
    /// To a bidder who did not win.
    Lost,
    /// To the host.
    Hosted,
}

impl MailKind {
    /// The name under which a mail is claimed before it is sent.
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
    fn part_survives_the_queue_unchanged() {
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

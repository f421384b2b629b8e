//! The notification queue: an auction's end, and the people to notify of it.

use domain::{Amount, AuctionId, Outcome, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::wire::{Named, optional_decimal, text};

/// Most losers in one part; the others go into further parts. CONTRACT.md, Mail queue.
pub const MAX_LOSERS_IN_PART: usize = 500;
/// Largest part, in bytes. SQS takes 256 KiB, with the attributes of a message.
pub const MAX_PART_BYTES: usize = 200 * 1024;

/// A person as a mail reaches them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// Identifier of the person.
    #[serde(with = "text")]
    pub user_id: UserId,
    /// None if no token of this person held a verified address; no mail can be sent.
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
    /// Bidders who did not win and have an address, at most [`MAX_LOSERS_IN_PART`].
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

    /// Splits a notification into parts of at most [`MAX_LOSERS_IN_PART`] losers and [`MAX_PART_BYTES`]. At least one.
    ///
    /// # Errors
    /// When a part has no JSON form.
    pub fn into_parts(mut self) -> Result<Vec<Self>, serde_json::Error> {
        let losers = std::mem::take(&mut self.losers);
        // `part` and `parts` are set below, and may then be longer by some digits.
        let empty_bytes = self.body()?.len() + 40;
        let (mut chunks, mut bytes) = (vec![Vec::new()], empty_bytes);
        for loser in losers {
            let loser_bytes = serde_json::to_string(&loser)?.len() + 1;
            let is_full = |chunk: &Vec<Contact>| {
                chunk.len() == MAX_LOSERS_IN_PART || (!chunk.is_empty() && bytes + loser_bytes > MAX_PART_BYTES)
            };
            if chunks.last().is_none_or(is_full) {
                chunks.push(Vec::new());
                bytes = empty_bytes;
            }
            bytes += loser_bytes;
            chunks.last_mut().into_iter().for_each(|chunk| chunk.push(loser.clone()));
        }
        let parts = chunks.len();
        let part = |(index, losers)| Self { losers, part: index + 1, parts, ..self.clone() };
        Ok(chunks.into_iter().enumerate().map(part).collect())
    }

    /// The part as the text of a message. SQS takes the characters of XML 1.0; JSON escapes all others but two, which old
    /// titles and names may hold.
    ///
    /// # Errors
    /// When it has no JSON form.
    pub fn body(&self) -> Result<String, serde_json::Error> {
        Ok(serde_json::to_string(self)?.replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}"))
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

// A mail is claimed under this name before it is sent.
domain::names!(MailKind { Won = "won", Lost = "lost", Hosted = "hosted" });

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

    #[test]
    fn parts_are_bounded_in_people_and_bytes_and_hold_what_sqs_takes() {
        let contact = |number: u128, name: &str| Contact {
            user_id: UserId::from_uuid(uuid::Uuid::from_u128(number)),
            email: Some(format!("{number}@example.com")),
            name: Some(name.to_owned()),
            username: number.to_string(),
        };
        let check = |losers: usize, name: &str, expected: usize| {
            let closed = AuctionClosed {
                kind: AUCTION_CLOSED.to_owned(),
                auction_id: AuctionId::from_uuid(uuid::Uuid::from_u128(9)),
                title: "Lamp \u{ffff}\u{1}\u{fffe}".to_owned(),
                final_price: None,
                currency: "USD".to_owned(),
                outcome: Outcome::Unsold.into(),
                winner: None,
                host: contact(0, name),
                losers: (1..=losers).map(|number| contact(number as u128, name)).collect(),
                part: 0,
                parts: 0,
                timestamp: 5,
            };
            let everyone = closed.losers.clone();
            let parts = closed.into_parts().unwrap();
            assert_eq!(parts.len(), expected, "{losers} losers with names of {} bytes", name.len());
            assert!(parts.iter().zip(1..).all(|(part, number)| (part.part, part.parts) == (number, expected)));
            for part in &parts {
                let body = part.body().unwrap();
                assert!(body.len() <= MAX_PART_BYTES && part.losers.len() <= MAX_LOSERS_IN_PART, "{}", body.len());
                let is_taken = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..);
                assert!(body.chars().all(is_taken), "{body}");
            }
            let listed: Vec<Contact> = parts.into_iter().flat_map(|part| part.losers).collect();
            assert_eq!(listed, everyone, "each loser is in one part");
        };
        check(0, "Anna", 1);
        check(500, "Anna", 1);
        check(501, "Anna", 2);
        check(1_200, &"\u{1f600}".repeat(200), 6);
        check(60, &"\"".repeat(5_000), 4);
    }
}

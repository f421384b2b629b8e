//! Checkpoints: the answers to an auction's accepted bids, in pieces, so that a rebuild need not read the whole log.

use domain::{Accepted, Amount, AuctionId, BidId, Millis, Offer, Sealed, UserId};
use serde::{Deserialize, Serialize};

use crate::Mark;
use crate::wire::{cents, optional_cents, optional_text, text};

/// Newest version of the checkpoint format.
pub const CHECKPOINT_VERSION: u32 = 4;
/// Version of the checkpoints of auctions with secrets that follow no other auction.
pub const CHECKPOINT_WITHOUT_SEQUENCES_VERSION: u32 = 3;
/// Version of the checkpoints of auctions with options but without secrets, that follow no other auction.
pub const CHECKPOINT_WITHOUT_SECRETS_VERSION: u32 = 2;
/// Version of the checkpoints of plain auctions. The first version of the service reads no others, so that it does not
/// continue a replay in the middle of an auction whose rules it does not know.
pub const PLAIN_CHECKPOINT_VERSION: u32 = 1;

/// The answer to an accepted bid, as Redis keeps it for a repetition of the bid.
///
/// Its JSON form is an array in the order of the fields, because a checkpoint has thousands of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "AnswerArray", into = "AnswerArray")]
pub struct StoredAnswer {
    /// The bid.
    pub bid_id: BidId,
    /// The bidder.
    pub user_id: UserId,
    /// The amount bid.
    pub amount: Amount,
    /// Sequence number of the bid in its auction.
    pub seq: u64,
    /// When the bid was accepted.
    pub timestamp: Millis,
    /// End of the auction directly after the bid.
    pub end_time: Millis,
    /// Whether the bid moved the end.
    pub extended: bool,
    /// Extensions so far.
    pub extension_count: u32,
    /// The part that maximums add; None where this bid led and had no maximum.
    pub proxy: Option<StoredProxy>,
}

/// The part of an answer that maximums add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredProxy {
    /// The highest bid directly after the bid. None for a pre-bid.
    pub price: Option<Amount>,
    /// Whether the bidder led then.
    pub leads: bool,
    /// The offer; None if it is the amount.
    pub offer: Option<StoredOffer>,
}

/// An offer that is encrypted in the log. A checkpoint has only the encrypted form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredOffer {
    /// As it was decided.
    Open(Offer),
    /// As a checkpoint has it.
    Sealed(Sealed),
}

impl StoredAnswer {
    /// The answer to the bid with this id.
    #[must_use]
    pub fn new(bid_id: BidId, accepted: &Accepted) -> Self {
        let Accepted { user_id, amount, seq, timestamp, end_time, extended, extension_count, price, leads, .. } =
            *accepted;
        let offer = accepted.offer.sealed().is_some().then(|| StoredOffer::Open(accepted.offer.clone()));
        let is_plain = leads && price == Some(amount) && offer.is_none();
        let proxy = (!is_plain).then_some(StoredProxy { price, leads, offer });
        Self { bid_id, user_id, amount, seq, timestamp, end_time, extended, extension_count, proxy }
    }
}

/// [`StoredAnswer`] as an array. The last three are absent for a bid that led and had no maximum.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum AnswerArray {
    Plain(PlainAnswer),
    WithProxy(PlainAnswer, ProxyAnswer),
}

/// The part of every answer.
#[derive(Serialize, Deserialize)]
struct PlainAnswer(
    #[serde(with = "text")] BidId,
    #[serde(with = "text")] UserId,
    #[serde(with = "cents")] Amount,
    u64,
    u64,
    u64,
    bool,
    u32,
);

/// The part that maximums add.
#[derive(Serialize, Deserialize)]
struct ProxyAnswer(
    #[serde(with = "optional_cents")] Option<Amount>,
    bool,
    #[serde(with = "optional_text")] Option<Sealed>,
);

impl From<AnswerArray> for StoredAnswer {
    fn from(array: AnswerArray) -> Self {
        let (plain, proxy) = match array {
            AnswerArray::Plain(plain) => (plain, None),
            AnswerArray::WithProxy(plain, proxy) => (plain, Some(proxy)),
        };
        let PlainAnswer(bid_id, user_id, amount, seq, timestamp, end_time, extended, extension_count) = plain;
        let (timestamp, end_time) = (Millis(timestamp), Millis(end_time));
        let proxy = proxy.map(|ProxyAnswer(price, leads, sealed)| {
            let offer = sealed.map(StoredOffer::Sealed);
            StoredProxy { price, leads, offer }
        });
        Self { bid_id, user_id, amount, seq, timestamp, end_time, extended, extension_count, proxy }
    }
}

impl From<StoredAnswer> for AnswerArray {
    fn from(answer: StoredAnswer) -> Self {
        let StoredAnswer { bid_id, user_id, amount, seq, timestamp, end_time, extended, extension_count, proxy } =
            answer;
        let plain = PlainAnswer(bid_id, user_id, amount, seq, timestamp.0, end_time.0, extended, extension_count);
        match proxy {
            Some(StoredProxy { price, leads, offer }) => {
                let sealed = offer.and_then(|offer| match offer {
                    StoredOffer::Open(offer) => offer.sealed().cloned(),
                    StoredOffer::Sealed(sealed) => Some(sealed),
                });
                Self::WithProxy(plain, ProxyAnswer(price, leads, sealed))
            }
            None => Self::Plain(plain),
        }
    }
}

/// One piece of an auction's answers. It is derived from the log, which stays the record: without it a rebuild takes
/// longer and comes to the same end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Version of the format: [`CHECKPOINT_VERSION`], or [`PLAIN_CHECKPOINT_VERSION`].
    pub v: u32,
    /// The auction.
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    /// Where the previous checkpoint ends; (0, genesis) for the first.
    pub from: Mark,
    /// The mark of the log's record that this one ends with.
    pub mark: Mark,
    /// The stream sequence of that record.
    pub stream_seq: u64,
    /// Answers to the bids after `from` up to `mark`, in order.
    pub answers: Vec<StoredAnswer>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_is_an_array_of_readable_values() {
        let answer = StoredAnswer {
            bid_id: BidId::from_uuid(uuid::Uuid::from_u128(1)),
            user_id: UserId::from_uuid(uuid::Uuid::from_u128(2)),
            amount: Amount::from_cents(5_000).expect("an amount"),
            seq: 3,
            timestamp: Millis(1_000),
            end_time: Millis(9_000),
            extended: true,
            extension_count: 1,
            proxy: None,
        };
        let text = serde_json::to_string(&answer).expect("JSON");
        assert_eq!(
            text,
            r#"["00000000-0000-0000-0000-000000000001","00000000-0000-0000-0000-000000000002",5000,3,1000,9000,true,1]"#
        );
        assert_eq!(serde_json::from_str::<StoredAnswer>(&text).expect("an answer"), answer);
    }

    #[test]
    fn answer_to_a_proxy_bid_has_no_amount_of_its_maximum() {
        let amount = |cents| Amount::from_cents(cents).expect("an amount");
        let sealed: Sealed = "c2VhbGVk".parse().expect("a text");
        let accepted = Accepted {
            user_id: UserId::from_uuid(uuid::Uuid::from_u128(2)),
            amount: amount(5_000),
            seq: 3,
            timestamp: Millis(1_000),
            price: Some(amount(6_000)),
            leads: false,
            minimum_bid: amount(6_100),
            end_time: Millis(9_000),
            extended: false,
            extension_count: 0,
            offer: Offer::UpTo { amount: None, maximum: amount(5_917), sealed: sealed.clone() },
        };
        let stored = StoredAnswer::new(BidId::from_uuid(uuid::Uuid::from_u128(1)), &accepted);
        let text = serde_json::to_string(&stored).expect("JSON");
        assert!(text.ends_with(r#",5000,3,1000,9000,false,0],[6000,false,"c2VhbGVk"]]"#), "{text}");
        let read: StoredAnswer = serde_json::from_str(&text).expect("an answer");
        assert_eq!(read.proxy.expect("a proxy bid").offer, Some(StoredOffer::Sealed(sealed)));
    }
}

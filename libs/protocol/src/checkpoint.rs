//! Checkpoints: the answers to an auction's accepted bids, in pieces, so that a rebuild need not read the whole log.

use domain::{Accepted, Amount, AuctionId, BidId, Millis, UserId};
use serde::{Deserialize, Serialize};

use crate::Mark;
use crate::wire::{cents, text};

/// Newest version of the checkpoint format.
pub const CHECKPOINT_VERSION: u32 = 2;
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
}

impl StoredAnswer {
    /// The answer to the bid with this id.
    #[must_use]
    pub const fn new(bid_id: BidId, accepted: &Accepted) -> Self {
        let Accepted { user_id, amount, seq, timestamp, end_time, extended, extension_count, .. } = *accepted;
        Self { bid_id, user_id, amount, seq, timestamp, end_time, extended, extension_count }
    }
}

/// [`StoredAnswer`] as an array.
#[derive(Serialize, Deserialize)]
struct AnswerArray(
    #[serde(with = "text")] BidId,
    #[serde(with = "text")] UserId,
    #[serde(with = "cents")] Amount,
    u64,
    u64,
    u64,
    bool,
    u32,
);

impl From<AnswerArray> for StoredAnswer {
    fn from(array: AnswerArray) -> Self {
        let AnswerArray(bid_id, user_id, amount, seq, timestamp, end_time, extended, extension_count) = array;
        let (timestamp, end_time) = (Millis(timestamp), Millis(end_time));
        Self { bid_id, user_id, amount, seq, timestamp, end_time, extended, extension_count }
    }
}

impl From<StoredAnswer> for AnswerArray {
    fn from(answer: StoredAnswer) -> Self {
        let StoredAnswer { bid_id, user_id, amount, seq, timestamp, end_time, extended, extension_count } = answer;
        Self(bid_id, user_id, amount, seq, timestamp.0, end_time.0, extended, extension_count)
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
        };
        let text = serde_json::to_string(&answer).expect("JSON");
        assert_eq!(
            text,
            r#"["00000000-0000-0000-0000-000000000001","00000000-0000-0000-0000-000000000002",5000,3,1000,9000,true,1]"#
        );
        assert_eq!(serde_json::from_str::<StoredAnswer>(&text).expect("an answer"), answer);
    }
}

//! The facts of an auction that is over, as readers see them: the texts that the chain hashes, and the heads that they lead
//! to, so that a reader can compute the chain.

use domain::Head;
use serde::Serialize;

#[cfg(feature = "schema")]
use crate::shapes;
use crate::wire::text;
use crate::{Record, RecordKind};

/// One fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "Fact"))]
pub struct PublicFact {
    /// Sequence number of the fact in its auction.
    pub seq: u64,
    /// The text that the chain hashes, its fields one a line; null if the fact is not public: a changed maximum, a bid before
    /// the opening, a person who was blocked or unblocked.
    pub text: Option<String>,
    /// The head of the chain after it: the first 16 hexadecimal digits of the SHA-1 over the head before, a line feed and
    /// the text.
    #[serde(with = "text")]
    #[cfg_attr(feature = "schema", schemars(with = "shapes::Head"))]
    pub head: Head,
}

/// `GET /auctions/{id}/facts`.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FactPage {
    /// The oldest first. None at all once the auction is archived.
    #[cfg_attr(feature = "schema", schemars(length(max = 1200)))]
    pub facts: Vec<PublicFact>,
    /// `after` of the next page; null on the last page.
    pub next_after: Option<String>,
}

impl Record {
    /// The record's facts as readers see them. None if it holds something that only a newer version knows.
    #[must_use]
    pub fn public_facts(&self) -> Option<Vec<PublicFact>> {
        let kind = self.kind.known()?;
        if kind == RecordKind::Bids {
            let mut head = self.prev;
            let facts = self.bids.iter().map(|bid| {
                bid.kind.known()?;
                let text = bid.fact().text();
                head = head.next(&text);
                Some(PublicFact { seq: bid.seq, text: Some(text), head })
            });
            return facts.collect();
        }
        // Maximums are shown to their owners alone, and blocks concern two people.
        let is_public = !matches!(kind, RecordKind::Maximum | RecordKind::Blocked | RecordKind::Unblocked);
        let text = self.fact_text()?;
        Some(vec![PublicFact { seq: self.seq, text: is_public.then_some(text), head: self.head }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored() -> Vec<Record> {
        let text = include_str!("../tests/stored/closed.jsonl");
        text.lines().map(|line| serde_json::from_str(line).expect("a record")).collect()
    }

    #[test]
    fn texts_of_the_facts_lead_to_their_heads() {
        let (mut seq, mut head) = (0, Head::GENESIS);
        for record in stored() {
            for fact in record.public_facts().expect("a known record") {
                head = head.next(&fact.text.expect("a public fact"));
                seq += 1;
                assert_eq!((fact.seq, fact.head), (seq, head));
            }
            assert_eq!(record.head, head);
        }
        assert!(seq > 4, "{seq}");
    }

    #[test]
    fn people_who_were_blocked_are_not_shown() {
        let mut record = stored().remove(0);
        record.kind = RecordKind::Blocked.into();
        record.by = Some(record.state.host_user_id);
        record.user_id = Some(record.state.host_user_id);
        let facts = record.public_facts().expect("a known record");
        assert_eq!(facts, [PublicFact { seq: record.seq, text: None, head: record.head }]);
        assert_eq!(serde_json::to_value(&facts[0]).expect("JSON")["text"], serde_json::Value::Null);
    }
}

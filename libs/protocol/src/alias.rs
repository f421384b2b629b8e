//! Aliases in place of people's names. CONTRACT.md, Aliases.
//!
//! Names are shown only through a [`Naming`], so that no shape shows one by mistake. Log, databases and queues have the
//! names themselves.

use std::borrow::Cow;

use domain::{AuctionId, UserId};
use sha1::{Digest, Sha1};

use crate::ChatMessage;

/// Characters of an alias: 32, without I, L, O and U, which look like others.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Characters of an alias behind its word. Among a thousand people in an auction two have the same alias in one of two
/// thousand auctions.
const LENGTH: usize = 6;

/// The alias of a person in an auction, such as `Bidder K7Q2MX`. It follows from the two ids alone, so that every service
/// and instance shows the same.
#[must_use]
pub fn alias(auction_id: AuctionId, user_id: UserId) -> String {
    let digest = Sha1::digest(format!("alias\n{auction_id}\n{user_id}"));
    let characters = digest.iter().take(LENGTH).map(|byte| char::from(ALPHABET[usize::from(byte % 32)]));
    format!("Bidder {}", characters.collect::<String>())
}

/// How people are named to one viewer of an auction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// By their names.
    Names,
    /// By their aliases in this auction, except for its host.
    Aliases {
        /// The auction.
        auction_id: AuctionId,
        /// The person who sells.
        host: UserId,
    },
}

impl Naming {
    /// How people are named to `viewer` in an auction of `host`, where aliases are shown.
    #[must_use]
    pub fn for_viewer(auction_id: AuctionId, host: UserId, viewer: Option<UserId>) -> Self {
        if viewer == Some(host) { Self::Names } else { Self::Aliases { auction_id, host } }
    }

    /// The name to show of a person.
    #[must_use]
    pub fn name(self, user_id: UserId, username: &str) -> Cow<'_, str> {
        match self {
            Self::Aliases { auction_id, host } if user_id != host => alias(auction_id, user_id).into(),
            Self::Names | Self::Aliases { .. } => username.into(),
        }
    }

    /// The name to show of a person, if there is one.
    pub(crate) fn optional(self, user_id: Option<UserId>, username: Option<&str>) -> Option<Cow<'_, str>> {
        Some(self.name(user_id?, username?))
    }

    /// A chat message with the name to show of its author.
    #[must_use]
    pub fn message(self, message: &ChatMessage) -> Cow<'_, ChatMessage> {
        match self.name(message.user_id, &message.username) {
            Cow::Borrowed(_) => Cow::Borrowed(message),
            Cow::Owned(username) => Cow::Owned(ChatMessage { username, ..message.clone() }),
        }
    }

    /// The same for several messages.
    pub(crate) fn messages(self, messages: &[ChatMessage]) -> Cow<'_, [ChatMessage]> {
        match self {
            Self::Names => Cow::Borrowed(messages),
            Self::Aliases { .. } => messages.iter().map(|message| self.message(message).into_owned()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::{Amount, Outcome};
    use uuid::Uuid;

    use super::*;
    use crate::frames::{AuctionEnded, BidUpdate, Joined};
    use crate::{Bid, CommittedState, Person, PublicBid, Record, Stored};

    /// An odd name that appears by chance nowhere else.
    const ODD: &str = "Quoxwimble";

    fn auction(number: u128) -> AuctionId {
        AuctionId::from_uuid(Uuid::from_u128(number))
    }

    fn user(number: u128) -> UserId {
        UserId::from_uuid(Uuid::from_u128(number))
    }

    #[test]
    fn alias_is_stable_and_differs_between_people_and_auctions() {
        // SHA-1 by `printf 'alias\n<auction>\n<user>' | sha1sum`, each byte modulo 32.
        assert_eq!(alias(auction(1), user(2)), "Bidder KW94YZ");
        let mut aliases: Vec<String> =
            (1..=40).flat_map(|a| (1..=40).map(move |u| alias(auction(a), user(u)))).collect();
        aliases.sort_unstable();
        aliases.dedup();
        assert_eq!(aliases.len(), 1_600);
        for alias in aliases {
            let code = alias.strip_prefix("Bidder ").expect("its word");
            assert!(code.len() == LENGTH && code.bytes().all(|byte| ALPHABET.contains(&byte)), "{alias}");
        }
    }

    /// A record and the state after it, with odd names of all people, each with another ending.
    fn named(stored: &str) -> (Record, CommittedState) {
        let mut record: Record = serde_json::from_str(stored.lines().last().expect("a record")).expect("a record");
        let bids = stored.lines().flat_map(|line| serde_json::from_str::<Record>(line).expect("a record").bids);
        let mut bids: Vec<Bid> = bids.collect();
        bids.iter_mut().for_each(|bid| bid.username = format!("{ODD}-bid"));
        let state = &mut record.state;
        state.host_username = format!("{ODD}-host");
        state.high_bidder_username = Some(format!("{ODD}-leader"));
        state.winner_username = state.winner_id.map(|_| format!("{ODD}-winner"));
        state.top_bids.iter_mut().for_each(|bid| bid.username = format!("{ODD}-best"));
        let committed = CommittedState {
            auction_id: record.auction_id,
            seq: record.seq,
            head: record.head,
            stream_seq: 1,
            state: record.state.clone(),
            recent_bids: bids,
            participant_count: 2,
            slow_mode_seconds: 0,
            has_secrets: false,
            opens_at: None,
        };
        (record, committed)
    }

    fn messages(committed: &CommittedState) -> Vec<ChatMessage> {
        let said = |user_id, name: &str, is_host| ChatMessage {
            message_id: "1".to_owned(),
            auction_id: committed.auction_id,
            user_id,
            username: format!("{ODD}-{name}"),
            message: "Hello".to_owned(),
            is_host,
            timestamp: 1,
        };
        vec![said(user(77), "author", false), said(committed.state.host_user_id, "host", true)]
    }

    /// The row of an auction that is over.
    fn row(committed: &CommittedState) -> Stored {
        let state = &committed.state;
        Stored {
            auction_id: committed.auction_id,
            host: Person { user_id: state.host_user_id, username: format!("{ODD}-host") },
            title: "Lamp".to_owned(),
            description: None,
            category: None,
            image_url: None,
            images: Vec::new(),
            condition: None,
            seller_name: None,
            duration_seconds: 600,
            starting_bid: state.starting_bid,
            increments: domain::Ladder::flat(state.increment),
            allow_self_raise: false,
            buy_now: None,
            reserve: None,
            allow_prebids: false,
            follows: None,
            anti_snipe_mode: state.anti_snipe_mode.clone(),
            anti_snipe_window_seconds: 0,
            anti_snipe_extension_seconds: 0,
            anti_snipe_max_extensions: 0,
            created_at: 1,
            status: state.status.clone(),
            starts_at: Some(1),
            end_time: Some(2),
            ended_at: Some(2),
            outcome: Some(Outcome::Sold.into()),
            winner: Some(Person { user_id: user(78), username: format!("{ODD}-buyer") }),
            winning_bid: Amount::from_cents(500).ok(),
            bid_count: 1,
            ivs_channel_arn: None,
            ivs_playback_url: None,
        }
    }

    /// Everything that shows names, as JSON.
    fn shown((record, committed): &(Record, CommittedState), naming: Naming) -> Vec<String> {
        let (chat, row) = (messages(committed), row(committed));
        let bids = || committed.recent_bids.iter();
        let joined = Joined {
            live: committed.live(None, 1, &chat, naming),
            recovered: true,
            missed_bids: Some(bids().map(|bid| PublicBid::new(bid, naming)).collect()),
            your_max_amount: None,
            stream_live: None,
        };
        vec![
            serde_json::to_string(&joined),
            serde_json::to_string(&BidUpdate::new(committed, 1, bids(), 1, false, naming)),
            serde_json::to_string(&AuctionEnded::new(record, false, naming)),
            serde_json::to_string(&row.object(Some(committed), "USD", 1, naming)),
            serde_json::to_string(&row.object(None, "USD", 1, naming)),
            serde_json::to_string(&naming.message(&chat[0])),
        ]
        .into_iter()
        .map(|json| json.expect("JSON"))
        .collect()
    }

    #[test]
    fn only_the_hosts_name_is_shown_to_others_than_the_host() {
        let stored = [include_str!("../tests/stored/closed.jsonl"), include_str!("../tests/stored/live.jsonl")];
        for one in stored.map(named) {
            let committed = &one.1;
            let (auction_id, host) = (committed.auction_id, committed.state.host_user_id);
            assert!(committed.recent_bids.len() > 2 && committed.state.top_bids.len() > 1, "{committed:?}");
            let as_seen_by = |viewer| shown(&one, Naming::for_viewer(auction_id, host, viewer));
            for viewer in [None, committed.state.high_bidder_id] {
                for text in as_seen_by(viewer) {
                    let others = text.replace(&format!("{ODD}-host"), "");
                    assert!(!others.contains(ODD), "{text}");
                    assert!(others.contains("Bidder ") || !others.contains("username\":\""), "{text}");
                }
            }
            let to_host = as_seen_by(Some(host));
            assert_eq!(to_host, shown(&one, Naming::Names));
            assert!(!to_host.concat().contains("Bidder "), "{to_host:?}");
            let everything = to_host.concat();
            for name in ["leader", "best", "bid", "author", "buyer"] {
                assert!(everything.contains(&format!("{ODD}-{name}")), "{name}");
            }
        }
    }
}

//! All that crosses a wire: subjects, records, requests and replies between services, HTTP bodies,
//! WebSocket frames, codes and close codes.
//!
//! **Owns** every name and shape that somebody outside one process relies on, and the strict reading
//! of what comes from outside ([`input`]).
//!
//! **Never** opens a connection, or decides anything but that a bid is below a committed price ([`CommittedPrices`]) or
//! one too many ([`Limits`]).
//!
//! **Invariants**
//! - Money is whole cents in fields ending `_cents` between services and in the log, and a decimal
//!   with two places in every other field; no float is involved in either direction.
//! - Times are integer milliseconds since 1970, except the RFC 3339 ones of auction and user objects.
//! - An outsider sees only [`Code`]s of the closed list.
//!
//! What clients and operators may rely on follows.
#![doc = include_str!("../CONTRACT.md")]

mod auction;
mod bid;
mod chat;
mod code;
pub mod frames;
pub mod input;
mod live;
mod notification;
mod people;
mod presence;
mod record;
pub mod subject;
mod tick;
mod video;
pub mod wire;

pub use auction::{
    AuctionCreate, AuctionObject, AuctionPage, CancelRequest, CloseRequest, CreateRequest, HostsAuction, Pagination,
    Person, StateReply, StateRequest, Stored, StreamObject, StreamState, UserSeen, parse_auction_create,
    parse_pagination,
};
pub use bid::{AcceptedBid, Answer, PlaceBid, RefusedBid, parse_place_bid};
pub use chat::{
    ChatDeleted, ChatMessage, ChatMuted, MAX_CHAT_CHARACTERS, MAX_CHAT_HISTORY, MAX_MUTE_SECONDS,
    MAX_SLOW_MODE_SECONDS, Talk, messages,
};
pub use code::{Code, Failure, Reply};
pub use live::{
    BidPage, CommittedState, LiveState, PublicBid, TimerObject, TopBid, time_remaining, timer_object, whole_seconds,
};
pub use notification::{AUCTION_CLOSED, AuctionClosed, Contact, MAX_LOSERS_IN_PART, MailKind};
pub use people::{BidStatus, OwnBid, OwnBids, OwnBidsRequest, Profile, ProfileChange, parse_profile_change};
pub use presence::{EdgeCount, Presence};
pub use record::{Bid, Mark, RECORD_VERSION, Record, RecordKind, Snapshot, StandingBid};
pub use tick::{Leased, SyncType, TimerTick};
pub use video::Channel;

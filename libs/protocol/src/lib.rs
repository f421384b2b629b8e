//! Every message that crosses a wire: subjects, records, requests and replies between services, HTTP bodies, WebSocket
//! frames, Socket.IO packets, codes and close codes.
//!
//! **Owns** every name and shape on which another process relies, and the strict parsing of input from clients
//! ([`input`]). With the feature `schema` it describes them as JSON Schema and builds the API documents from the
//! operations that each service declares ([`api`]).
//!
//! **Never** opens a connection, or decides anything about an auction.
//!
//! **Invariants**
//! - Money is whole cents in fields ending `_cents` between services and in the log, and a decimal with two places in
//!   every other field. No float is involved in either direction.
//! - Times are integer milliseconds since 1970, except the RFC 3339 times of auction and user objects.
//! - Clients see only [`Code`]s of the closed list.
//!
//! The rest of this page is the contract with clients and operators.
#![doc = include_str!("../CONTRACT.md")]
#![warn(missing_docs)]

mod alias;
pub mod api;
mod auction;
mod auction_object;
mod bid;
mod chained;
pub mod characters;
mod chat;
mod checkpoint;
mod code;
mod facts;
pub mod frames;
pub mod input;
mod live;
mod notification;
mod options;
mod pagination;
mod people;
mod person_limit;
mod presence;
mod record;
pub mod rights;
#[cfg(feature = "schema")]
pub mod schema;
mod sealed;
#[cfg(feature = "schema")]
mod shapes;
pub mod socketio;
pub mod subject;
mod tick;
mod uploads;
mod video;
pub mod wire;

pub use alias::{Naming, alias};
pub use auction::{
    AuctionCreate, BlockRequest, CancelRequest, CloseRequest, CreateRequest, HostRequest, Person, RedriveRequest,
    StateReply, StateRequest, parse_auction_create,
};
pub use auction_object::{
    AuctionObject, AuctionPage, Categories, CategoryCount, HostsAuction, Stored, StreamObject, StreamState,
};
pub use bid::{AcceptedBid, Answer, MaximumRequest, OwnMaximum, PlaceBid, RefusedBid, parse_place_bid};
pub use chat::{
    ChatDeleted, ChatMessage, ChatMuted, ChatSlowed, MAX_CHAT_CHARACTERS, MAX_CHAT_HISTORY, MAX_MUTE_SECONDS,
    MAX_SLOW_MODE_SECONDS, Talk, messages,
};
pub use checkpoint::{
    CHECKPOINT_VERSION, CHECKPOINT_WITHOUT_SECRETS_VERSION, CHECKPOINT_WITHOUT_SEQUENCES_VERSION, Checkpoint,
    PLAIN_CHECKPOINT_VERSION, StoredAnswer, StoredOffer, StoredProxy,
};
pub use code::{Code, Failure, MayFail, Reply};
pub use facts::{FactPage, PublicFact};
pub use live::{
    BidPage, CommittedState, LiveState, PublicBid, TimerObject, TopBid, time_remaining, timer_object, whole_seconds,
};
pub use notification::{AUCTION_CLOSED, AuctionClosed, Contact, MAX_LOSERS_IN_PART, MAX_PART_BYTES, MailKind};
pub use options::{ByHost, Options};
pub use pagination::{Pagination, parse_pagination};
pub use people::{
    BidStatus, MAX_NAME_CHARACTERS, MAX_NAMES_IN_PAGE, NamesRequest, OwnBid, OwnBids, OwnBidsRequest, PlacedBid,
    PlacedBids, Profile, ProfileChange, SeenReply, UserSeen, parse_profile_change,
};
pub use person_limit::{Limit, LimitRequest, LimitShown, MAX_LIMITS_IN_PAGE, MAX_OWN_LIMITS, PersonLimit};
pub use presence::{BidOfPerson, BidsOfPerson, EdgeAddress, EdgeCount, Presence};
pub use record::{Bid, Mark, RECORD_VERSION, RankedBid, Record, RecordKind, Snapshot};
pub use sealed::{SealedMaximum, SealedPrebid, SealedSecrets};
pub use tick::{LEASE, Leased, SyncType, TimerTick};
pub use uploads::{MAX_PHOTO_BYTES, Upload};
pub use video::{Channel, MAX_ON_AIR, OnAir};

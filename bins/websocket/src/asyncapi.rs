//! The events of the edge, from which `asyncapi.json` is written.

use protocol::api::Event;

/// Events that clients send.
pub const CLIENT_EVENTS: &[Event] = &[
    event("authenticate", "Renews the token; answered by authenticated", "Authenticate"),
    event("join_auction", "Answered by joined_auction", "JoinAuction"),
    event("leave_auction", "Answered by left_auction", "AuctionRoom"),
    event("place_bid", "Answered by bid_result", "PlaceBid"),
    event("chat_message", "Answered by chat_sent", "WriteMessage"),
    event("chat_delete", "For the host: erases a message", "DeleteMessage"),
    event("chat_mute", "For the host: the person's messages are rejected for so long; 0 ends it", "MutePerson"),
    event("ping", "Answered by pong", "Nothing"),
];

/// Events that the server sends.
pub const SERVER_EVENTS: &[Event] = &[
    event("connected", "First, once the token is known", "Connected"),
    event("authenticated", "Answers authenticate", "TokenExpiry"),
    event(
        "joined_auction",
        "Answers join_auction with the live state; with last_seq the bids missed since",
        "JoinedAuction",
    ),
    event("left_auction", "Answers leave_auction", "AuctionRoom"),
    event("bid_result", "Answers place_bid", "BidResult"),
    event(
        "bid_update",
        "The newest state; bids are those after previous_seq, at most the newest 50. At most 20 a second",
        "BidUpdate",
    ),
    event(
        "outbid",
        "To every socket of a person whose bid was overtaken, whether or not it has joined the auction",
        "Outbid",
    ),
    event("timer_update", "Once a second, and when a late bid or the host moves the end", "TimerUpdate"),
    event("auction_started", "Bidding opened", "AuctionStarted"),
    event("auction_paused", "The host stopped the auction's time; bids are refused", "AuctionPaused"),
    event(
        "auction_resumed",
        "The auction goes on: after a pause, or with more time after an outage over its end",
        "AuctionResumed",
    ),
    event("auction_cancelled", "The host cancelled the auction; no bid wins", "AuctionCancelled"),
    event(
        "auction_ended",
        "The hammer. Also to sockets of people who have bid, in auctions that they have not joined",
        "AuctionEnded",
    ),
    event("chat_message", "To all members of the room", "ChatMessage"),
    event("chat_sent", "Answers chat_message", "ChatSent"),
    event("chat_deleted", "To all members of the room, and to the host as the answer", "ChatDeleted"),
    event("chat_muted", "To all members of the room, and to the host as the answer", "ChatMuted"),
    event("user_joined", "Small rooms name their members; larger ones send presence_update", "PersonMoved"),
    event("user_left", "Small rooms name their members; larger ones send presence_update", "PersonMoved"),
    event("presence_update", "The number of people changed without a name", "PresenceUpdate"),
    event("stream_started", "The host's video has begun, as IVS reports it some seconds later", "StreamChanged"),
    event("stream_ended", "The host's video has ended, as IVS reports it some seconds later", "StreamChanged"),
    event("token_expiring", "60 s before; renew with authenticate", "TokenExpiry"),
    event("server_draining", "Reconnect after retry_after_ms; the socket closes with 1012", "Draining"),
    event("pong", "Answers ping", "Pong"),
    event("error", "Answers a request that could not be understood or is not allowed", "Error"),
];

const fn event(name: &'static str, summary: &'static str, data: &'static str) -> Event {
    Event { name, summary, data }
}

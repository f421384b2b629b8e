//! The scripts and the keys they touch.

use domain::AuctionId;
use redis::{Script, ScriptInvocation};

/// Each script, with the prelude before it. The client sends the text again when the server no longer has it.
pub(crate) struct Scripts {
    pub create: Script,
    pub open: Script,
    pub close: Script,
    pub cancel: Script,
    pub start: Script,
    pub pause: Script,
    pub resume: Script,
    pub block: Script,
    pub unblock: Script,
    pub presence: Script,
    pub place_bid: Script,
    pub restore: Script,
    pub talk: Script,
}

macro_rules! script {
    ($file:literal) => {
        Script::new(concat!(include_str!("../../../lua/prelude.lua"), include_str!(concat!("../../../lua/", $file))))
    };
}

/// A script that opens an auction.
macro_rules! opening_script {
    ($file:literal) => {
        Script::new(concat!(
            include_str!("../../../lua/prelude.lua"),
            include_str!("../../../lua/opening.lua"),
            include_str!(concat!("../../../lua/", $file))
        ))
    };
}

impl Scripts {
    pub fn load() -> Self {
        Self {
            create: script!("create.lua"),
            open: opening_script!("open.lua"),
            close: script!("close.lua"),
            cancel: script!("cancel.lua"),
            start: opening_script!("start.lua"),
            pause: script!("pause.lua"),
            resume: script!("resume.lua"),
            block: script!("block.lua"),
            unblock: script!("unblock.lua"),
            presence: script!("presence.lua"),
            place_bid: script!("place_bid.lua"),
            restore: script!("restore.lua"),
            talk: script!("talk.lua"),
        }
    }
}

/// The keys of one auction. The braces are a hash tag: all keys share a slot.
pub(crate) struct Keys {
    pub state: String,
    pub top_bids: String,
    pub bids: String,
    pub outbox: String,
    pub recent: String,
    pub prebids: String,
}

impl Keys {
    pub fn of(auction_id: AuctionId) -> Self {
        let key = |name: &str| format!("auction:{{{auction_id}}}:{name}");
        Self {
            state: key("state"),
            top_bids: key("top_bids"),
            bids: key("bids"),
            outbox: key("outbox"),
            recent: key("recent"),
            prebids: key("prebids"),
        }
    }

    pub fn all(&self, call: &mut ScriptInvocation<'_>) {
        call.key(&self.state).key(&self.top_bids).key(&self.bids).key(&self.outbox).key(&self.recent);
        call.key(&self.prebids);
    }
}

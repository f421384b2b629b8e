//! Requests about auctions: creation by a client, and the requests between services.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use domain::{
    Amount, AntiSnipe, AntiSnipeMode, AuctionId, Band, CloseReason, Follows, Host, Ladder, Names, Preset, Reserve,
    Rules, Sealed, UserId,
};
use serde::{Deserialize, Serialize};

use crate::input::Fields;
use crate::live::CommittedState;
use crate::wire::{Named, cents, optional_cents, optional_text, text};
use crate::{Code, Failure, Options};

/// A person as a token or the log names them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Person {
    /// Identifier from the token's `sub`.
    #[serde(with = "text")]
    pub user_id: UserId,
    /// Public name.
    pub username: String,
}

/// `auctions.create`, and `auctions.create_with_rules` for an auction that is not plain, `auctions.create_with_reserve` for
/// one with a reserve, `auctions.create_with_prebids` for one that keeps pre-bids, `auctions.create_follower` for one that
/// follows another. Repeatable: the same id never makes a second auction.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateRequest {
    /// Identifier of the new auction.
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    /// The person who sells.
    pub host: Person,
    /// Lowest first bid.
    #[serde(rename = "starting_bid_cents", with = "cents")]
    pub starting_bid: Amount,
    /// Smallest step between two bids; of a ladder the first one.
    #[serde(rename = "increment_cents", with = "cents")]
    pub increment: Amount,
    /// Rules that the first version does not know.
    #[serde(default, skip_serializing_if = "Options::is_none")]
    pub options: Options,
    /// The price below which the auction does not sell. Not among the options, which every record carries.
    #[serde(rename = "reserve_cents", with = "optional_cents", default, skip_serializing_if = "Option::is_none")]
    pub reserve: Option<Amount>,
    /// The same, encrypted. bid-processing, which alone has the key, fills it in; it crosses no wire.
    #[serde(skip)]
    pub sealed_reserve: Option<Sealed>,
    /// Milliseconds from opening to the end.
    pub duration_ms: u64,
    /// Whether a late bid moves the end.
    #[serde(with = "text")]
    pub anti_snipe_mode: AntiSnipeMode,
    /// A bid this close to the end is late.
    pub anti_snipe_window_ms: u64,
    /// Milliseconds that a late bid adds.
    pub anti_snipe_extension_ms: u64,
    /// Most extensions of the auction.
    pub anti_snipe_max_extensions: u32,
    /// When bidding opens; None for at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<u64>,
    /// Time on the clock of Redis after which the request is rejected. A request that is delivered too late therefore
    /// cannot create an auction whose creation was abandoned.
    pub valid_until: u64,
}

impl CreateRequest {
    /// The rules that the host sets. The reserve is among them once it is encrypted.
    #[must_use]
    pub fn rules(&self) -> Rules {
        let reserve = self.reserve.zip(self.sealed_reserve.clone());
        Rules {
            host: Host { user_id: self.host.user_id, username: self.host.username.clone() },
            starting_bid: self.starting_bid,
            increments: self.options.increments.clone().unwrap_or_else(|| Ladder::flat(self.increment)),
            duration_ms: self.duration_ms,
            anti_snipe: AntiSnipe {
                mode: self.anti_snipe_mode,
                window_ms: self.anti_snipe_window_ms,
                extension_ms: self.anti_snipe_extension_ms,
                max_extensions: self.anti_snipe_max_extensions,
            },
            allow_self_raise: self.options.allow_self_raise,
            buy_now: self.options.buy_now,
            reserve: reserve.map(|(amount, sealed)| Reserve { amount, sealed }),
            allow_prebids: self.options.allow_prebids,
            follows: self.options.follows(),
        }
    }
}

/// `auctions.open` and `auctions.state`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StateRequest {
    /// The auction in question.
    #[serde(with = "text")]
    pub auction_id: AuctionId,
}

/// `auctions.close`. Without `by` it asks for the close that is due; with `by` the host closes the auction early.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CloseRequest {
    /// The auction to close.
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    /// The person who asks; only the host may.
    #[serde(with = "optional_text", default)]
    pub by: Option<UserId>,
}

/// `auctions.cancel`: the host cancels the auction, or `flash-admin restore` does in the name of the host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CancelRequest {
    /// The auction to cancel.
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    /// The person who asks; only the host may.
    #[serde(with = "text")]
    pub by: UserId,
    /// Why, if it is not the host's own wish. `restored` counts only while the log is being restored: then it is the
    /// reason in the record, and no token is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Named<CloseReason>>,
}

/// `history.redrive` and `results.redrive`: handle one record of the log again. Repeatable. The answer says whether the
/// log still has it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct RedriveRequest {
    /// The record's sequence in the stream.
    pub stream_seq: u64,
}

/// `auctions.start`, `auctions.pause` and `auctions.resume`, for the host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HostRequest {
    /// The auction.
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    /// The person who asks; only the host may.
    #[serde(with = "text")]
    pub by: UserId,
}

/// `auctions.block` and `auctions.unblock`, for the host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BlockRequest {
    /// The auction.
    #[serde(with = "text")]
    pub auction_id: AuctionId,
    /// The person who asks; only the host may.
    #[serde(with = "text")]
    pub by: UserId,
    /// The person to block or unblock.
    #[serde(with = "text")]
    pub user_id: UserId,
}

/// The answer to every request about one auction: its committed state afterwards.
pub type StateReply = crate::Reply<CommittedState>;

/// A parsed and validated `POST /auctions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuctionCreate {
    /// 1 to 500 characters.
    pub title: String,
    /// At most 20,000 characters.
    pub description: Option<String>,
    /// Seconds from opening to the end.
    pub duration_seconds: u64,
    /// Free text for filters.
    pub category: Option<String>,
    /// Lowest first bid.
    pub starting_bid: Amount,
    /// The least amount by which a bid must exceed the highest one; None for the default of the deployment.
    pub increments: Option<Ladder>,
    /// Whether the leader may raise their own bid.
    pub allow_self_raise: bool,
    /// The price at which the auction ends at once.
    pub buy_now: Option<Amount>,
    /// The price below which the auction does not sell, which only the host is shown.
    pub reserve: Option<Amount>,
    /// When bidding opens, in milliseconds since 1970; None for at once.
    pub starts_at: Option<u64>,
    /// The auction whose end opens this one.
    pub follows: Option<Follows>,
    /// Whether bids are kept until the opening.
    pub allow_prebids: bool,
    /// Main image.
    pub image_url: Option<String>,
    /// Further images, at most ten.
    pub images: Vec<String>,
    /// Condition of the item.
    pub condition: Option<String>,
    /// Name to show beside the host's.
    pub seller_name: Option<String>,
    /// None for `extend`.
    pub anti_snipe_mode: Option<AntiSnipeMode>,
    /// A bid this close to the end is late; None for the default of the deployment.
    pub anti_snipe_window_seconds: Option<u64>,
    /// Seconds that a late bid adds; None for the default of the deployment.
    pub anti_snipe_extension_seconds: Option<u64>,
    /// Most extensions; None for the default of the deployment.
    pub anti_snipe_max_extensions: Option<u64>,
    /// Whether the auction gets a video channel.
    pub video: bool,
}

/// Seconds that an auction may last.
pub(crate) const DURATION_SECONDS: RangeInclusive<u64> = 5..=604_800;
/// Most seconds of an anti-snipe window or extension: no more than the longest auction.
pub(crate) const MAX_ANTI_SNIPE_SECONDS: u64 = *DURATION_SECONDS.end();
/// Most seconds from the end of an auction to the opening of one that follows it: a day.
pub(crate) const MAX_GAP_SECONDS: u64 = 86_400;
/// Most extensions of one auction.
pub(crate) const MAX_EXTENSIONS: u64 = 1_000_000;
/// Most images beside the main one.
pub(crate) const MAX_IMAGES: usize = 10;
/// Longest title, in characters.
pub(crate) const MAX_TITLE_CHARACTERS: usize = 500;
/// Longest description, in characters.
pub(crate) const MAX_DESCRIPTION_CHARACTERS: usize = 20_000;
/// Longest category, condition or seller's name, in characters.
pub(crate) const MAX_SHORT_TEXT_CHARACTERS: usize = 200;
/// Longest address of an image, in characters.
pub(crate) const MAX_ADDRESS_CHARACTERS: usize = 2_000;

/// Reads `POST /auctions`. Photos below `photos_url`, which is the deployment's own, are allowed wherever it is.
///
/// # Errors
/// `invalid_request` or `invalid_amount`, naming the field.
pub fn parse_auction_create(body: &[u8], photos_url: Option<&str>) -> Result<AuctionCreate, Failure> {
    let fields = Fields::parse(body)?;
    let anti_snipe = fields.object("anti_snipe")?;
    let anti_snipe = anti_snipe.as_ref();
    let seconds = |name| anti_snipe.map_or(Ok(None), |part| part.optional_whole(name, 0, MAX_ANTI_SNIPE_SECONDS));
    let image_url = fields.optional_text("image_url", 1, MAX_ADDRESS_CHARACTERS)?;
    let images = fields.texts("images", MAX_IMAGES)?;
    for address in image_url.iter().chain(&images) {
        check_address(address, photos_url)?;
    }
    let duration_seconds = fields.whole("duration", *DURATION_SECONDS.start(), *DURATION_SECONDS.end())?;
    let window = seconds("window")?;
    if window.is_some_and(|window| window > duration_seconds) {
        return Err(Failure::new(Code::InvalidRequest, "anti_snipe.window must not be longer than duration"));
    }
    let (starting_bid, buy_now) = (fields.amount("starting_bid")?, fields.optional_amount("buy_now_price")?);
    if buy_now.is_some_and(|buy_now| buy_now < starting_bid) {
        return Err(Failure::new(Code::InvalidRequest, "buy_now_price must not be below starting_bid"));
    }
    let (starts_at, follows) = (fields.optional_time("starts_at")?, follows(&fields)?);
    if starts_at.is_some() && follows.is_some() {
        return Err(Failure::new(Code::InvalidRequest, "starts_at and follows exclude each other"));
    }
    let allow_prebids = fields.optional_flag("allow_prebids")?;
    if allow_prebids == Some(true) && starts_at.is_none() && follows.is_none() {
        return Err(Failure::new(Code::InvalidRequest, "allow_prebids needs starts_at or follows"));
    }
    let reserve = fields.optional_amount("reserve_price")?;
    check_reserve(reserve, starting_bid, buy_now)?;
    Ok(AuctionCreate {
        title: fields.text("title", 1, MAX_TITLE_CHARACTERS)?,
        description: fields.optional_text("description", 0, MAX_DESCRIPTION_CHARACTERS)?,
        duration_seconds,
        category: fields.optional_text("category", 1, MAX_SHORT_TEXT_CHARACTERS)?,
        starting_bid,
        increments: increments(&fields)?,
        allow_self_raise: fields.optional_flag("allow_self_raise")?.unwrap_or(false),
        buy_now,
        reserve,
        starts_at,
        follows,
        allow_prebids: allow_prebids.unwrap_or(false),
        image_url,
        images,
        condition: fields.optional_text("condition", 1, MAX_SHORT_TEXT_CHARACTERS)?,
        seller_name: fields.optional_text("seller_name", 1, MAX_SHORT_TEXT_CHARACTERS)?,
        anti_snipe_mode: anti_snipe.map_or(Ok(None), anti_snipe_mode)?,
        anti_snipe_window_seconds: window,
        anti_snipe_extension_seconds: seconds("extension")?,
        anti_snipe_max_extensions: anti_snipe
            .map_or(Ok(None), |part| part.optional_whole("max_extensions", 0, MAX_EXTENSIONS))?,
        video: fields.optional_flag("video")?.unwrap_or(true),
    })
}

/// `follows`, with its `gap`.
fn follows(fields: &Fields) -> Result<Option<Follows>, Failure> {
    let gap = fields.optional_whole("gap", 0, MAX_GAP_SECONDS)?;
    if fields.has("follows") {
        return Ok(Some(Follows { auction_id: fields.id("follows")?, gap_ms: gap.unwrap_or(0) * 1000 }));
    }
    match gap {
        None => Ok(None),
        Some(_) => Err(Failure::new(Code::InvalidRequest, "gap needs follows")),
    }
}

fn check_reserve(reserve: Option<Amount>, starting_bid: Amount, buy_now: Option<Amount>) -> Result<(), Failure> {
    let Some(reserve) = reserve else { return Ok(()) };
    let refused = |error| Err(Failure::new(Code::InvalidRequest, error));
    if reserve < starting_bid {
        return refused("reserve_price must not be below starting_bid");
    }
    if buy_now.is_some_and(|buy_now| buy_now < reserve) {
        return refused("buy_now_price must not be below reserve_price");
    }
    Ok(())
}

fn anti_snipe_mode(part: &Fields) -> Result<Option<AntiSnipeMode>, Failure> {
    let Some(mode) = part.optional_text("mode", 1, 20)? else { return Ok(None) };
    let unknown = |_| Failure::new(Code::InvalidRequest, "anti_snipe.mode must be extend, reset or off");
    mode.parse().map(Some).map_err(unknown)
}

/// `minimum_increment`, or `increments`: bands, or the name of a preset.
fn increments(fields: &Fields) -> Result<Option<Ladder>, Failure> {
    let refused = |error: String| Err(Failure::new(Code::InvalidRequest, error));
    let flat = fields.optional_amount("minimum_increment")?.map(Ladder::flat);
    if !fields.has("increments") {
        return Ok(flat);
    }
    if flat.is_some() {
        return refused("minimum_increment and increments exclude each other".to_owned());
    }
    if fields.is_text("increments") {
        let name = fields.text("increments", 1, 20)?;
        return match name.parse::<Preset>() {
            Ok(preset) => Ok(Some(preset.into())),
            Err(_) => refused(format!("increments must be bands or one of {}", Preset::NAMES.join(", "))),
        };
    }
    let band = |band: &Fields| Ok(Band { from_cents: band.amount_or_zero("from")?, step: band.amount("step")? });
    let bands = fields.objects("increments", Ladder::MAX_BANDS)?.iter().map(band).collect::<Result<_, Failure>>();
    let bands = bands.map_err(|failure| Failure::new(failure.code, format!("increments: {}", failure.error)))?;
    match Ladder::new(bands) {
        Ok(ladder) => Ok(Some(ladder)),
        Err(error) => refused(format!("increments: {error}")),
    }
}

fn check_address(address: &str, photos_url: Option<&str>) -> Result<(), Failure> {
    let is_own =
        photos_url.and_then(|own| address.strip_prefix(own)).is_some_and(|path| path.starts_with('/') && !climbs(path));
    let uri = address.parse::<http::Uri>().ok();
    let is_web = uri.is_some_and(|uri| {
        // Every watcher's browser fetches it: no login, and nothing in the watcher's own network.
        let is_public = |of: &http::uri::Authority| !of.as_str().contains('@') && (is_own || !is_private(of.host()));
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some_and(is_public)
    });
    if is_web && address.chars().count() <= MAX_ADDRESS_CHARACTERS {
        Ok(())
    } else {
        Err(Failure::new(Code::InvalidRequest, "image_url and images must be http or https addresses"))
    }
}

/// Whether a browser takes a part of this path for the folder above.
fn climbs(path: &str) -> bool {
    let is_above = |part: &str| matches!(&*part.to_ascii_lowercase(), ".." | "%2e%2e" | ".%2e" | "%2e.");
    path.split(['/', '\\']).any(is_above)
}

/// Whether a host is an address of the machine itself, its link or a private network.
fn is_private(host: &str) -> bool {
    match host.trim_matches(['[', ']']).parse() {
        Ok(IpAddr::V4(address)) => {
            address.is_loopback() || address.is_private() || address.is_link_local() || address.is_unspecified()
        }
        Ok(IpAddr::V6(address)) => {
            address.is_loopback()
                || address.is_unique_local()
                || address.is_unicast_link_local()
                || address.is_unspecified()
                || address.to_ipv4_mapped().is_some()
        }
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserve_lies_between_start_and_buy_now_price() {
        let cents = |cents| Amount::from_cents(cents).expect("an amount");
        for (reserve, buy_now, allowed) in
            [(999, None, false), (1_000, None, true), (2_000, Some(2_000), true), (2_001, Some(2_000), false)]
        {
            let checked = check_reserve(Some(cents(reserve)), cents(1_000), buy_now.map(cents));
            assert_eq!(checked.is_ok(), allowed, "{reserve} {buy_now:?}");
        }
        assert!(check_reserve(None, cents(1_000), None).is_ok());
    }

    #[test]
    fn images_have_public_addresses() {
        let own = Some("http://127.0.0.1:9000/photos");
        let check =
            |address: &str, allowed: bool| assert_eq!(check_address(address, own).is_ok(), allowed, "{address}");
        for address in ["https://example.com/a.jpg?b=c@d", "http://203.0.113.9/x", "https://[2001:db8::1]:8443/x"] {
            check(address, true);
        }
        for address in ["http://127.0.0.1:9000/photos/a.png", "http://127.0.0.1:9000/photos/b/c.png"] {
            check(address, true);
        }
        for address in [
            "https://anna:secret@example.com/a.jpg",
            "https://anna@example.com/",
            "http://169.254.169.254/latest/meta-data",
            "http://127.0.0.1:8000/",
            "http://127.0.0.1:9000/photos",
            "http://127.0.0.1:9000/photosets/a.png",
            "http://127.0.0.1:9000/photos/../admin",
            "http://127.0.0.1:9000/photos/%2E%2e/admin",
            "http://anna@127.0.0.1:9000/photos/a.png",
            "http://localhost/",
            "http://10.1.2.3/",
            "http://192.168.1.1/",
            "http://[::1]/",
            "http://[fe80::1]/",
            "http://[fd00::1]/",
            "http://[::ffff:10.0.0.1]/",
            "http://0.0.0.0/",
            "javascript:alert(1)",
            "ftp://example.com/a.jpg",
            "/a.jpg",
        ] {
            check(address, false);
        }
    }
}

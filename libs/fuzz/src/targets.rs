//! The parsers, each with the rules that hold for every input: which codes it may answer with, what is true of that
//! which it accepts, and what is equal after a round trip.

use domain::{Amount, AuctionId, BidId, UserId};
use futures_util::FutureExt;
use identity::{Settings, Verifier};
use protocol::frames::ClientFrame;
use protocol::input::{self, Fields};
use protocol::socketio::{EnginePacket, SEPARATOR, SocketPacket, name_and_data};
use protocol::{
    AuctionClosed, Code, Failure, MAX_LOSERS_IN_PART, Person, Record, Talk, characters, parse_auction_create,
    parse_pagination, parse_place_bid, parse_profile_change,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::runtime::{Builder, Runtime};

/// A parser and its rules.
pub struct Target {
    /// Its name, and that of its folder in the corpus.
    pub name: &'static str,
    /// Parses an input. The error is the rule that is broken.
    pub check: fn(&[u8]) -> Result<Outcome, String>,
}

/// The outcome for an input.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The parser took it.
    Accepted,
    /// The parser refused it, for this reason.
    Refused(String),
}

/// Characters of a name in these tests.
const MAX_NAME: usize = 64;

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "auction-create", check: auction_create },
    Target { name: "place-bid", check: place_bid },
    Target { name: "profile", check: profile },
    Target { name: "fields", check: fields },
    Target { name: "query", check: query },
    Target { name: "frame", check: frame },
    Target { name: "engine-packets", check: engine_packets },
    Target { name: "socket-packet", check: socket_packet },
    Target { name: "token", check: token },
    Target { name: "record", check: record },
    Target { name: "talk", check: talk },
    Target { name: "notification", check: notification },
    Target { name: "id", check: id },
    Target { name: "money", check: money },
    Target { name: "name", check: name },
    Target { name: "email", check: email },
];

type Checked = Result<Outcome, String>;

fn rule(holds: bool, broken: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(broken.to_owned()) }
}

fn refused(reason: impl Into<String>) -> Checked {
    Ok(Outcome::Refused(reason.into()))
}

/// A failure that a client may see: of these codes, with a sentence.
fn failure(failure: &Failure, codes: &[Code]) -> Checked {
    rule(codes.contains(&failure.code), &format!("code {}", failure.code.name()))?;
    rule(failure.code.status().is_client_error(), "the status is no client error")?;
    rule(!failure.error.is_empty() && failure.error.len() < 300, "the sentence is empty or endless")?;
    refused(failure.error.clone())
}

const OF_BODIES: &[Code] = &[Code::InvalidRequest, Code::InvalidAmount];

/// A value that is written and parsed again is the same.
fn round_trip<T: Serialize + DeserializeOwned + PartialEq>(value: &T) -> Result<String, String> {
    let text = serde_json::to_string(value).map_err(|error| format!("it cannot be written: {error}"))?;
    let again: T = serde_json::from_str(&text).map_err(|error| format!("it cannot be read again: {error}"))?;
    rule(again == *value, "it is another after a round trip")?;
    Ok(text)
}

fn is_amount(amount: Amount) -> Result<(), String> {
    rule((1..=Amount::MAX_CENTS).contains(&amount.cents()), "the amount is out of range")?;
    rule(Amount::parse(&amount.to_string()) == Ok(amount), "the amount is another after a round trip")
}

fn is_clean(text: &str, min: usize, max: usize) -> Result<(), String> {
    rule((min..=max).contains(&text.chars().count()), "a text has another length")?;
    rule(characters::are_allowed(text), "a text has a forbidden character")?;
    rule(min == 0 || characters::are_visible(text), "a text is invisible")
}

fn auction_create(input: &[u8]) -> Checked {
    let auction = match parse_auction_create(input, Some("http://127.0.0.1:9000/photos")) {
        Ok(auction) => auction,
        Err(error) => return failure(&error, OF_BODIES),
    };
    is_clean(&auction.title, 1, 500)?;
    is_amount(auction.starting_bid)?;
    let bands = auction.increments.iter().flat_map(domain::Ladder::bands);
    bands.map(|band| band.step).try_for_each(is_amount)?;
    rule((5..=604_800).contains(&auction.duration_seconds), "the duration is out of range")?;
    rule(auction.starts_at.is_none() || auction.follows.is_none(), "it has two starts")?;
    rule(auction.images.len() <= 10, "there are too many images")?;
    for address in auction.image_url.iter().chain(&auction.images) {
        rule(address.to_ascii_lowercase().starts_with("http"), "an image is no web address")?;
    }
    Ok(Outcome::Accepted)
}

fn bidder() -> Result<Person, String> {
    let user_id = "00000000-0000-4000-8000-00000000000a".parse().map_err(|_| "no id")?;
    Ok(Person { user_id, username: "anna".to_owned() })
}

fn place_bid(input: &[u8]) -> Checked {
    // The first line, if there are two, is the header.
    let (key, body) = match input.iter().position(|byte| *byte == b'\n') {
        Some(end) => (std::str::from_utf8(&input[..end]).ok(), &input[end + 1..]),
        None => (None, input),
    };
    match parse_place_bid(body, key, bidder()?) {
        Ok(bid) => bid.amount.into_iter().chain(bid.max_amount).try_for_each(is_amount).map(|()| Outcome::Accepted),
        Err(error) => failure(&error, OF_BODIES),
    }
}

fn profile(input: &[u8]) -> Checked {
    let change = match parse_profile_change(input) {
        Ok(change) => change,
        Err(error) => return failure(&error, &[Code::InvalidRequest]),
    };
    change.name.map_or(Ok(()), |name| is_clean(&name, 0, 200))?;
    change.phone.map_or(Ok(()), |phone| rule(phone.is_ascii() && phone.len() <= 32, "the phone number is none"))?;
    Ok(Outcome::Accepted)
}

/// The readers that events of sockets use.
fn fields(input: &[u8]) -> Checked {
    let fields = match Fields::parse(input) {
        Ok(fields) => fields,
        Err(error) => return failure(&error, &[Code::InvalidRequest]),
    };
    let read = || -> Result<String, Failure> {
        let _: AuctionId = fields.id("auction_id")?;
        let _: Option<UserId> = fields.optional_id("user_id")?;
        fields.optional_whole("last_seq", 0, u64::MAX)?;
        fields.optional_flag("video")?;
        fields.texts("images", 10)?;
        fields.object("anti_snipe")?.map_or(Ok(None), |part| part.optional_whole("window", 0, 3_600))?;
        fields.optional_amount("amount")?;
        fields.text("message", 1, 500)
    };
    match read() {
        Ok(message) => is_clean(&message, 1, 500).map(|()| Outcome::Accepted),
        Err(error) => failure(&error, OF_BODIES),
    }
}

fn query(input: &[u8]) -> Checked {
    let Ok(text) = std::str::from_utf8(input) else { return refused("not UTF-8") };
    let find = |name: &str| {
        let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(found, _)| *found == name).map(|(_, value)| value.to_owned()).next()
    };
    match parse_pagination(find, 20, 100) {
        Ok(page) => {
            rule((1..=100).contains(&page.limit), "the limit is out of range")?;
            rule(i64::try_from(page.offset).is_ok(), "the offset is out of range")?;
            Ok(Outcome::Accepted)
        }
        Err(error) => failure(&error, &[Code::InvalidRequest]),
    }
}

fn frame(input: &[u8]) -> Checked {
    let Ok(text) = std::str::from_utf8(input) else { return refused("not UTF-8") };
    match serde_json::from_str::<ClientFrame<'_>>(text) {
        Ok(frame) => {
            for part in [frame.data, frame.id].into_iter().flatten() {
                rule(text.contains(part.get()), "a part is not as it was sent")?;
            }
            Ok(Outcome::Accepted)
        }
        Err(error) => refused(format!("{:?}", error.classify())),
    }
}

fn engine_packets(input: &[u8]) -> Checked {
    let Ok(body) = std::str::from_utf8(input) else { return refused("not UTF-8") };
    for text in body.split(SEPARATOR) {
        let Some(packet) = EnginePacket::decode(text) else { return refused("no packet") };
        let encoded = packet.encode();
        rule(EnginePacket::decode(&encoded) == Some(packet), "the packet is another after a round trip")?;
        rule(text.starts_with(&encoded), "the packet is not as it was sent")?;
        if let EnginePacket::Message(packet) = packet {
            socket_packet(packet.as_bytes())?;
        }
    }
    Ok(Outcome::Accepted)
}

fn socket_packet(input: &[u8]) -> Checked {
    let Ok(text) = std::str::from_utf8(input) else { return refused("not UTF-8") };
    let Some((namespace, packet)) = SocketPacket::decode(text) else { return refused("no packet") };
    rule(namespace.starts_with('/') && !namespace.contains(','), "the namespace is none")?;
    let data = match packet {
        SocketPacket::Connect(data) | SocketPacket::ConnectError(data) => data,
        SocketPacket::Disconnect => "",
        SocketPacket::Event { list, .. }
        | SocketPacket::Acknowledgement { list, .. }
        | SocketPacket::BinaryEvent { list, .. }
        | SocketPacket::BinaryAcknowledgement { list, .. } => list,
    };
    // Data that is no JSON may look like a namespace.
    if !data.starts_with('/') {
        let encoded = packet.encode(namespace);
        rule(SocketPacket::decode(&encoded) == Some((namespace, packet)), "the packet is another after a round trip")?;
    }
    let Some((_, event_data)) = name_and_data(data) else { return refused("no event") };
    rule(serde_json::from_str::<&RawValue>(event_data).is_ok(), "the event's data is no JSON")?;
    Ok(Outcome::Accepted)
}

fn token(input: &[u8]) -> Checked {
    let Ok(text) = std::str::from_utf8(input) else { return refused("not UTF-8") };
    let token = match identity::bearer(Some(text)) {
        Ok(token) => token,
        Err(error) => return refused(error.to_string()),
    };
    thread_local! {
        static VERIFIER: Verifier = Verifier::new(Settings {
            issuer: "https://issuer".to_owned(),
            client_id: "client".to_owned(),
            jwks_url: "http://127.0.0.1:9/keys".to_owned(),
        });
        static CLOCK: std::io::Result<Runtime> = Builder::new_current_thread().enable_time().build();
    }
    // No key is known and none is fetched, so no token may be accepted. A well-formed one waits for its key.
    let verifier = VERIFIER.with(Clone::clone);
    let verified = CLOCK.with(|clock| {
        let clock = clock.as_ref().map_err(ToString::to_string)?;
        Ok::<_, String>(clock.block_on(async { verifier.verify(token).now_or_never() }))
    })?;
    match verified {
        None => Ok(Outcome::Accepted),
        Some(Ok(_)) => Err("a token is accepted without a key".to_owned()),
        Some(Err(error)) => failure(&error.into(), &[Code::Unauthenticated, Code::TokenExpired]),
    }
}

fn record(input: &[u8]) -> Checked {
    let record: Record = match serde_json::from_slice(input) {
        Ok(record) => record,
        Err(error) => return refused(format!("{:?} {}", error.classify(), first_words(&error))),
    };
    round_trip(&record)?;
    rule(record.v <= protocol::RECORD_VERSION, "the version is not known")?;
    rule(record.facts() >= 1, "a record has no fact")?;
    for bid in &record.bids {
        is_amount(bid.amount)?;
        rule(!bid.fact().text().is_empty(), "a fact has no text")?;
    }
    drop(record.state.rules());
    Ok(Outcome::Accepted)
}

fn talk(input: &[u8]) -> Checked {
    match serde_json::from_slice::<Talk>(input) {
        Ok(talk) => round_trip(&talk).map(|_| Outcome::Accepted),
        Err(error) => refused(format!("{:?} {}", error.classify(), first_words(&error))),
    }
}

/// The beginning of a message of serde, without what it repeats of the input.
fn first_words(error: &serde_json::Error) -> String {
    error.to_string().split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn notification(input: &[u8]) -> Checked {
    let closed: AuctionClosed = match serde_json::from_slice(input) {
        Ok(closed) => closed,
        Err(error) => return refused(format!("{:?} {}", error.classify(), first_words(&error))),
    };
    round_trip(&closed)?;
    let (losers, recipients) = (closed.losers.len(), closed.recipients().count());
    rule(recipients == losers + 1 + usize::from(closed.winner.is_some()), "a recipient is missing")?;
    let parts = closed.into_parts().map_err(|error| error.to_string())?;
    rule(parts.iter().map(|part| part.losers.len()).sum::<usize>() == losers, "a loser is missing")?;
    for part in &parts {
        rule(part.losers.len() <= MAX_LOSERS_IN_PART, "a part has too many losers")?;
        let body = part.body().map_err(|error| error.to_string())?;
        let is_xml =
            |c: char| !matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}');
        rule(body.chars().all(is_xml), "SQS does not take the message")?;
    }
    Ok(Outcome::Accepted)
}

fn id(input: &[u8]) -> Checked {
    let Ok(text) = std::str::from_utf8(input) else { return refused("not UTF-8") };
    let id = match input::id::<AuctionId>("id", text) {
        Ok(id) => id,
        Err(error) => return failure(&error, &[Code::InvalidRequest]),
    };
    rule(id.to_string() == text.to_ascii_lowercase(), "the id is another than the text")?;
    rule(text.parse::<BidId>().is_ok() && text.parse::<UserId>().is_ok(), "ids differ in form")?;
    Ok(Outcome::Accepted)
}

fn money(input: &[u8]) -> Checked {
    let Ok(text) = std::str::from_utf8(input) else { return refused("not UTF-8") };
    let amount = match Amount::parse(text) {
        Ok(amount) => amount,
        Err(error) => return refused(error.to_string()),
    };
    is_amount(amount)?;
    let body = format!("{{\"amount\":{text}}}");
    let read = Fields::parse(body.as_bytes()).and_then(|fields| fields.amount("amount"));
    rule(read.is_ok_and(|read| read == amount), "a body gives another amount")?;
    Ok(Outcome::Accepted)
}

fn name(input: &[u8]) -> Checked {
    let text = String::from_utf8_lossy(input);
    let user_id = bidder()?.user_id;
    rule(!input::username(&text, user_id).is_empty(), "a username is empty")?;
    let Some(name) = characters::one_line(&text, MAX_NAME) else { return refused("invisible") };
    is_clean(&name, 1, MAX_NAME)?;
    rule(!name.contains(['\n', '\r', '\t']), "a name has two lines")?;
    Ok(if name == text { Outcome::Accepted } else { Outcome::Refused(format!("{} characters", name.chars().count())) })
}

fn email(input: &[u8]) -> Checked {
    let text = String::from_utf8_lossy(input);
    if !characters::is_email(&text) {
        return refused(format!("{} ats", text.matches('@').count().min(3)));
    }
    rule(text.is_ascii() && text.len() <= 254, "the address is long or not ASCII")?;
    rule(text.matches('@').count() == 1, "the address is more than one")?;
    rule(!text.contains([' ', ',', ';', '<', '>', '"', '\r', '\n']), "the address is a list")?;
    Ok(Outcome::Accepted)
}

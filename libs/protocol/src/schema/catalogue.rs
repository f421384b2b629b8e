//! Every schema by its name, in the form in which the documents show it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use schemars::generate::{Contract, SchemaSettings};
use serde_json::{Map, Value, json};

use super::requests;

/// Where a document keeps its schemas.
pub const PLACE: &str = "/components/schemas";

/// The answer to a bid.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "the type exists for its schema")]
enum BidResult {
    Accepted(crate::bid::PublicAccepted<'static>),
    Refused(crate::bid::PublicRefused<'static>),
}

/// The schemas of these types and of the types in them, by name.
macro_rules! schemas {
    ($contract:expr, $($of:ty),+ $(,)?) => {{
        let mut settings = SchemaSettings::draft2020_12();
        settings.definitions_path = PLACE.into();
        settings.meta_schema = None;
        settings.contract = $contract;
        let mut generator = settings.into_generator();
        $(generator.subschema_for::<$of>();)+
        generator.take_definitions(true)
    }};
}

/// Every schema by its name.
pub fn all() -> BTreeMap<String, Value> {
    let replies = schemas!(
        Contract::Serialize,
        crate::AuctionObject<'static>,
        crate::HostsAuction<'static>,
        crate::AuctionPage<'static>,
        crate::Categories,
        crate::StreamObject<'static>,
        crate::LiveState<'static>,
        crate::BidPage<'static>,
        crate::FactPage,
        crate::TimerObject<'static>,
        crate::Profile,
        crate::OwnBids<'static>,
        crate::Upload<'static>,
        crate::code::ErrorBody,
        crate::ChatMessage,
        crate::ChatDeleted,
        crate::ChatMuted,
        crate::TimerTick,
        crate::frames::Connected<'static>,
        crate::frames::Joined<'static>,
        crate::frames::BidUpdate<'static>,
        crate::frames::Outbid,
        crate::frames::AuctionEnded<'static>,
        crate::frames::AuctionStarted,
        crate::frames::AuctionCancelled<'static>,
        crate::frames::AuctionPaused<'static>,
        crate::frames::AuctionResumed<'static>,
        crate::frames::PersonMoved<'static>,
        crate::frames::PresenceUpdate,
        crate::frames::StreamChanged,
        BidResult,
        requests::Health,
        requests::Ready,
        requests::Time,
        requests::TokenExpiry,
        requests::ChatSent,
        requests::Draining,
        requests::Pong,
        requests::AuctionRoom,
        requests::Nothing,
    );
    let mut all: BTreeMap<String, Value> = replies.into_iter().chain(request_bodies()).collect();
    for (name, schema) in &mut all {
        // A rejected bid is an error with further fields.
        finish(schema, name != "Error");
    }
    all
}

/// The schemas of what clients send.
fn request_bodies() -> Map<String, Value> {
    schemas!(
        Contract::Deserialize,
        requests::CreateAuction,
        requests::SetSlowMode,
        requests::BlockBidder,
        requests::ChangeProfile,
        requests::AskUpload,
        requests::PlaceBid,
        requests::Authenticate,
        requests::JoinAuction,
        requests::WriteMessage,
        requests::DeleteMessage,
        requests::MutePerson,
    )
}

/// Closes objects to fields that are not listed, so that a test finds a field that is missing here, and says what the
/// formats mean.
fn finish(schema: &mut Value, close: bool) {
    match schema {
        Value::Object(fields) => {
            if close && fields.contains_key("properties") {
                fields.entry("additionalProperties").or_insert(json!(false));
            }
            explain(fields);
            collapse(fields);
            if let Some(Value::Object(properties)) = fields.get_mut("properties") {
                explain_times(properties);
            }
            for value in fields.values_mut() {
                finish(value, close);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| finish(value, close)),
        _ => {}
    }
}

fn explain(schema: &mut Map<String, Value>) {
    let meaning = match schema.get("format").and_then(Value::as_str) {
        Some("decimal") => "In the auction's currency, at most two decimals",
        Some("date-time") => "RFC 3339 in UTC with milliseconds",
        _ => return,
    };
    let description = match schema.get("description").and_then(Value::as_str) {
        Some(description) => format!("{description} {meaning}"),
        None => meaning.to_owned(),
    };
    schema.insert("description".to_owned(), description.into());
}

/// Writes a choice of constants as an `enum`, with the meaning of each in the description.
fn collapse(schema: &mut Map<String, Value>) {
    let Some(Value::Array(choices)) = schema.get("oneOf") else { return };
    let constant = |choice: &Value| choice.get("const").and_then(Value::as_str).map(str::to_owned);
    let Some(names) = choices.iter().map(constant).collect::<Option<Vec<String>>>() else { return };
    let meanings: Vec<String> = choices
        .iter()
        .zip(&names)
        .filter_map(|(choice, name)| Some(format!("`{name}`: {}", choice.get("description")?.as_str()?)))
        .collect();
    let description = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    let description =
        [description].into_iter().chain(meanings.iter().map(String::as_str)).collect::<Vec<_>>().join(" \n");
    schema.remove("oneOf");
    schema.insert("type".to_owned(), "string".into());
    schema.insert("enum".to_owned(), names.into());
    schema.insert("description".to_owned(), description.into());
}

/// Says the unit of times that are integers.
fn explain_times(properties: &mut Map<String, Value>) {
    for name in ["end_time", "server_time", "timestamp", "expires_at"] {
        let Some(Value::Object(schema)) = properties.get_mut(name) else { continue };
        let description = schema.get("description").and_then(Value::as_str).unwrap_or_default();
        let is_time = [json!("integer"), json!(["integer", "null"])].iter().any(|of| schema.get("type") == Some(of));
        if is_time && !description.contains("Milliseconds since 1970") {
            let description = format!("{description} Milliseconds since 1970, by the clock of the auction's Redis");
            schema.insert("description".to_owned(), description.trim().into());
        }
    }
}

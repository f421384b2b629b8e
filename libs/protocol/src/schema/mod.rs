//! JSON Schemas of all public bodies and frames, and the API documents made of them.
//!
//! The committed `openapi.json` and `asyncapi.json` of the services are output of this module; a test of `flash`
//! compares them, and writes them if asked to. Replies are described as they are serialized, requests as the parsers
//! accept them.

mod asyncapi;
mod openapi;
mod requests;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

pub use asyncapi::asyncapi;
use domain::Names;
pub use openapi::openapi;
use schemars::generate::{Contract, SchemaSettings};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use crate::wire::Named;

/// Where a document keeps its schemas.
const PLACE: &str = "/components/schemas";

macro_rules! described {
    ($($(#[$doc:meta])* $name:ident $schema:tt;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug)]
            pub struct $name;

            impl JsonSchema for $name {
                fn inline_schema() -> bool {
                    true
                }

                fn schema_name() -> Cow<'static, str> {
                    stringify!($name).into()
                }

                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    json_schema!($schema)
                }
            }
        )*
    };
}

described! {
    /// A UUID in its 36-character form, in lower case.
    Id {
        "type": "string",
        "format": "uuid",
        "pattern": "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
    };
    /// Money in a reply.
    Money { "type": "number", "format": "decimal", "minimum": 0.01, "maximum": 199_999_999.98 };
    /// Money in a reply, or 0.
    MoneyOrZero { "type": "number", "format": "decimal", "minimum": 0, "maximum": 199_999_999.98 };
    /// Money in a request.
    AnyMoney {
        "description": "A number or a decimal string with at most two decimals, more than 0, at most 99999999.99",
        "anyOf": [
            { "type": "number", "exclusiveMinimum": 0, "maximum": 99_999_999.99 },
            { "type": "string", "pattern": "^[0-9]+(\\.[0-9]{1,2})?$" },
        ],
    };
    /// A time in a reply about an auction or a person.
    Time {
        "type": "string",
        "format": "date-time",
        "pattern": "^\\d{4}-\\d{2}-\\d{2}T\\d{2}:\\d{2}:\\d{2}\\.\\d{3}Z$",
    };
    /// The outcome of an auction that was not cancelled.
    EndOutcome { "type": "string", "enum": [domain::Outcome::Sold.name(), domain::Outcome::Unsold.name()] };
}

/// The answer to a bid.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "the type exists for its schema")]
enum BidResult {
    Accepted(crate::bid::PublicAccepted<'static>),
    Refused(crate::bid::PublicRefused<'static>),
}

impl<T: Names> JsonSchema for Named<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Named".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": T::NAMES })
    }
}

/// Every schema by its name.
fn all() -> BTreeMap<String, Value> {
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
    let replies = schemas!(
        Contract::Serialize,
        crate::AuctionObject<'static>,
        crate::HostsAuction<'static>,
        crate::AuctionPage<'static>,
        crate::StreamObject<'static>,
        crate::LiveState<'static>,
        crate::BidPage<'static>,
        crate::TimerObject<'static>,
        crate::Profile,
        crate::OwnBids<'static>,
        crate::Failure,
        crate::ChatMessage,
        crate::ChatDeleted,
        crate::ChatMuted,
        crate::TimerTick,
        crate::frames::Connected<'static>,
        crate::frames::Joined<'static>,
        crate::frames::BidUpdate<'static>,
        crate::frames::AuctionEnded<'static>,
        crate::frames::AuctionStarted,
        crate::frames::AuctionCancelled<'static>,
        crate::frames::PersonMoved<'static>,
        crate::frames::PresenceUpdate,
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
    let requests = schemas!(
        Contract::Deserialize,
        requests::CreateAuction,
        requests::SetSlowMode,
        requests::ChangeProfile,
        requests::PlaceBid,
        requests::Authenticate,
        requests::JoinAuction,
        requests::WriteMessage,
        requests::DeleteMessage,
        requests::MutePerson,
    );
    let mut all: BTreeMap<String, Value> = replies.into_iter().chain(requests).collect();
    for (name, schema) in &mut all {
        // A rejected bid is an error with further fields.
        finish(schema, name != "Error");
    }
    all
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
        if schema.get("type") == Some(&json!("integer")) && !description.contains("Milliseconds since 1970") {
            let description = format!("{description} Milliseconds since 1970, by the clock of the auction's Redis");
            schema.insert("description".to_owned(), description.trim().into());
        }
    }
}

/// A member of a room always learns whether they lead.
pub(crate) fn require_you_are_winning(schema: &mut Schema) {
    if let Some(Value::Array(required)) = schema.get_mut("required") {
        required.push("you_are_winning".into());
    }
}

/// A reference to a schema.
fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#{PLACE}/{name}") })
}

/// The schemas that `document` refers to, directly or by others.
fn referenced(document: &Value) -> BTreeMap<String, Value> {
    let all = all();
    let mut found = BTreeMap::new();
    let mut open = BTreeSet::new();
    references(document, &mut open);
    while let Some(name) = open.pop_first() {
        let schema = all.get(&name).unwrap_or_else(|| panic!("no schema is called {name}"));
        if found.insert(name, schema.clone()).is_none() {
            references(schema, &mut open);
        }
        open.retain(|name| !found.contains_key(name));
    }
    found
}

fn references(value: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(target)) = fields.get("$ref")
                && let Some(name) = target.strip_prefix(&format!("#{PLACE}/"))
            {
                names.insert(name.to_owned());
            }
            fields.values().for_each(|value| references(value, names));
        }
        Value::Array(values) => values.iter().for_each(|value| references(value, names)),
        _ => {}
    }
}

/// The text of a document, as it is committed.
fn text(document: &Value) -> String {
    format!("{document:#}\n")
}

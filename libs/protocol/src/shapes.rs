//! JSON Schemas of the values that several bodies and frames share.

use std::borrow::Cow;

use domain::Names;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use crate::wire::Named;

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
    /// A head of the chain.
    Head { "type": "string", "pattern": "^[0-9a-f]{16}$" };
    /// Money in a reply.
    Money { "type": "number", "format": "decimal", "minimum": 0.01, "maximum": 199_999_999.98 };
    /// Money in a reply, or 0.
    MoneyOrZero { "type": "number", "format": "decimal", "minimum": 0, "maximum": 199_999_999.98 };
    /// Money in a request.
    AnyMoney {
        "description": "A number or a decimal string with at most two decimals, more than 0, at most 99999999.99",
        "anyOf": [
            { "type": "number", "minimum": 0.01, "maximum": 99_999_999.99 },
            { "type": "string", "pattern": "^[0-9]+(\\.[0-9]{1,2})?$" },
        ],
    };
    /// A time in a request.
    StartTime {
        "type": "string",
        "format": "date-time",
        "pattern": "^\\d{4}-\\d{2}-\\d{2}[Tt ]\\d{2}:\\d{2}:\\d{2}(\\.\\d+)?[Zz]$",
    };
    /// Money in a request, or 0.
    AnyMoneyOrZero {
        "description": "A number or a decimal string with at most two decimals, at most 99999999.99",
        "anyOf": [
            { "type": "number", "minimum": 0, "maximum": 99_999_999.99 },
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

/// A member of a room always learns whether they lead.
pub(crate) fn require_you_are_winning(schema: &mut Schema) {
    if let Some(Value::Array(required)) = schema.get_mut("required") {
        required.push("you_are_winning".into());
    }
}

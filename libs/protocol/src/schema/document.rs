//! The common parts of OpenAPI and AsyncAPI documents: references to schemas, and their text.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::catalogue::{PLACE, all};

/// A reference to a schema.
pub fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#{PLACE}/{name}") })
}

/// The schemas that `document` refers to, directly or by others.
pub fn referenced(document: &Value) -> BTreeMap<String, Value> {
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
pub fn text(document: &Value) -> String {
    format!("{document:#}\n")
}

//! Compares a stream or consumer as it is with its file, field by field.

use serde_json::{Map, Value};

/// Fields that an operator chooses for a deployment. No file has them, and no command changes them.
const OPERATORS: [&str; 3] = ["placement", "compression", "pause_until"];
/// Limits of a stream. A lower one may delete messages, or refuse ones that are accepted now. 0 and -1 are no limit.
const LIMITS: [&str; 6] = ["max_bytes", "max_msgs", "max_msgs_per_subject", "max_age", "max_msg_size", "max_consumers"];
/// A time that is not set, as the server writes it.
const NO_TIME: &str = "0001-01-01T00:00:00Z";
/// Fields with which an operator has forbidden something. The server takes none of them back.
const PROTECTIONS: [&str; 3] = ["deny_delete", "deny_purge", "sealed"];

/// The action of `apply` on a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handling {
    /// It makes the server's value the declared one.
    Changed,
    /// It keeps the server's value: an operator has chosen it, or the declared one could lose data.
    Kept,
}

/// A field that differs.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldDifference {
    /// The field's name in the file.
    pub field: String,
    /// The value in the file; null if it has none.
    pub declared: Value,
    /// The server's value; null if it has none.
    pub actual: Value,
    /// The action of `apply` on it.
    pub handling: Handling,
}

/// Every field in which the server's configuration differs from the declared one. `may_shrink`: changes that could lose
/// data are made as well.
pub fn compare(declared: &Map<String, Value>, actual: &Map<String, Value>, may_shrink: bool) -> Vec<FieldDifference> {
    let mut differences = Vec::new();
    let null = Value::Null;
    let mut add = |field: String, declared: &Value, actual: &Value, is_kept: bool| {
        let handling = if is_kept { Handling::Kept } else { Handling::Changed };
        differences.push(FieldDifference { field, declared: declared.clone(), actual: actual.clone(), handling });
    };
    for (field, want) in declared {
        let have = actual.get(field).unwrap_or(&null);
        if field == "metadata" {
            for (key, want) in want.as_object().into_iter().flatten() {
                let have = &have[key];
                if want != have {
                    add(format!("metadata.{key}"), want, have, false);
                }
            }
        } else if want != have && !(is_default(want) && is_default(have)) {
            add(field.clone(), want, have, !may_shrink && loses(field, want, have));
        }
    }
    for (field, have) in actual {
        if !declared.contains_key(field) && field != "metadata" && !is_default(have) {
            let is_kept = OPERATORS.contains(&field.as_str()) || loses(field, &null, have);
            add(field.clone(), &null, have, is_kept);
        }
    }
    differences
}

/// The server's configuration with the changes that are made.
pub fn merged(actual: &Map<String, Value>, differences: &[FieldDifference]) -> Value {
    let mut merged = actual.clone();
    for difference in differences.iter().filter(|difference| difference.handling == Handling::Changed) {
        let FieldDifference { field, declared, .. } = difference;
        if let Some(key) = field.strip_prefix("metadata.") {
            let metadata = merged.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
            metadata[key] = declared.clone();
        } else if declared.is_null() {
            merged.remove(field);
        } else {
            merged.insert(field.clone(), declared.clone());
        }
    }
    Value::Object(merged)
}

/// Whether this is what the server means where a configuration says nothing.
fn is_default(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => matches!(number.as_i64(), Some(0 | -1)),
        Value::String(text) => matches!(text.as_str(), "" | "none" | "default" | NO_TIME),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_default),
    }
}

/// Whether data, copies of it or a protection could be lost if `have` became `want`.
fn loses(field: &str, want: &Value, have: &Value) -> bool {
    let limit = |value: &Value| value.as_i64().filter(|limit| *limit > 0).unwrap_or(i64::MAX);
    if LIMITS.contains(&field) {
        return limit(want) < limit(have);
    }
    if PROTECTIONS.contains(&field) {
        return have == &Value::Bool(true);
    }
    match field {
        "num_replicas" => want.as_i64() < have.as_i64(),
        // A full stream would delete its oldest messages.
        "discard" => want == "old",
        // Messages on these subjects would no longer be stored.
        "subjects" => {
            let wanted = want.as_array().map_or(&[][..], Vec::as_slice);
            have.as_array().into_iter().flatten().any(|subject| !wanted.contains(subject))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            other => panic!("{other} is not an object"),
        }
    }

    /// Compares one field, and returns what is done about it.
    fn handling(field: &str, declared: Value, actual: Value, may_shrink: bool) -> Option<Handling> {
        let of = |value: Value| if value.is_null() { Map::new() } else { map(json!({ field: value })) };
        let found = compare(&of(declared), &of(actual), may_shrink);
        assert!(found.len() <= 1, "{found:?}");
        found.first().map(|difference| difference.handling)
    }

    #[test]
    fn nothing_that_could_lose_data_is_changed_without_permission() {
        let (changed, kept) = (Some(Handling::Changed), Some(Handling::Kept));
        let null = Value::Null;
        for (field, declared, actual, expected, with_permission) in [
            ("max_bytes", json!(4), json!(4), None, None),
            ("max_bytes", json!(4), json!(2), changed, changed),
            ("max_bytes", json!(4), json!(8), kept, changed),
            ("max_bytes", json!(4), json!(-1), kept, changed),
            ("max_bytes", json!(-1), json!(8), changed, changed),
            ("max_age", json!(5), json!(0), kept, changed),
            ("max_age", json!(0), json!(5), changed, changed),
            ("max_msgs", json!(-1), json!(0), None, None),
            ("num_replicas", json!(1), json!(3), kept, changed),
            ("num_replicas", json!(3), json!(1), changed, changed),
            ("discard", json!("new"), json!("old"), changed, changed),
            ("discard", json!("old"), json!("new"), kept, changed),
            ("subjects", json!(["a"]), json!(["a", "b"]), kept, changed),
            ("subjects", json!(["a", "b"]), json!(["a"]), changed, changed),
            ("deny_purge", json!(false), json!(true), kept, changed),
            ("duplicate_window", json!(5), json!(7), changed, changed),
            ("description", json!("text"), null.clone(), changed, changed),
            ("placement", null.clone(), json!({"tags": ["ssd"]}), kept, kept),
            ("sealed", null.clone(), json!(true), kept, kept),
            ("consumer_limits", null.clone(), json!({"inactive_threshold": 5}), changed, changed),
            ("consumer_limits", null.clone(), json!({}), None, None),
            ("pause_until", null.clone(), json!("0001-01-01T00:00:00Z"), None, None),
            ("pause_until", null.clone(), json!("2026-11-26T00:00:00Z"), kept, kept),
            ("compression", null, json!("none"), None, None),
        ] {
            let name = format!("{field}: {declared} in the file, {actual} in the server");
            assert_eq!(handling(field, declared.clone(), actual.clone(), false), expected, "{name}");
            assert_eq!(handling(field, declared, actual, true), with_permission, "{name}, permitted");
        }
    }

    #[test]
    fn merged_configuration_keeps_what_is_not_changed() {
        let declared = map(json!({"a": 1, "max_bytes": 4, "metadata": {"flash.x": "new"}}));
        let actual = map(json!({
            "a": 2, "max_bytes": 8, "extra": 3, "placement": {"tags": ["ssd"]},
            "metadata": {"flash.x": "old", "_nats.level": "1"},
        }));
        let differences = compare(&declared, &actual, false);
        let fields: Vec<_> = differences.iter().map(|difference| difference.field.as_str()).collect();
        assert_eq!(fields, ["a", "max_bytes", "metadata.flash.x", "extra", "placement"]);
        let expected = json!({
            "a": 1, "max_bytes": 8, "placement": {"tags": ["ssd"]},
            "metadata": {"flash.x": "new", "_nats.level": "1"},
        });
        assert_eq!(merged(&actual, &differences), expected);
        assert!(compare(&declared, &map(merged(&actual, &differences)), true).iter().all(|left| left.field != "a"));
    }
}

//! Validates JSON against JSON Schema, as OpenAPI 3.1 and AsyncAPI 3.0 use it.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

/// Validates a value against a schema whose references point into `document`.
///
/// # Errors
/// When the value does not match; the error names the places.
pub fn matches(document: &Value, schema: &Value, value: &Value) -> Result<()> {
    let whole = json!({"components": document["components"], "allOf": [schema]});
    let validator = jsonschema::draft202012::new(&whole)?;
    let errors: Vec<String> =
        validator.iter_errors(value).map(|error| format!("{error} at {}", error.instance_path())).collect();
    ensure!(errors.is_empty(), "{errors:?} in {value}");
    Ok(())
}

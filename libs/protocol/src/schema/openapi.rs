//! OpenAPI 3.1.

use std::collections::BTreeMap;

use domain::{Names, Status};
use schemars::JsonSchema;
use serde_json::{Map, Value, json};

use super::document::{reference, referenced, text};
use crate::Code;
use crate::api::{COMMON, Kind, Operation, Parameter, Service, Token};
use crate::shapes::Id;

/// The OpenAPI document of a service, as text.
///
/// # Panics
/// If an operation names a schema that does not exist.
#[must_use]
pub fn openapi(service: &Service) -> String {
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for operation in service.operations.iter().chain(COMMON) {
        let item = paths.entry(operation.path).or_default();
        if operation.path.contains("{id}") {
            item.insert("parameters".to_owned(), json!([path_id()]));
        }
        item.insert(operation.method.to_lowercase(), described(operation));
    }
    let paths = json!(paths);
    let schemas = referenced(&paths);
    text(&json!({
        "openapi": "3.1.0",
        "info": {
            "title": service.name,
            "version": "1",
            "description": format!(
                "{} Every path is also served under /api. Errors are always {{error, code}}. \
                 Fields are only added; ignore those you do not know.",
                service.about
            ),
            "license": { "name": "MIT", "identifier": "MIT" },
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "An id or access token of the Cognito user pool",
                },
            },
        },
    }))
}

fn path_id() -> Value {
    json!({ "name": "id", "in": "path", "required": true, "schema": id(), "description": "Identifier of the auction" })
}

fn id() -> Value {
    Id::json_schema(&mut schemars::SchemaGenerator::default()).to_value()
}

fn described(operation: &Operation) -> Value {
    let mut fields = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "responses": responses(operation),
    });
    if !operation.parameters.is_empty() {
        fields["parameters"] = operation.parameters.iter().map(parameter).collect();
    }
    if let Some(body) = operation.body {
        fields["requestBody"] =
            json!({ "required": true, "content": { "application/json": { "schema": reference(body) } } });
    }
    match operation.token {
        Token::None => {}
        Token::Optional => fields["security"] = json!([{}, { "token": [] }]),
        Token::Required => fields["security"] = json!([{ "token": [] }]),
    }
    fields
}

fn parameter(parameter: &Parameter) -> Value {
    let schema = match parameter.kind {
        Kind::Text => json!({ "type": "string" }),
        Kind::Pattern(pattern) => json!({ "type": "string", "pattern": pattern }),
        Kind::Id => id(),
        Kind::Statuses => json!({ "type": "array", "items": { "type": "string", "enum": Status::NAMES } }),
        Kind::OneOf(words) => json!({ "type": "string", "enum": words }),
        Kind::Whole(minimum, None) => json!({ "type": "integer", "minimum": minimum }),
        Kind::Whole(minimum, Some(maximum)) => {
            json!({ "type": "integer", "minimum": minimum, "maximum": maximum })
        }
    };
    json!({
        "name": parameter.name,
        "in": parameter.place,
        "required": false,
        "schema": schema,
        "description": parameter.about,
    })
}

fn responses(operation: &Operation) -> Map<String, Value> {
    let mut responses = Map::new();
    if let Some(error) = operation.error {
        let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
        for code in operation.codes() {
            by_status.entry(code.status().as_u16()).or_default().push(code);
        }
        for (status, codes) in by_status {
            // The HTTP server rejects a large body itself, before the operation sees it.
            let body = if codes == [Code::TooLarge] { "Error" } else { error };
            responses.insert(status.to_string(), error_response(body, &codes));
        }
        let other = json!({
            "description": "Rejected; the code says why",
            "content": { "application/json": { "schema": reference("Error") } },
        });
        responses.insert("default".to_owned(), other);
    }
    for reply in operation.replies {
        let mut response = json!({ "description": reply.about });
        if let Some(body) = reply.body {
            response["content"] = json!({ "application/json": { "schema": reference(body) } });
        }
        responses.insert(reply.status.to_string(), response);
    }
    responses
}

/// The error replies with one status, and their codes.
fn error_response(error: &str, codes: &[Code]) -> Value {
    let names: Vec<&str> = codes.iter().map(|code| code.name()).collect();
    let sentences: Vec<String> = codes.iter().map(|code| format!("`{}`: {}", code.name(), code.sentence())).collect();
    let schema = json!({ "allOf": [reference(error), { "properties": { "code": { "enum": names } } }] });
    let mut response = json!({
        "description": sentences.join(". "),
        "content": { "application/json": { "schema": schema } },
    });
    if codes.iter().any(|code| code.retry_after_seconds().is_some()) {
        let seconds = json!({ "type": "integer", "minimum": 0 });
        response["headers"] =
            json!({ "Retry-After": { "description": "Seconds to wait before the next try", "schema": seconds } });
    }
    response
}

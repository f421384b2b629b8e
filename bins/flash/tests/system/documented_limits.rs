//! Requests that are made from the documents: for each operation one that the document allows, its limits just kept and
//! just broken. A request that the document allows is not refused as malformed, one that it forbids is; each status is
//! listed, and each body is as its schema says.

use anyhow::{Context, Result, ensure};
use flash::stack::Name;
use serde_json::{Map, Value, json};
use testkit::http;
use testkit::schema::matches;

use crate::test_system::TestSystem;

/// Paths without parameters whose replies other tests hold against the document.
const OPERATIONS: [&str; 4] = ["/health", "/ready", "/metrics", "/openapi.json"];
/// Fields of text with a form that no schema describes.
const FORMATTED: [&str; 2] = ["image_url", "phone"];

/// The document of one service, and where it is served.
struct Documented {
    url: String,
    json: Value,
}

/// One operation of it.
struct Operation<'a> {
    service: &'a Documented,
    method: &'a str,
    path: &'a str,
    json: &'a Value,
}

/// A request, and whether the document allows it.
struct Case {
    query: String,
    body: Option<Value>,
    is_valid: bool,
}

impl Documented {
    fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        let reference = schema["$ref"].as_str();
        reference.and_then(|reference| self.json.pointer(reference.trim_start_matches('#'))).unwrap_or(schema)
    }

    fn operations(&self) -> Vec<Operation<'_>> {
        let paths = self.json["paths"].as_object().into_iter().flatten();
        let all = paths.filter(|(path, _)| !OPERATIONS.contains(&path.as_str())).flat_map(|(path, item)| {
            let methods = item.as_object().into_iter().flatten().filter(|(method, _)| *method != "parameters");
            methods.map(move |(method, json)| Operation { service: self, method, path, json })
        });
        all.collect()
    }
}

impl Operation<'_> {
    fn body_schema(&self) -> Option<&Value> {
        let schema = &self.json["requestBody"]["content"]["application/json"]["schema"];
        schema.is_object().then(|| self.service.resolve(schema))
    }

    /// A body that the document allows, with the required fields.
    fn body(&self, auction_id: &str) -> Option<Map<String, Value>> {
        let schema = self.body_schema()?;
        // Where one of several fields is enough, the first one is used.
        let required = [&schema["required"], &schema["anyOf"][0]["required"]].into_iter().filter_map(Value::as_array);
        let required = required.flatten().filter_map(Value::as_str);
        let mut body: Map<String, Value> =
            required.map(|name| (name.to_owned(), sample(name, &schema["properties"][name], auction_id))).collect();
        if schema["properties"]["video"].is_object() {
            body.insert("video".to_owned(), json!(false));
        }
        Some(body)
    }

    /// The plain request, and one for each limit of each parameter and field.
    fn cases(&self, auction_id: &str) -> Vec<Case> {
        let body = self.body(auction_id);
        let plain = body.clone().map(Value::Object);
        let mut cases = vec![Case { query: String::new(), body: plain.clone(), is_valid: true }];
        for parameter in self.json["parameters"].as_array().into_iter().flatten() {
            if parameter["in"] != "query" {
                continue;
            }
            let name = parameter["name"].as_str().unwrap_or_default();
            for (value, is_valid) in limits(&parameter["schema"], true) {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                cases.push(Case { query: format!("?{name}={value}"), body: plain.clone(), is_valid });
            }
        }
        let fields = self.body_schema().and_then(|schema| schema["properties"].as_object());
        for (name, schema) in fields.into_iter().flatten() {
            for (value, is_valid) in limits(self.service.resolve(schema), false) {
                if is_valid && FORMATTED.contains(&name.as_str()) {
                    continue;
                }
                let mut body = body.clone().unwrap_or_default();
                body.insert(name.clone(), value);
                // It is the time after another auction.
                if name == "gap" {
                    body.insert("follows".to_owned(), json!(auction_id));
                }
                cases.push(Case { query: String::new(), body: Some(Value::Object(body)), is_valid });
            }
        }
        cases
    }

    /// Sends a request; its status must be listed, and the reply as the document describes it.
    async fn send(&self, id: &str, token: Option<&str>, query: &str, body: Option<&Value>) -> Result<u16> {
        let url = format!("{}{}{query}", self.service.url, self.path.replace("{id}", id));
        let body = body.map(ToString::to_string).unwrap_or_default();
        let method = self.method.to_uppercase();
        let request = http::request(&method, &url, token).header("content-type", "application/json");
        let reply = http::send(request.body(body.clone().into())?).await?;
        let what = format!("{method} {url} {body}: {} {}", reply.status, reply.text);
        let response = self.json["responses"].get(reply.status.to_string());
        let response = response.with_context(|| format!("the status is not listed. {what}"))?;
        if let Some(schema) = response["content"]["application/json"].get("schema") {
            matches(&self.service.json, schema, &reply.json).context(what)?;
        }
        Ok(reply.status)
    }

    fn needs_token(&self) -> bool {
        let accepted = self.json["security"].as_array();
        accepted.is_some_and(|accepted| accepted.iter().all(|one| one.get("token").is_some()))
    }

    fn takes_token(&self) -> bool {
        self.json["security"].is_array()
    }
}

/// The first type of a schema that is not null.
fn kind(schema: &Value) -> &str {
    let types = schema["type"].as_array();
    let first = types.and_then(|types| types.iter().filter_map(Value::as_str).find(|kind| *kind != "null"));
    first.or_else(|| schema["type"].as_str()).unwrap_or_default()
}

fn is_id(schema: &Value) -> bool {
    schema["format"] == "uuid"
}

/// A value that a field may have.
fn sample(name: &str, schema: &Value, auction_id: &str) -> Value {
    match kind(schema) {
        "string" if name == "auction_id" => json!(auction_id),
        "string" if is_id(schema) => json!(uuid::Uuid::new_v4().to_string()),
        "string" if schema["enum"].is_array() => schema["enum"][0].clone(),
        "string" => json!("Lamp"),
        "integer" => json!(schema["minimum"].as_u64().unwrap_or(0)),
        "boolean" => json!(false),
        // Money.
        _ => json!(10),
    }
}

/// Values at the limits of a schema, and whether it allows them. In a query each value is a text.
fn limits(schema: &Value, in_query: bool) -> Vec<(Value, bool)> {
    let mut values = Vec::new();
    match kind(schema) {
        "integer" => {
            if let Some(least) = schema["minimum"].as_u64() {
                values.extend([(json!(least), true), (json!(i64::try_from(least).unwrap_or(i64::MAX) - 1), false)]);
            }
            if let Some(most) = schema["maximum"].as_u64() {
                values.extend([(json!(most), true), (json!(most + 1), false)]);
            }
            values.extend([(json!("x"), false), (json!(1.5), false)]);
        }
        "string" if is_id(schema) => values.extend([(json!("x"), false), (json!(""), false)]),
        "string" if schema["enum"].is_array() => {
            let allowed = schema["enum"].as_array().into_iter().flatten().filter(|value| value.is_string());
            values.extend(allowed.map(|value| (value.clone(), true)));
            values.push((json!("nonsense"), false));
        }
        "string" if !in_query => {
            let text = |length: u64| json!("x".repeat(usize::try_from(length).unwrap_or(0)));
            if let Some(least) = schema["minLength"].as_u64() {
                values.extend([(text(least), true), (text(least.saturating_sub(1)), least == 0)]);
            }
            if let Some(most) = schema["maxLength"].as_u64() {
                values.extend([(text(most), true), (text(most + 1), false)]);
            }
        }
        _ => {}
    }
    values
}

#[tokio::test(flavor = "multi_thread")]
async fn documented_limits_are_those_of_the_services() -> Result<()> {
    // With aliases reads take a token that they otherwise ignore.
    let settings = vec![("SHOW_ALIASES".to_owned(), "true".to_owned())];
    let system = TestSystem::with("documented-limits", settings, false).await?;
    let host = system.token("host")?;
    let auction = json!({"title": "Lamp", "duration": 600, "starting_bid": 1, "video": false});
    let (mut operations, mut allowed, mut forbidden) = (0, 0, 0);
    for name in [Name::AuctionManagement, Name::BidProcessing, Name::Timer] {
        let url = system.stack.url(name).to_owned();
        let json = http::get(&format!("{url}/openapi.json"), None).await?.json;
        let service = Documented { url, json };
        for operation in service.operations() {
            let what = format!("{} {}", operation.method, operation.path);
            // Some operations end the auction.
            let id = system.auction(&auction).await?;
            for case in operation.cases(&id) {
                let sent = operation.send(&id, Some(&host), &case.query, case.body.as_ref()).await?;
                ensure!((sent == 400) != case.is_valid, "{what}{} {:?}: {sent}", case.query, case.body);
                if case.is_valid { allowed += 1 } else { forbidden += 1 }
            }
            let body = operation.body(&id).map(Value::Object);
            if operation.needs_token() {
                let anonymous = operation.send(&id, None, "", body.as_ref()).await?;
                ensure!(anonymous == 401, "{what} without a token: {anonymous}");
            }
            if operation.takes_token() {
                let wrong = operation.send(&id, Some("a.b.c"), "", body.as_ref()).await?;
                ensure!(wrong == 401, "{what} with a wrong token: {wrong}");
            }
            if operation.path.contains("{id}") {
                let malformed = operation.send("x", Some(&host), "", body.as_ref()).await?;
                ensure!(malformed == 400, "{what} with a malformed id: {malformed}");
                let unknown = uuid::Uuid::new_v4().to_string();
                let unknown = operation.send(&unknown, Some(&host), "", body.as_ref()).await?;
                ensure!(unknown == 404, "{what} with an unknown id: {unknown}");
            }
            operations += 1;
        }
    }
    eprintln!("{operations} operations, {allowed} requests that are allowed, {forbidden} that are not");
    ensure!(operations >= 15 && allowed >= 40 && forbidden >= 40, "{operations} {allowed} {forbidden}");
    system.end().await;
    Ok(())
}

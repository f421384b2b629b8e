//! The committed API documents are what the services declare, and the services declare every route.
//!
//! After a change of a body or of a route, `UPDATE_API_DOCUMENTS=1 cargo test -p protocol --features schema` writes the
//! documents; without the variable the tests compare. The declarations are compiled here from the services' own files,
//! so that this takes seconds and not the build of every service. `bins/flash/tests/system/contract.rs` holds the
//! documents against real replies and frames.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use protocol::api::{COMMON, Operation, Service};
use protocol::schema::{asyncapi, openapi};
use serde_json::Value;

/// Set to write the documents in place of comparing them.
const UPDATE: &str = "UPDATE_API_DOCUMENTS";

#[path = "../../../bins/websocket/src/asyncapi.rs"]
mod asyncapi_events;
#[path = "../../../bins/auction-management/src/openapi.rs"]
mod auction_management;
#[path = "../../../bins/bid-processing/src/openapi.rs"]
mod bid_processing;
#[path = "../../../bins/timer/src/openapi.rs"]
mod timer;
#[path = "../../../bins/websocket/src/openapi.rs"]
mod websocket;

const SERVICES: [Service; 4] =
    [auction_management::SERVICE, bid_processing::SERVICE, timer::SERVICE, websocket::SERVICE];

fn bins() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bins")
}

fn check(path: &Path, generated: &str) {
    if std::env::var_os(UPDATE).is_some() {
        fs::write(path, generated).expect("a writable document");
    }
    let read = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
    // As values: the order of fields depends on features of serde_json.
    if let Some(place) = difference(&read(&fs::read_to_string(path).expect("a document")), &read(generated), "") {
        panic!("{} is not what the service declares, at {place}; run this test with {UPDATE}=1", path.display());
    }
}

/// The first place where two values differ.
fn difference(left: &Value, right: &Value, place: &str) -> Option<String> {
    match (left, right) {
        (Value::Object(left), Value::Object(right)) => {
            let keys: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
            keys.into_iter().find_map(|key| {
                let value = |fields: &serde_json::Map<String, Value>| fields.get(key).cloned().unwrap_or_default();
                difference(&value(left), &value(right), &format!("{place}/{key}"))
            })
        }
        _ => (left != right).then(|| place.to_owned()),
    }
}

#[test]
fn openapi_documents_are_up_to_date() {
    for service in SERVICES {
        check(&bins().join(service.name).join("src/openapi.json"), &openapi(&service));
    }
}

#[test]
fn asyncapi_document_is_up_to_date() {
    let document = asyncapi(websocket::SERVICE.name, asyncapi_events::CLIENT_EVENTS, asyncapi_events::SERVER_EVENTS);
    check(&bins().join("websocket/src/asyncapi.json"), &document);
}

#[test]
fn operation_ids_are_unique() {
    for service in SERVICES {
        let ids: Vec<&str> = service.operations.iter().chain(COMMON).map(|operation| operation.id).collect();
        let distinct: BTreeSet<&str> = ids.iter().copied().collect();
        assert_eq!(distinct.len(), ids.len(), "{}: {ids:?}", service.name);
    }
}

/// A route as the source of a service spells it. `*` stands for a parameter.
#[derive(Debug, PartialEq, Eq)]
struct Route {
    method: Option<String>,
    path: String,
}

/// Finds `warp::path!(..)`, `warp::path::end()` and `document("..")`, each with the first method filter after it.
fn routes(source: &str) -> Vec<Route> {
    const MARKS: [&str; 3] = ["warp::path!(", "warp::path::end()", "document(\""];
    let mut starts: Vec<(usize, &str)> = MARKS.iter().flat_map(|mark| source.match_indices(mark)).collect();
    starts.sort_unstable();
    let ends = starts.iter().skip(1).map(|(at, _)| *at).chain([source.len()]);
    let route = |((at, mark), end): (&(usize, &str), usize)| {
        let rest = &source[at + mark.len()..end];
        let segments = match *mark {
            "warp::path!(" => rest.split(')').next().unwrap_or_default(),
            "document(\"" => rest.split('"').next().unwrap_or_default(),
            _ => "",
        };
        let segments: Vec<&str> = segments
            .split(" / ")
            .map(|segment| match segment.strip_prefix('"') {
                Some(text) => text.trim_end_matches('"'),
                None if *mark == "warp::path!(" => "*",
                None => segment,
            })
            .collect();
        let methods = ["get", "post", "put", "delete", "patch"];
        let method = methods.iter().filter_map(|method| Some((rest.find(&format!("warp::{method}()"))?, *method)));
        let method = if mark.starts_with("document") { Some("get") } else { method.min().map(|(_, method)| method) };
        Route { method: method.map(str::to_uppercase), path: format!("/{}", segments.join("/")) }
    };
    starts.iter().zip(ends).map(route).collect()
}

fn describes(operation: &Operation, route: &Route) -> bool {
    let segments = |path: &str| -> Vec<String> { path.trim_matches('/').split('/').map(str::to_owned).collect() };
    let (described, spelled) = (segments(operation.path), segments(&route.path));
    route.method.as_deref().is_none_or(|method| method == operation.method)
        && described.len() == spelled.len()
        && described.iter().zip(&spelled).all(|(described, spelled)| spelled == "*" || described == spelled)
}

fn sources(folder: &Path, texts: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, texts);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            texts.push(fs::read_to_string(&path).expect("a source"));
        }
    }
}

#[test]
fn every_route_is_documented() {
    for service in SERVICES {
        let mut texts = Vec::new();
        sources(&bins().join(service.name).join("src"), &mut texts);
        let found: Vec<Route> = texts.iter().flat_map(|text| routes(text)).collect();
        assert!(found.len() > 2, "{}: the routes were not found: {found:?}", service.name);
        for route in &found {
            let documented = service.operations.iter().chain(COMMON).any(|operation| describes(operation, route));
            assert!(documented, "{}: {route:?} is not in openapi.rs", service.name);
        }
        for operation in service.operations {
            let served = found.iter().any(|route| describes(operation, route));
            assert!(served, "{}: {} {} is not served", service.name, operation.method, operation.path);
        }
    }
}

#[test]
fn routes_are_found_in_source() {
    let source = r#"
        let a = warp::path!("auctions" / String / Action).and(warp::post());
        let b = warp::path!("internal" / "bids").or(warp::path!("bids")).unify();
        let c = b.and(warp::put());
        let d = document("openapi.json", include_str!("openapi.json"));
        let e = warp::path::end().and(warp::get());
    "#;
    let route = |method: Option<&str>, path: &str| Route { method: method.map(str::to_owned), path: path.to_owned() };
    let expected = [
        route(Some("POST"), "/auctions/*/*"),
        route(None, "/internal/bids"),
        route(Some("PUT"), "/bids"),
        route(Some("GET"), "/openapi.json"),
        route(Some("GET"), "/"),
    ];
    assert_eq!(routes(source), expected);
}

//! Replies: JSON, documents, errors, and the headers that every reply has.

use std::collections::BTreeMap;
use std::convert::Infallible;

use ::http::{HeaderMap, HeaderValue, header};
use serde::Serialize;
use serde_json::Value;
use warp::http::StatusCode;
use warp::reply::Response;
use warp::{Filter, Rejection, Reply};

/// Time that a document of this build may be cached.
pub const CACHE_BRIEFLY: &str = "public, max-age=60";

/// A JSON reply.
pub fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => {
            let mut response = Response::new(bytes.into());
            *response.status_mut() = status;
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(error) => {
            tracing::error!(error = %errors::chain(&error), "failed to encode a reply");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// A JSON document of this build, such as `/openapi.json`.
pub fn document(
    name: &'static str,
    text: &'static str,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + 'static {
    warp::path(name).and(warp::path::end()).and(warp::get()).map(move || {
        let mut response = Response::new(text.into());
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(CACHE_BRIEFLY));
        response
    })
}

/// An error reply: `{"error", "message", "code"}`. Some clients read the sentence from `message`.
#[must_use]
pub fn problem(status: StatusCode, code: &str, sentence: &str) -> Response {
    json(status, &serde_json::json!({"error": sentence, "message": sentence, "code": code}))
}

/// The reply to a request that meets a limit now, and may be sent again in a second.
#[must_use]
pub fn try_again(status: StatusCode, code: &str, sentence: &str) -> Response {
    let mut response = problem(status, code, sentence);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// Answers a request that no route accepted.
pub(super) async fn rejected(rejection: Rejection) -> Result<(Response,), Infallible> {
    let response = if rejection.is_not_found() {
        problem(StatusCode::NOT_FOUND, "not_found", "There is nothing at this path")
    } else if let Some(invalid) = rejection.find::<warp::reject::InvalidHeader>() {
        // Before the method: a route that reads the header has accepted the method.
        if invalid.name().eq_ignore_ascii_case("authorization") {
            problem(StatusCode::UNAUTHORIZED, "unauthenticated", "A valid token is required")
        } else {
            problem(StatusCode::BAD_REQUEST, "invalid_request", "A header has a value that is not ASCII")
        }
    } else if rejection.find::<warp::reject::MethodNotAllowed>().is_some() {
        problem(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This path does not take that method")
    } else {
        problem(StatusCode::BAD_REQUEST, "invalid_request", "The request could not be understood")
    };
    Ok((response,))
}

/// Headers of every reply. Prices and personal answers must not be kept by a cache; documents say how long they may.
pub(super) fn with_common_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The headers of CORS, for a browser page of an origin that may call.
pub(super) fn with_origin(mut response: Response, origin: Option<HeaderValue>, preflight: bool) -> Response {
    let Some(origin) = origin else { return response };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    // For clients that send `withCredentials`. No cookie identifies anybody here.
    headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    if preflight {
        let methods = HeaderValue::from_static("GET, HEAD, POST, PUT, OPTIONS");
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        let names = HeaderValue::from_static("authorization, content-type, idempotency-key, traceparent, x-request-id");
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    } else {
        let names = HeaderValue::from_static("retry-after, traceparent, x-request-id");
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, names);
    }
    response
}

/// The methods that each path takes, for the `Allow` of a 405. Read from the service's own `/openapi.json`.
#[derive(Default)]
pub(super) struct Methods(Vec<(Vec<String>, String)>);

impl Methods {
    pub(super) fn of(document: &[u8]) -> Self {
        let document: Value = serde_json::from_slice(document).unwrap_or_default();
        let paths = document["paths"].as_object().into_iter().flatten();
        let table = paths.map(|(path, operations)| {
            let operations = operations.as_object().into_iter().flatten();
            let methods: BTreeMap<String, ()> = operations
                .flat_map(|(method, _)| {
                    let head = (method == "get").then(|| "HEAD".to_owned());
                    [Some(method.to_ascii_uppercase()), head].into_iter().flatten().map(|method| (method, ()))
                })
                .collect();
            let allowed = methods.into_keys().collect::<Vec<_>>().join(", ");
            (segments(path).map(str::to_owned).collect(), allowed)
        });
        Self(table.collect())
    }

    /// The methods of a path. The paths that no document lists are those of operations.
    fn allowed(&self, path: &str) -> &str {
        let listed = self.0.iter().find(|(template, _)| {
            let parts: Vec<&str> = segments(path).collect();
            let fits = |(template, part): (&String, &&str)| template.starts_with('{') || template == *part;
            template.len() == parts.len() && template.iter().zip(&parts).all(fits)
        });
        listed.map_or("GET, HEAD", |(_, methods)| methods)
    }

    /// Adds `Allow`, unless the route knows better: a forwarded path is in no document of this service.
    pub(super) fn add_to(&self, headers: &mut HeaderMap, path: &str) {
        if let Ok(allowed) = HeaderValue::from_str(self.allowed(path)) {
            headers.entry(header::ALLOW).or_insert(allowed);
        }
    }
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allow_lists_the_methods_of_the_document() {
        let methods = Methods::of(
            br#"{"paths":{
                "/auctions":{"get":{},"post":{}},"/auctions/{id}/close":{"post":{}},"/users/me":{"put":{}}
            }}"#,
        );
        for (path, expected) in [
            ("/auctions", "GET, HEAD, POST"),
            ("/auctions/", "GET, HEAD, POST"),
            ("/auctions/17/close", "POST"),
            ("/users/me", "PUT"),
            ("/health", "GET, HEAD"),
        ] {
            assert_eq!(methods.allowed(path), expected, "{path}");
        }
    }
}

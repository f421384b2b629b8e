//! Which pages of other origins may call.

use std::net::IpAddr;

use ::http::{HeaderMap, HeaderValue, header};

/// Whether this origin may call: it is configured, or the server's own by a name that no stranger can point here.
pub(super) fn allowed(origin: &HeaderValue, headers: &HeaderMap, origins: &[String]) -> bool {
    let Ok(origin) = origin.to_str() else { return false };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).filter(|host| is_own(host));
    let own = host.is_some() && origin.split_once("://").map(|(_, rest)| rest) == host;
    own || origins.iter().any(|allowed| allowed == origin || allowed == "*")
}

/// Whether a host is an address or `localhost`. Any other name may be a stranger's that leads here (DNS rebinding).
fn is_own(host: &str) -> bool {
    let name = host.parse::<::http::uri::Authority>();
    name.is_ok_and(|name| {
        let name = name.host().trim_matches(['[', ']']);
        name == "localhost" || name.parse::<IpAddr>().is_ok()
    })
}

/// Whether a browser page of the request's origin may call; for requests that CORS does not cover (WebSocket).
#[must_use]
pub fn origin_allowed(headers: &HeaderMap, origins: &[String]) -> bool {
    headers.get(header::ORIGIN).is_none_or(|origin| allowed(origin, headers, origins))
}

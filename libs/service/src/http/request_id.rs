//! The id of a request, which its log lines carry and its reply returns: `X-Request-Id`.

use ::http::{HeaderMap, HeaderName, HeaderValue};

/// The header.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id of a client, in bytes. The ids that ingresses make are shorter.
const MAX_BYTES: usize = 128;

/// The client's id, if it is one that a log can show, else a new one. The request has it afterwards.
pub(super) fn ensure(headers: &mut HeaderMap) -> HeaderValue {
    let is_good =
        |id: &&HeaderValue| (1..=MAX_BYTES).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic);
    let id = match headers.get(&REQUEST_ID).filter(is_good) {
        Some(id) => id.clone(),
        None => HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).unwrap_or(HeaderValue::from_static("-")),
    };
    headers.insert(REQUEST_ID, id.clone());
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_of_the_client_is_kept_if_a_log_can_show_it() {
        let long = "x".repeat(MAX_BYTES + 1);
        for (given, is_kept) in
            [("mine-7", true), (&long[1..], true), (&long, false), ("", false), ("two words", false), ("naïve", false)]
        {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(given.as_bytes()).expect("a value"));
            let id = ensure(&mut headers);
            assert_eq!(id == given, is_kept, "{given}");
            assert_eq!(headers.get_all(REQUEST_ID).iter().collect::<Vec<_>>(), [&id]);
            assert!(is_kept || uuid::Uuid::parse_str(id.to_str().expect("text")).is_ok());
        }
    }

    #[test]
    fn request_without_an_id_gets_one_of_its_own() {
        let made = || ensure(&mut HeaderMap::new());
        assert_ne!(made(), made());
    }
}

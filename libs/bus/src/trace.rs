//! The context of a trace in the headers of messages.

use async_nats::HeaderMap;
use traces::{Context, TRACEPARENT};

/// Adds the current span, if it is exported.
pub(crate) fn inject(headers: &mut Option<HeaderMap>) {
    if let Some(value) = Context::current().traceparent() {
        headers.get_or_insert_default().insert(TRACEPARENT, value);
    }
}

/// The span that sent a message. Not read in a process that exports none.
pub(crate) fn extract(headers: Option<&HeaderMap>) -> Context {
    let value = headers.filter(|_| traces::is_on()).and_then(|headers| headers.get(TRACEPARENT));
    value.map(|value| Context::parse(value.as_str())).unwrap_or_default()
}

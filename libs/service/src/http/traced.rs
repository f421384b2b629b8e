//! The trace of a request: it continues the one that `traceparent` names, and the reply returns its context.

use ::http::{HeaderValue, Request};
use traces::{Context, TARGET, TRACEPARENT};
use tracing::{Span, trace_span};
use warp::reply::Response;

use super::is_operations;

/// The span of a request, and the caller's context. Checks of health and readings of metrics are in no trace.
pub(super) fn begin<B>(request: &Request<B>, id: &HeaderValue) -> (Span, Context) {
    let caller = Context::of_request(request.headers());
    if is_operations(request.uri().path()) {
        return (Span::none(), caller);
    }
    let span = trace_span!(
        target: TARGET,
        "request",
        otel.name = %request.method(),
        otel.kind = "server",
        http.request.method = %request.method(),
        url.path = request.uri().path(),
        request_id = id.to_str().unwrap_or_default(),
    );
    (caller.parent_of(span), caller)
}

/// Returns the context of the current span; outside of any trace that of the caller.
pub(super) fn answer(response: &mut Response, caller: Context) {
    let context = Context::current().or(caller).traceparent();
    if let Some(value) = context.and_then(|context| HeaderValue::from_str(&context).ok()) {
        response.headers_mut().insert(TRACEPARENT, value);
    }
}

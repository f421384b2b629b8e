//! The place of a span in its trace, as it goes from one process or task to another.

use std::fmt;
use std::ops::RangeInclusive;

use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{SpanContext, TraceContextExt, TraceId, get_active_span};
use opentelemetry::{Context as OtelContext, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::is_on;

/// The header of W3C Trace Context, in HTTP and in NATS.
pub const TRACEPARENT: &str = "traceparent";
/// Bytes of the header: those of version 00, and of newer ones, which may add to it.
const BYTES: RangeInclusive<usize> = 55..=128;

/// A span that others may continue; empty outside of any trace. Takes a pointer's room: calls wait with it in queues.
#[derive(Debug, Clone, Default)]
pub struct Context(Option<Box<SpanContext>>);

/// The one header that is read.
struct Header<'a>(&'a str);

impl Extractor for Header<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        (name == TRACEPARENT).then_some(self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

impl Context {
    /// The current span, if it is exported.
    #[must_use]
    pub fn current() -> Self {
        if !is_on() {
            return Self::default();
        }
        get_active_span(|span| {
            let context = span.span_context();
            Self(context.is_sampled().then(|| Box::new(context.clone())))
        })
    }

    /// The span that a header names. Empty if the header is not of the form.
    #[must_use]
    pub fn parse(traceparent: &str) -> Self {
        if !BYTES.contains(&traceparent.len()) {
            return Self::default();
        }
        let read = TraceContextPropagator::new().extract_with_context(&OtelContext::new(), &Header(traceparent));
        let context = read.span().span_context().clone();
        Self(context.is_valid().then(|| Box::new(context)))
    }

    /// The span that an HTTP request continues.
    #[must_use]
    pub fn of_request(headers: &HeaderMap) -> Self {
        let value = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok());
        value.map(Self::parse).unwrap_or_default()
    }

    /// The header's value. None outside of any trace.
    #[must_use]
    pub fn traceparent(&self) -> Option<String> {
        let context = self.0.as_ref()?;
        let (trace_id, span_id, flags) = (context.trace_id(), context.span_id(), context.trace_flags().to_u8());
        Some(format!("00-{trace_id}-{span_id}-{flags:02x}"))
    }

    /// Whether the trace is exported.
    #[must_use]
    pub fn is_traced(&self) -> bool {
        self.0.as_ref().is_some_and(|context| context.is_sampled())
    }

    /// This context, or the other one if this is empty.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        if self.0.is_some() { self } else { other }
    }

    /// The span as a child of this context; as the beginning of a trace if this is empty.
    #[must_use]
    pub fn parent_of(&self, span: Span) -> Span {
        if let Some(context) = &self.0 {
            // It fails for a span that is disabled.
            _ = span.set_parent(OtelContext::new().with_remote_span_context((**context).clone()));
        }
        span
    }

    /// A child of this context, if its trace is exported; otherwise none.
    #[must_use]
    pub fn continued(&self, span: impl FnOnce() -> Span) -> Span {
        if is_on() && self.is_traced() { self.parent_of(span()) } else { Span::none() }
    }

    /// Links a span of another trace to this context.
    pub fn link_from(&self, span: &Span) {
        if let Some(context) = &self.0 {
            span.add_link((**context).clone());
        }
    }
}

/// A child of the current span, if that is exported; otherwise none.
#[must_use]
pub fn within(span: impl FnOnce() -> Span) -> Span {
    if trace_id().is_some() { span() } else { Span::none() }
}

/// The trace that the current span belongs to, if it is exported.
#[must_use]
pub fn trace_id() -> Option<TraceId> {
    if !is_on() {
        return None;
    }
    get_active_span(|span| Some(span.span_context()).filter(|context| context.is_sampled()).map(SpanContext::trace_id))
}

/// Adds an attribute to the current span, if it is exported.
pub fn record(name: &'static str, value: impl fmt::Display) {
    if is_on() {
        get_active_span(|span| {
            if span.is_recording() {
                span.set_attribute(KeyValue::new(name, value.to_string()));
            }
        });
    }
}

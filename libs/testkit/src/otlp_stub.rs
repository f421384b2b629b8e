//! A stub of a collector of traces: it speaks OTLP over HTTP with protobuf, as a collector does, and keeps every span.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message;
use tokio::task::JoinHandle;
use warp::Filter;
use warp::http::{Response, StatusCode};

/// The type of OTLP's bodies.
const PROTOBUF: &str = "application/x-protobuf";

/// A span that was received. Ids are hexadecimal, as in `traceparent`.
#[derive(Debug, Clone)]
pub struct Span {
    /// Attributes of the process that made it.
    pub resource: BTreeMap<String, String>,
    /// Its name.
    pub name: String,
    /// Its trace.
    pub trace_id: String,
    /// Its own id.
    pub span_id: String,
    /// The id of its parent; empty for the root of a trace.
    pub parent_id: String,
    /// Its attributes.
    pub attributes: BTreeMap<String, String>,
}

impl Span {
    /// The service that made it.
    #[must_use]
    pub fn service(&self) -> &str {
        self.resource.get("service.name").map_or("", String::as_str)
    }
}

type Spans = Arc<Mutex<Vec<Span>>>;

/// A running stub. Dropping it stops it.
pub struct OtlpStub {
    /// The `OTEL_EXPORTER_OTLP_ENDPOINT` for services that export to it.
    pub endpoint: String,
    spans: Spans,
    server: JoinHandle<()>,
}

impl OtlpStub {
    /// Starts a stub that has received nothing.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start() -> Result<Self> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let spans = Spans::default();
        let received = Arc::clone(&spans);
        let route = warp::path!("v1" / "traces")
            .and(warp::post())
            .and(warp::header::exact("content-type", PROTOBUF))
            .and(warp::body::bytes())
            .map(move |body| answer(&received, body));
        let server = tokio::spawn(warp::serve(route).incoming(listener).run());
        Ok(Self { endpoint, spans, server })
    }

    /// The spans received so far, in the order of their arrival.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        lock(&self.spans).clone()
    }
}

impl Drop for OtlpStub {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn lock(spans: &Spans) -> MutexGuard<'_, Vec<Span>> {
    spans.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(spans: &Spans, body: Bytes) -> Response<Vec<u8>> {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else {
        let mut refused = Response::new(Vec::new());
        *refused.status_mut() = StatusCode::BAD_REQUEST;
        return refused;
    };
    let mut spans = lock(spans);
    for of_resource in request.resource_spans {
        let resource = texts(of_resource.resource.map(|resource| resource.attributes).unwrap_or_default());
        for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            spans.push(Span {
                resource: resource.clone(),
                name: span.name,
                trace_id: hexadecimal(&span.trace_id),
                span_id: hexadecimal(&span.span_id),
                parent_id: hexadecimal(&span.parent_span_id),
                attributes: texts(span.attributes),
            });
        }
    }
    let answer = Response::builder().header("content-type", PROTOBUF);
    answer.body(ExportTraceServiceResponse::default().encode_to_vec()).unwrap_or_default()
}

fn hexadecimal(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Attributes as text.
fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Value| match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let named = |attribute: KeyValue| Some((attribute.key, text(attribute.value?.value?)));
    attributes.into_iter().filter_map(named).collect()
}

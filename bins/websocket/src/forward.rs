//! Requests for other services: the edge forwards `/api/…` to the service that owns the path, so that page, API and
//! sockets have one origin without an ingress.
//!
//! A request is sent once. Only GET and HEAD are repeated, and once. A lost answer to anything else is
//! `outcome_unknown`; `unavailable` means that the request did not reach the service. Request bodies are small and were
//! received as a whole before; replies are passed on as they come.

use std::time::Duration;

use bytes::Bytes;
use domain::BidId;
use futures_util::stream;
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Error;
use protocol::input::Fields;
use protocol::{Answer, Code, Failure, RefusedBid};
use service::Reader;
use service::http::{ClientAddress, json, problem, try_again};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use traces::{Context, TRACEPARENT};
use warp::Reply;
use warp::reply::Response;

use crate::context::Metrics;
use crate::near_client::{NearClient, NearTls, Origin, near_client};

/// Requests that wait for an answer at once, of all services together. A bid takes milliseconds, a second of 500 slow
/// ones fills this.
const MAX_WAITING: usize = 1_024;
/// Time for the headers of an answer. Longer than the slowest request takes, the creation of an auction with a video
/// channel, so that the service says itself what became of it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(25);
/// Time for the body of an answer. The largest ones take a second where the client reads.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest body of an answer: a hundred auctions with the longest texts have 10 MB.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// How the edge names itself in `Via`. A request that has passed an edge is not forwarded again.
const VIA: &str = "1.1 flash-edge";

/// Headers of one connection, not of the request (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
/// Headers that the edge uses or writes itself. It has checked the origin, and answers for it.
const OWN: [HeaderName; 10] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::ORIGIN,
    header::COOKIE,
    header::FORWARDED,
    header::PROXY_AUTHORIZATION,
    FORWARDED_FOR,
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
];

/// A service that owns paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    AuctionManagement,
    BidProcessing,
    Timer,
}

impl Owner {
    /// The owner of a path, which begins behind `/api`. The same table as in `nomad/ingress/haproxy.cfg`.
    pub fn of(method: &Method, path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match segments.as_slice() {
            ["bids"] if method == Method::POST => Some(Self::BidProcessing),
            ["time"] | ["auctions", _, "timer"] => Some(Self::Timer),
            ["auctions" | "users" | "bids", ..] | ["uploads"] => Some(Self::AuctionManagement),
            _ => None,
        }
    }

    /// The setting with its address.
    const fn setting(self) -> &'static str {
        match self {
            Self::AuctionManagement => "AUCTION_MANAGEMENT_URL",
            Self::BidProcessing => "BID_PROCESSING_URL",
            Self::Timer => "TIMER_URL",
        }
    }
}

/// Addresses of the services. Requests for one that has none are answered 404.
#[derive(Debug, Clone, Default)]
pub struct OwnerAddresses {
    auction_management: Option<Origin>,
    bid_processing: Option<Origin>,
    timer: Option<Origin>,
}

impl OwnerAddresses {
    /// Reads `AUCTION_MANAGEMENT_URL`, `BID_PROCESSING_URL` and `TIMER_URL`.
    pub fn read(reader: &mut Reader<'_>, tls: &NearTls) -> Self {
        let mut address = |owner: Owner| {
            let expected = "an address such as http://10.0.0.1:8000, without a path";
            let origin: Option<Origin> =
                reader.read(owner.setting(), None, expected, |text| Origin::parse(text).map(Some));
            if origin.as_ref().is_some_and(|origin| (origin.scheme == Scheme::HTTPS) != tls.is_on()) {
                let setting = owner.setting();
                reader.mistake(format!("{setting} must begin with https:// if SERVICES_CA_FILE is set, and only then"));
            }
            origin
        };
        Self {
            auction_management: address(Owner::AuctionManagement),
            bid_processing: address(Owner::BidProcessing),
            timer: address(Owner::Timer),
        }
    }

    const fn of(&self, owner: Owner) -> Option<&Origin> {
        match owner {
            Owner::AuctionManagement => self.auction_management.as_ref(),
            Owner::BidProcessing => self.bid_processing.as_ref(),
            Owner::Timer => self.timer.as_ref(),
        }
    }
}

/// A request as it came.
pub struct Forwarded {
    /// Its method.
    pub method: Method,
    /// Its path, behind `/api`.
    pub path: String,
    /// Its query, not parsed.
    pub query: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Where it comes from.
    pub client: ClientAddress,
    /// Its body.
    pub body: Bytes,
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
enum ForwardError {
    #[error("failed to exchange a request with the service")]
    Exchange(#[from] Error),
    #[error("the service did not answer in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
}

/// Why an answer ends before its time.
#[derive(Debug, thiserror::Error)]
enum BodyError {
    #[error("the answer is larger than {MAX_ANSWER_BYTES} bytes")]
    TooLarge,
    #[error("failed to read the answer")]
    Broken(#[from] hyper::Error),
    #[error("the answer did not come in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
}

impl ForwardError {
    /// Whether the service certainly did not get the request.
    fn was_not_sent(&self) -> bool {
        matches!(self, Self::Exchange(error) if error.is_connect())
    }
}

/// Sends requests to their owners, over connections that are kept.
pub struct Forwarder {
    owners: OwnerAddresses,
    client: NearClient,
    waiting: Semaphore,
    metrics: Metrics,
}

impl Forwarder {
    /// A forwarder without connections.
    ///
    /// # Errors
    /// When the provider of cryptography lacks the versions of TLS.
    pub fn new(owners: OwnerAddresses, tls: &NearTls, metrics: Metrics) -> Result<Self, rustls::Error> {
        Ok(Self { owners, client: near_client(tls)?, waiting: Semaphore::new(MAX_WAITING), metrics })
    }

    /// The client, which others may use as well.
    pub fn client(&self) -> NearClient {
        self.client.clone()
    }

    /// The answer of the owner, or a failure in the words of the contract.
    pub async fn forward(&self, owner: Owner, request: Forwarded) -> Response {
        let Some(origin) = self.owners.of(owner) else {
            let sentence = format!("This server does not serve the API: {} is not set", owner.setting());
            return problem(StatusCode::NOT_FOUND, Code::NotFound.name(), &sentence);
        };
        if request.headers.get_all(header::VIA).iter().any(|via| via == VIA) {
            tracing::error!(setting = owner.setting(), "the address of a service leads back to an edge");
            return failed(owner, &request, Code::Unavailable);
        }
        let Ok(waiting) = self.waiting.try_acquire() else {
            return failed(owner, &request, Code::Overloaded);
        };
        self.metrics.forwarded_requests.inc();
        let parts = outgoing(&request, origin);
        let answered = self.exchange(&parts, &request.body).await;
        drop(waiting);
        match answered {
            Ok(answer) => passed_on(answer, request.method == Method::HEAD),
            Err(error) => {
                self.metrics.failed_forwards.inc();
                tracing::warn!(?owner, error = %errors::chain(&error), "failed to forward a request");
                let is_known = error.was_not_sent() || request.method.is_safe();
                failed(owner, &request, if is_known { Code::Unavailable } else { Code::OutcomeUnknown })
            }
        }
    }

    async fn exchange(&self, parts: &Parts, body: &Bytes) -> Result<http::Response<Incoming>, ForwardError> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let send = || self.client.request(Request::from_parts(parts.clone(), Full::new(body.clone())));
        match timeout_at(deadline, send()).await? {
            // The service may have closed a kept connection at this moment.
            Err(error) if !error.is_connect() && parts.method.is_safe() => Ok(timeout_at(deadline, send()).await??),
            answered => Ok(answered?),
        }
    }
}

/// The request as the owner gets it.
fn outgoing(request: &Forwarded, origin: &Origin) -> Parts {
    let Forwarded { method, path, query, headers, client, .. } = request;
    let target = if query.is_empty() { path.clone() } else { format!("{path}?{query}") };
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = method.clone();
    // It was parsed before.
    parts.uri = origin.uri(target.parse().unwrap_or(PathAndQuery::from_static("/")));
    parts.headers = end_to_end(headers);
    for name in OWN {
        parts.headers.remove(name);
    }
    // The owner counts its limits by the client, not by this edge.
    let address = client.0.and_then(|address| HeaderValue::from_str(&address.to_string()).ok());
    if let Some(address) = address {
        parts.headers.insert(FORWARDED_FOR, address);
    }
    if let Some(context) = Context::current().traceparent().and_then(|context| HeaderValue::from_str(&context).ok()) {
        parts.headers.insert(TRACEPARENT, context);
    }
    parts.headers.append(header::VIA, HeaderValue::from_static(VIA));
    parts
}

/// The headers without those of the connection, and without those that `Connection` names.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let mut kept = headers.clone();
    let named = headers.get_all(header::CONNECTION).iter().filter_map(|line| line.to_str().ok());
    for name in named.flat_map(|line| line.split(',')).filter_map(|name| name.trim().parse::<HeaderName>().ok()) {
        kept.remove(name);
    }
    for name in HOP_BY_HOP {
        kept.remove(name);
    }
    kept
}

/// The answer of the owner, whose body is sent on as it comes.
fn passed_on(answer: http::Response<Incoming>, is_head: bool) -> Response {
    let (parts, body) = answer.into_parts();
    let has_body = !is_head && !hyper::body::Body::is_end_stream(&body);
    let mut response = if has_body {
        let deadline = Instant::now() + BODY_TIMEOUT;
        let chunks = stream::try_unfold((body, 0), move |(mut body, before)| async move {
            let Some(frame) = timeout_at(deadline, body.frame()).await? else { return Ok::<_, BodyError>(None) };
            let data = frame?.into_data().unwrap_or_default();
            let read = before + data.len();
            if read > MAX_ANSWER_BYTES { Err(BodyError::TooLarge) } else { Ok(Some((data, (body, read)))) }
        });
        warp::reply::stream(chunks).into_response()
    } else {
        Response::default()
    };
    *response.status_mut() = parts.status;
    *response.headers_mut() = end_to_end(&parts.headers);
    response
}

/// The reply to a request without an answer: as bid-processing writes it for a bid, as a problem for all others.
fn failed(owner: Owner, request: &Forwarded, code: Code) -> Response {
    let failure = Failure::from(code);
    let mut response = if owner == Owner::BidProcessing {
        let key = request.headers.get("idempotency-key").and_then(|key| key.to_str().ok()?.parse::<BidId>().ok());
        let in_body = || Fields::parse(&request.body).ok()?.optional_id("bid_id").ok()?;
        json(code.status(), &Answer::Rejected(RefusedBid::of(failure, key.or_else(in_body))).public())
    } else {
        try_again(code.status(), code.name(), &failure.error)
    };
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

#[cfg(test)]
mod tests;

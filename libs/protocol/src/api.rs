//! How a service declares its operations: plain constants beside its route table.
//!
//! A declaration names the schemas of its bodies; the module `schema` (feature of the same name) knows the types behind
//! the names and writes `openapi.json` and `asyncapi.json`. Services serve the committed files, so they need neither
//! the feature nor its dependencies.

use crate::Code;

/// A service with an HTTP API.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    /// Title of the document.
    pub name: &'static str,
    /// First sentence of its description.
    pub about: &'static str,
    /// The operations besides those in [`COMMON`].
    pub operations: &'static [Operation],
}

/// One method of one path.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    /// In capitals.
    pub method: &'static str,
    /// With parameters in braces.
    pub path: &'static str,
    /// `operationId`: unique in its service.
    pub id: &'static str,
    /// One line for readers.
    pub summary: &'static str,
    /// Whether the caller needs a token.
    pub token: Token,
    /// Parameters outside the body, without those of the path.
    pub parameters: &'static [Parameter],
    /// Schema of the request body.
    pub body: Option<&'static str>,
    /// The reply to a request that succeeds, and others that are no errors.
    pub replies: &'static [Reply],
    /// Codes of error replies, besides those that follow from token, body and path.
    pub errors: &'static [Code],
    /// Schema of error replies; None for an operation that has none.
    pub error: Option<&'static str>,
}

/// Whether the caller needs a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// Open to all.
    None,
    /// A token changes the answer; a bad one is rejected.
    Optional,
    /// Rejected without a valid token.
    Required,
}

/// A parameter outside the body.
#[derive(Debug, Clone, Copy)]
pub struct Parameter {
    /// As spelled by the client.
    pub name: &'static str,
    /// `query` or `header`.
    pub place: &'static str,
    /// The values it takes.
    pub kind: Kind,
    /// One sentence for readers.
    pub about: &'static str,
}

/// The values of a parameter.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Any text.
    Text,
    /// A UUID of 36 characters.
    Id,
    /// Names of an auction's status, separated by commas or each in a parameter of its own.
    Statuses,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A text of this pattern.
    Pattern(&'static str),
    /// A whole number of at least the first value and, if given, at most the second.
    Whole(u64, Option<u64>),
}

/// A reply that is no error.
#[derive(Debug, Clone, Copy)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// One phrase for readers.
    pub about: &'static str,
    /// Schema of the body; None where it is not JSON, or is a document.
    pub body: Option<&'static str>,
}

/// A frame of the WebSocket edge.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    /// Its `event`.
    pub name: &'static str,
    /// One line for readers; may be empty where the name says it.
    pub summary: &'static str,
    /// Schema of its `data`.
    pub data: &'static str,
}

impl Operation {
    /// An operation that is open to all, takes nothing and may fail as every operation may.
    #[must_use]
    pub const fn new(method: &'static str, path: &'static str, id: &'static str, summary: &'static str) -> Self {
        Self {
            method,
            path,
            id,
            summary,
            token: Token::None,
            parameters: &[],
            body: None,
            replies: &[],
            errors: &[],
            error: Some("Error"),
        }
    }

    /// The caller needs a token.
    #[must_use]
    pub const fn token(mut self) -> Self {
        self.token = Token::Required;
        self
    }

    /// The caller may send a token.
    #[must_use]
    pub const fn optional_token(mut self) -> Self {
        self.token = Token::Optional;
        self
    }

    /// Takes these parameters.
    #[must_use]
    pub const fn parameters(mut self, parameters: &'static [Parameter]) -> Self {
        self.parameters = parameters;
        self
    }

    /// Takes a JSON body of this schema.
    #[must_use]
    pub const fn body(mut self, schema: &'static str) -> Self {
        self.body = Some(schema);
        self
    }

    /// Answers with one of these.
    #[must_use]
    pub const fn replies(mut self, replies: &'static [Reply]) -> Self {
        self.replies = replies;
        self
    }

    /// May fail with these codes too.
    #[must_use]
    pub const fn errors(mut self, codes: &'static [Code]) -> Self {
        self.errors = codes;
        self
    }

    /// Error replies have this schema.
    #[must_use]
    pub const fn error_body(mut self, schema: &'static str) -> Self {
        self.error = Some(schema);
        self
    }

    /// Has no error reply.
    #[must_use]
    pub const fn infallible(mut self) -> Self {
        self.error = None;
        self
    }

    /// Every code of its error replies: the declared ones, and those that follow from token, body and path.
    #[must_use]
    pub fn codes(&self) -> Vec<Code> {
        let mut codes = self.errors.to_vec();
        if self.token != Token::None {
            codes.extend([Code::Unauthenticated, Code::TokenExpired, Code::Unavailable]);
        }
        if self.body.is_some() {
            codes.extend([Code::InvalidRequest, Code::TooLarge]);
        }
        if self.path.contains("{id}") {
            codes.extend([Code::InvalidRequest, Code::AuctionNotFound, Code::Unavailable]);
        }
        codes.sort_by_key(|code| (code.status(), code.name()));
        codes.dedup();
        codes
    }
}

impl Parameter {
    /// A parameter of the query string.
    #[must_use]
    pub const fn query(name: &'static str, kind: Kind, about: &'static str) -> Self {
        Self { name, place: "query", kind, about }
    }

    /// A header.
    #[must_use]
    pub const fn header(name: &'static str, about: &'static str) -> Self {
        Self { name, place: "header", kind: Kind::Text, about }
    }
}

impl Reply {
    /// A JSON body of this schema.
    #[must_use]
    pub const fn json(status: u16, about: &'static str, schema: &'static str) -> Self {
        Self { status, about, body: Some(schema) }
    }

    /// A body that no schema describes.
    #[must_use]
    pub const fn plain(status: u16, about: &'static str) -> Self {
        Self { status, about, body: None }
    }
}

/// `limit` of a page.
pub const LIMIT: Parameter =
    Parameter::query("limit", Kind::Whole(1, None), "Most items on the page; above 100 it counts as 100");

/// `before` of a page of a person's bids.
pub const BEFORE: Parameter = Parameter::query(
    "before",
    Kind::Pattern(r"^[0-9]{1,19}(\.[0-9A-Fa-f-]{36}\.[0-9]{1,19})?$"),
    "next_before of the page before, or a time",
);

/// The operations that every HTTP service has.
pub const COMMON: &[Operation] = &[
    Operation::new("GET", "/health", "getHealth", "Whether the process lives").replies(&[Reply::json(
        200,
        "The process lives",
        "Health",
    )]),
    Operation::new("GET", "/ready", "getReadiness", "Whether the service can work, with each dependency's state")
        .replies(&[Reply::json(200, "Ready", "Ready"), Reply::json(503, "Not ready, or draining", "Ready")])
        .infallible(),
    Operation::new("GET", "/metrics", "getMetrics", "Prometheus metrics")
        .replies(&[Reply::plain(200, "OpenMetrics text")])
        .infallible(),
    Operation::new("GET", "/openapi.json", "getOpenApiDocument", "This document")
        .replies(&[Reply::plain(200, "OpenAPI 3.1")])
        .infallible(),
];

//! The description of the HTTP routes, from which `openapi.json` is written.

use protocol::Code;
use protocol::api::{Kind, Operation, Parameter, Reply, Service};

/// The HTTP side of the edge.
pub const SERVICE: Service = Service {
    name: "websocket",
    about: "The real-time edge; its events are in /asyncapi.json.",
    operations: OPERATIONS,
};

const SOCKET_IO: &[Parameter] = &[
    Parameter::query("EIO", Kind::Text, "Version of Engine.IO: 4"),
    Parameter::query("transport", Kind::Text, "polling or websocket"),
    Parameter::query("sid", Kind::Text, "The session, after the first request"),
];

const OPERATIONS: &[Operation] = &[
    Operation::new("GET", "/", "getPage", "The web page: watch, bid and sell")
        .replies(&[Reply::plain(200, "text/html")])
        .infallible(),
    Operation::new("GET", "/page/{name}", "getPageFile", "A module, style or image of the page")
        .replies(&[Reply::plain(200, "The file")])
        .errors(&[Code::NotFound]),
    Operation::new("GET", "/page/views/{name}", "getPageView", "A module with a view of the page")
        .replies(&[Reply::plain(200, "text/javascript")])
        .errors(&[Code::NotFound]),
    Operation::new("GET", "/config.json", "getPageConfiguration", "Sign-in, currency and abilities, for the page")
        .replies(&[Reply::plain(200, "application/json")])
        .infallible(),
    Operation::new("GET", "/ws", "openSocket", "The plain WebSocket")
        .optional_token()
        .parameters(&[Parameter::query("token", Kind::Text, "The token, where a client cannot set headers")])
        .replies(&[Reply::plain(101, "Switching protocols")])
        .errors(&[Code::Overloaded, Code::RateLimited]),
    Operation::new("GET", "/socket.io/", "receivePackets", "Socket.IO v4: open, receive by polling, or upgrade")
        .parameters(SOCKET_IO)
        .replies(&[
            Reply::plain(200, "Engine.IO packets"),
            Reply::plain(101, "Switching protocols"),
            Reply::plain(400, "An Engine.IO error: {code, message}"),
            Reply::plain(403, "The page's origin may not connect"),
            Reply::plain(429, "The person or the address has too many connections"),
            Reply::plain(503, "There is no place, or the edge of the session cannot be reached"),
        ])
        .infallible(),
    Operation::new("POST", "/socket.io/", "sendPackets", "Socket.IO v4: send by polling")
        .parameters(SOCKET_IO)
        .replies(&[
            Reply::plain(200, "ok"),
            Reply::plain(400, "An Engine.IO error: {code, message}"),
            Reply::plain(403, "The page's origin may not connect"),
            Reply::plain(503, "The edge of the session cannot be reached"),
        ])
        .infallible(),
    Operation::new("GET", "/asyncapi.json", "getAsyncApiDocument", "The events")
        .replies(&[Reply::plain(200, "AsyncAPI 3.0")])
        .infallible(),
    Operation::new("GET", "/client.js", "getClient", "A client for browsers: an ES module without dependencies")
        .replies(&[Reply::plain(200, "text/javascript")])
        .infallible(),
];

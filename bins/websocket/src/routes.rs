//! The route table: `/ws`, `/socket.io/`, `/client.js`, the page at `/`, and the API documents.

use std::sync::Arc;

use bytes::Bytes;
use http::header;
use hyper::upgrade::OnUpgrade;
use service::Health;
use service::http::{CACHE_BRIEFLY, ClientAddress, document};
use warp::reply::Response;
use warp::{Filter, Rejection, Reply};

use crate::edge::Edge;
use crate::plain;
use crate::socketio::{SocketIo, wrong_method};
use crate::upgrade::Request;

const PAGE: &str = include_str!("page.html");
const CLIENT: &str = include_str!("client.js");

/// All routes of the edge.
pub fn routes(
    edge: Edge,
    health: Health,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + 'static {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let socketio = Arc::new(SocketIo::new(edge.clone()));
    let client = warp::ext::optional().map(|client: Option<ClientAddress>| client.unwrap_or(ClientAddress(None)));
    let request = warp::header::headers_cloned().and(query).and(client).map(|headers, query, client| Request {
        headers,
        query,
        client,
    });
    let socket = warp::path!("ws").and(warp::get()).and(request).and(warp::ext::optional::<OnUpgrade>()).then(
        move |request: Request, on_upgrade: Option<OnUpgrade>| {
            let edge = edge.clone();
            async move { plain::accept(&edge, &request, on_upgrade).await }
        },
    );
    let polling = Arc::clone(&socketio);
    let get = warp::path!("socket.io").and(warp::get()).and(request).and(warp::ext::optional::<OnUpgrade>()).then(
        move |request: Request, on_upgrade: Option<OnUpgrade>| {
            let socketio = Arc::clone(&polling);
            async move { socketio.get(&request, on_upgrade).await }
        },
    );
    // A poll takes packets away, so HEAD is not a GET here.
    let head = warp::path!("socket.io").and(warp::head()).map(wrong_method);
    let post = warp::path!("socket.io").and(warp::post()).and(request).and(warp::body::bytes()).then(
        move |request: Request, body: Bytes| {
            let socketio = Arc::clone(&socketio);
            async move { socketio.post(&request, &body).await }
        },
    );
    let documents = document("openapi.json", include_str!("openapi.json"))
        .or(document("asyncapi.json", include_str!("asyncapi.json")))
        .unify();
    let module = warp::path!("client.js").and(warp::get()).map(|| {
        let typed = warp::reply::with_header(CLIENT, header::CONTENT_TYPE, "text/javascript");
        warp::reply::with_header(typed, header::CACHE_CONTROL, CACHE_BRIEFLY).into_response()
    });
    let page = warp::path::end().and(warp::get()).map(|| {
        let policy = "default-src 'self'; connect-src *; style-src 'unsafe-inline'; frame-ancestors 'none'";
        warp::reply::with_header(warp::reply::html(PAGE), header::CONTENT_SECURITY_POLICY, policy).into_response()
    });
    socket
        .or(get)
        .unify()
        .or(head)
        .unify()
        .or(post)
        .unify()
        .boxed()
        .or(page)
        .unify()
        .or(module)
        .unify()
        .or(documents)
        .unify()
        .or(health.routes())
        .unify()
        .boxed()
}

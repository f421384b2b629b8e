//! The route table: `/ws`, `/socket.io/`, `/client.js`, the page at `/`, and the API documents.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, header};
use hyper::upgrade::OnUpgrade;
use service::Health;
use service::http::document;
use warp::reply::Response;
use warp::{Filter, Rejection, Reply};

use crate::edge::Edge;
use crate::plain;
use crate::socketio::SocketIo;

const PAGE: &str = include_str!("page.html");
const CLIENT: &str = include_str!("client.js");

/// All routes of the edge.
pub fn routes(
    edge: Edge,
    health: Health,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + 'static {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let socketio = Arc::new(SocketIo::new(edge.clone()));
    let socket = warp::path!("ws")
        .and(warp::get())
        .and(warp::header::headers_cloned())
        .and(query)
        .and(warp::ext::optional::<OnUpgrade>())
        .map(move |headers: HeaderMap, query: String, on_upgrade: Option<OnUpgrade>| {
            plain::accept(&edge, &headers, &query, on_upgrade)
        });
    let polling = Arc::clone(&socketio);
    let get = warp::path!("socket.io")
        .and(warp::get())
        .and(warp::header::headers_cloned())
        .and(query)
        .and(warp::ext::optional::<OnUpgrade>())
        .then(move |headers: HeaderMap, query: String, on_upgrade: Option<OnUpgrade>| {
            let socketio = Arc::clone(&polling);
            async move { socketio.get(&headers, &query, on_upgrade).await }
        });
    let post = warp::path!("socket.io").and(warp::post()).and(query).and(warp::body::bytes()).then(
        move |query: String, body: Bytes| {
            let socketio = Arc::clone(&socketio);
            async move { socketio.post(&query, &body).await }
        },
    );
    let documents = document("openapi.json", include_str!("openapi.json"))
        .or(document("asyncapi.json", include_str!("asyncapi.json")))
        .unify();
    let client = warp::path!("client.js")
        .and(warp::get())
        .map(|| warp::reply::with_header(CLIENT, header::CONTENT_TYPE, "text/javascript").into_response());
    let page = warp::path::end().and(warp::get()).map(|| warp::reply::html(PAGE).into_response());
    socket
        .or(get)
        .unify()
        .or(post)
        .unify()
        .boxed()
        .or(page)
        .unify()
        .or(client)
        .unify()
        .or(documents)
        .unify()
        .or(health.routes())
        .unify()
        .boxed()
}

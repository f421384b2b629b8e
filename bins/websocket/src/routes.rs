//! The route table: `/ws`, `/socket.io/`, the page with its files, the API documents, and the paths of other services.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method};
use hyper::upgrade::OnUpgrade;
use service::Health;
use service::http::{ClientAddress, document};
use warp::path::FullPath;
use warp::reply::Response;
use warp::{Filter, Rejection};

use crate::edge::Edge;
use crate::forward::{Forwarded, Forwarder, Owner};
use crate::page::Page;
use crate::plain;
use crate::socketio::{SocketIo, wrong_method};
use crate::upgrade::Request;

/// All routes of the edge. `max_forwarded`: requests passed on to other edges at once.
pub fn routes(
    edge: Edge,
    page: Page,
    forwarder: Forwarder,
    health: Health,
    max_forwarded: usize,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + 'static {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let socketio = Arc::new(SocketIo::new(edge.clone(), forwarder.client(), max_forwarded));
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
            async move { socketio.post(&request, body).await }
        },
    );
    let documents = document("openapi.json", include_str!("openapi.json"))
        .or(document("asyncapi.json", include_str!("asyncapi.json")))
        .unify();
    let headers = warp::header::headers_cloned();
    let name = warp::path!("page" / String).map(|name: String| format!("/page/{name}"));
    let view = warp::path!("page" / "views" / String).map(|name: String| format!("/page/views/{name}"));
    let file = warp::path::end()
        .map(|| "/".to_owned())
        .or(warp::path!("client.js").map(|| "/client.js".to_owned()))
        .unify()
        .or(warp::path!("config.json").map(|| "/config.json".to_owned()))
        .unify()
        .or(name)
        .unify()
        .or(view)
        .unify()
        .and(warp::get())
        .and(headers)
        .and_then(move |path: String, headers: HeaderMap| {
            std::future::ready(page.get(&path, &headers).ok_or_else(warp::reject::not_found))
        });
    socket
        .or(get)
        .unify()
        .or(head)
        .unify()
        .or(post)
        .unify()
        .boxed()
        .or(file)
        .unify()
        .or(forwarded(forwarder))
        .unify()
        .or(documents)
        .unify()
        .or(health.routes())
        .unify()
        .boxed()
}

/// Requests for paths that other services own.
fn forwarded(
    forwarder: Forwarder,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + 'static {
    let forwarder = Arc::new(forwarder);
    let owner = warp::method().and(warp::path::full()).and_then(|method: Method, path: FullPath| {
        let owner = Owner::of(&method, path.as_str()).map(|owner| (owner, method, path));
        std::future::ready(owner.ok_or_else(warp::reject::not_found))
    });
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let client = warp::ext::optional().map(|client: Option<ClientAddress>| client.unwrap_or(ClientAddress(None)));
    owner.and(query).and(warp::header::headers_cloned()).and(client).and(warp::body::bytes()).then(
        move |(owner, method, path): (Owner, Method, FullPath), query, headers, client, body| {
            let forwarder = Arc::clone(&forwarder);
            let request = Forwarded { method, path: path.as_str().to_owned(), query, headers, client, body };
            async move { forwarder.forward(owner, request).await }
        },
    )
}

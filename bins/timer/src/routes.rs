//! `GET /auctions/{id}/timer` and `GET /time`.

use std::sync::Arc;
use std::time::Duration;

use bus::Bus;
use hotstate::Clock;
use protocol::{Code, Failure, StateReply, StateRequest, subject};
use serde_json::json;
use service::Health;
use warp::http::StatusCode;
use warp::reply::Response;
use warp::{Filter, Rejection};

/// Time for bid-processing to answer `auctions.state`.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);

/// The clients that the routes use.
#[derive(Clone)]
pub struct Routes {
    pub bus: Bus,
    pub clock: Clock,
}

impl Routes {
    /// The route table, with the routes of `health`.
    pub fn serve(
        self,
        health: Health,
    ) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + 'static {
        let routes = Arc::new(self);
        let clock = routes.clock.clone();
        let timer = warp::path!("auctions" / String / "timer").and(warp::get()).then(move |id: String| {
            let routes = Arc::clone(&routes);
            async move { routes.timer(&id).await.unwrap_or_else(|failure| failed(&failure)) }
        });
        let time = warp::path!("time")
            .and(warp::get())
            .map(move || service::http::json(StatusCode::OK, &json!({"server_time": clock.now().0})));
        let document = service::http::document("openapi.json", include_str!("openapi.json"));
        timer.or(time).unify().or(document).unify().or(health.routes()).unify()
    }

    async fn timer(&self, id: &str) -> Result<Response, Failure> {
        let auction_id = protocol::input::id("auction_id", id)?;
        let reply: StateReply =
            bus::request(&self.bus, subject::AUCTIONS_STATE, &StateRequest { auction_id }, ASK_TIMEOUT)
                .await
                .map_err(|_| Failure::from(Code::Unavailable))?;
        let state = reply.into_result()?;
        Ok(service::http::json(StatusCode::OK, &protocol::timer_object(&state, self.clock.now().0)))
    }
}

fn failed(failure: &Failure) -> Response {
    service::http::problem(failure.code.status(), failure.code.name(), &failure.error)
}

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

use crate::running::Running;

/// Time for bid-processing to answer `auctions.state`.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);

/// The clients that the routes use.
#[derive(Clone)]
pub struct Routes {
    pub running: Running,
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
        if let Some(record) = self.running.last(auction_id) {
            let timer = protocol::timer_object(auction_id, &record.state, self.clock.now().0);
            return Ok(service::http::json(StatusCode::OK, &timer));
        }
        // It is over, very new, or does not exist: bid-processing determines which, without much work.
        let reply: StateReply =
            bus::request(&self.bus, subject::AUCTIONS_STATE, &StateRequest { auction_id }, ASK_TIMEOUT)
                .await
                .map_err(|_| Failure::from(Code::Unavailable))?;
        let committed = reply.into_result()?;
        let timer = protocol::timer_object(auction_id, &committed.state, self.clock.now().0);
        Ok(service::http::json(StatusCode::OK, &timer))
    }
}

fn failed(failure: &Failure) -> Response {
    let code = failure.code;
    let mut response = service::http::problem(code.status(), code.name(), &failure.error);
    if let Some(seconds) = code.retry_after_seconds() {
        response.headers_mut().insert(http::header::RETRY_AFTER, seconds.into());
    }
    response
}

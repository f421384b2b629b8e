//! `GET /health`, `GET /ready`, `GET /metrics`.

use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use prometheus_client::registry::Registry;
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;
use warp::http::StatusCode;
use warp::reply::Response;
use warp::{Filter, Rejection, Reply};

use crate::Stop;

/// Time limit of a check. A dependency that does not answer within it counts as down.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// Time that the results of the checks are used again. Anybody may ask, and some checks are calls that cost money.
const CHECKED_FOR: Duration = Duration::from_secs(1);
/// The same while the service starts, so that an early question does not make it look down for a second.
const CHECKED_AT_START_FOR: Duration = Duration::from_millis(50);
/// Time in which a service starts.
const STARTS_WITHIN: Duration = Duration::from_secs(5);

type Refused = Box<dyn Fn() -> Vec<String> + Send + Sync>;
type Check = Box<dyn Fn() -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync>;

struct Dependency {
    name: &'static str,
    /// Whether the service needs this dependency to be ready. The state of the others is only reported.
    required: bool,
    check: Check,
}

/// Health, readiness and metrics of a service. Built once, before the service listens.
pub struct Health {
    name: &'static str,
    checks: Vec<Dependency>,
    /// Which dependencies were up, in the order of `checks`, and when. Held while they are checked, so that several
    /// callers cause one check.
    checked: Mutex<Option<(Instant, Vec<bool>)>>,
    created: Instant,
    /// Lists what the service has no right to.
    refused: Option<Refused>,
    /// The status that was replied last.
    status: std::sync::Mutex<&'static str>,
    /// The metrics that `/metrics` prints.
    pub registry: Registry,
    stop: Stop,
}

impl Health {
    /// A service without dependencies. After `stop` it reports that it drains.
    #[must_use]
    pub fn new(name: &'static str, stop: &Stop) -> Self {
        let mut registry = Registry::with_prefix("flash");
        crate::process_metrics::register(&mut registry);
        let status = std::sync::Mutex::new("starting");
        Self {
            name,
            checks: Vec::new(),
            checked: Mutex::default(),
            created: Instant::now(),
            refused: None,
            status,
            registry,
            stop: stop.clone(),
        }
    }

    /// A dependency that must be reachable before the service is ready:
    /// `health.requires("nats", &bus, |bus| async move { bus.is_connected() })`.
    pub fn requires<D, F>(&mut self, name: &'static str, dependency: &D, is_reachable: fn(D) -> F)
    where
        D: Clone + Send + Sync + 'static,
        F: Future<Output = bool> + Send + 'static,
    {
        self.add(name, true, dependency.clone(), is_reachable);
    }

    /// A dependency that is reported, but without which the service is still ready.
    pub fn reports<D, F>(&mut self, name: &'static str, dependency: &D, is_reachable: fn(D) -> F)
    where
        D: Clone + Send + Sync + 'static,
        F: Future<Output = bool> + Send + 'static,
    {
        self.add(name, false, dependency.clone(), is_reachable);
    }

    /// Lists requests that a dependency refused because the service's login lacks a right. While there are any, the
    /// service is not ready, and `/ready` names them.
    pub fn refuses<D: Clone + Send + Sync + 'static>(&mut self, dependency: &D, refused: fn(&D) -> Vec<String>) {
        let dependency = dependency.clone();
        self.refused = Some(Box::new(move || refused(&dependency)));
    }

    fn add<D, F>(&mut self, name: &'static str, required: bool, dependency: D, is_reachable: fn(D) -> F)
    where
        D: Clone + Send + Sync + 'static,
        F: Future<Output = bool> + Send + 'static,
    {
        let check = Box::new(move || -> Pin<Box<dyn Future<Output = bool> + Send>> {
            Box::pin(is_reachable(dependency.clone()))
        });
        self.checks.push(Dependency { name, required, check });
    }

    /// The three paths.
    pub fn routes(self) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + 'static {
        let health = Arc::new(self);
        let with = warp::any().map(move || Arc::clone(&health));
        let alive = warp::path!("health").and(warp::get()).and(with.clone()).map(|health: Arc<Self>| {
            let body = json!({"status": "healthy", "service": health.name, "version": crate::VERSION});
            crate::http::json(StatusCode::OK, &body)
        });
        let ready = warp::path!("ready").and(warp::get()).and(with.clone()).then(Self::ready);
        let metrics = warp::path!("metrics")
            .and(warp::get())
            .and(warp::header::optional::<String>("accept"))
            .and(with)
            .map(|accept: Option<String>, health: Arc<Self>| health.metrics(accept.as_deref()));
        alive.or(ready).unify().or(metrics).unify()
    }

    async fn ready(self: Arc<Self>) -> Response {
        let up = self.check().await;
        let (code, body) = self.readiness(&up);
        crate::http::json(code, &body)
    }

    /// The reply to `GET /ready` while these dependencies are up, in the order of `checks`.
    fn readiness(&self, up: &[bool]) -> (StatusCode, Value) {
        let draining = self.stop.is_cancelled() || crate::process::is_draining();
        let results = || self.checks.iter().zip(up);
        let refused = self.refused.as_ref().map(|refused| refused()).unwrap_or_default();
        let ready = !draining && refused.is_empty() && results().all(|(dependency, up)| *up || !dependency.required);
        let dependencies: Map<String, Value> = results()
            .map(|(dependency, up)| (dependency.name.to_owned(), json!(if *up { "up" } else { "down" })))
            .collect();
        let status = if draining {
            "draining"
        } else if ready {
            "ready"
        } else {
            "not_ready"
        };
        let before = std::mem::replace(&mut *self.status.lock().unwrap_or_else(PoisonError::into_inner), status);
        if status != before {
            let down: Vec<&str> = results().filter(|(_, up)| !**up).map(|(dependency, _)| dependency.name).collect();
            if status == "not_ready" {
                tracing::warn!(before, ?down, ?refused, "became not ready");
            } else {
                tracing::info!(status, before, "readiness changed");
            }
        }
        let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let body = json!({"status": status, "service": self.name, "dependencies": dependencies, "refused": refused});
        (code, body)
    }

    /// Which dependencies are up, as of at most [`CHECKED_FOR`] ago.
    async fn check(&self) -> Vec<bool> {
        let mut checked = self.checked.lock().await;
        let is_starting = self.created.elapsed() < STARTS_WITHIN;
        let checked_for = if is_starting { CHECKED_AT_START_FOR } else { CHECKED_FOR };
        if let Some((_, up)) = checked.as_ref().filter(|(at, _)| at.elapsed() < checked_for) {
            return up.clone();
        }
        let checks = self.checks.iter().map(|dependency| async move {
            tokio::time::timeout(CHECK_TIMEOUT, (dependency.check)()).await.unwrap_or(false)
        });
        let up = futures_util::future::join_all(checks).await;
        *checked = Some((Instant::now(), up.clone()));
        up
    }

    fn metrics(&self, accept: Option<&str>) -> Response {
        match crate::exposition::encode(&self.registry, accept) {
            Ok((text, content)) => warp::reply::with_header(text, "content-type", content).into_response(),
            Err(error) => {
                tracing::error!(error = %errors::chain(&error), "failed to encode the metrics");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn refused_service_is_not_ready_and_says_what_it_lacks() {
        let refused = Arc::new(std::sync::Mutex::new(vec!["Publish to \"auction.1.log\"".to_owned()]));
        let mut health = Health::new("test", &Stop::new());
        health.refuses(&refused, |refused| refused.lock().unwrap().clone());
        let (status, body) = health.readiness(&[]);
        assert_eq!(
            (status, &body["status"], &body["refused"]),
            (StatusCode::SERVICE_UNAVAILABLE, &json!("not_ready"), &json!(["Publish to \"auction.1.log\""]))
        );
        refused.lock().unwrap().clear();
        assert_eq!(health.readiness(&[]).0, StatusCode::OK);
    }

    #[tokio::test(start_paused = true)]
    async fn checks_run_at_most_once_a_second() {
        let asked = Arc::new(AtomicU32::new(0));
        let mut health = Health::new("test", &Stop::new());
        health.requires("dependency", &asked, |asked| async move { asked.fetch_add(1, Ordering::Relaxed) == 0 });
        tokio::time::advance(STARTS_WITHIN).await;
        let together = tokio::join!(health.check(), health.check());
        assert_eq!(together, (vec![true], vec![true]));
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        tokio::time::advance(CHECKED_FOR).await;
        assert_eq!(health.check().await, vec![false]);
    }

    #[tokio::test(start_paused = true)]
    async fn starting_service_is_checked_again_soon() {
        let asked = Arc::new(AtomicU32::new(0));
        let mut health = Health::new("test", &Stop::new());
        health.requires("dependency", &asked, |asked| async move { asked.fetch_add(1, Ordering::Relaxed) > 0 });
        let together = tokio::join!(health.check(), health.check());
        assert_eq!(together, (vec![false], vec![false]), "one check");
        tokio::time::advance(CHECKED_AT_START_FOR).await;
        assert_eq!(health.check().await, vec![true]);
    }
}

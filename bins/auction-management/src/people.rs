//! Profiles: people as they see themselves.

use bus::Bus;
use protocol::{
    Code, Failure, LimitRequest, LimitShown, MAX_LIMITS_IN_PAGE, MAX_NAMES_IN_PAGE, MAX_OWN_LIMITS, NamesRequest,
    Person, PersonLimit, Profile, Reply, SeenReply, UserSeen, parse_profile_change, subject,
};
use store::{Named, Store, StoreError};
use warp::http::StatusCode;

use crate::context::{Answered, Context, store_failure};

/// `/users/me`.
#[derive(Clone)]
pub struct People {
    pub context: Context,
}

impl People {
    /// `GET /users/me`.
    pub async fn profile(&self, token: Option<&str>) -> Answered {
        let identity = self.context.identity(token).await?;
        let store = &self.context.store;
        name(store, &self.context.bus, &identity.seen()).await.map_err(|error| store_failure(&error))?;
        reply(store.profile(identity.person.user_id).await)
    }

    /// `PUT /users/me`.
    pub async fn change_profile(&self, token: Option<&str>, body: &[u8]) -> Answered {
        let identity = self.context.identity(token).await?;
        let change = parse_profile_change(body)?;
        let store = &self.context.store;
        name(store, &self.context.bus, &identity.seen()).await.map_err(|error| store_failure(&error))?;
        let changed =
            store.change_profile(identity.person.user_id, change.name.as_deref(), change.phone.as_deref()).await;
        // A failed write may have taken effect.
        reply(changed).map_err(Failure::after_effect)
    }
}

fn reply(found: Result<Option<Profile>, StoreError>) -> Answered {
    match found {
        Ok(Some(profile)) => Ok(service::http::json(StatusCode::OK, &profile)),
        // The row was written a moment ago, so its absence is a failure of ours.
        Ok(None) => Err(Code::Unavailable.into()),
        Err(error) => Err(store_failure(&error)),
    }
}

/// Stores the claims of a token, and publishes the name of a new person. Returns the person under the table's name.
pub async fn name(store: &Store, bus: &Bus, user: &UserSeen) -> Result<Person, StoreError> {
    let Named { username, is_new } = store.user_seen(user).await?;
    let person = Person { user_id: user.person.user_id, username };
    if is_new {
        publish(bus, subject::USERS_NAMED, serde_json::to_vec(&person)).await;
    }
    Ok(person)
}

/// `users.seen`: stores the claims of a person's token, which comes with them. A refusal with `invalid_request` is final.
pub async fn seen(context: &Context, user: &UserSeen, token: Option<&str>) -> SeenReply {
    let claims = match context.identity(token).await {
        // Those of the token count, whatever was sent.
        Ok(identity) if identity.person.user_id == user.person.user_id => identity.seen(),
        Err(failure) if failure.code == Code::Unavailable => return Reply::Failed(failure),
        // The person's next appearance, with a token that is valid, sends them again.
        Ok(_) | Err(_) => return Reply::Failed(Code::InvalidRequest.into()),
    };
    let named = name(&context.store, &context.bus, &claims).await.map_err(|error| {
        tracing::warn!(error = %errors::chain(&error), "failed to store the claims of a user");
        Failure::from(if error.is_permanent() { Code::InvalidRequest } else { Code::Unavailable })
    });
    named.map(|person| user.wants_name.then_some(person)).into()
}

/// `users.names`: a page of all names.
pub async fn names(store: &Store, request: &NamesRequest) -> Reply<Vec<Person>> {
    store.names(request.after, MAX_NAMES_IN_PAGE).await.map_err(|error| store_failure(&error)).into()
}

/// `users.limits`: a page of the people with a limit of their own.
pub async fn limits(store: &Store, request: &NamesRequest) -> Reply<Vec<PersonLimit>> {
    store.limits(request.after, MAX_LIMITS_IN_PAGE).await.map_err(|error| store_failure(&error)).into()
}

/// `users.limit`: the limit of a person. One that is set is published each time, so that a request that failed half-way
/// may be repeated.
pub async fn limit(store: &Store, bus: &Bus, request: &LimitRequest) -> Reply<LimitShown> {
    let user_id = request.user_id;
    if let Some(limit) = request.set {
        match store.set_limit(user_id, limit, MAX_OWN_LIMITS).await {
            Ok(true) => {
                let changed = serde_json::to_vec(&PersonLimit { user_id, limit });
                publish(bus, subject::USERS_LIMITED, changed).await;
            }
            Ok(false) => {
                let error = format!("{MAX_OWN_LIMITS} people have a limit of their own, the most there may be");
                return Reply::Failed(Failure::new(Code::LimitExceeded, error));
            }
            Err(error) => return Reply::Failed(store_failure(&error).after_effect()),
        }
    }
    store.limit(user_id).await.map_err(|error| store_failure(&error)).into()
}

/// Publishes a changed row. Services that follow the table read it again after each connection.
async fn publish(bus: &Bus, subject: &'static str, row: serde_json::Result<Vec<u8>>) {
    let payload = row.unwrap_or_default();
    if let Err(error) = bus.client.publish(subject, payload.into()).await {
        tracing::debug!(subject, error = %errors::chain(&error), "failed to publish a changed row");
    }
}

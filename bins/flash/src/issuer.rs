//! Who signs tokens here: the emulated user pool, and a development key beside it.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use identity::development::{DevelopmentKey, DevelopmentUser};
use serde_json::{Value, json};
use service::Stop;
use tokio::net::TcpListener;
use warp::Filter;
use warp::http::StatusCode;

/// Tokens that `up` and tests print live this long unless told otherwise.
pub const DEFAULT_TOKEN_SECONDS: u64 = 3600;

/// The issuer's name, its app client, and our key.
#[derive(Clone)]
pub struct Issuer {
    pub issuer: String,
    pub client_id: String,
    pub key: DevelopmentKey,
}

impl Issuer {
    /// A token of the person with this name.
    ///
    /// # Errors
    /// When the key is damaged.
    pub fn token(&self, name: &str) -> Result<String> {
        self.token_of(&DevelopmentUser::named(name), DEFAULT_TOKEN_SECONDS)
    }

    /// A token of this person that lives `seconds`.
    ///
    /// # Errors
    /// When the key is damaged.
    pub fn token_of(&self, user: &DevelopmentUser, seconds: u64) -> Result<String> {
        Ok(self.key.mint(&self.issuer, &self.client_id, user, now(), seconds)?)
    }
}

/// Seconds since 1970.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The development key in `directory`, drawn at the first start.
///
/// # Errors
/// When it cannot be read or written.
pub fn development_key(directory: &Path) -> Result<DevelopmentKey> {
    let file = directory.join("development-key.json");
    if let Ok(text) = fs::read(&file) {
        return serde_json::from_slice(&text).with_context(|| format!("{} is damaged", file.display()));
    }
    let key = DevelopmentKey::generate("flash-development")?;
    testkit::write_private(&file, &serde_json::to_vec_pretty(&key)?)?;
    Ok(key)
}

/// Serves the JWKS (the pool's keys and ours) until the stop; returns its address.
///
/// # Errors
/// When no port is free.
pub async fn serve(pool_keys: &Value, key: &DevelopmentKey, stop: Stop) -> Result<String> {
    let mut keys = pool_keys["keys"].as_array().cloned().unwrap_or_default();
    keys.push(key.public_jwk()?);
    let set = json!({ "keys": keys });
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("http://{}/.well-known/jwks.json", listener.local_addr()?);
    let route = warp::path!(".well-known" / "jwks.json")
        .and(warp::get())
        .map(move || service::http::json(StatusCode::OK, &set));
    tokio::spawn(service::http::serve(listener, route, service::http::HttpSettings::default(), stop));
    Ok(url)
}

//! Signs tokens for a stack: a development key next to the keys of the emulated user pool.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, stream};
use identity::development::{DevelopmentKey, DevelopmentUser};
use serde_json::{Value, json};
use service::Stop;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use warp::Filter;
use warp::http::StatusCode;

use super::sign_in::SignIn;

/// Tokens that are signed at the same time.
const MINTING: usize = 64;
/// Seconds that a token lives by default.
pub const DEFAULT_TOKEN_SECONDS: u64 = 3600;

/// Signs development tokens.
#[derive(Clone)]
pub struct Issuer {
    /// The `iss` claim of its tokens.
    pub issuer: String,
    /// The app client that its tokens are for.
    pub client_id: String,
    /// The key that signs them.
    pub key: DevelopmentKey,
}

impl Issuer {
    /// A token of the user with this name.
    ///
    /// # Errors
    /// When the key is damaged.
    pub fn token(&self, name: &str) -> Result<String> {
        self.token_of(&DevelopmentUser::named(name), DEFAULT_TOKEN_SECONDS)
    }

    /// A token of this user that lives `seconds`.
    ///
    /// # Errors
    /// When the key is damaged.
    pub fn token_of(&self, user: &DevelopmentUser, seconds: u64) -> Result<String> {
        Ok(self.key.mint(&self.issuer, &self.client_id, user, now(), seconds)?)
    }
}

/// Tokens of this number of users.
pub async fn tokens(issuer: &Issuer, count: u64) -> Result<Vec<String>> {
    stream::iter(0..count)
        .map(|nth| {
            let issuer = issuer.clone();
            async move { tokio::task::spawn_blocking(move || issuer.token(&format!("watcher-{nth}"))).await? }
        })
        .buffered(MINTING)
        .try_collect()
        .await
}

/// Seconds since 1970.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The development key in `directory`, generated on first use.
///
/// # Errors
/// When the file cannot be read or written.
pub fn development_key(directory: &Path) -> Result<DevelopmentKey> {
    let file = directory.join("development-key.json");
    if let Ok(text) = fs::read(&file) {
        return serde_json::from_slice(&text).with_context(|| format!("{} is damaged", file.display()));
    }
    let key = DevelopmentKey::generate("flash-development")?;
    testkit::write_private(&file, &serde_json::to_vec_pretty(&key)?)?;
    Ok(key)
}

/// Serves the JWKS of one stack, the keys of the user pool and ours, and its sign-in, on an address that does not
/// change.
pub struct JwksServer {
    address: SocketAddr,
    keys: Vec<Value>,
    sign_in: SignIn,
    stop: Stop,
    /// None while it is stopped.
    server: Option<JoinHandle<std::io::Result<()>>>,
    /// Accepts connections without an answer while it hangs.
    silent: Option<TcpListener>,
}

impl JwksServer {
    /// Starts to serve the keys and the sign-in on a free port.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(pool_keys: &Value, sign_in: SignIn) -> Result<Self> {
        let listener = testkit::free_listener()?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let mut keys = pool_keys["keys"].as_array().cloned().unwrap_or_default();
        keys.push(sign_in.public_jwk()?);
        let (address, stop) = (listener.local_addr()?, Stop::new());
        let server = Some(tokio::spawn(serve_keys(listener, &keys, sign_in.clone(), stop.clone())));
        Ok(Self { address, keys, sign_in, stop, server, silent: None })
    }

    /// The `JWKS_URL` of the services.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}/.well-known/jwks.json", self.sign_in_url())
    }

    /// The `COGNITO_HOSTED_UI_URL` of the edge.
    #[must_use]
    pub fn sign_in_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Hangs until [`JwksServer::resume`]: the kernel accepts connections, and no request is ever read.
    ///
    /// # Errors
    /// When the address is taken.
    pub async fn hang(&mut self) -> Result<()> {
        self.stop().await;
        self.silent = Some(TcpListener::bind(self.address).await?);
        Ok(())
    }

    /// Stops listening, until [`JwksServer::resume`].
    pub async fn stop(&mut self) {
        self.silent = None;
        self.stop.cancel();
        if let Some(server) = self.server.take() {
            // It has ended, and its result does not matter.
            drop(server.await);
        }
    }

    /// Serves the keys on the same address again, with one more key if one is given.
    ///
    /// # Errors
    /// When the address is taken.
    pub async fn resume(&mut self, new: Option<&DevelopmentKey>) -> Result<()> {
        self.silent = None;
        let listener = TcpListener::bind(self.address).await?;
        self.keys.extend(new.map(DevelopmentKey::public_jwk).transpose()?);
        self.stop = Stop::new();
        let sign_in = self.sign_in.clone();
        self.server = Some(tokio::spawn(serve_keys(listener, &self.keys, sign_in, self.stop.clone())));
        Ok(())
    }
}

/// Serves these keys and the sign-in until the stop.
pub fn serve_keys(
    listener: TcpListener,
    keys: &[Value],
    sign_in: SignIn,
    stop: Stop,
) -> impl Future<Output = std::io::Result<()>> + Send + 'static {
    let set = json!({ "keys": keys });
    let settings = sign_in.http_settings();
    let keys = warp::path!(".well-known" / "jwks.json")
        .and(warp::get())
        .map(move || service::http::json(StatusCode::OK, &set));
    service::http::serve(listener, keys.or(sign_in.routes()).unify(), settings, stop)
}

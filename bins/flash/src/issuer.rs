//! Who signs tokens here: the emulated user pool, and a development key beside it.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use identity::development::{DevelopmentKey, DevelopmentUser};
use serde_json::{Value, json};
use service::{Environment, Mistakes, Reader, Stop};
use tokio::net::TcpListener;
use warp::Filter;
use warp::http::StatusCode;

use crate::stack_file;

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
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("http://{}/.well-known/jwks.json", listener.local_addr()?);
    tokio::spawn(serve_on(listener, pool_keys, key, stop)?);
    Ok(url)
}

fn serve_on(
    listener: TcpListener,
    pool_keys: &Value,
    key: &DevelopmentKey,
    stop: Stop,
) -> Result<impl Future<Output = Result<(), std::convert::Infallible>> + Send + 'static> {
    let mut keys = pool_keys["keys"].as_array().cloned().unwrap_or_default();
    keys.push(key.public_jwk()?);
    let set = json!({ "keys": keys });
    let route = warp::path!(".well-known" / "jwks.json")
        .and(warp::get())
        .map(move || service::http::json(StatusCode::OK, &set));
    Ok(service::http::serve(listener, route, service::http::HttpSettings::default(), stop))
}

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where to serve the keys
    #[arg(long, default_value = "0.0.0.0:8004")]
    listen: std::net::SocketAddr,
}

/// The settings it shares with the services, which know nothing of development.
struct Config {
    identity: identity::Settings,
    nats: bus::Settings,
    aws: cloud::Settings,
    from_email: String,
}

impl Config {
    fn read(environment: &Environment) -> Result<Self, Mistakes> {
        let mut reader = Reader::new(environment);
        let config = Self {
            identity: reader.part(identity::Settings::read),
            nats: reader.part(bus::Settings::read),
            aws: reader.part(cloud::Settings::read),
            from_email: reader.required("NOTIFY_FROM_EMAIL"),
        };
        reader.finish(config)
    }
}

/// For containers on one machine: fills the emulator, then serves the development key until the stop.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let config = Config::read(&Environment::of_process())?;
    let directory = crate::directory();
    fs::create_dir_all(&directory)?;
    let key = development_key(&directory)?;
    let identity::Settings { issuer, client_id, .. } = config.identity;
    // What `flash token` needs to know of this stack.
    stack_file::write(&directory, &json!({"issuer": issuer, "cognito": {"client_id": client_id}}))?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        Box::pin(crate::prepare::emulate(&config.aws, &config.nats, &config.from_email)).await?;
        let stop = Stop::new();
        service::stop_on_signal(stop.clone());
        let listener = TcpListener::bind(arguments.listen).await?;
        println!("Keys at http://{}/.well-known/jwks.json", arguments.listen);
        serve_on(listener, &json!({"keys": []}), &key, stop)?.await?;
        Ok(ExitCode::SUCCESS)
    })
}

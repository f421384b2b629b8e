//! Who signs tokens here: the emulated user pool, and a development key beside it.

use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use identity::development::{DevelopmentKey, DevelopmentUser};
use serde_json::{Value, json};
use service::{Environment, Mistakes, Reader, Stop};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
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

/// The JWKS of one stack: the pool's keys and ours, on an address that stays.
pub struct Keys {
    address: SocketAddr,
    keys: Vec<Value>,
    stop: Stop,
    /// None while it is away.
    server: Option<JoinHandle<Result<(), Infallible>>>,
}

impl Keys {
    /// Serves them on a free port.
    ///
    /// # Errors
    /// When there is none.
    pub async fn serve(pool_keys: &Value, key: &DevelopmentKey) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let mut keys = pool_keys["keys"].as_array().cloned().unwrap_or_default();
        keys.push(key.public_jwk()?);
        let (address, stop) = (listener.local_addr()?, Stop::new());
        let server = Some(tokio::spawn(serve_on(listener, &keys, stop.clone())));
        Ok(Self { address, keys, stop, server })
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/.well-known/jwks.json", self.address)
    }

    /// Nobody listens there any more, until [`Keys::resume`].
    pub async fn stop(&mut self) {
        self.stop.cancel();
        if let Some(server) = self.server.take() {
            // Over, however it ended.
            drop(server.await);
        }
    }

    /// Back where they were, and one more.
    ///
    /// # Errors
    /// When the address is taken.
    pub async fn resume(&mut self, new: Option<&DevelopmentKey>) -> Result<()> {
        let listener = TcpListener::bind(self.address).await?;
        self.keys.extend(new.map(DevelopmentKey::public_jwk).transpose()?);
        self.stop = Stop::new();
        self.server = Some(tokio::spawn(serve_on(listener, &self.keys, self.stop.clone())));
        Ok(())
    }
}

fn serve_on(
    listener: TcpListener,
    keys: &[Value],
    stop: Stop,
) -> impl Future<Output = Result<(), Infallible>> + Send + 'static {
    let set = json!({ "keys": keys });
    let route = warp::path!(".well-known" / "jwks.json")
        .and(warp::get())
        .map(move || service::http::json(StatusCode::OK, &set));
    service::http::serve(listener, route, service::http::HttpSettings::default(), stop)
}

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where to serve the keys
    #[arg(long, default_value = "0.0.0.0:8004")]
    listen: SocketAddr,
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
        serve_on(listener, &[key.public_jwk()?], stop).await?;
        Ok(ExitCode::SUCCESS)
    })
}

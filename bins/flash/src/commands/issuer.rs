//! `flash issuer`: signs development tokens for containers on one machine, and signs people in.

use std::fs;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Value, json};
use service::http::HttpSettings;
use service::{Environment, Mistakes, Reader, Stop};
use tokio::net::TcpListener;

use crate::checkout::directory;
use crate::stack::issuer::{Issuer, development_key, serve_keys};
use crate::stack::sign_in::SignIn;
use crate::stack::{description, prepare};

/// The arguments of `issuer`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Address to serve the keys on
    #[arg(long, default_value = "0.0.0.0:8004")]
    listen: SocketAddr,
    /// Address of the ingress, which `flash demo` then uses
    #[arg(long)]
    ingress: Option<String>,
}

/// Settings that the issuer shares with the services. The services have no settings for development.
pub struct Config {
    identity: identity::Settings,
    nats: bus::Settings,
    aws: cloud::Settings,
    from_email: String,
    http: HttpSettings,
    /// For `flash demo`, which compares the log and the rows. The services do not have these logins.
    operator_password: String,
    database_url: String,
}

impl Config {
    /// Reads the settings.
    ///
    /// # Errors
    /// Every mistake in the settings at once.
    pub fn read(environment: &Environment) -> Result<Self, Mistakes> {
        let mut reader = Reader::new(environment);
        let config = Self {
            identity: reader.part(identity::Settings::read),
            nats: reader.part(bus::Settings::read),
            aws: reader.part(cloud::Settings::read),
            from_email: reader.required("NOTIFY_FROM_EMAIL"),
            http: HttpSettings::read(&mut reader),
            operator_password: reader.optional("NATS_OPERATOR_PASSWORD").unwrap_or_default(),
            database_url: reader.optional("DATABASE_URL").unwrap_or_default(),
        };
        reader.finish(config)
    }

    /// Addresses and logins of the containers, for `flash token` and `flash demo`.
    fn description(&self, ingress: Option<&str>) -> Value {
        let nats = self.nats.url.rsplit_once('@').map(|(_, address)| format!("nats://{address}"));
        json!({
            "issuer": self.identity.issuer,
            "cognito": {"client_id": self.identity.client_id},
            "services": {"auction-management": {"url": ingress}, "websocket": {"url": ingress}},
            "nats": {"url": nats, "user": "operator", "password": self.operator_password},
            "postgres": {"url": self.database_url},
            "aws": {"endpoint": self.aws.endpoint},
        })
    }
}

/// Prepares the AWS emulator, then serves the development key until the process is stopped.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let config = Config::read(&Environment::of_process())?;
    let directory = directory();
    fs::create_dir_all(&directory)?;
    let key = development_key(&directory)?;
    description::write(&directory, &config.description(arguments.ingress.as_deref()))?;
    let identity::Settings { issuer, client_id, .. } = config.identity;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        Box::pin(prepare::emulate(&config.aws, &config.nats, &config.from_email)).await?;
        let stop = Stop::new();
        service::stop_on_signal(stop.clone());
        let listener = TcpListener::bind(arguments.listen).await?;
        println!("Keys and sign-in at http://{}", arguments.listen);
        let keys = [key.public_jwk()?];
        let sign_in = SignIn::new(Issuer { issuer, client_id, key }, config.http.origins);
        serve_keys(listener, &keys, sign_in, stop).await?;
        Ok(ExitCode::SUCCESS)
    })
}

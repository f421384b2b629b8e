//! `flash issuer`: signs development tokens for containers on one machine, and signs people in.

use std::fs;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;
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
}

/// Settings that the issuer shares with the services. The services have no settings for development.
struct Config {
    identity: identity::Settings,
    nats: bus::Settings,
    aws: cloud::Settings,
    from_email: String,
    http: HttpSettings,
}

impl Config {
    fn read(environment: &Environment) -> Result<Self, Mistakes> {
        let mut reader = Reader::new(environment);
        let config = Self {
            identity: reader.part(identity::Settings::read),
            nats: reader.part(bus::Settings::read),
            aws: reader.part(cloud::Settings::read),
            from_email: reader.required("NOTIFY_FROM_EMAIL"),
            http: HttpSettings::read(&mut reader),
        };
        reader.finish(config)
    }
}

/// Prepares the AWS emulator, then serves the development key until the process is stopped.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let config = Config::read(&Environment::of_process())?;
    let directory = directory();
    fs::create_dir_all(&directory)?;
    let key = development_key(&directory)?;
    let identity::Settings { issuer, client_id, .. } = config.identity;
    // `flash token` reads the issuer and the client from here.
    description::write(&directory, &json!({"issuer": issuer, "cognito": {"client_id": client_id}}))?;
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

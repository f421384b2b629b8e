//! `flash migrate`: what runs once before a version's services do.

use std::process::ExitCode;

use anyhow::Result;
use service::{Environment, Mistakes, Reader};

use crate::prepare;

pub struct Config {
    database_url: String,
    nats: bus::Settings,
    replicas: usize,
}

impl Config {
    /// # Errors
    /// Every mistake in the settings at once.
    pub fn read(environment: &Environment) -> Result<Self, Mistakes> {
        let mut reader = Reader::new(environment);
        let replicas = reader.read("STREAM_REPLICAS", 1, "1, 3 or 5", |text| {
            text.parse().ok().filter(|replicas| [1, 3, 5].contains(replicas))
        });
        let (database_url, nats) = (reader.required("DATABASE_URL"), reader.part(bus::Settings::read));
        reader.finish(Self { database_url, nats, replicas })
    }
}

pub fn run() -> Result<ExitCode> {
    let config = Config::read(&Environment::of_process())?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(Box::pin(prepare::migrate(&config.database_url, &config.nats, config.replicas)))?;
    println!("Tables, streams and consumers are those of this version.");
    Ok(ExitCode::SUCCESS)
}

//! `.flash/stack.json`: addresses and logins of the running stack, for scripts and for the other commands.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;
use testkit::Secrets;

use super::issuer::{Issuer, development_key};

const FILE: &str = "stack.json";

/// Writes the description, readable by its owner alone.
///
/// # Errors
/// When the file cannot be written.
pub fn write(directory: &Path, description: &Value) -> Result<()> {
    testkit::write_private(&directory.join(FILE), &serde_json::to_vec_pretty(description)?)
}

/// Reads the description.
///
/// # Errors
/// When no stack is running here.
pub fn read(directory: &Path) -> Result<Value> {
    let text =
        std::fs::read(directory.join(FILE)).context("no stack is running here; start one with `cargo flash up`")?;
    let stack: Value = serde_json::from_slice(&text).context("stack.json is damaged")?;
    // The services of a stack with TLS show certificates that its own authority has signed.
    if let Some(ca_file) = stack["tls"]["NATS_CA_FILE"].as_str() {
        testkit::tls::trust(Path::new(ca_file))?;
    }
    Ok(stack)
}

/// The settings of TLS with which a program reaches the described stack.
pub fn tls_settings(stack: &Value) -> impl Iterator<Item = (&str, &str)> {
    let settings = stack["tls"].as_object().into_iter().flatten();
    settings.filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
}

/// The issuer of tokens for the described stack.
///
/// # Errors
/// When the description or the development key is damaged.
pub fn issuer(directory: &Path, stack: &Value) -> Result<Issuer> {
    Ok(Issuer {
        issuer: text(&stack["issuer"])?,
        client_id: text(&stack["cognito"]["client_id"])?,
        key: development_key(directory)?,
    })
}

/// Settings of the operator's login to the described stack's NATS, which looks and changes nothing.
///
/// # Errors
/// When the description is damaged.
pub fn operator(stack: &Value) -> Result<bus::Settings> {
    let nats = &stack["nats"];
    let url = with_login(&text(&nats["url"])?, &text(&nats["user"])?, &text(&nats["password"])?);
    let file = |name: &str| stack["tls"][name].as_str().map(str::to_owned);
    let client = file("NATS_CERT_FILE").zip(file("NATS_KEY_FILE"));
    let client = client.map(|(cert_file, key_file)| bus::ClientFiles { cert_file, key_file });
    let tls = bus::Tls { ca_file: file("NATS_CA_FILE"), client };
    Ok(bus::Settings { url, credentials_file: None, tls })
}

/// The address of the described stack's NATS with the login of this user.
///
/// # Errors
/// When the description or the stored passwords are damaged.
pub fn nats_url_of(directory: &Path, stack: &Value, user: &str) -> Result<String> {
    let secrets = Secrets::of(directory)?;
    let password = secrets.nats.get(user).with_context(|| format!("there is no NATS user {user}"))?;
    Ok(with_login(&text(&stack["nats"]["url"])?, user, password))
}

fn with_login(url: &str, user: &str, password: &str) -> String {
    url.replacen("://", &format!("://{user}:{password}@"), 1)
}

/// A text of the description.
///
/// # Errors
/// When it is not there.
pub fn text(value: &Value) -> Result<String> {
    value.as_str().map(str::to_owned).context("stack.json is damaged")
}

/// Removes the description of a stack that has ended.
pub fn remove(directory: &Path) {
    if let Err(error) = std::fs::remove_file(directory.join(FILE)) {
        tracing::debug!(error = %errors::chain(&error), "failed to remove stack.json");
    }
}

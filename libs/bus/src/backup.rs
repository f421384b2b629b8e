//! Backup and restore of a stream with its consumers, by the snapshot requests of JetStream, into the files that
//! `nats stream backup` and `nats stream restore` use: `backup.json` and the archive that the server has made.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use errors::BoxError;
use futures_util::StreamExt;
use protocol::subject::{LOG_STREAM, RESTORED_METADATA, RESTORING_METADATA};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{ApiError, Bus, api};

/// The file with the configuration and state of the stream. It is written last, so a backup without it is incomplete.
const DESCRIPTION: &str = "backup.json";
/// The archive as servers from 2.15 on make it.
const ARCHIVE: &str = "stream.arc.s2";
/// The archive as older servers make it.
const LEGACY_ARCHIVE: &str = "stream.tar.s2";
/// Bytes of one message of a backup. As the nats CLI asks for.
const CHUNK_BYTES: usize = 128 * 1024;
/// Longest pause between two messages of a backup.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of one message of a restore. As the nats CLI sends.
const RESTORE_CHUNK_BYTES: usize = 64 * 1024;
/// Status of the last message of a complete backup.
const NO_CONTENT: u16 = 204;
/// Time for the server to build the stream from all that was sent. A log of 4 GiB takes less than a minute.
const BUILD_TIMEOUT: Duration = Duration::from_secs(600);

/// Why a backup or a restore failed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file could not be read or written.
    #[error("failed to use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is a complete backup already.
    #[error("{} has a backup already", .0.display())]
    Exists(PathBuf),
    /// The directory holds no complete backup.
    #[error("{} has no complete backup: {detail}", path.display())]
    Incomplete {
        /// The directory.
        path: PathBuf,
        /// The missing part.
        detail: String,
    },
    /// The server refused.
    #[error("the server refused")]
    Refused(#[from] ApiError),
    /// The connection failed.
    #[error("the transfer failed")]
    Transfer(#[source] BoxError),
}

fn transfer(error: impl Into<BoxError>) -> BackupError {
    BackupError::Transfer(error.into())
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::File { path, source }
}

/// A backup that was made or restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Messages in the stream.
    pub messages: u64,
    /// The sequence of the last one.
    pub last_seq: u64,
    /// Bytes of the archive.
    pub archive_bytes: u64,
}

impl Backup {
    fn of(state: &Value, archive_bytes: u64) -> Self {
        let number = |name: &str| state[name].as_u64().unwrap_or_default();
        Self { messages: number("messages"), last_seq: number("last_seq"), archive_bytes }
    }
}

/// Makes and restores archives of streams.
#[derive(Clone)]
pub struct ServerArchive {
    bus: Bus,
}

impl ServerArchive {
    /// Uses this connection.
    #[must_use]
    pub fn new(bus: &Bus) -> Self {
        Self { bus: bus.clone() }
    }

    /// The number of messages in a stream. None if it does not exist.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn messages(&self, stream: &str) -> Result<Option<u64>, ApiError> {
        match api::call(&self.bus.jetstream, &format!("STREAM.INFO.{stream}"), &json!({})).await {
            Ok(info) => Ok(info["state"]["messages"].as_u64()),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes a stream with all that it holds.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn delete(&self, stream: &str) -> Result<(), ApiError> {
        api::call(&self.bus.jetstream, &format!("STREAM.DELETE.{stream}"), &json!({})).await.map(drop)
    }

    /// Writes a stream and its consumers into a directory, which is made. The services go on.
    ///
    /// # Errors
    /// When the directory has a backup already, the server refuses or the transfer breaks off: then the directory holds
    /// no backup.
    pub async fn back_up(&self, stream: &str, directory: &Path) -> Result<Backup, BackupError> {
        let description = directory.join(DESCRIPTION);
        if tokio::fs::try_exists(&description).await.map_err(file(&description))? {
            return Err(BackupError::Exists(directory.to_owned()));
        }
        tokio::fs::create_dir_all(directory).await.map_err(file(directory))?;
        let archive = directory.join(self.archive_name());
        let mut written = tokio::fs::File::create(&archive).await.map_err(file(&archive))?;

        // Subscribed first: the server sends at once.
        let inbox = self.bus.client.new_inbox();
        let mut chunks = self.bus.client.subscribe(inbox.clone()).await.map_err(transfer)?;
        let request = json!({
            "deliver_subject": inbox, "no_consumers": false, "jsck": false, "chunk_size": CHUNK_BYTES
        });
        let snapshot = api::call(&self.bus.jetstream, &format!("STREAM.SNAPSHOT.{stream}"), &request).await?;
        let mut bytes = 0;
        loop {
            let chunk = tokio::time::timeout(CHUNK_TIMEOUT, chunks.next()).await.map_err(transfer)?;
            let chunk = chunk.ok_or_else(|| transfer("the connection was closed"))?;
            if chunk.payload.is_empty() {
                ended(&chunk)?;
                break;
            }
            // The server sends no more than it has acknowledgements for, and gives up after two seconds without one.
            if let Some(reply) = chunk.reply {
                self.bus.client.publish(reply, Bytes::new()).await.map_err(transfer)?;
            }
            written.write_all(&chunk.payload).await.map_err(file(&archive))?;
            bytes += chunk.payload.len() as u64;
        }
        written.sync_all().await.map_err(file(&archive))?;
        let text = json!({ "config": snapshot["config"], "state": snapshot["state"] });
        let text = serde_json::to_vec_pretty(&text).map_err(transfer)?;
        let new = description.with_extension("new");
        let mut written = tokio::fs::File::create(&new).await.map_err(file(&new))?;
        written.write_all(&text).await.map_err(file(&new))?;
        written.sync_all().await.map_err(file(&new))?;
        tokio::fs::rename(&new, &description).await.map_err(file(&description))?;
        Ok(Backup::of(&snapshot["state"], bytes))
    }

    /// The archive's name, which says how it is built.
    fn archive_name(&self) -> &'static str {
        let version = self.bus.client.server_info().version;
        let mut parts = version.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or_default());
        let version = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if version >= (2, 15) { ARCHIVE } else { LEGACY_ARCHIVE }
    }

    /// Makes the stream that a directory holds, with its consumers. The stream must not exist. The log is held, as by
    /// [`hold_log`].
    ///
    /// # Errors
    /// When the backup is incomplete, the server refuses or the transfer breaks off: then there is no stream.
    pub async fn restore(&self, stream: &str, directory: &Path, at_ms: u64) -> Result<Backup, BackupError> {
        let incomplete =
            |detail: &str| BackupError::Incomplete { path: directory.to_owned(), detail: detail.to_owned() };
        let description = directory.join(DESCRIPTION);
        let text = tokio::fs::read(&description).await.map_err(file(&description))?;
        let mut request: Value = serde_json::from_slice(&text).map_err(|_| incomplete("backup.json is not JSON"))?;
        if request["config"]["name"] != stream {
            return Err(incomplete(&format!("it is a backup of {}", request["config"]["name"])));
        }
        if stream == LOG_STREAM {
            hold(&mut request["config"]["metadata"], at_ms);
        }
        let mut archive = directory.join(ARCHIVE);
        if !tokio::fs::try_exists(&archive).await.map_err(file(&archive))? {
            archive = directory.join(LEGACY_ARCHIVE);
        }
        let mut reading = tokio::fs::File::open(&archive).await.map_err(file(&archive))?;

        let started = api::call(&self.bus.jetstream, &format!("STREAM.RESTORE.{stream}"), &request).await?;
        let to = started["deliver_subject"].as_str().ok_or_else(|| transfer("the answer has no subject"))?.to_owned();
        let (mut chunk, mut bytes) = (vec![0; RESTORE_CHUNK_BYTES], 0);
        loop {
            let read = reading.read(&mut chunk).await.map_err(file(&archive))?;
            if read == 0 {
                break;
            }
            self.send(&to, Bytes::copy_from_slice(&chunk[..read]), CHUNK_TIMEOUT).await?;
            bytes += read as u64;
        }
        let built = self.send(&to, Bytes::new(), BUILD_TIMEOUT).await?;
        let built: Value = serde_json::from_slice(&built).map_err(transfer)?;
        let built = api::checked(built)?;
        Ok(Backup::of(&built["state"], bytes))
    }

    /// Sends a piece of an archive and returns the answer.
    async fn send(&self, to: &str, piece: Bytes, timeout: Duration) -> Result<Bytes, BackupError> {
        let request = async_nats::Request::new().payload(piece).timeout(Some(timeout));
        let answer = self.bus.client.send_request(to.to_owned(), request).await.map_err(transfer)?;
        // A piece that the server refuses is answered with the error.
        if let Ok(answer) = serde_json::from_slice::<Value>(&answer.payload) {
            api::checked(answer)?;
        }
        Ok(answer.payload)
    }
}

/// Reads the last message of a backup: its status says whether the archive is complete.
fn ended(last: &async_nats::Message) -> Result<(), BackupError> {
    let status = last.status.map_or(NO_CONTENT, |status| status.as_u16());
    if status == NO_CONTENT {
        return Ok(());
    }
    let description = last.description.as_deref().unwrap_or("no description");
    Err(transfer(format!("the server broke it off: {status} {description}")))
}

/// Notes at the log's stream that it was restored and that the restore is not finished: services forget what they know
/// of the log before, and bid-processing accepts no bid, opens and closes nothing, until [`release_log`].
///
/// # Errors
/// When the server refuses.
pub async fn hold_log(bus: &Bus, at_ms: u64) -> Result<(), ApiError> {
    change_metadata(bus, |metadata| hold(metadata, at_ms)).await
}

/// Notes at the log's stream that the restore is finished.
///
/// # Errors
/// When the server refuses.
pub async fn release_log(bus: &Bus) -> Result<(), ApiError> {
    change_metadata(bus, |metadata| {
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.remove(RESTORING_METADATA);
        }
    })
    .await
}

/// Whether the log's stream says that a restore is not finished.
///
/// # Errors
/// When the server does not answer, or there is no log.
pub async fn is_log_held(bus: &Bus) -> Result<bool, ApiError> {
    let info = api::call(&bus.jetstream, &format!("STREAM.INFO.{LOG_STREAM}"), &json!({})).await?;
    Ok(!info["config"]["metadata"][RESTORING_METADATA].is_null())
}

fn hold(metadata: &mut Value, at_ms: u64) {
    metadata[RESTORED_METADATA] = json!(at_ms.to_string());
    metadata[RESTORING_METADATA] = json!("true");
}

async fn change_metadata(bus: &Bus, change: impl FnOnce(&mut Value)) -> Result<(), ApiError> {
    let info = api::call(&bus.jetstream, &format!("STREAM.INFO.{LOG_STREAM}"), &json!({})).await?;
    let mut config = info["config"].clone();
    change(&mut config["metadata"]);
    api::call(&bus.jetstream, &format!("STREAM.UPDATE.{LOG_STREAM}"), &config).await.map(drop)
}

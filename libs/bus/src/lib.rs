//! NATS: connect, declare streams and consumers, append to the log with compare-and-set, consume, chat, send and
//! answer requests between services, hold the lease of an elected instance.
//!
//! **Owns** every use of JetStream and of request and reply. Streams and consumers are declared from the files in
//! `nats/`, which the nats CLI takes as well.
//!
//! **Never** decides, and never retries an append by itself: after a conflict or a timeout the caller must read the log
//! first.
//!
//! **Invariants**
//! - An append to the log names the subject's last sequence it expects. It carries no `Nats-Msg-Id`, and an
//!   acknowledgement that says `duplicate` is an error.
//! - Every delivery is answered: `ack`, `retry_in` or `park`.
//! - The rights of each login are in [`protocol::rights`]; a new subject or JetStream call needs one there.

#![warn(missing_docs)]

mod api;
mod append;
mod background;
mod backup;
mod chat;
mod checkpoints;
mod compare;
mod connect;
mod consume;
mod dead_letters;
mod declare;
mod generation;
mod group;
mod lease;
mod log;
mod on_air;
mod reading;
mod refusals;
mod request;
mod tables;
mod tls;
mod trace;

pub use api::ApiError;
pub use append::AppendError;
pub use background::BackgroundSender;
pub use backup::{Backup, BackupError, ServerArchive, hold_log, is_log_held, release_log};
pub use chat::{Chat, Said};
pub use checkpoints::{CheckpointReading, Checkpoints, StoredCheckpoint};
pub use compare::{FieldDifference, Handling};
pub use connect::{Bus, ConnectError, Settings};
pub use consume::{Backlog, Consumer, Delivery};
pub use dead_letters::{DeadLetter, DeadLetters};
pub use declare::{Deviation, Difference, apply, declare, differences, restart_consumer, stored_streams};
pub use lease::{Election, LeaseToken, TokenAge, hold};
pub use log::{Fill, LOG_ALARM_RATIO, LOG_FULL_RATIO, LOG_RESERVED_RATIO, LastRecords, Log, LogError, Logged, Records};
pub use on_air::follow_on_air;
pub use reading::Reading;
pub use request::{About, Micro, RequestError, request, request_for, statuses};
pub use tables::{follow_limits, follow_names};
pub use tls::{ClientFiles, Tls};

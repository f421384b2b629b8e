//! NATS: connecting, declaring streams and consumers, appending to the log with compare-and-set,
//! consuming, chat, requests between services, the lease of an elected instance.
//!
//! **Owns** every use of JetStream and of request and reply. What is declared comes from the files in
//! `nats/`, which the nats CLI takes as well.
//!
//! **Never** decides, and never retries an append by itself: after a conflict or a timeout the caller
//! must learn from the log first.
//!
//! **Invariants**
//! - An append names the subject's last sequence it expects; no `Nats-Msg-Id` is ever sent, and an
//!   acknowledgement that says `duplicate` is an error.
//! - Every delivery is answered: `ack`, `retry_in` or `park`.

mod chat;
mod connect;
mod consume;
mod courier;
mod declare;
mod lease;
mod log;
mod request;

pub use chat::{Chat, Said};
pub use connect::{Bus, ConnectError, Settings};
pub use consume::{Consumer, Delivery};
pub use courier::BackgroundSender;
pub use declare::{declare, restart_consumer};
pub use lease::{Lease, hold};
pub use log::{AppendError, LOG_ALARM_RATIO, LOG_FULL_RATIO, Log, LogError, Logged};
pub use request::{Micro, RequestError, request};

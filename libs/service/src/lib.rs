//! The parts that all services share: read settings, log, listen, report health and metrics, run tasks, stop in order.
//!
//! **Owns** the process: exit codes (0 stopped by a signal, 1 failed, 64 wrong settings), signals, logging, the accept
//! loop and the limits of HTTP.
//!
//! **Never** knows anything about auctions.
//!
//! **Invariants**
//! - Settings are read as a whole before any port is bound; all mistakes are reported at once.
//! - A task that ends before the stop is a failed process.
//! - No address of a setting leads to another machine without TLS, unless `ALLOW_PLAINTEXT` says so.
//! - Every task ends within [`DRAIN_TIMEOUT`] after the stop.

#![warn(missing_docs)]

mod actors;
mod environment;
mod exposition;
pub mod fault;
mod health;
pub mod http;
mod latency;
mod log_lines;
mod plaintext;
mod process;
mod process_metrics;
mod quota;
mod repeated;
mod tasks;

pub use actors::{Actors, Place, Rejected};
pub use environment::{Environment, Listen, Mistakes, Reader};
pub use health::Health;
pub use latency::Latency;
pub use process::{PROCESS_SETTINGS, Running, Stop, main, stop_on_signal};
pub use quota::{Held, Quota};
pub use repeated::{Answers, Loudness, Repeated};
pub use tasks::{DRAIN_TIMEOUT, Tasks};

/// The version of this build, as `/health` and the NATS micro services show it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

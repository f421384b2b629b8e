//! Real servers for tests and for `flash`: nats-server, redis-server, PostgreSQL and the AWS emulator, each private
//! to its owner and on a free loopback port.
//!
//! **Owns** finding and installing those programs, starting and stopping them, and small HTTP and WebSocket clients
//! for tests.
//!
//! **Never** used by a service.
//!
//! **Invariants**
//! - No server process outlives its owner, however the owner ends.
//! - Servers that already run on the machine are neither used nor changed.
//! - Durable settings are always on, except in the run that shows the loss without them ([`Topology::unsynced`]).

mod disk;
pub mod dynamodb_stub;
pub use hcl;
pub mod http;
pub mod install;
mod nats;
mod postgres;
mod process;
mod proxy;
mod redis;
pub mod schema;
pub mod scratch;
mod servers;
mod settings;
pub mod socket;

pub use disk::Disk;
pub use nats::Nats;
pub use postgres::remove_data as remove_postgres_data;
pub use process::{Process, Signal, free_port, free_ports, run_quietly};
pub use proxy::{LinkState, Proxy};
pub use redis::Redis;
pub use servers::Servers;
pub use settings::{Secrets, Topology, write_private};

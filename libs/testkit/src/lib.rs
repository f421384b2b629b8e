//! Real servers for tests and for `flash`: nats-server, redis-server, PostgreSQL and the AWS emulator, each private,
//! on a free loopback port, stopped with its owner.
//!
//! **Owns** finding, installing, starting and stopping these programs; a proxy, a disk and a DynamoDB stub that fail on
//! demand; a stub of a collector of traces; small HTTP and WebSocket clients, and their bids; certificates for all of them.
//!
//! **Never** used by a service.
//!
//! **Invariants**
//! - No process outlives its owner, however the owner dies.
//! - Servers that already run on the machine are neither touched nor used.
//! - NATS and PostgreSQL sync every write before they answer, except NATS in the run that shows what is lost otherwise
//!   ([`Topology::unsynced`]).

#![warn(missing_docs)]

mod balancer;
pub mod bidder;
pub mod crowd;
mod disk;
pub mod dynamodb_stub;
mod eventually;
pub use hcl;
pub mod http;
pub mod install;
mod nats;
pub mod otlp_stub;
mod postgres;
mod process;
mod proxy;
mod redis;
pub mod schema;
pub mod scratch;
mod servers;
mod settings;
pub mod socket;
pub mod tls;

pub use balancer::Balancer;
pub use disk::Disk;
pub use eventually::eventually;
pub use nats::Nats;
pub use postgres::remove_data as remove_postgres_data;
pub use process::{Process, Signal, free_listener, free_port, free_ports, run_quietly};
pub use proxy::{LinkState, Proxy};
pub use redis::{REDIS_MAXMEMORY, REDIS_SETTINGS, Redis};
pub use servers::{Servers, ServersTls};
pub use settings::{DEVELOPER, Secrets, TLS_VARIABLE, Topology, write_private};

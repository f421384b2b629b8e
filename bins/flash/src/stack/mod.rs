//! A whole system on one machine: servers, what they need, services. `up`, `chaos`, `bench` and the tests use it.

pub mod connections;
pub mod description;
mod instance;
pub mod issuer;
pub mod prepare;
pub mod recorder;
mod running;
mod services;
pub mod sign_in;

pub use instance::Instance;
pub use issuer::Issuer;
pub use running::{LISTENER, Options, PortTaken, Ports, Stack};
pub use services::Name;

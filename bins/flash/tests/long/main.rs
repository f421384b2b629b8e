//! Tests that take minutes. Only `cargo flash test --long` builds and runs them.

mod alarms;
mod chaos;
mod containers;
mod restore;
#[path = "../shared/chaos.rs"]
mod run_chaos;

//! What takes minutes: `cargo flash test --long` alone builds and runs this.

mod chaos;
mod containers;
#[path = "../shared/chaos.rs"]
mod run_chaos;

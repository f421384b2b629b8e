//! Fuzzing of the parsers that meet input from outside: bodies, frames, packets, tokens, records, notifications, ids,
//! money, names.
//!
//! **Owns** the targets, their corpus in `corpus/`, and the mutations. It is our own and no library: cargo-fuzz and
//! LibAFL's coverage need a nightly compiler or clang, and the random engine of bolero does not mutate a corpus, so that
//! hardly any of its inputs is JSON.
//!
//! **Never** opens a connection. The answers of services over HTTP are for the system tests.
//!
//! **Invariants**
//! - A run is determined by target, seed, corpus and number of inputs. The input that fails is part of the failure.
//! - An input that has an outcome unlike all before it is mutated further, so that a run gets deeper than its corpus.

#![warn(missing_docs)]

mod mutate;
mod run;
mod targets;

pub use run::{Failed, Summary, corpus, replay, run};
pub use targets::{TARGETS, Target};

//! The whole system, each test with servers and services of its own.

mod archive;
mod auction;
mod aws;
mod bad_input;
#[cfg(feature = "long")]
mod browser;
mod chaos;
mod chat;
mod client_js;
mod cluster;
mod commands;
mod conformance;
mod contract;
mod crowds;
mod deployment;
mod edge;
mod faults;
mod framing;
mod history;
mod hopeless;
mod hops;
mod operators;
mod people;
mod races;
mod rebuild;
#[path = "../shared/chaos.rs"]
mod run_chaos;
mod socketio;
mod stopping;
mod world;
mod wrong;

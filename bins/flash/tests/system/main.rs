//! Tests of the whole system. Each starts its own servers and services.

#![allow(clippy::too_many_lines, reason = "a scenario reads best from top to bottom")]

mod archive;
mod auction;
mod aws;
mod aws_stub;
mod bad_input;
mod bad_items;
mod bad_log;
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
mod draining;
mod edge;
mod fast_reject;
mod faults;
mod forged;
mod framing;
mod full_log;
mod history;
mod hops;
mod hostile;
mod limits;
mod long_auction;
mod lost_answers;
mod operators;
mod page;
mod page_modules;
mod people;
mod races;
mod rebuild;
mod redis_start;
mod restarts;
mod resume;
#[path = "../shared/chaos.rs"]
mod run_chaos;
mod socketio;
mod stopping;
mod terminal;
mod test_system;
mod ticks;
mod tls;
mod unknown_ids;
mod wrong;

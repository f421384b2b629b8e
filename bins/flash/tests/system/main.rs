//! Tests of the whole system. Each starts its own servers and services.

#![allow(clippy::too_many_lines, reason = "a scenario reads best from top to bottom")]

mod admin;
mod aliases;
#[cfg(feature = "long")]
mod anonymous_load;
mod answers_first;
mod archive;
mod auction;
mod aws;
mod aws_stub;
mod bad_input;
mod bad_items;
mod bad_log;
mod bench_commands;
#[cfg(feature = "long")]
mod browser;
mod catalogue;
mod chaos;
mod chat;
mod client_js;
mod cluster;
mod commands;
mod conformance;
mod contract;
mod crowds;
mod deployment;
mod documented_limits;
mod draining;
#[cfg(feature = "long")]
mod drill;
mod edge;
mod facts;
mod fast_reject;
mod faults;
mod forged;
mod framing;
mod full_log;
mod group_commit;
mod history;
mod hops;
mod hostile;
mod limits;
mod long_auction;
mod lost_answers;
mod on_air;
mod one_name;
mod operators;
mod outage;
mod outbid;
mod page;
mod page_browser;
mod page_modules;
#[cfg(feature = "long")]
mod patient_mails;
mod people;
mod person_limits;
mod prebids;
mod races;
mod rebuild;
mod redis_start;
mod rejected_bid;
mod requests;
mod restarts;
mod resume;
mod rights;
#[cfg(feature = "long")]
mod rolling;
mod rules;
#[path = "../shared/chaos.rs"]
mod run_chaos;
mod runbook;
mod secrets;
mod sequence;
mod socketio;
mod standing_leads;
mod stopping;
mod terminal;
mod test_system;
mod ticks;
mod tls;
mod traces;
#[cfg(feature = "long")]
mod traces_received;
mod two_edges;
mod unknown_ids;
mod wrong;

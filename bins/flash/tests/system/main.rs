//! The whole system, each test with servers and services of its own.

mod auction;
mod bad_input;
mod commands;
mod edge;
mod faults;
mod races;
mod world;

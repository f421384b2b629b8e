//! JSON Schemas of all public bodies and frames, and the API documents made of them.
//!
//! The committed `openapi.json` and `asyncapi.json` of the services are output of this module;
//! `libs/protocol/tests/api_documents.rs` compares them, and writes them if asked to. Replies are described as they are
//! serialized, requests as the parsers accept them.

mod asyncapi;
mod catalogue;
mod document;
mod openapi;
mod requests;

pub use asyncapi::asyncapi;
pub use openapi::openapi;

//! Tokens: verifies who a caller is.
//!
//! **Owns** verifying Cognito's JWTs and, with the feature `development`, minting tokens of the same shape.
//!
//! **Never** has a development mode: verification treats a development key like any other key of the JWKS.
//!
//! **Invariants**
//! - RS256 only; `iss`, `exp` and `nbf` without leeway, `aud` of an id token or `client_id` of an access token.
//! - The issuer's keys are fetched by one background task, never inside a request or a health check.
//! - The user is the token's `sub`, whatever a message says.
//! - No token reaches a log, an error or a `Debug` output.

#![warn(missing_docs)]

#[cfg(feature = "development")]
pub mod development;
mod jwks;
mod key_set;
mod ring_provider;
mod verify;

pub use verify::{Identity, Settings, Token, TokenError, Verifier, bearer};

//! Tokens: verifies who a caller is.
//!
//! **Owns** verifying Cognito's JWTs and, with the feature `development`, minting tokens of the same shape.
//!
//! **Never** has a development mode: verification treats a development key like any other key of the JWKS.
//!
//! **Invariants**
//! - RS256 only; `iss`, `exp` without leeway, `aud` of an id token or `client_id` of an access token.
//! - The user is the token's `sub`, whatever a message says.
//! - No token reaches a log, an error or a `Debug` output.

#![warn(missing_docs)]

#[cfg(feature = "development")]
pub mod development;
mod jwks;
mod verify;

pub use verify::{Identity, Settings, TokenError, Verifier, bearer};

//! Tokens: who is who.
//!
//! **Owns** verifying Cognito's JWTs (and, for development and tests, minting tokens of the same shape).
//!
//! **Never** knows a development mode: a development key is just another key of the JWKS.
//!
//! **Invariants**
//! - RS256 only; `iss`, `exp` without leeway, `aud` of an id token or `client_id` of an access token.
//! - The person is the token's `sub` and nothing a message says.
//! - No token reaches a log, an error or a `Debug` output.

pub mod development;
mod jwks;
mod verify;

pub use verify::{Identity, Settings, TokenError, Verifier, bearer};

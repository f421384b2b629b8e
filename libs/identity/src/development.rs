//! Keys and tokens for development and tests, of the same shape as Cognito's. Used by `flash` and the tests alone; a
//! service only ever sees the public key, in the JWKS.

use domain::UserId;
use jsonwebtoken::jwk::{Jwk, KeyAlgorithm};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rsa::pkcs8::{EncodePrivateKey, LineEnding};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha1::{Digest, Sha1};

use crate::ring_provider;

/// Size of a key. Cognito's keys have the same.
const KEY_BITS: usize = 2048;

/// A private key and its name in the JWKS.
#[derive(Clone, Serialize, Deserialize)]
pub struct DevelopmentKey {
    /// The key's name.
    pub kid: String,
    pem: String,
}

/// Why there is no key or token.
#[derive(Debug, thiserror::Error)]
pub enum DevelopmentError {
    /// The system has no randomness.
    #[error("failed to generate a key")]
    Key(#[from] rsa::Error),
    /// The key has no PEM form.
    #[error("failed to encode a key")]
    Pem(#[from] rsa::pkcs8::Error),
    /// The key is damaged.
    #[error("failed to sign a token")]
    Token(#[from] jsonwebtoken::errors::Error),
}

impl DevelopmentKey {
    /// Generates a key. Takes up to a second.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate(kid: &str) -> Result<Self, DevelopmentError> {
        let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, KEY_BITS)?;
        Ok(Self { kid: kid.to_owned(), pem: key.to_pkcs8_pem(LineEnding::LF)?.to_string() })
    }

    /// The public key, as an entry of a JWKS.
    ///
    /// # Errors
    /// When the key is damaged.
    pub fn public_jwk(&self) -> Result<Value, DevelopmentError> {
        ring_provider::install();
        let mut jwk = Jwk::from_encoding_key(&EncodingKey::from_rsa_pem(self.pem.as_bytes())?, Algorithm::RS256)?;
        jwk.common.key_id = Some(self.kid.clone());
        jwk.common.key_algorithm = Some(KeyAlgorithm::RS256);
        Ok(json!(jwk))
    }

    /// Signs any claims, also wrong ones for tests.
    ///
    /// # Errors
    /// When the key is damaged.
    pub fn sign(&self, claims: &Value) -> Result<String, DevelopmentError> {
        self.sign_with(|_| {}, claims)
    }

    /// Signs any claims under a changed header, for tests.
    ///
    /// # Errors
    /// When the key is damaged.
    pub fn sign_with(&self, change: impl FnOnce(&mut Header), claims: &Value) -> Result<String, DevelopmentError> {
        ring_provider::install();
        let mut header = Header { kid: Some(self.kid.clone()), ..Header::new(Algorithm::RS256) };
        change(&mut header);
        Ok(jsonwebtoken::encode(&header, claims, &EncodingKey::from_rsa_pem(self.pem.as_bytes())?)?)
    }

    /// An id token of a user, valid for `seconds` from `now` (seconds since 1970).
    ///
    /// # Errors
    /// When the key is damaged.
    pub fn mint(
        &self,
        issuer: &str,
        client_id: &str,
        user: &DevelopmentUser,
        now: u64,
        seconds: u64,
    ) -> Result<String, DevelopmentError> {
        self.sign(&claims(issuer, client_id, user, now, seconds))
    }
}

/// The claims of a Cognito id token. Times are seconds since 1970.
#[must_use]
pub fn claims(issuer: &str, client_id: &str, user: &DevelopmentUser, now: u64, seconds: u64) -> Value {
    json!({
        "sub": user.user_id.to_string(),
        "cognito:username": user.name,
        "email": user.email,
        "email_verified": true,
        "token_use": "id",
        "iss": issuer,
        "aud": client_id,
        "iat": now,
        "exp": now + seconds,
    })
}

/// A user derived from a name: the same name is always the same user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevelopmentUser {
    /// Derived from the name.
    pub user_id: UserId,
    /// The name.
    pub name: String,
    /// An address at example.com, derived from the name.
    pub email: String,
}

impl DevelopmentUser {
    /// The user with this name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let digest = Sha1::digest(format!("flash development user {name}"));
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        let user_id = UserId::from_uuid(uuid::Builder::from_sha1_bytes(bytes).into_uuid());
        let mailbox: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
        Self { user_id, name: name.to_owned(), email: format!("{mailbox}@example.com") }
    }
}

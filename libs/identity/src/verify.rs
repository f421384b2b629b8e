//! Verifies tokens and reads the caller from their claims.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use domain::UserId;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation};
use prometheus_client::registry::Registry;
use protocol::input::{self, MAX_USERNAME_CHARACTERS};
use protocol::{Code, Failure, MAX_NAME_CHARACTERS, Person, UserSeen, characters};
use serde::Deserialize;

use crate::jwks::{Jwks, KeyError};
use crate::ring_provider;

/// The issuer and app client whose tokens are accepted.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The `iss` of every token.
    pub issuer: String,
    /// The app client: `aud` of an id token, `client_id` of an access token.
    pub client_id: String,
    /// Where the issuer publishes its keys.
    pub jwks_url: String,
}

impl Settings {
    /// Reads `COGNITO_APP_CLIENT_ID` and the issuer: `COGNITO_ISSUER`, else Cognito's name for the pool
    /// `COGNITO_USER_POOL_ID` in `COGNITO_REGION`. The keys are at `JWKS_URL`, else where Cognito publishes them.
    ///
    /// # Errors
    /// The names of the missing variables.
    pub fn read(find: &dyn Fn(&str) -> Option<String>) -> Result<Self, Vec<&'static str>> {
        let (client_id, jwks_url) = (find("COGNITO_APP_CLIENT_ID"), find("JWKS_URL"));
        let pool = find("COGNITO_REGION").zip(find("COGNITO_USER_POOL_ID"));
        let of_pool = pool.map(|(region, pool)| format!("https://cognito-idp.{region}.amazonaws.com/{pool}"));
        let issuer = find("COGNITO_ISSUER").or(of_pool);
        match (issuer, client_id) {
            (Some(issuer), Some(client_id)) => {
                let jwks_url = jwks_url.unwrap_or_else(|| format!("{issuer}/.well-known/jwks.json"));
                Ok(Self { issuer, client_id, jwks_url })
            }
            (issuer, client_id) => {
                let missing = [
                    issuer.is_none().then_some("COGNITO_USER_POOL_ID with COGNITO_REGION, or COGNITO_ISSUER,"),
                    client_id.is_none().then_some("COGNITO_APP_CLIENT_ID"),
                ];
                Err(missing.into_iter().flatten().collect())
            }
        }
    }
}

/// The text of a verified token, for services that verify it again. Its `Debug` output does not show it.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Token(Arc<str>);

impl Token {
    /// The text, for the header of a request.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// The text, shared instead of copied.
impl From<&Token> for Arc<str> {
    fn from(token: &Token) -> Self {
        Self::clone(&token.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// A verified caller. Its texts are cleaned and bounded here, once, for everything that uses them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user id from `sub`, and a username from the claims.
    pub person: Person,
    /// The address, if the token has one that mails can be sent to.
    pub email: Option<String>,
    /// Whether the issuer has verified the address.
    pub email_verified: bool,
    /// The full name as one line, if the token has one.
    pub name: Option<String>,
    /// Seconds since 1970.
    pub issued_at: u64,
    /// Seconds since 1970.
    pub expires_at: u64,
    /// The token itself: requests to other services carry it.
    pub token: Token,
}

impl Identity {
    /// The claims that the table of users keeps.
    #[must_use]
    pub fn seen(&self) -> UserSeen {
        UserSeen {
            person: self.person.clone(),
            email: self.email.clone(),
            email_verified: self.email_verified,
            name: self.name.clone(),
            issued_at: self.issued_at,
            wants_name: true,
        }
    }
}

/// Why a caller has no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The caller sent no token.
    #[error("no token was sent")]
    Missing,
    /// Not a token of the accepted issuer and app client.
    #[error("the token is not valid")]
    Invalid,
    /// Its expiry time has passed.
    #[error("the token has expired")]
    Expired,
    /// The token's key is unknown, and the issuer could not be asked for it since the token arrived.
    #[error("the issuer could not be asked for the token's key yet")]
    KeysUnavailable,
}

impl From<TokenError> for Failure {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Missing | TokenError::Invalid => Code::Unauthenticated.into(),
            TokenError::Expired => Code::TokenExpired.into(),
            TokenError::KeysUnavailable => Code::Unavailable.into(),
        }
    }
}

#[derive(Deserialize)]
struct Claims {
    // Read as a text: `jsonwebtoken` also accepts a list that contains the issuer.
    iss: String,
    sub: String,
    token_use: String,
    exp: u64,
    #[serde(default)]
    iat: u64,
    aud: Option<serde_json::Value>,
    client_id: Option<String>,
    preferred_username: Option<String>,
    #[serde(rename = "cognito:username")]
    cognito_username: Option<String>,
    username: Option<String>,
    email: Option<String>,
    email_verified: Option<serde_json::Value>,
    name: Option<String>,
}

/// Verified tokens that are remembered. Checking a signature costs 131 µs, a lookup almost nothing.
const MAX_REMEMBERED_TOKENS: usize = 20_000;
/// Longest token that is parsed. Cognito issues none longer.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Seconds that `iat` may be ahead of this machine's clock. Clocks differ by less; a token from the far future would make
/// every later one of its user look old.
const MAX_CLOCK_DIFFERENCE_SECONDS: u64 = 300;

/// A verified token. It is forgotten together with its key.
#[derive(Clone)]
struct Verified {
    identity: Identity,
    kid: Arc<str>,
}

/// Verified tokens by a keyed hash of their text, which itself is not kept.
type Remembered = HashMap<(u64, u64), Verified>;

/// Verifies tokens. A cheap handle; clones share the keys and the remembered tokens.
#[derive(Clone)]
pub struct Verifier {
    settings: Arc<Settings>,
    keys: Arc<Jwks>,
    remembered: Arc<Mutex<Remembered>>,
    hashers: Arc<(RandomState, RandomState)>,
}

impl Verifier {
    /// A verifier without keys. Its owner runs [`Verifier::refresh_keys`], which fetches them.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let keys = Arc::new(Jwks::new(settings.jwks_url.clone()));
        Self { settings: Arc::new(settings), keys, remembered: Arc::default(), hashers: Arc::default() }
    }

    /// Verifies a token and returns the caller.
    ///
    /// # Errors
    /// Why the token identifies no caller.
    pub async fn verify(&self, token: &str) -> Result<Identity, TokenError> {
        let identity = self.identify(token).await?;
        Ok(Identity { token: Token(token.into()), ..identity })
    }

    /// Verifies the token of a request from another service, which acts for `user_id`. A remembered token costs less
    /// than a microsecond.
    ///
    /// # Errors
    /// Why the token does not identify this person; `Missing` if there is none.
    pub async fn verify_caller(&self, token: Option<&str>, user_id: UserId) -> Result<(), TokenError> {
        let identity = self.identify(bearer(token)?).await?;
        if identity.person.user_id == user_id { Ok(()) } else { Err(TokenError::Invalid) }
    }

    async fn identify(&self, token: &str) -> Result<Identity, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Invalid);
        }
        let key = (self.hashers.0.hash_one(token), self.hashers.1.hash_one(token));
        let earlier = self.lock().get(&key).cloned();
        if let Some(Verified { identity, .. }) = earlier.filter(|earlier| self.keys.knows(&earlier.kid)) {
            return if identity.expires_at > now() { Ok(identity) } else { Err(TokenError::Expired) };
        }
        let verified = self.check(token).await?;
        let identity = verified.identity.clone();
        let mut remembered = self.lock();
        if remembered.len() >= MAX_REMEMBERED_TOKENS {
            let now = now();
            remembered.retain(|_, verified| verified.identity.expires_at > now);
            if remembered.len() >= MAX_REMEMBERED_TOKENS {
                remembered.clear();
            }
        }
        remembered.insert(key, verified);
        Ok(identity)
    }

    /// Whether at least one key is known to verify tokens with. Only reads memory.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.keys.are_there()
    }

    /// Lets `/metrics` show how often the issuer's keys could not be fetched.
    pub fn register(&self, registry: &mut Registry) {
        let failures = "Fetches of the issuer's keys that failed";
        registry.register("issuer_key_fetch_failures", failures, self.keys.failures.clone());
    }

    /// Keeps the issuer's keys fresh until it is dropped: one background task for all clones.
    pub async fn refresh_keys(self) {
        self.keys.refresh().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Remembered> {
        // A poisoned lock is still used: each change of the map is one call, so no panic leaves it half changed.
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn check(&self, token: &str) -> Result<Verified, TokenError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Invalid)?;
        // No extension of `crit` is understood here, and an empty list is not allowed (RFC 7515, 4.1.11).
        if header.alg != Algorithm::RS256 || header.crit.is_some() {
            return Err(TokenError::Invalid);
        }
        let kid = header.kid.ok_or(TokenError::Invalid)?;
        let key = self.keys.find(&kid).await.map_err(|error| match error {
            KeyError::Unknown => TokenError::Invalid,
            KeyError::Unavailable => TokenError::KeysUnavailable,
        })?;
        let mut validation = Validation::new(Algorithm::RS256);
        validation.leeway = 0;
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        validation.set_issuer(&[&self.settings.issuer]);
        // Checked below: an access token carries its client in `client_id`.
        validation.validate_aud = false;
        ring_provider::install();
        let claims = jsonwebtoken::decode::<Claims>(token, &key, &validation).map_err(|error| match error.kind() {
            ErrorKind::ExpiredSignature => TokenError::Expired,
            _ => TokenError::Invalid,
        })?;
        Ok(Verified { identity: self.identity(claims.claims)?, kid: kid.into() })
    }

    fn identity(&self, claims: Claims) -> Result<Identity, TokenError> {
        let client = &self.settings.client_id;
        let ours = match claims.token_use.as_str() {
            "id" => match &claims.aud {
                Some(serde_json::Value::String(audience)) => audience == client,
                Some(serde_json::Value::Array(audiences)) => audiences.iter().any(|audience| audience == client),
                _ => false,
            },
            "access" => claims.client_id.as_ref() == Some(client),
            _ => false,
        };
        let user_id: UserId = claims.sub.parse().map_err(|_| TokenError::Invalid)?;
        // jsonwebtoken accepts a token during the whole second in which it expires.
        if claims.exp <= now() {
            return Err(TokenError::Expired);
        }
        let is_from_future = claims.iat > now().saturating_add(MAX_CLOCK_DIFFERENCE_SECONDS);
        if !ours || is_from_future || claims.iss != self.settings.issuer {
            return Err(TokenError::Invalid);
        }
        let email = claims.email.filter(|email| characters::is_email(email));
        let from_email = email.as_deref().and_then(|email| email.split('@').next());
        let cognito = claims.cognito_username.as_deref().filter(|name| *name != claims.sub);
        let names = [claims.preferred_username.as_deref(), cognito, claims.username.as_deref(), from_email];
        // The first claim of which anything is left.
        let name = names.into_iter().flatten().find_map(|name| characters::one_line(name, MAX_USERNAME_CHARACTERS));
        let person = Person { user_id, username: input::username(&name.unwrap_or_default(), user_id) };
        let email_verified = match claims.email_verified {
            Some(serde_json::Value::Bool(verified)) => verified,
            Some(serde_json::Value::String(text)) => text == "true",
            _ => false,
        };
        Ok(Identity {
            person,
            email,
            email_verified,
            name: claims.name.and_then(|name| characters::one_line(&name, MAX_NAME_CHARACTERS)),
            issued_at: claims.iat,
            expires_at: claims.exp,
            // The text is not remembered with its claims.
            token: Token::default(),
        })
    }
}

/// Seconds since 1970. Tokens expire by wall-clock time, not by the clock of auctions.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The token of an `Authorization: Bearer …` header.
///
/// # Errors
/// `Missing` without a header, `Invalid` for another scheme.
pub fn bearer(header: Option<&str>) -> Result<&str, TokenError> {
    let header = header.ok_or(TokenError::Missing)?;
    let (scheme, token) = header.split_once(' ').ok_or(TokenError::Invalid)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(TokenError::Invalid) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const ID: &str = "0b7c2f6e-5a53-4f7e-9a35-2a0d0c9d1e11";

    fn identity(claim: &str, value: &Value) -> Identity {
        let mut claims = json!({
            "iss": "issuer", "sub": ID, "token_use": "id", "exp": u64::MAX, "aud": "client", "cognito:username": "anna",
            "email": "anna@example.com", "email_verified": true, "name": "Anna",
        });
        claims[claim] = value.clone();
        let settings = Settings { issuer: "issuer".to_owned(), client_id: "client".to_owned(), ..Settings::default() };
        Verifier::new(settings).identity(serde_json::from_value(claims).unwrap()).unwrap()
    }

    #[test]
    fn every_claim_is_cleaned_and_bounded() {
        let long = "x".repeat(10_000);
        let (username, name) = (&long[..MAX_USERNAME_CHARACTERS], &long[..MAX_NAME_CHARACTERS]);
        // A value, and what it leaves of a username and of a name.
        let cases = [
            ("Eve\0", Some("Eve"), Some("Eve")),
            ("\u{202e}Eve\u{200b}\u{feff}", Some("Eve"), Some("Eve")),
            ("Eve\r\nBcc: b", Some("Eve Bcc: b"), Some("Eve Bcc: b")),
            ("Eve\u{ffff}\u{fffe}", Some("Eve"), Some("Eve")),
            ("\u{2800} \u{3164}", None, None),
            ("", None, None),
            (long.as_str(), Some(username), Some(name)),
        ];
        for (value, username, name) in cases {
            let of = |claim| identity(claim, &json!(value));
            assert_eq!(of("preferred_username").person.username, username.unwrap_or("anna"), "{value:?}");
            assert_eq!(of("cognito:username").person.username, username.unwrap_or("anna"), "{value:?}");
            assert_eq!(of("name").name.as_deref(), name, "{value:?}");
            assert_eq!(of("email").email, None, "{value:?} is no address");
            assert_eq!(identity("email", &json!(format!("{value}@example.com"))).email, None, "{value:?} before the @");
        }
        let nothing = identity("email", &Value::Null);
        assert_eq!((nothing.email, nothing.person.username.as_str()), (None, "anna"));
        let of_id = identity("cognito:username", &json!(ID)).person.username;
        assert_eq!(of_id, "anna", "the part of the address before the @");
    }
}

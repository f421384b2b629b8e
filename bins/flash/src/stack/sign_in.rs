//! Sign-in for development: the OIDC authorization code flow with PKCE, by a page that asks for a name. The page of the
//! edge knows this flow alone, so that Cognito's hosted UI and this issuer are the same to it.
//!
//! A code is used once, within a minute. A refresh token is signed by the development key and outlives a restart.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use identity::development::DevelopmentUser;
use serde_json::{Value, json};
use service::http::{HttpSettings, json as json_reply};
use sha2::{Digest, Sha256};
use warp::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY};
use warp::http::uri::Uri;
use warp::http::{HeaderValue, StatusCode};
use warp::reply::Response;
use warp::{Filter, Rejection, Reply};

use super::issuer::{DEFAULT_TOKEN_SECONDS, Issuer, now};

const PAGE: &str = include_str!("sign_in.html");
const STYLE: &str = include_str!("sign_in.css");
/// Time in which a code must be redeemed. A page does it at once.
const CODE_LIFETIME: Duration = Duration::from_secs(60);
/// Codes that wait to be redeemed. The oldest gives way.
const MAX_CODES: usize = 1_000;
/// Seconds for which a refresh token is good: as long as Cognito's by default.
const REFRESH_SECONDS: u64 = 30 * 24 * 60 * 60;
/// Characters of a name, as the page has it.
const MAX_NAME_CHARACTERS: usize = 50;
/// Bytes of each parameter that the sign-in repeats.
const MAX_PARAMETER_BYTES: usize = 2_000;
/// The parameters that the sign-in page passes on.
const PASSED_ON: [&str; 6] =
    ["response_type", "client_id", "redirect_uri", "state", "code_challenge", "code_challenge_method"];

type Parameters = HashMap<String, String>;

/// Someone has signed in, and has not redeemed the code.
struct SignedIn {
    name: String,
    challenge: String,
    redirect: String,
    until: Instant,
}

/// The sign-in of one stack. A cheap handle.
#[derive(Clone)]
pub struct SignIn {
    issuer: Issuer,
    /// Origins, beside those on this machine, that a person may be led back to.
    origins: Arc<[String]>,
    codes: Arc<Mutex<HashMap<String, SignedIn>>>,
}

/// Why a request is refused, in the words of RFC 6749, 5.2.
type Refused = (&'static str, &'static str);

impl SignIn {
    /// A sign-in that gives this issuer's tokens, to pages of these origins.
    #[must_use]
    pub fn new(issuer: Issuer, origins: Arc<[String]>) -> Self {
        Self { issuer, origins, codes: Arc::default() }
    }

    /// The public part of the key that signs the tokens.
    ///
    /// # Errors
    /// When the key is damaged.
    pub fn public_jwk(&self) -> anyhow::Result<Value> {
        Ok(self.issuer.key.public_jwk()?)
    }

    /// Settings of the server: pages of the origins may redeem their codes.
    #[must_use]
    pub fn http_settings(&self) -> HttpSettings {
        HttpSettings { origins: Arc::clone(&self.origins), ..HttpSettings::default() }
    }

    /// `/oauth2/authorize`, `/oauth2/token` and `/logout`.
    pub fn routes(self) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + 'static {
        let with = warp::any().map(move || self.clone());
        let query = warp::query::<Parameters>();
        let form = warp::body::form::<Parameters>();
        let authorize = warp::path!("oauth2" / "authorize");
        let ask = authorize.and(warp::get()).and(with.clone()).and(query);
        let ask = ask.map(|sign_in: Self, parameters| sign_in.ask(&parameters).unwrap_or_else(refused));
        let enter = authorize.and(warp::post()).and(with.clone()).and(form);
        let enter = enter.map(|sign_in: Self, parameters| sign_in.enter(&parameters).unwrap_or_else(refused));
        let token = warp::path!("oauth2" / "token").and(warp::post()).and(with.clone()).and(form);
        let token = token.map(|sign_in: Self, parameters| sign_in.redeem(&parameters).unwrap_or_else(refused));
        let leave = warp::path!("logout").and(warp::get()).and(with).and(query);
        let leave = leave.map(|sign_in: Self, parameters| sign_in.leave(&parameters).unwrap_or_else(refused));
        let style = warp::path!("sign-in.css")
            .and(warp::get())
            .map(|| warp::reply::with_header(STYLE, CONTENT_TYPE, "text/css; charset=utf-8").into_response());
        ask.or(enter).unify().or(token).unify().or(leave).unify().or(style).unify().boxed()
    }

    /// The page that asks for a name.
    fn ask(&self, parameters: &Parameters) -> Result<Response, Refused> {
        let redirect = self.checked(parameters)?;
        let fields: Vec<String> = PASSED_ON
            .into_iter()
            .filter_map(|name| Some((name, parameters.get(name)?)))
            .map(|(name, value)| format!(r#"<input type="hidden" name="{name}" value="{}">"#, escaped(value)))
            .collect();
        let cancel = with_query(&redirect, &[("error", "access_denied"), ("state", state(parameters))]);
        let page = PAGE.replace("{cancel}", &escaped(&cancel)).replace("{fields}", &fields.join("\n"));
        let mut response = warp::reply::html(page).into_response();
        // A browser holds the redirect that follows a form against its policy as well.
        let back = origin(&redirect).unwrap_or_default();
        let policy = format!(
            "default-src 'none'; style-src 'self'; form-action 'self' {back}; base-uri 'none'; frame-ancestors 'none'"
        );
        let headers = response.headers_mut();
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_str(&policy).map_err(|_| BAD_REDIRECT)?);
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        Ok(response)
    }

    /// A name was given: leads back with a code.
    fn enter(&self, parameters: &Parameters) -> Result<Response, Refused> {
        let redirect = self.checked(parameters)?;
        let name = parameters.get("name").map(|name| name.trim()).unwrap_or_default();
        let is_good = !name.chars().any(char::is_control) && (1..=MAX_NAME_CHARACTERS).contains(&name.chars().count());
        if !is_good {
            return Err(("invalid_request", "A name has 1 to 50 characters"));
        }
        let code = uuid::Uuid::new_v4().simple().to_string();
        let challenge = parameters.get("code_challenge").cloned().unwrap_or_default();
        let until = Instant::now() + CODE_LIFETIME;
        let signed_in = SignedIn { name: name.to_owned(), challenge, redirect: redirect.clone(), until };
        let mut codes = self.codes.lock().unwrap_or_else(PoisonError::into_inner);
        codes.retain(|_, signed_in| signed_in.until > Instant::now());
        let oldest = codes.iter().min_by_key(|(_, signed_in)| signed_in.until).map(|(code, _)| code.clone());
        if let Some(oldest) = oldest.filter(|_| codes.len() >= MAX_CODES) {
            codes.remove(&oldest);
        }
        codes.insert(code.clone(), signed_in);
        drop(codes);
        let mut answer = vec![("code", code.as_str())];
        if parameters.contains_key("state") {
            answer.push(("state", state(parameters)));
        }
        lead_to(&with_query(&redirect, &answer))
    }

    /// Tokens for a code, or for a refresh token.
    fn redeem(&self, parameters: &Parameters) -> Result<Response, Refused> {
        let get = |name: &str| parameters.get(name).map(String::as_str).unwrap_or_default();
        if get("client_id") != self.issuer.client_id {
            return Err(("invalid_client", "There is no such client"));
        }
        let name = match get("grant_type") {
            "authorization_code" => {
                let signed_in = self.codes.lock().unwrap_or_else(PoisonError::into_inner).remove(get("code"));
                let fits = |signed_in: &SignedIn| {
                    let challenge = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(get("code_verifier")));
                    signed_in.until > Instant::now()
                        && signed_in.redirect == get("redirect_uri")
                        && signed_in.challenge == challenge
                };
                signed_in.filter(fits).ok_or(("invalid_grant", "The code is not good, or not any more"))?.name
            }
            "refresh_token" => {
                let name = self.name_in(get("refresh_token"));
                name.ok_or(("invalid_grant", "The refresh token is not good, or not any more"))?
            }
            _ => return Err(("unsupported_grant_type", "A code or a refresh token is redeemed here")),
        };
        let damaged = |_| ("server_error", "The development key is damaged");
        let user = DevelopmentUser::named(&name);
        let id_token = self.issuer.token_of(&user, DEFAULT_TOKEN_SECONDS).map_err(damaged)?;
        let claims = refresh_claims(&name, now() + REFRESH_SECONDS);
        let refresh_token = self.issuer.key.sign(&claims).map_err(|error| damaged(error.into()))?;
        let tokens = json!({
            "id_token": id_token, "refresh_token": refresh_token,
            "expires_in": DEFAULT_TOKEN_SECONDS, "token_type": "Bearer",
        });
        Ok(json_reply(StatusCode::OK, &tokens))
    }

    /// The name in a refresh token that this issuer has signed: its signatures are deterministic, so signing the same
    /// claims again gives the same token.
    fn name_in(&self, token: &str) -> Option<String> {
        let payload = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
        let claims: Value = serde_json::from_slice(&payload).ok()?;
        let (name, until) = (claims["name"].as_str()?, claims["exp"].as_u64()?);
        let expected = self.issuer.key.sign(&refresh_claims(name, until)).ok()?;
        (expected == token && until > now()).then(|| name.to_owned())
    }

    /// Leads back after a sign-out. There is no session here that would have to end.
    fn leave(&self, parameters: &Parameters) -> Result<Response, Refused> {
        let target = parameters.get("post_logout_redirect_uri").or_else(|| parameters.get("logout_uri"));
        lead_to(target.filter(|target| self.is_own(target)).ok_or(BAD_REDIRECT)?)
    }

    /// The address to lead back to, if the request is one of this client by the flow that is served here.
    fn checked(&self, parameters: &Parameters) -> Result<String, Refused> {
        let get = |name: &str| parameters.get(name).map(String::as_str).unwrap_or_default();
        if get("client_id") != self.issuer.client_id {
            return Err(("invalid_client", "There is no such client"));
        }
        if PASSED_ON.iter().any(|name| get(name).len() > MAX_PARAMETER_BYTES) {
            return Err(("invalid_request", "A parameter is too long"));
        }
        if !self.is_own(get("redirect_uri")) {
            return Err(BAD_REDIRECT);
        }
        if get("response_type") != "code" || get("code_challenge_method") != "S256" || get("code_challenge").is_empty()
        {
            return Err(("invalid_request", "Only the authorization code with PKCE (S256) is served here"));
        }
        Ok(get("redirect_uri").to_owned())
    }

    /// Whether a person may be led to this address: it is on this machine, or of a known origin.
    fn is_own(&self, address: &str) -> bool {
        let Some(origin) = origin(address) else { return false };
        let host = address.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
        let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        let is_here = host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback());
        is_here || self.origins.contains(&origin)
    }
}

const BAD_REDIRECT: Refused = ("invalid_request", "A person is led back to this machine or to a known origin alone");

/// Without the client: the emulated pool has another one after each restart.
fn refresh_claims(name: &str, until: u64) -> Value {
    json!({"token_use": "refresh", "name": name, "exp": until})
}

fn state(parameters: &Parameters) -> &str {
    parameters.get("state").map(String::as_str).unwrap_or_default()
}

fn refused((error, sentence): Refused) -> Response {
    json_reply(StatusCode::BAD_REQUEST, &json!({"error": error, "error_description": sentence}))
}

fn lead_to(address: &str) -> Result<Response, Refused> {
    let mut response = StatusCode::SEE_OTHER.into_response();
    response.headers_mut().insert(LOCATION, HeaderValue::from_str(address).map_err(|_| BAD_REDIRECT)?);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The origin of an http address without a user in it.
fn origin(address: &str) -> Option<String> {
    let uri: Uri = address.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
    let is_plain = ["http", "https"].contains(&scheme) && !authority.as_str().contains(['@', ';', ',', '\'']);
    is_plain.then(|| format!("{scheme}://{authority}"))
}

fn with_query(address: &str, parameters: &[(&str, &str)]) -> String {
    let separator = if address.contains('?') { '&' } else { '?' };
    let query: Vec<String> = parameters.iter().map(|(name, value)| format!("{name}={}", in_query(value))).collect();
    format!("{address}{separator}{}", query.join("&"))
}

fn in_query(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// A text within an attribute of the page.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // Marks of the page's own template.
            '{' => safe.push_str("&#123;"),
            c => safe.push(c),
        }
    }
    safe
}

//! Reads a JWKS: the keys that may verify tokens. The others are skipped.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use serde::Deserialize;

/// Keys that are known at once. Cognito publishes two.
pub(crate) const MAX_KEYS: usize = 32;
/// Smallest modulus in bits. Shorter ones are within reach of an attacker; Cognito's have this size.
const MIN_MODULUS_BITS: usize = 2048;
/// Largest modulus in bits. The verifying library refuses larger ones, so their tokens would never be valid.
const MAX_MODULUS_BITS: usize = 4096;

/// Why a set replaces nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeySetError {
    #[error("failed to parse the key set")]
    Parse(#[from] serde_json::Error),
    #[error("the key set has no usable key")]
    NoUsableKey,
}

/// Why a key is skipped.
#[derive(Debug, thiserror::Error)]
enum KeyRefusal {
    #[error("the key cannot be read")]
    Parse(#[from] serde_json::Error),
    #[error("the key is not for RS256 signatures")]
    Purpose,
    #[error("the key's numbers are not base64url")]
    Encoding(#[from] base64::DecodeError),
    #[error("the key's modulus has {0} bits")]
    Size(usize),
    #[error("the key's numbers cannot be used")]
    Numbers(#[from] jsonwebtoken::errors::Error),
    #[error("more than {MAX_KEYS} keys")]
    TooMany,
}

#[derive(Deserialize)]
struct KeySet {
    // Read one by one: a kind of key that is not known here must not hide the others.
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct PublicKey {
    kid: String,
    kty: String,
    #[serde(rename = "use")]
    purpose: Option<String>,
    alg: Option<String>,
    #[serde(rename = "n", default)]
    modulus: String,
    #[serde(rename = "e", default)]
    exponent: String,
}

impl PublicKey {
    fn read(self) -> Result<(String, DecodingKey), KeyRefusal> {
        let is_for_tokens = self.kty == "RSA"
            && self.purpose.is_none_or(|purpose| purpose == "sig")
            && self.alg.is_none_or(|algorithm| algorithm == "RS256");
        if !is_for_tokens {
            return Err(KeyRefusal::Purpose);
        }
        let bits = bits(&URL_SAFE_NO_PAD.decode(&self.modulus)?);
        if !(MIN_MODULUS_BITS..=MAX_MODULUS_BITS).contains(&bits) {
            return Err(KeyRefusal::Size(bits));
        }
        Ok((self.kid, DecodingKey::from_rsa_components(&self.modulus, &self.exponent)?))
    }
}

/// Bits of a number in big-endian bytes, without leading zeros.
fn bits(number: &[u8]) -> usize {
    let first = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    let digits = &number[first..];
    digits.first().map_or(0, |byte| digits.len() * 8 - byte.leading_zeros() as usize)
}

/// The usable keys of a set by their names, at least one. Skipped keys are one log line.
pub(crate) fn usable_keys(text: &[u8]) -> Result<HashMap<String, DecodingKey>, KeySetError> {
    let set: KeySet = serde_json::from_slice(text)?;
    let mut keys = HashMap::new();
    let (mut skipped, mut first) = (0_usize, None);
    for value in set.keys {
        let read = serde_json::from_value::<PublicKey>(value).map_err(KeyRefusal::from).and_then(PublicKey::read);
        let refusal = match read {
            Ok((kid, key)) if keys.len() < MAX_KEYS => {
                keys.insert(kid, key);
                continue;
            }
            Ok(_) => KeyRefusal::TooMany,
            Err(refusal) => refusal,
        };
        skipped += 1;
        first.get_or_insert(refusal);
    }
    if let Some(error) = first {
        tracing::warn!(skipped, error = %errors::chain(&error), "skipped keys of the issuer; the error is the first's");
    }
    if keys.is_empty() { Err(KeySetError::NoUsableKey) } else { Ok(keys) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn key(kid: &str, bytes: usize) -> Value {
        let modulus = URL_SAFE_NO_PAD.encode(vec![0xff; bytes]);
        json!({"kid": kid, "kty": "RSA", "use": "sig", "alg": "RS256", "n": modulus, "e": "AQAB"})
    }

    fn with(mut key: Value, name: &str, value: Value) -> Value {
        key[name] = value;
        key
    }

    fn names(keys: &[Value]) -> Option<Vec<String>> {
        let mut names: Vec<String> =
            usable_keys(json!({ "keys": keys }).to_string().as_bytes()).ok()?.into_keys().collect();
        names.sort_unstable();
        Some(names)
    }

    #[test]
    fn only_signing_keys_of_sufficient_size_are_used() {
        let good = key("good", 256);
        let mut bare = key("bare", 256);
        bare.as_object_mut().expect("an object").retain(|name, _| name != "use" && name != "alg");
        let mut leading_zero = vec![0xff; 256];
        leading_zero[0] = 0;
        let unusable = [
            json!({}),
            json!(7),
            json!({"kid": "secret", "kty": "oct", "k": "AAAA"}),
            json!({"kid": "curve", "kty": "EC", "crv": "P-1000", "x": "AA", "y": "AA"}),
            with(key("encryption", 256), "use", json!("enc")),
            with(key("symmetric", 256), "alg", json!("HS256")),
            with(key("longer hash", 256), "alg", json!("RS512")),
            with(key("zeros first", 256), "n", json!(URL_SAFE_NO_PAD.encode(leading_zero))),
            with(key("not base64", 256), "n", json!("*")),
            with(key("no name", 256), "kid", Value::Null),
            key("1024 bits", 128),
            key("8192 bits", 1024),
        ];
        for key in &unusable {
            assert_eq!(names(std::slice::from_ref(key)), None, "{key}");
        }
        let mut all = unusable.to_vec();
        all.extend([good, bare]);
        assert_eq!(names(&all), Some(vec!["bare".to_owned(), "good".to_owned()]));
    }

    #[test]
    fn number_of_keys_is_bounded() {
        let many: Vec<Value> = (0..100).map(|number| key(&number.to_string(), 256)).collect();
        assert_eq!(names(&many).map(|names| names.len()), Some(MAX_KEYS));
    }

    #[test]
    fn damaged_and_empty_sets_are_errors() {
        for text in ["", "null", "[]", "{}", r#"{"keys": 1}"#, r#"{"keys": []}"#, "<html>"] {
            assert!(usable_keys(text.as_bytes()).is_err(), "{text}");
        }
    }
}

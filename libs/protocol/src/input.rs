//! Strict parsing of JSON from clients: every error names the field, and money is parsed from the raw text.

use std::collections::BTreeMap;

use domain::{Amount, UserId};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::{Code, Failure, characters};

/// Largest body or frame of a client, in bytes.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// The fields of one JSON object, not yet parsed.
#[derive(Debug)]
pub struct Fields(BTreeMap<String, Box<RawValue>>);

fn invalid(error: impl Into<String>) -> Failure {
    Failure::new(Code::InvalidRequest, error)
}

impl Fields {
    /// Splits a body into fields.
    ///
    /// # Errors
    /// `invalid_request` for anything but one JSON object.
    pub fn parse(body: &[u8]) -> Result<Self, Failure> {
        serde_json::from_slice(body).map(Self).map_err(|_| invalid("The body must be one JSON object"))
    }

    /// The raw text of a field; null counts as absent.
    fn raw(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|raw| raw.get()).filter(|text| *text != "null")
    }

    fn required<T>(name: &str, value: Option<T>) -> Result<T, Failure> {
        value.ok_or_else(|| invalid(format!("{name} is missing")))
    }

    fn read<T: DeserializeOwned>(&self, name: &str, expected: &str) -> Result<Option<T>, Failure> {
        self.raw(name)
            .map(|raw| serde_json::from_str(raw).map_err(|_| invalid(format!("{name} must be {expected}"))))
            .transpose()
    }

    /// A text, if present.
    ///
    /// # Errors
    /// `invalid_request` if it is not text of `min` to `max` characters.
    pub fn optional_text(&self, name: &str, min: usize, max: usize) -> Result<Option<String>, Failure> {
        let text: Option<String> = self.read(name, "text")?;
        if let Some(text) = &text {
            let length = text.chars().count();
            if length < min || length > max || (min > 0 && !characters::are_visible(text)) {
                return Err(invalid(format!("{name} must have {min} to {max} characters")));
            }
            if !characters::are_allowed(text) {
                return Err(invalid(format!("{name} must not contain control or invisible characters")));
            }
        }
        Ok(text)
    }

    /// A text.
    ///
    /// # Errors
    /// `invalid_request` if it is missing or not text of `min` to `max` characters.
    pub fn text(&self, name: &str, min: usize, max: usize) -> Result<String, Failure> {
        Self::required(name, self.optional_text(name, min, max)?)
    }

    /// A list of texts; empty if absent.
    ///
    /// # Errors
    /// `invalid_request` if it is not a list of at most `max` texts.
    pub fn texts(&self, name: &str, max: usize) -> Result<Vec<String>, Failure> {
        let list: Vec<String> = self.read(name, "a list of texts")?.unwrap_or_default();
        if list.len() > max { Err(invalid(format!("{name} may have at most {max} entries"))) } else { Ok(list) }
    }

    /// A whole number, if present.
    ///
    /// # Errors
    /// `invalid_request` if it is not a whole number from `min` to `max`.
    pub fn optional_whole(&self, name: &str, min: u64, max: u64) -> Result<Option<u64>, Failure> {
        let expected = format!("a whole number from {min} to {max}");
        let number: Option<u64> = self.read(name, &expected)?;
        match number {
            Some(number) if !(min..=max).contains(&number) => Err(invalid(format!("{name} must be {expected}"))),
            number => Ok(number),
        }
    }

    /// A whole number.
    ///
    /// # Errors
    /// `invalid_request` if it is missing or not a whole number from `min` to `max`.
    pub fn whole(&self, name: &str, min: u64, max: u64) -> Result<u64, Failure> {
        Self::required(name, self.optional_whole(name, min, max)?)
    }

    /// True or false, if present.
    ///
    /// # Errors
    /// `invalid_request` if it is neither true nor false.
    pub fn optional_flag(&self, name: &str) -> Result<Option<bool>, Failure> {
        self.read(name, "true or false")
    }

    /// An id, if present.
    ///
    /// # Errors
    /// `invalid_request` if it is not a UUID in its 36-character form.
    pub fn optional_id<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Failure> {
        let text: Option<String> = self.read(name, "a UUID")?;
        text.map(|text| id(name, &text)).transpose()
    }

    /// An id.
    ///
    /// # Errors
    /// `invalid_request` if it is missing or not a UUID in its 36-character form.
    pub fn id<T: std::str::FromStr>(&self, name: &str) -> Result<T, Failure> {
        Self::required(name, self.optional_id(name)?)
    }

    /// An amount, if present: a JSON number or a decimal string, parsed digit by digit from the raw text.
    ///
    /// # Errors
    /// `invalid_amount` naming the rule that was broken.
    pub fn optional_amount(&self, name: &str) -> Result<Option<Amount>, Failure> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        let text = match raw.strip_prefix('"') {
            Some(quoted) => quoted.strip_suffix('"').unwrap_or(quoted),
            None => raw,
        };
        Amount::parse(text).map(Some).map_err(|error| Failure::new(Code::InvalidAmount, format!("{name}: {error}")))
    }

    /// An amount.
    ///
    /// # Errors
    /// `invalid_request` if it is missing, `invalid_amount` if it is not money.
    pub fn amount(&self, name: &str) -> Result<Amount, Failure> {
        Self::required(name, self.optional_amount(name)?)
    }

    /// A time as RFC 3339 in UTC, if present, in milliseconds since 1970.
    ///
    /// # Errors
    /// `invalid_request` if it is not a time with `Z` at its end.
    pub fn optional_time(&self, name: &str) -> Result<Option<u64>, Failure> {
        const EXPECTED: &str = "a time such as 2026-12-24T18:00:00.000Z";
        let text: Option<String> = self.read(name, EXPECTED)?;
        let Some(text) = text else { return Ok(None) };
        let time = humantime::parse_rfc3339(&text).ok();
        let since = time.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        let milliseconds = since.and_then(|since| u64::try_from(since.as_millis()).ok());
        milliseconds.map(Some).ok_or_else(|| invalid(format!("{name} must be {EXPECTED}")))
    }

    /// An amount or 0, in cents.
    ///
    /// # Errors
    /// `invalid_request` if it is missing, `invalid_amount` if it is neither 0 nor money.
    pub fn amount_or_zero(&self, name: &str) -> Result<u64, Failure> {
        let text = self.raw(name).map(|raw| raw.trim_matches('"'));
        match text {
            Some("0" | "0.0" | "0.00") => Ok(0),
            _ => self.amount(name).map(Amount::cents),
        }
    }

    /// Whether a field is present.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.raw(name).is_some()
    }

    /// Whether a field is a text.
    #[must_use]
    pub fn is_text(&self, name: &str) -> bool {
        self.raw(name).is_some_and(|raw| raw.starts_with('"'))
    }

    /// A list of nested objects.
    ///
    /// # Errors
    /// `invalid_request` if it is not a list of at most `max` objects.
    pub fn objects(&self, name: &str, max: usize) -> Result<Vec<Self>, Failure> {
        let list: Vec<BTreeMap<String, Box<RawValue>>> = self.read(name, "a list of objects")?.unwrap_or_default();
        if list.len() > max {
            return Err(invalid(format!("{name} may have at most {max} entries")));
        }
        Ok(list.into_iter().map(Self).collect())
    }

    /// A nested object, if present.
    ///
    /// # Errors
    /// `invalid_request` if it is not an object.
    pub fn object(&self, name: &str) -> Result<Option<Self>, Failure> {
        Ok(self.read(name, "an object")?.map(Self))
    }
}

/// Parses an id from a path, a header or a field.
///
/// # Errors
/// `invalid_request` naming the place. The error does not repeat the text, which a client chose.
pub fn id<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, Failure> {
    text.parse().map_err(|_| invalid(format!("{name} must be a UUID of 36 characters")))
}

/// Longest username, in characters.
pub const MAX_USERNAME_CHARACTERS: usize = 100;

/// A claimed username as one line that is safe in a fact and in a Redis member ([`characters::one_line`]), or `user-` and
/// the start of the id if nothing of it is left.
#[must_use]
pub fn username(claimed: &str, user_id: UserId) -> String {
    characters::one_line(claimed, MAX_USERNAME_CHARACTERS)
        .unwrap_or_else(|| format!("user-{}", &user_id.to_string()[..8]))
}

/// The names that a person may get, the claimed one first: each is for a person whose earlier ones are taken.
pub fn usernames(claimed: &str, user_id: UserId) -> impl Iterator<Item = String> {
    let (name, id) = (username(claimed, user_id), user_id.to_string());
    let of_id = [4, 8, id.len()].map(|length| format!("{name}-{}", &id[..length]));
    std::iter::once(name).chain(of_id).chain([format!("user-{id}")])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_parsed_from_raw_text() {
        let check = |raw: &str, expected: Result<u64, Code>| {
            let body = format!("{{\"amount\":{raw}}}");
            let read = Fields::parse(body.as_bytes()).and_then(|fields| fields.amount("amount"));
            assert_eq!(read.map(Amount::cents).map_err(|failure| failure.code), expected, "{raw}");
        };
        check("12.5", Ok(1250));
        check("\"12.50\"", Ok(1250));
        check("99999999.99", Ok(9_999_999_999));
        check("null", Err(Code::InvalidRequest));
        check("NaN", Err(Code::InvalidRequest));
        for bad in [
            "1e3",
            "1.001",
            "-1",
            "0",
            "0.00",
            "100000000",
            "true",
            "[1]",
            "{}",
            "\"NaN\"",
            "\"\"",
            "\"1e3\"",
            "\"\\u0031\"",
        ] {
            check(bad, Err(Code::InvalidAmount));
        }
    }
}

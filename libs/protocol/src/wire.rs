//! The wire forms of domain values, for `#[serde(with = …)]`.

use std::fmt::Display;
use std::str::FromStr;

use domain::Amount;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use serde_json::value::RawValue;

/// A value of a closed enum as it crosses a wire: known, or a name that only a newer version knows.
///
/// During a rolling deploy two versions read each other's records. A name that this version does not know is kept
/// as it is, and written back unchanged; it never becomes a value of `domain`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named<T> {
    /// A variant of this version.
    Known(T),
    /// The name of a newer version's variant.
    Unknown(Box<str>),
}

impl<T: Copy> Named<T> {
    /// The value, if this version knows it.
    pub const fn known(&self) -> Option<T> {
        match self {
            Self::Known(value) => Some(*value),
            Self::Unknown(_) => None,
        }
    }
}

impl<T> From<T> for Named<T> {
    fn from(value: T) -> Self {
        Self::Known(value)
    }
}

impl<T: FromStr> Named<T> {
    /// Reads a name; never fails.
    pub fn read(name: &str) -> Self {
        name.parse().map_or_else(|_| Self::Unknown(name.into()), Self::Known)
    }
}

impl<T: PartialEq> PartialEq<T> for Named<T> {
    fn eq(&self, other: &T) -> bool {
        matches!(self, Self::Known(value) if value == other)
    }
}

impl<T: Display> Display for Named<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Known(value) => value.fmt(f),
            Self::Unknown(name) => f.write_str(name),
        }
    }
}

impl<T: Display> Serialize for Named<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, T: FromStr> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<str>::deserialize(deserializer).map(|name| Self::read(&name))
    }
}

/// A value with one text form, such as an id or a head.
pub mod text {
    use super::*;

    /// Writes the text form.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// If it is not one.
    pub fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// A value with one text form, or null.
pub mod optional_text {
    use super::*;

    /// Writes the text form, or null.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_none(),
        }
    }

    /// Reads the text form, or null.
    ///
    /// # Errors
    /// If it is neither.
    pub fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// A list of values with one text form.
pub mod texts {
    use super::*;

    /// Writes the list.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<T: Display, S: Serializer>(list: &[T], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(list.iter().map(ToString::to_string))
    }

    /// Reads the list.
    ///
    /// # Errors
    /// If it is none.
    pub fn deserialize<'de, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
    }
}

/// A list of values with one text form, or nothing.
pub mod optional_texts {
    use super::*;

    /// Writes the list, or null.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<T: Display, S: Serializer>(list: &Option<Vec<T>>, serializer: S) -> Result<S::Ok, S::Error> {
        let texts = list.as_ref().map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>());
        texts.serialize(serializer)
    }

    /// Reads the list, or null.
    ///
    /// # Errors
    /// If it is neither.
    pub fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let Some(texts) = Option::<Vec<String>>::deserialize(deserializer)? else { return Ok(None) };
        texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect::<Result<_, _>>().map(Some)
    }
}

/// Whole cents.
pub mod cents {
    use super::*;

    /// Writes the number of cents.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(amount: &Amount, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(amount.cents())
    }

    /// Reads a number of cents.
    ///
    /// # Errors
    /// If it is not one, or 0.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Amount, D::Error> {
        let cents = u64::deserialize(deserializer)?;
        Amount::from_stored(cents).ok_or_else(|| D::Error::custom("0 is not an amount"))
    }
}

/// Whole cents, or null.
pub mod optional_cents {
    use super::*;

    /// Writes the number of cents, or null.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(amount: &Option<Amount>, serializer: S) -> Result<S::Ok, S::Error> {
        amount.map(Amount::cents).serialize(serializer)
    }

    /// Reads a number of cents; null and 0 are None.
    ///
    /// # Errors
    /// If it is neither.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Amount>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.and_then(Amount::from_stored))
    }
}

/// The bands of a ladder, or nothing.
pub mod bands {
    use domain::{Band, Ladder};

    use super::*;
    use crate::options::StoredBand;

    /// Writes the bands.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(ladder: &Option<Ladder>, serializer: S) -> Result<S::Ok, S::Error> {
        let bands = ladder.as_ref().map(|ladder| ladder.bands().iter().map(StoredBand::from).collect::<Vec<_>>());
        bands.serialize(serializer)
    }

    /// Reads the bands.
    ///
    /// # Errors
    /// If they are no ladder.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Ladder>, D::Error> {
        let Some(bands) = Option::<Vec<StoredBand>>::deserialize(deserializer)? else { return Ok(None) };
        let bands = bands.into_iter().map(Band::try_from).collect::<Result<_, _>>().map_err(D::Error::custom)?;
        Ladder::new(bands).map(Some).map_err(D::Error::custom)
    }
}

/// A JSON number with two decimals, written digit by digit. Works with `serde_json` alone.
///
/// # Errors
/// Those of the serializer.
pub fn decimal<S: Serializer>(amount: &Amount, serializer: S) -> Result<S::Ok, S::Error> {
    let text = RawValue::from_string(amount.to_string()).map_err(serde::ser::Error::custom)?;
    text.serialize(serializer)
}

/// Reads a JSON number with at most two decimals, digit by digit. Works with `serde_json` alone.
///
/// # Errors
/// If it is none.
pub fn read_decimal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Amount, D::Error> {
    let raw = Box::<RawValue>::deserialize(deserializer)?;
    Amount::parse(raw.get()).map_err(D::Error::custom)
}

/// A JSON number with two decimals, or null.
///
/// # Errors
/// Those of the serializer.
pub fn optional_decimal<S: Serializer>(amount: &Option<Amount>, serializer: S) -> Result<S::Ok, S::Error> {
    match amount {
        Some(amount) => decimal(amount, serializer),
        None => serializer.serialize_none(),
    }
}

/// A time in milliseconds since 1970 as RFC 3339, in UTC with milliseconds and `Z`.
///
/// # Errors
/// Those of the serializer.
pub fn rfc3339<S: Serializer>(time: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&rfc3339_text(*time))
}

/// A time as RFC 3339, or null.
///
/// # Errors
/// Those of the serializer.
pub fn optional_rfc3339<S: Serializer>(time: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => rfc3339(time, serializer),
        None => serializer.serialize_none(),
    }
}

/// The latest time that RFC 3339 can express: the end of the year 9999.
const LATEST_MILLISECONDS: u64 = 253_402_300_799_999;

fn rfc3339_text(milliseconds: u64) -> impl Display {
    let since = std::time::Duration::from_millis(milliseconds.min(LATEST_MILLISECONDS));
    humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + since)
}

#[cfg(test)]
mod tests {
    use domain::Status;

    use super::*;

    #[test]
    fn known_name_becomes_its_variant() {
        let read: Named<Status> = serde_json::from_str("\"live\"").unwrap();
        assert_eq!(read, Named::Known(Status::Live));
        assert_eq!(read.known(), Some(Status::Live));
        assert_eq!(read, Status::Live);
        assert_eq!(serde_json::to_string(&read).unwrap(), "\"live\"");
    }

    #[test]
    fn unknown_name_is_kept_and_written_back() {
        for name in ["frozen", "Live", ""] {
            let json = serde_json::to_string(name).unwrap();
            let read: Named<Status> = serde_json::from_str(&json).unwrap();
            assert_eq!(read, Named::Unknown(name.into()));
            assert_eq!(read.known(), None);
            assert_ne!(read, Status::Live);
            assert_eq!(serde_json::to_string(&read).unwrap(), json);
        }
    }

    #[test]
    fn name_that_is_not_text_is_an_error() {
        for json in ["1", "null", "{}", "[\"live\"]"] {
            assert!(serde_json::from_str::<Named<Status>>(json).is_err(), "{json}");
        }
    }
}

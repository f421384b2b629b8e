//! Money: whole cents, checked arithmetic, one text form.

use std::fmt;

/// A positive amount of money in whole cents.
///
/// A bid or a starting bid is at most [`Amount::MAX_CENTS`]. Only [`Amount::plus`] may exceed that, because the minimum
/// of the next bid may be more than any bid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Amount(u64);

/// Why a text or a number is no amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// The text is not digits with at most two decimals.
    #[error("an amount is written in digits with at most two decimals, such as 12 or 12.50")]
    Malformed,
    /// Zero.
    #[error("an amount must be more than 0")]
    NotPositive,
    /// More than [`Amount::MAX_CENTS`].
    #[error("an amount may be at most 99999999.99")]
    TooLarge,
}

impl Amount {
    /// 99,999,999.99, the most that PostgreSQL's `DECIMAL(10,2)` holds.
    pub const MAX_CENTS: u64 = 9_999_999_999;

    /// An amount of this number of cents.
    ///
    /// # Errors
    /// `NotPositive` for 0, `TooLarge` above [`Self::MAX_CENTS`].
    pub const fn from_cents(cents: u64) -> Result<Self, AmountError> {
        match cents {
            0 => Err(AmountError::NotPositive),
            1..=Self::MAX_CENTS => Ok(Self(cents)),
            _ => Err(AmountError::TooLarge),
        }
    }

    /// Reads the decimal text of an amount: digits, then at most two decimals. No sign, exponent,
    /// space, group separator or superfluous zero in front.
    ///
    /// # Errors
    /// Names the rule that the text breaks.
    pub fn parse(text: &str) -> Result<Self, AmountError> {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "00"));
        let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let superfluous_zero = whole.len() > 1 && whole.starts_with('0');
        if !all_digits(whole) || !all_digits(decimals) || decimals.len() > 2 || superfluous_zero {
            return Err(AmountError::Malformed);
        }
        // The largest amount has eight digits before the point; more would also overflow below.
        if whole.len() > 8 {
            return Err(AmountError::TooLarge);
        }
        let digits = |part: &str| part.bytes().fold(0u64, |sum, b| sum * 10 + u64::from(b - b'0'));
        let scale = if decimals.len() == 1 { 10 } else { 1 };
        Self::from_cents(digits(whole) * 100 + digits(decimals) * scale)
    }

    /// The amount in cents.
    #[must_use]
    pub const fn cents(self) -> u64 {
        self.0
    }

    /// The sum. Both are at most a few times [`Self::MAX_CENTS`], so a `u64` cannot overflow.
    #[must_use]
    pub const fn plus(self, step: Self) -> Self {
        Self(self.0.saturating_add(step.0))
    }

    /// An amount read back from storage, a minimum above [`Self::MAX_CENTS`] included. None for 0.
    #[must_use]
    pub const fn from_stored(cents: u64) -> Option<Self> {
        if cents == 0 { None } else { Some(Self(cents)) }
    }
}

/// Always two decimals: `5000.00`.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_exactly_or_not_at_all() {
        let check = |text: &str, expected: Result<u64, AmountError>| {
            assert_eq!(Amount::parse(text).map(Amount::cents), expected, "{text:?}");
        };
        check("1", Ok(100));
        check("0.01", Ok(1));
        check("0.5", Ok(50));
        check("5000.00", Ok(500_000));
        check("99999999.99", Ok(Amount::MAX_CENTS));
        check("100000000", Err(AmountError::TooLarge));
        check("99999999999999999999999999", Err(AmountError::TooLarge));
        check("0", Err(AmountError::NotPositive));
        check("0.00", Err(AmountError::NotPositive));
        for bad in [
            "", ".", "1.", ".5", "-1", "+1", "1e3", "1E3", "1.001", "NaN", "Infinity", "0x10", " 1", "1 ", "1,5", "01",
            "1.2.3", "١",
        ] {
            check(bad, Err(AmountError::Malformed));
        }
    }

    #[test]
    fn amounts_are_written_with_two_decimals() {
        for text in ["0.01", "0.10", "5000.00", "99999999.99"] {
            assert_eq!(Amount::parse(text).map(|amount| amount.to_string()).as_deref(), Ok(text));
        }
    }
}

//! The increment ladder: how much a bid must exceed the price, by the height of the price.

use std::fmt;
use std::str::FromStr;

use crate::{Amount, names};

/// The step that applies from a price upwards, up to the next band.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Band {
    /// The lowest price of the band in cents. The first band also applies below it.
    pub from_cents: u64,
    /// The least amount by which a bid must exceed a price in the band.
    pub step: Amount,
}

/// Bands by rising prices. At least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ladder(Vec<Band>);

/// Why bands are no ladder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LadderError {
    /// There is no band, or there are more than [`Ladder::MAX_BANDS`].
    #[error("there must be 1 to {} bands", Ladder::MAX_BANDS)]
    Length,
    /// A band does not begin above the one before it.
    #[error("each band must begin at a higher price than the one before it")]
    NotRising,
    /// A step is smaller than the one before it.
    #[error("no step may be smaller than the step of the band before it")]
    Falling,
    /// A band begins above every possible price.
    #[error("no band may begin above 99999999.99")]
    TooHigh,
    /// The text is not the text of a ladder.
    #[error("a ladder is written as a step, or as from:step and a space, in cents")]
    Malformed,
}

/// A ladder that hosts choose by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// For short auctions that begin low and end soon.
    Flash,
    /// The increments of eBay's auctions, in the currency's unit.
    Classic,
}

names!(Preset { Flash = "flash", Classic = "classic" });

impl Preset {
    /// From and step of each band, in cents.
    const fn bands(self) -> &'static [(u64, u64)] {
        match self {
            Self::Flash => &[
                (100, 100),
                (3_000, 200),
                (5_000, 300),
                (10_000, 500),
                (30_000, 1_000),
                (100_000, 2_000),
                (200_000, 5_000),
            ],
            Self::Classic => &[
                (1, 5),
                (100, 25),
                (500, 50),
                (2_500, 100),
                (10_000, 250),
                (25_000, 500),
                (50_000, 1_000),
                (100_000, 2_500),
                (250_000, 5_000),
                (500_000, 10_000),
            ],
        }
    }
}

impl From<Preset> for Ladder {
    fn from(preset: Preset) -> Self {
        let band = |(from_cents, step): &(u64, u64)| {
            Amount::from_stored(*step).map(|step| Band { from_cents: *from_cents, step })
        };
        Self(preset.bands().iter().filter_map(band).collect())
    }
}

impl Ladder {
    /// Bands of one ladder. Every decision looks through them, and every record carries them.
    pub const MAX_BANDS: usize = 20;

    /// One step for all prices.
    #[must_use]
    pub fn flat(step: Amount) -> Self {
        Self(vec![Band { from_cents: 0, step }])
    }

    /// A ladder of these bands.
    ///
    /// # Errors
    /// Names the rule that the bands break.
    pub fn new(bands: Vec<Band>) -> Result<Self, LadderError> {
        if bands.is_empty() || bands.len() > Self::MAX_BANDS {
            return Err(LadderError::Length);
        }
        if bands.iter().any(|band| band.from_cents > Amount::MAX_CENTS) {
            return Err(LadderError::TooHigh);
        }
        if bands.windows(2).any(|pair| pair[1].from_cents <= pair[0].from_cents) {
            return Err(LadderError::NotRising);
        }
        if bands.windows(2).any(|pair| pair[1].step < pair[0].step) {
            return Err(LadderError::Falling);
        }
        Ok(Self(bands))
    }

    /// The bands, lowest first.
    #[must_use]
    pub fn bands(&self) -> &[Band] {
        &self.0
    }

    /// The step above `price`: that of the highest band that begins at or below it.
    #[must_use]
    pub fn step(&self, price: Amount) -> Amount {
        let above = self.0.iter().skip(1).take_while(|band| band.from_cents <= price.cents());
        above.last().unwrap_or(&self.0[0]).step
    }

    /// The step, if it is the same for all prices and the one band begins at 0.
    #[must_use]
    pub fn flat_step(&self) -> Option<Amount> {
        match self.0[..] {
            [Band { from_cents: 0, step }] => Some(step),
            _ => None,
        }
    }
}

/// A flat ladder is its step, another one `from:step` for each band with a space between them, all in cents. The text
/// is part of the chain, and the scripts read it.
impl fmt::Display for Ladder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(step) = self.flat_step() {
            return write!(f, "{}", step.cents());
        }
        for (nth, band) in self.0.iter().enumerate() {
            let space = if nth == 0 { "" } else { " " };
            write!(f, "{space}{}:{}", band.from_cents, band.step.cents())?;
        }
        Ok(())
    }
}

impl FromStr for Ladder {
    type Err = LadderError;

    fn from_str(text: &str) -> Result<Self, LadderError> {
        let number = |text: &str| text.parse::<u64>().map_err(|_| LadderError::Malformed);
        let step = |text: &str| Amount::from_stored(number(text)?).ok_or(LadderError::Malformed);
        if !text.contains(':') {
            return Ok(Self::flat(step(text)?));
        }
        let band = |text: &str| {
            let (from, of) = text.split_once(':').ok_or(LadderError::Malformed)?;
            Ok(Band { from_cents: number(from)?, step: step(of)? })
        };
        Self::new(text.split(' ').map(band).collect::<Result<_, _>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cents(cents: u64) -> Amount {
        Amount::from_stored(cents).expect("an amount")
    }

    fn ladder(bands: &[(u64, u64)]) -> Result<Ladder, LadderError> {
        Ladder::new(
            bands.iter().map(|(from_cents, step)| Band { from_cents: *from_cents, step: cents(*step) }).collect(),
        )
    }

    #[test]
    fn step_is_that_of_the_band_of_the_price() {
        let check = |ladder: &Ladder, price: u64, step: u64| {
            assert_eq!(ladder.step(cents(price)), cents(step), "{ladder} at {price}");
        };
        let flash = Ladder::from(Preset::Flash);
        for (price, step) in [
            (1, 100),
            (2_999, 100),
            (3_000, 200),
            (4_999, 200),
            (5_000, 300),
            (9_999, 300),
            (10_000, 500),
            (30_000, 1_000),
            (100_000, 2_000),
            (199_999, 2_000),
            (200_000, 5_000),
            (Amount::MAX_CENTS, 5_000),
        ] {
            check(&flash, price, step);
        }
        // eBay's help page "Automatic bidding", table "Bid increments".
        let classic = Ladder::from(Preset::Classic);
        for (price, step) in [
            (1, 5),
            (99, 5),
            (100, 25),
            (499, 25),
            (500, 50),
            (2_499, 50),
            (2_500, 100),
            (9_999, 100),
            (10_000, 250),
            (24_999, 250),
            (25_000, 500),
            (49_999, 500),
            (50_000, 1_000),
            (99_999, 1_000),
            (100_000, 2_500),
            (249_999, 2_500),
            (250_000, 5_000),
            (499_999, 5_000),
            (500_000, 10_000),
        ] {
            check(&classic, price, step);
        }
        check(&Ladder::flat(cents(7)), Amount::MAX_CENTS, 7);
    }

    #[test]
    fn ladders_rise() {
        assert_eq!(ladder(&[]), Err(LadderError::Length));
        assert_eq!(ladder(&[(0, 1); 21]), Err(LadderError::Length));
        assert_eq!(ladder(&[(100, 1), (100, 2)]), Err(LadderError::NotRising));
        assert_eq!(ladder(&[(100, 1), (99, 2)]), Err(LadderError::NotRising));
        assert_eq!(ladder(&[(0, 2), (100, 1)]), Err(LadderError::Falling));
        assert_eq!(ladder(&[(0, 2), (Amount::MAX_CENTS + 1, 3)]), Err(LadderError::TooHigh));
        assert!(ladder(&[(0, 2), (100, 2), (200, 3)]).is_ok());
        for preset in [Preset::Flash, Preset::Classic] {
            let preset = Ladder::from(preset);
            assert_eq!(Ladder::new(preset.bands().to_vec()), Ok(preset));
        }
    }

    #[test]
    fn texts_are_read_back() {
        for text in ["100", "50:100", "0:100 3000:200", "1:5 100:25 500:50"] {
            assert_eq!(text.parse::<Ladder>().map(|ladder| ladder.to_string()).as_deref(), Ok(text));
        }
        assert_eq!("0:100".parse::<Ladder>(), Ok(Ladder::flat(cents(100))));
        for bad in ["", "0", "1:", ":1", "0:0", "0:1  5:2", "0:1,5:2", "a", "-1"] {
            assert_eq!(bad.parse::<Ladder>(), Err(LadderError::Malformed), "{bad:?}");
        }
    }
}

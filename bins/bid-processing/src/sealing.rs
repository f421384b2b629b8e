//! Encrypts the secrets of auctions for the log: maximums and reserves. No other service has the key.
//!
//! XChaCha20-Poly1305 under `LOG_SECRET_KEY`. A sealed value is a random nonce of 24 bytes and the ciphertext of two
//! amounts of 8 bytes each, so that all have one length: 75 characters of base64. It is bound to its auction, and a maximum
//! also to the id of the call that set it: it cannot be moved to another fact. The id stands where a seq would, because it
//! belongs to one fact as a seq does, and is known before the script decides; so the script puts the sealed value into the
//! chain and the outbox, and nothing needs the key again before a rebuild.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use chacha20poly1305::aead::{Aead, Generate, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use domain::{Amount, AuctionId, BidId, LatestPrebid, Maximum, Offer, Reserve, Sealed, Secrets};
use protocol::{SealedMaximum, SealedSecrets};

/// Bytes of a key.
const KEY_BYTES: usize = 32;
/// Bytes of a nonce.
const NONCE_BYTES: usize = 24;
/// First bytes of what a sealed value is bound to. They change with the form of the value.
const LABEL: &[u8] = b"flash auction secret 1";

/// In place of the amount of an offer that was only an amount, and was sealed to be kept until the opening.
const KEPT: u64 = u64::MAX;

/// Why a secret could not be sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// This instance has no key.
    #[error("an encrypted maximum or reserve needs LOG_SECRET_KEY, which is not set")]
    NoKey,
    /// No key opens the value.
    #[error("no key of LOG_SECRET_KEY opens an encrypted maximum or reserve")]
    WrongKey,
    /// The value is not what this version seals.
    #[error("an encrypted maximum or reserve has an unknown form")]
    Form,
}

/// The keys of `LOG_SECRET_KEY`: the first one encrypts, all decrypt. Without any, secrets are refused.
#[derive(Clone, Default)]
pub struct LogKeys {
    ciphers: Vec<XChaCha20Poly1305>,
    is_repeatable: bool,
}

impl fmt::Debug for LogKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogKeys({})", self.ciphers.len())
    }
}

/// The place that a sealed value belongs to.
#[derive(Debug, Clone, Copy)]
enum Place {
    Reserve(AuctionId),
    Bid(AuctionId, BidId),
}

impl Place {
    fn bytes(self) -> Vec<u8> {
        let mut bytes = LABEL.to_vec();
        match self {
            Self::Reserve(auction_id) => {
                bytes.push(0);
                bytes.extend(auction_id.bytes());
            }
            Self::Bid(auction_id, bid_id) => {
                bytes.push(1);
                bytes.extend(auction_id.bytes());
                bytes.extend(bid_id.bytes());
            }
        }
        bytes
    }
}

impl LogKeys {
    /// Reads keys of 32 bytes, as 64 hexadecimal digits or base64, with commas between them. None if one is malformed.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let cipher = |key: [u8; KEY_BYTES]| XChaCha20Poly1305::new(&key.into());
        let ciphers = text.split(',').map(|key| parse_key(key.trim()).map(cipher)).collect::<Option<_>>()?;
        Some(Self { ciphers, is_repeatable: false })
    }

    /// The same keys, with nonces that follow from the place of a secret: every run of a simulation is then the same.
    /// Never for a service, where two secrets could have one place.
    #[must_use]
    pub fn repeatable(self) -> Self {
        Self { is_repeatable: true, ..self }
    }

    /// Whether secrets can be kept.
    #[must_use]
    pub fn can_seal(&self) -> bool {
        !self.ciphers.is_empty()
    }

    /// The offer of a call, sealed if it has a maximum. None if it offers nothing.
    ///
    /// # Errors
    /// `NoKey` for an offer with a maximum.
    pub fn offer(
        &self,
        auction_id: AuctionId,
        bid_id: BidId,
        amount: Option<Amount>,
        maximum: Option<Amount>,
    ) -> Result<Option<Offer>, SealError> {
        let Some(maximum) = maximum else { return Ok(amount.map(Offer::Exact)) };
        let sealed = self.seal(Place::Bid(auction_id, bid_id), maximum, in_cents(amount))?;
        Ok(Some(Offer::UpTo { amount, maximum, sealed }))
    }

    /// The offer of a call on an auction that is not open yet: sealed, to be kept, also if it has no maximum.
    ///
    /// # Errors
    /// `NoKey`.
    pub fn kept(&self, auction_id: AuctionId, bid_id: BidId, offer: Offer) -> Result<Offer, SealError> {
        let Offer::Exact(amount) = offer else { return Ok(offer) };
        let sealed = self.seal(Place::Bid(auction_id, bid_id), amount, KEPT)?;
        Ok(Offer::Kept { amount, sealed })
    }

    /// The offer that was sealed for this call.
    ///
    /// # Errors
    /// If no key opens it.
    pub fn open_offer(&self, auction_id: AuctionId, bid_id: BidId, sealed: &Sealed) -> Result<Offer, SealError> {
        let (maximum, second) = self.open(Place::Bid(auction_id, bid_id), sealed)?;
        let sealed = sealed.clone();
        Ok(match second {
            KEPT => Offer::Kept { amount: maximum, sealed },
            amount => Offer::UpTo { amount: Amount::from_stored(amount), maximum, sealed },
        })
    }

    /// A reserve, sealed.
    ///
    /// # Errors
    /// `NoKey`.
    pub fn seal_reserve(&self, auction_id: AuctionId, reserve: Amount) -> Result<Sealed, SealError> {
        self.seal(Place::Reserve(auction_id), reserve, in_cents(None))
    }

    /// The secrets in a record of the auction.
    ///
    /// # Errors
    /// If no key opens one of them.
    pub fn open_secrets(&self, auction_id: AuctionId, sealed: &SealedSecrets) -> Result<Secrets, SealError> {
        let reserve = match &sealed.reserve {
            Some(sealed) => {
                let (amount, _) = self.open(Place::Reserve(auction_id), sealed)?;
                Some(Reserve { amount, sealed: sealed.clone() })
            }
            None => None,
        };
        let maximum = match &sealed.maximum {
            Some(maximum) => {
                let amount = self.open_maximum(auction_id, maximum)?;
                Some(Maximum { bid_id: maximum.bid_id, amount, sealed: maximum.value.clone() })
            }
            None => None,
        };
        let prebid = sealed.prebid.as_ref().map(|prebid| LatestPrebid {
            bid_id: prebid.bid_id,
            username: prebid.username.clone(),
            sealed: prebid.value.clone(),
        });
        Ok(Secrets { reserve, maximum, prebid, answers: sealed.answers })
    }

    /// The maximum in a record of the auction.
    ///
    /// # Errors
    /// If no key opens it.
    pub fn open_maximum(&self, auction_id: AuctionId, maximum: &SealedMaximum) -> Result<Amount, SealError> {
        self.open(Place::Bid(auction_id, maximum.bid_id), &maximum.value).map(|(amount, _)| amount)
    }

    fn seal(&self, place: Place, first: Amount, second: u64) -> Result<Sealed, SealError> {
        let cipher = self.ciphers.first().ok_or(SealError::NoKey)?;
        let mut content = first.cents().to_le_bytes().to_vec();
        content.extend(second.to_le_bytes());
        let place = place.bytes();
        let last = place.last_chunk::<NONCE_BYTES>().filter(|_| self.is_repeatable);
        let nonce = last.map_or_else(XNonce::generate, |last| XNonce::from(*last));
        let payload = Payload { msg: &content, aad: &place };
        let ciphertext = cipher.encrypt(&nonce, payload).map_err(|_| SealError::Form)?;
        let mut sealed = nonce.to_vec();
        sealed.extend(ciphertext);
        URL_SAFE_NO_PAD.encode(sealed).parse().map_err(|_| SealError::Form)
    }

    fn open(&self, place: Place, sealed: &Sealed) -> Result<(Amount, u64), SealError> {
        if self.ciphers.is_empty() {
            return Err(SealError::NoKey);
        }
        let bytes = URL_SAFE_NO_PAD.decode(sealed.as_str()).map_err(|_| SealError::Form)?;
        let (nonce, ciphertext) = bytes.split_at_checked(NONCE_BYTES).ok_or(SealError::Form)?;
        let nonce = XNonce::try_from(nonce).map_err(|_| SealError::Form)?;
        let bound_to = place.bytes();
        let open =
            |cipher: &XChaCha20Poly1305| cipher.decrypt(&nonce, Payload { msg: ciphertext, aad: &bound_to }).ok();
        let content = self.ciphers.iter().find_map(open).ok_or(SealError::WrongKey)?;
        let (first, second) = content.split_at_checked(8).ok_or(SealError::Form)?;
        let amount = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_le_bytes);
        let (first, second) = amount(first).zip(amount(second)).ok_or(SealError::Form)?;
        Ok((Amount::from_stored(first).ok_or(SealError::Form)?, second))
    }
}

fn in_cents(amount: Option<Amount>) -> u64 {
    amount.map_or(0, Amount::cents)
}

fn parse_key(text: &str) -> Option<[u8; KEY_BYTES]> {
    let is_hex = text.len() == 2 * KEY_BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let bytes = if is_hex {
        let digits = |at: usize| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok();
        (0..KEY_BYTES).map(digits).collect::<Option<Vec<u8>>>()?
    } else {
        let engines = [STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD];
        engines.iter().find_map(|engine| engine.decode(text).ok())?
    };
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const OLD: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const NEW: &str = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";

    fn keys(text: &str) -> LogKeys {
        LogKeys::parse(text).expect("keys")
    }

    fn auction(number: u128) -> AuctionId {
        AuctionId::from_uuid(Uuid::from_u128(number))
    }

    fn bid(number: u128) -> BidId {
        BidId::from_uuid(Uuid::from_u128(number))
    }

    fn cents(cents: u64) -> Amount {
        Amount::from_cents(cents).expect("an amount")
    }

    fn sealed(keys: &LogKeys, amount: Option<u64>, maximum: u64) -> Sealed {
        let offer = keys.offer(auction(1), bid(2), amount.map(cents), Some(cents(maximum))).expect("sealed");
        offer.and_then(|offer| offer.sealed().cloned()).expect("a maximum")
    }

    #[test]
    fn keys_are_32_bytes_in_hex_or_base64() {
        for good in [OLD, NEW, &format!("{NEW}, {OLD}"), NEW.trim_end_matches('=')] {
            assert!(LogKeys::parse(good).is_some_and(|keys| keys.can_seal()), "{good}");
        }
        for bad in ["", "abc", &OLD[2..], &format!("{OLD},"), &format!("{OLD}00")] {
            assert!(LogKeys::parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn sealed_values_have_one_length_and_differ() {
        let keys = keys(OLD);
        let values = [sealed(&keys, None, 1), sealed(&keys, None, 1), sealed(&keys, Some(5), Amount::MAX_CENTS)];
        assert!(values.iter().all(|value| value.as_str().len() == 75), "{values:?}");
        assert_ne!(values[0], values[1], "the nonce differs");
        let keys = keys.repeatable();
        assert_eq!(sealed(&keys, None, 1), sealed(&keys, None, 1));
    }

    #[test]
    fn value_is_opened_in_its_place_alone() {
        let keys = keys(OLD);
        let value = sealed(&keys, Some(500), 12_345);
        let opened = keys.open_offer(auction(1), bid(2), &value).expect("opened");
        assert_eq!((opened.amount(), opened.maximum()), (Some(cents(500)), Some(cents(12_345))));
        for (auction_id, bid_id) in [(auction(1), bid(3)), (auction(2), bid(2))] {
            assert_eq!(keys.open_offer(auction_id, bid_id, &value), Err(SealError::WrongKey));
        }
        let reserve = keys.seal_reserve(auction(1), cents(777)).expect("sealed");
        assert_eq!(keys.open_offer(auction(1), bid(2), &reserve), Err(SealError::WrongKey));
        let secrets = SealedSecrets { reserve: Some(reserve), maximum: None, prebid: None, answers: 3 };
        let opened = keys.open_secrets(auction(1), &secrets).expect("opened");
        assert_eq!((opened.reserve.map(|reserve| reserve.amount), opened.answers), (Some(cents(777)), 3));
    }

    #[test]
    fn amount_that_is_kept_opens_as_one() {
        let keys = keys(OLD);
        let keep = |offer| keys.kept(auction(1), bid(2), offer).expect("sealed");
        let up_to = Offer::UpTo { amount: Some(cents(9)), maximum: cents(9), sealed: sealed(&keys, Some(9), 9) };
        assert_eq!(keep(up_to.clone()), up_to, "sealed already");
        let kept = keep(Offer::Exact(cents(9)));
        assert_eq!((kept.amount(), kept.maximum()), (Some(cents(9)), None));
        let opened = keys.open_offer(auction(1), bid(2), kept.sealed().expect("sealed"));
        assert_eq!(opened, Ok(kept));
        assert_eq!(LogKeys::default().kept(auction(1), bid(2), Offer::Exact(cents(9))), Err(SealError::NoKey));
    }

    #[test]
    fn keys_rotate() {
        let (old, both, new) = (keys(OLD), keys(&format!("{NEW},{OLD}")), keys(NEW));
        let before = sealed(&old, None, 900);
        let after = sealed(&both, None, 900);
        let open = |keys: &LogKeys, value| keys.open_offer(auction(1), bid(2), value).map(|offer| offer.limit());
        assert_eq!(open(&both, &before), Ok(cents(900)));
        assert_eq!(open(&new, &after), Ok(cents(900)));
        assert_eq!(open(&new, &before), Err(SealError::WrongKey));
        assert_eq!(open(&old, &after), Err(SealError::WrongKey));
        assert_eq!(open(&LogKeys::default(), &after), Err(SealError::NoKey));
    }

    #[test]
    fn without_a_key_only_plain_bids_are_taken() {
        let none = LogKeys::default();
        assert_eq!(none.offer(auction(1), bid(2), None, Some(cents(5))), Err(SealError::NoKey));
        assert_eq!(none.offer(auction(1), bid(2), Some(cents(5)), None), Ok(Some(Offer::Exact(cents(5)))));
        assert_eq!(none.seal_reserve(auction(1), cents(5)), Err(SealError::NoKey));
    }
}

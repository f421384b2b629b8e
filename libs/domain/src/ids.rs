//! Identifiers, parsed once at the edge into types that cannot be wrong.

use std::fmt;
use std::str::FromStr;

use sha1::{Digest, Sha1};
use uuid::Uuid;

use crate::Head;

/// Text that is not a UUID in its 36-character form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a UUID in its 36-character form")]
pub struct IdError;

/// Characters of the only accepted form: `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
const TEXT_LENGTH: usize = 36;

fn parse(text: &str) -> Result<Uuid, IdError> {
    // `uuid` also accepts braces, `urn:uuid:` and 32 bare digits. An id becomes part of subjects and keys, so only one
    // spelling may exist.
    if text.len() != TEXT_LENGTH {
        return Err(IdError);
    }
    Uuid::try_parse(text).map_err(|_| IdError)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// The id with this UUID.
            #[must_use]
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUID.
            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }

            /// The shortest form, for places that store many.
            #[must_use]
            pub const fn bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        /// Lower case, 36 characters.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse(text).map(Self)
            }
        }
    };
}

id!(
    /// The id of one auction.
    AuctionId
);
id!(
    /// The id of one person: the `sub` of the token.
    UserId
);
id!(
    /// The id of one bid, chosen by the client that places it.
    BidId
);

/// The version of the UUIDs of counter-bids. No standard has it, so that no client's generator makes such an id.
const COUNTER_BID_VERSION: u8 = 15;

impl BidId {
    /// The id of the counter-bid with the number `seq`, which follows the fact with this head. `place_bid.lua` computes
    /// the same.
    #[must_use]
    pub fn of_counter_bid(head: Head, seq: u64) -> Self {
        let digest = Sha1::digest(format!("{head}\nproxy\n{seq}"));
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        bytes[6] = (COUNTER_BID_VERSION << 4) | (bytes[6] & 0x0f);
        bytes[8] = 0x80 | (bytes[8] & 0x0f);
        Self::from_uuid(Uuid::from_bytes(bytes))
    }

    /// Whether it is the id of a counter-bid, which no client may use.
    #[must_use]
    pub fn is_of_counter_bid(self) -> bool {
        self.bytes()[6] >> 4 == COUNTER_BID_VERSION
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_36_character_form_is_an_id() {
        let check = |text: &str, expected: Option<&str>| {
            let parsed = text.parse::<AuctionId>().ok().map(|id| id.to_string());
            assert_eq!(parsed.as_deref(), expected, "{text:?}");
        };
        let plain = "0b7c2f6e-5a53-4f7e-9a35-2a0d0c9d1e11";
        check(plain, Some(plain));
        check(&plain.to_uppercase(), Some(plain));
        for bad in [
            "",
            "*",
            ">",
            "0b7c2f6e5a534f7e9a352a0d0c9d1e11",
            "{0b7c2f6e-5a53-4f7e-9a35-2a0d0c9d1e11}",
            "urn:uuid:0b7c2f6e-5a53-4f7e-9a35-2a0d0c9d1e11",
            "0b7c2f6e-5a53-4f7e-9a35-2a0d0c9d1e1\n",
            "0b7c2f6e.5a53.4f7e.9a35.2a0d0c9d1e11",
            "0b7c2f6e-5a53-4f7e-9a35-2a0d0c9d1e1g",
            "0b7c2f6e5a53-4f7e-9a35-2a0d0c9d1e11a",
        ] {
            check(bad, None);
        }
    }
}

//! Names of the closed enums: the text that each variant has in the log, in Redis, in PostgreSQL and on the wire.

/// A text that names no variant of the enum it was parsed as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a known name")]
pub struct UnknownName;

/// A closed enum whose variants have names.
pub trait Names {
    /// The names of all variants.
    const NAMES: &'static [&'static str];
}

/// Gives a closed enum its names: `name`, `Display`, `FromStr` and [`Names`](crate::Names).
#[macro_export]
macro_rules! names {
    ($enum:ident { $($variant:ident = $name:literal),+ $(,)? }) => {
        impl $enum {
            /// The name in the log and on the wire.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }

        impl $crate::Names for $enum {
            const NAMES: &'static [&'static str] = &[$($name),+];
        }

        impl std::fmt::Display for $enum {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl std::str::FromStr for $enum {
            type Err = $crate::UnknownName;

            fn from_str(text: &str) -> Result<Self, $crate::UnknownName> {
                match text {
                    $($name => Ok(Self::$variant),)+
                    _ => Err($crate::UnknownName),
                }
            }
        }
    };
}

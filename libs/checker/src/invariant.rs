//! The sixteen invariants that a run must uphold.

use std::fmt;
use std::str::FromStr;

/// Declares the enum, its documentation and its explanations from one table.
macro_rules! invariants {
    ($($variant:ident $name:literal $title:literal $text:literal,)*) => {
        /// A promise that a run must keep. `flash check --explain I6` prints the text of a variant.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Invariant {
            $(#[doc = concat!("**", $name, ", ", $title, ":** ", $text)] $variant,)*
        }

        impl Invariant {
            /// Every invariant, in the order of its number; [`Invariant::Input`] comes last.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The short name that reports print: `I1` to `I16`, or `input`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The subject of the invariant in a few words.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self {
                    $(Self::$variant => $title,)*
                }
            }

            /// The promise in whole sentences.
            #[must_use]
            pub const fn explanation(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}

invariants! {
    Durable "I1" "durable"
        "Every bid that was answered as accepted is in the log exactly once, with the same seq, user and cents.",
    NoPhantom "I2" "no phantom"
        "Every bid in the log belongs to a call that was answered as accepted or whose outcome stayed unknown. No \
         logged bid has an id whose answers were all rejections.",
    Dense "I3" "dense"
        "The seq of an auction's records runs from 1 to n without gaps and rises with the stream sequence, every \
         record continues the hash chain of the one before it, and no bid id is in the log twice.",
    Legal "I4" "legal"
        "Replaying the log by the rules gives the state that each record carries: a bid is accepted while the \
         auction is live and before the end as it stood then, by a bidder who is neither the host nor the leader, \
         at least the increment above the price; the end moves exactly as the rules say and never back.",
    RealTime "I5" "real time"
        "If one bid was answered before another was sent and both were accepted, the first has the lower seq.",
    JustRefusals "I6" "just refusals"
        "Every rejection is right for the state at the seq that it names, and that state is not older than what was \
         answered before the call. A bid that was too low at an older seq may be rejected if it is still too low.",
    Idempotent "I7" "idempotent"
        "All accepted answers to one bid id are equal, and a bid that was accepted is not rejected when it is \
         repeated.",
    OneClose "I8" "one close"
        "An auction has exactly one closing record (closed or cancelled), and it is the last record. It is not \
         closed before its end unless the host or a purchase closed it, and at most 1 s after its end or after the \
         fault that delayed it. It is given more time only after a fault over its end.",
    OneWinner "I9" "one winner"
        "The log, PostgreSQL, the frames and the mails name the same winner and price. No auction without a \
         bid has a winner.",
    History "I10" "history"
        "Once the consumers have drained, the history in DynamoDB equals the bids in the log, item for item.",
    Notified "I11" "notified"
        "Every bidder and the host get one mail of the right kind for each closed auction. A second copy is allowed \
         only if a fault could have fallen between SES's answer and the row that records it; these are counted in \
         the notes.",
    Sockets "I12" "sockets"
        "On each connection the seq of an auction rises. Gaps occur only where previous_seq or recovered says so, \
         every frame equals the record that it shows, and the last frame is the last record.",
    Money "I13" "money"
        "Money is a whole number of cents inside the system and has at most two decimals outside. Every amount is \
         above 0 and at most 9,999,999,999 cents.",
    Secrets "I14" "secrets"
        "No token, stream key, credential or personal address is in the log, a frame, the history, an answer or an \
         error.",
    Recovery "I15" "recovery"
        "Within 5 s of the end of a fault a bid is accepted again, wherever bids were placed that could be accepted, \
         and within 5 s of the return of NATS every watched room of a live auction gets a tick.",
    NarrowPath "I16" "narrow path"
        "A bid needs only Redis, NATS and bid-processing. It is decided while PostgreSQL, AWS, the token \
         issuer or any other service is down. A probed service is ready while only others are down.",
    Input "input" "input"
        "The history holds everything that a verdict needs: a line of each kind, and as many faults and unknown \
         outcomes as were demanded. This is no promise of the system: a run that hit nothing proves nothing.",
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that no invariant has. Its message lists those that exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no invariant {name:?}; the invariants are:\n{}", list())]
pub struct UnknownInvariant {
    name: String,
}

impl FromStr for Invariant {
    type Err = UnknownInvariant;

    /// Reads `I6`, in any case.
    fn from_str(name: &str) -> Result<Self, UnknownInvariant> {
        let found = Self::ALL.iter().find(|invariant| invariant.name().eq_ignore_ascii_case(name));
        found.copied().ok_or_else(|| UnknownInvariant { name: name.to_owned() })
    }
}

fn list() -> String {
    let lines: Vec<String> =
        Invariant::ALL.iter().map(|invariant| format!("  {invariant:<6} {}", invariant.title())).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back_in_any_case() {
        for invariant in Invariant::ALL {
            assert_eq!(invariant.name().parse(), Ok(*invariant));
            assert_eq!(invariant.name().to_lowercase().parse(), Ok(*invariant));
        }
        let numbered: Vec<String> = (1..=16).map(|number| format!("I{number}")).collect();
        let names: Vec<&str> = Invariant::ALL.iter().map(|invariant| invariant.name()).collect();
        assert_eq!(names[..16], numbered);
        assert_eq!(Invariant::Durable.to_string(), "I1");
    }

    #[test]
    fn unknown_name_is_rejected_with_the_list() {
        let error = "I17".parse::<Invariant>().unwrap_err().to_string();
        assert!(error.contains("\"I17\"") && error.contains("I6     just refusals"), "{error}");
    }
}

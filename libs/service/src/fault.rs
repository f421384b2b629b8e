//! Fault points: deliberate mistakes that tests switch on, one subject at a time, to prove that the checker of
//! histories notices each. They are compiled in only with the feature `fault-points`, which `flash` asks for and
//! production images leave out; without it [`is_on`] is `false` and the compiler removes every branch.
//!
//! `FAULT_POINTS` names a file: `{"<subject>": "<fault point>", …}`. It is read at each call, so that a test may add to
//! it while the services run.

/// Declares the closed list of mistakes, each with the name that the file uses.
macro_rules! fault_points {
    ($($(#[$doc:meta])* $point:ident = $name:literal),+ $(,)?) => {
        /// A mistake that a test can switch on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum FaultPoint {
            $($(#[$doc])* $point),+
        }

        impl FaultPoint {
            /// Every fault point.
            pub const ALL: &[Self] = &[$(Self::$point),+];

            /// The name in the file.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$point => $name),+ }
            }
        }
    };
}

fault_points! {
    /// An append reports success and stores nothing.
    SkipAppend = "skip-append",
    /// A record repeats its last bid.
    LogBidTwice = "log-bid-twice",
    /// A record holds another amount than was decided.
    LogOtherAmount = "log-other-amount",
    /// A record drops an extension of the end.
    ForgetExtension = "forget-extension",
    /// A rejection names a minimum bid that is too high.
    InflateMinimumBid = "inflate-minimum-bid",
    /// A rejection names a seq below one that was answered before.
    AnswerFromThePast = "answer-from-the-past",
    /// A repeated bid id is rejected although it was accepted.
    ForgetBidId = "forget-bid-id",
    /// The closing is requested two seconds after the end.
    CloseLate = "close-late",
    /// The result of a closed auction is not written to PostgreSQL.
    ForgetResult = "forget-result",
    /// Every client is notified that it won.
    EverybodyWins = "everybody-wins",
    /// Every fifth bid is left out of the history.
    ForgetHistory = "forget-history",
    /// A mail is sent twice.
    MailTwice = "mail-twice",
    /// One loser gets no mail.
    ForgetLoser = "forget-loser",
    /// A `bid_update` leaves out a bid without announcing it.
    HideBid = "hide-bid",
    /// A `bid_update` is sent twice.
    RepeatFrame = "repeat-frame",
    /// An error message contains the caller's token.
    LeakToken = "leak-token",
    /// An auction that Redis lost is not rebuilt.
    SkipRebuild = "skip-rebuild",
    /// A bid waits for auction-management, which is not on the narrow path.
    AskManagementFirst = "ask-management-first",
}

/// Whether this mistake is switched on for `subject`.
#[cfg(not(feature = "fault-points"))]
#[must_use]
pub fn is_on<S: ToString>(_point: FaultPoint, _subject: &S) -> bool {
    false
}

/// Whether this mistake is switched on for `subject`.
#[cfg(feature = "fault-points")]
#[must_use]
pub fn is_on<S: ToString>(point: FaultPoint, subject: &S) -> bool {
    static FILE: std::sync::OnceLock<Option<std::ffi::OsString>> = std::sync::OnceLock::new();
    let Some(file) = FILE.get_or_init(|| std::env::var_os("FAULT_POINTS")) else { return false };
    let Ok(text) = std::fs::read(file) else { return false };
    let points: std::collections::HashMap<String, String> = serde_json::from_slice(&text).unwrap_or_default();
    points.get(&subject.to_string()).is_some_and(|on| on == point.name())
}

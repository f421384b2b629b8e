//! The first message of a connection, and its result: it enters as a person, or watches without a token.

use std::sync::{Arc, Mutex};

use admission::Allowance;
use identity::Identity;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The number of a connection's session on this edge.
pub type SessionId = u64;

/// How a connection enters: as a person or not, with an allowance of frames.
pub struct Entry {
    /// The verified token. None: the connection watches without one.
    pub identity: Option<Identity>,
    /// The frames of the person, or of this connection alone.
    pub frames: Arc<Mutex<Allowance>>,
}

/// The content of a client's first message.
#[derive(Debug, PartialEq, Eq)]
pub enum Shown {
    /// A token.
    Token(String),
    /// No token, and the wish to watch.
    Anonymous,
    /// Anything else.
    Nothing,
}

impl Shown {
    /// The data of a first `authenticate` of the plain transport: an object without a token asks to watch.
    pub fn in_authenticate(data: &RawValue) -> Self {
        Self::read(data.get(), |data| data.token.is_none())
    }

    /// The data of a CONNECT of Socket.IO: `{anonymous: true}` asks to watch.
    pub fn in_connect(data: &str) -> Self {
        Self::read(data, |data| data.anonymous == Some(true))
    }

    fn read(data: &str, is_anonymous: impl Fn(&Credentials) -> bool) -> Self {
        match serde_json::from_str::<Credentials>(data) {
            Ok(Credentials { token: Some(token), .. }) => Self::Token(token),
            Ok(data) if is_anonymous(&data) => Self::Anonymous,
            _ => Self::Nothing,
        }
    }
}

#[derive(Deserialize)]
struct Credentials {
    token: Option<String>,
    anonymous: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watching_is_asked_for_and_never_assumed() {
        let token = || Shown::Token("abc".to_owned());
        for (data, authenticate, connect) in [
            ("{}", Shown::Anonymous, Shown::Nothing),
            (r#"{"token":null}"#, Shown::Anonymous, Shown::Nothing),
            (r#"{"anonymous":true}"#, Shown::Anonymous, Shown::Anonymous),
            (r#"{"anonymous":false}"#, Shown::Anonymous, Shown::Nothing),
            (r#"{"token":"abc"}"#, token(), token()),
            (r#"{"token":"abc","anonymous":true}"#, token(), token()),
            (r#"{"token":""}"#, Shown::Token(String::new()), Shown::Token(String::new())),
            (r#"{"token":7}"#, Shown::Nothing, Shown::Nothing),
            (r#"{"anonymous":"yes"}"#, Shown::Nothing, Shown::Nothing),
            ("[]", Shown::Nothing, Shown::Nothing),
            ("null", Shown::Nothing, Shown::Nothing),
            ("", Shown::Nothing, Shown::Nothing),
        ] {
            assert_eq!(Shown::in_connect(data), connect, "{data}");
            if let Ok(data) = serde_json::from_str(data) {
                assert_eq!(Shown::in_authenticate(data), authenticate, "{data}");
            }
        }
    }
}

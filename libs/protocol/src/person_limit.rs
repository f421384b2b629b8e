//! Limits on what a person may lead with at once, in all auctions together.

use domain::{Amount, UserId};
use serde::{Deserialize, Serialize};

use crate::wire::{cents, text};

/// Limits in one reply to `users.limits`, a hundred kilobytes at most.
pub const MAX_LIMITS_IN_PAGE: usize = 1_000;
/// People with a limit of their own. A bound on the memory of each bid-processing, some 10 MB.
pub const MAX_OWN_LIMITS: usize = 200_000;

/// The limit of one person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "limit", rename_all = "lowercase")]
pub enum Limit {
    /// The one of all people without an own limit: `DEFAULT_PERSON_LIMIT` of bid-processing.
    Default,
    /// No limit.
    None,
    /// Standing leads may come to this amount.
    Amount {
        /// The amount.
        #[serde(rename = "amount_cents", with = "cents")]
        amount: Amount,
    },
}

/// A person and the person's limit: a row of a reply to `users.limits`, and what `users.limited` carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonLimit {
    /// The person.
    #[serde(with = "text")]
    pub user_id: UserId,
    /// The limit.
    #[serde(flatten)]
    pub limit: Limit,
}

/// `users.limit`: reads the limit of a person, or sets it first. Repeatable. Sent by `flash-admin limit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitRequest {
    /// The person, who need not have appeared yet.
    #[serde(with = "text")]
    pub user_id: UserId,
    /// The new limit; none to read it.
    pub set: Option<Limit>,
}

/// Reply to `users.limit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitShown {
    /// The name under which the person is shown; none before the first appearance.
    pub username: Option<String>,
    /// The limit now.
    #[serde(flatten)]
    pub limit: Limit,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_as_documented() {
        let user_id: UserId = "0b7c2f6e-5a53-4f7e-9a35-2a0d0c9d1e11".parse().expect("an id");
        let amount = Amount::from_cents(500_000).expect("an amount");
        for (limit, expected) in [
            (Limit::Default, r#""limit":"default""#),
            (Limit::None, r#""limit":"none""#),
            (Limit::Amount { amount }, r#""limit":"amount","amount_cents":500000"#),
        ] {
            let person = PersonLimit { user_id, limit };
            let text = serde_json::to_string(&person).expect("JSON");
            assert_eq!(text, format!(r#"{{"user_id":"{user_id}",{expected}}}"#));
            assert_eq!(serde_json::from_str::<PersonLimit>(&text).expect("a limit"), person);
            let request = LimitRequest { user_id, set: Some(limit) };
            let text = serde_json::to_string(&request).expect("JSON");
            assert_eq!(serde_json::from_str::<LimitRequest>(&text).expect("a request"), request);
        }
        assert!(serde_json::from_str::<Limit>(r#"{"limit":"amount","amount_cents":0}"#).is_err());
    }
}

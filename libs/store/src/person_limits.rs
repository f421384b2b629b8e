//! Limits of people: what each may lead with at once, where it is not the default.

use domain::UserId;
use protocol::{Limit, LimitShown, PersonLimit};
use uuid::Uuid;

use crate::{Store, StoreError, amount, signed};

impl Store {
    /// Sets the limit of a person. False: `most` people have a limit of their own already, and this person is none of
    /// them. Repeatable.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn set_limit(&self, user_id: UserId, limit: Limit, most: usize) -> Result<bool, StoreError> {
        let cents = match limit {
            Limit::Default => {
                let removed = sqlx::query("DELETE FROM person_limits WHERE user_id = $1");
                removed.bind(user_id.uuid()).execute(&self.pool).await?;
                return Ok(true);
            }
            Limit::None => None,
            Limit::Amount { amount } => Some(signed(amount.cents())),
        };
        // The number may be exceeded by as many as are set in one moment.
        let set = sqlx::query(
            "INSERT INTO person_limits (user_id, amount) SELECT $1, $2::bigint / 100.0 \
             WHERE (SELECT count(*) FROM person_limits) < $3 OR EXISTS (SELECT FROM person_limits WHERE user_id = $1) \
             ON CONFLICT (user_id) DO UPDATE SET amount = EXCLUDED.amount, changed_at = now()",
        );
        let set = set.bind(user_id.uuid()).bind(cents).bind(i64::try_from(most).unwrap_or(i64::MAX));
        Ok(set.execute(&self.pool).await?.rows_affected() > 0)
    }

    /// The limit of a person, and the name if the person has appeared.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn limit(&self, user_id: UserId) -> Result<LimitShown, StoreError> {
        let row = sqlx::query_as::<_, (Option<String>, bool, Option<i64>)>(
            "SELECT (SELECT username FROM users WHERE user_id = $1), \
             EXISTS (SELECT FROM person_limits WHERE user_id = $1), \
             (SELECT (amount * 100)::bigint FROM person_limits WHERE user_id = $1)",
        );
        let (username, is_own, cents) = row.bind(user_id.uuid()).fetch_one(&self.pool).await?;
        let limit = if is_own { read(cents)? } else { Limit::Default };
        Ok(LimitShown { username, limit })
    }

    /// At most `most` people with a limit of their own, in the order of their ids, behind `after`.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn limits(&self, after: Option<UserId>, most: usize) -> Result<Vec<PersonLimit>, StoreError> {
        let rows = sqlx::query_as::<_, (Uuid, Option<i64>)>(
            "SELECT user_id, (amount * 100)::bigint FROM person_limits \
             WHERE $1::uuid IS NULL OR user_id > $1 ORDER BY user_id LIMIT $2",
        );
        let rows = rows.bind(after.map(UserId::uuid)).bind(i64::try_from(most).unwrap_or(i64::MAX));
        let rows = rows.fetch_all(&self.pool).await?;
        let limit = |(id, cents)| read(cents).map(|limit| PersonLimit { user_id: UserId::from_uuid(id), limit });
        rows.into_iter().map(limit).collect()
    }
}

fn read(cents: Option<i64>) -> Result<Limit, StoreError> {
    Ok(cents.map(amount).transpose()?.map_or(Limit::None, |amount| Limit::Amount { amount }))
}

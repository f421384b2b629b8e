//! Users: rows inserted from a token's claims or from the log.

use domain::UserId;
use protocol::{Person, Profile, UserSeen, characters};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::{Store, StoreError, signed, unsigned};

macro_rules! profile_columns {
    () => {
        "user_id, username, email, is_verified, name, phone, \
         (extract(epoch FROM created_at) * 1000)::bigint AS created_ms, \
         (extract(epoch FROM updated_at) * 1000)::bigint AS updated_ms"
    };
}

/// The row of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The name under which the person is shown everywhere.
    pub username: String,
    /// Whether the row was inserted by this call.
    pub is_new: bool,
}

impl Store {
    /// Inserts or updates the row of a user from the claims of a verified token. Repeatable.
    ///
    /// Only an address that the issuer has verified is stored. It moves from another user's row if that row has it
    /// unverified, or from an older token. An address that is no longer verified keeps its row and gets no mails.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn user_seen(&self, seen: &UserSeen) -> Result<Named, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let named = ensure(&mut transaction, &seen.person).await?;
        let id = seen.person.user_id.uuid();
        let (verified, unverified) = match &seen.email {
            Some(email) if seen.email_verified => (Some(email), None),
            email => (None, email.as_ref()),
        };
        if let Some(email) = verified {
            sqlx::query(
                "UPDATE users SET email = NULL, is_verified = FALSE, updated_at = now() \
                 WHERE email = $1 AND user_id <> $2 AND (seen_token_issued_at <= $3 OR NOT is_verified)",
            )
            .bind(email)
            .bind(id)
            .bind(signed(seen.issued_at))
            .execute(&mut *transaction)
            .await?;
        }
        sqlx::query(
            "UPDATE users SET name = COALESCE(name, $2), seen_token_issued_at = $3, updated_at = now(), \
             email = CASE WHEN taken.is_free THEN $4 ELSE email END, \
             is_verified = CASE WHEN taken.is_free THEN TRUE WHEN email = $5 THEN FALSE ELSE is_verified END \
             FROM (SELECT $4::text IS NOT NULL AND NOT EXISTS ( \
                 SELECT 1 FROM users AS other WHERE other.email = $4 AND other.user_id <> $1) AS is_free) AS taken \
             WHERE user_id = $1 AND seen_token_issued_at <= $3",
        )
        .bind(id)
        .bind(&seen.name)
        .bind(signed(seen.issued_at))
        .bind(verified)
        .bind(unverified)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        if verified.is_some() {
            // After the commit: the relay looks for addresses after it has written who lacks one, so that one of the two
            // sees the other.
            self.address_arrived(seen.person.user_id).await?;
        }
        Ok(named)
    }

    /// At most `most` people with their names, in the order of their ids, behind `after`.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn names(&self, after: Option<UserId>, most: usize) -> Result<Vec<Person>, StoreError> {
        let rows = sqlx::query_as::<_, (Uuid, String)>(
            "SELECT user_id, username FROM users WHERE $1::uuid IS NULL OR user_id > $1 ORDER BY user_id LIMIT $2",
        );
        let rows = rows.bind(after.map(UserId::uuid)).bind(i64::try_from(most).unwrap_or(i64::MAX));
        let rows = rows.fetch_all(&self.pool).await?;
        Ok(rows.into_iter().map(|(id, username)| Person { user_id: UserId::from_uuid(id), username }).collect())
    }

    /// Inserts the rows of these people, as far as they have none. A name that is taken does not stop it.
    ///
    /// # Errors
    /// When a query fails. Repeatable.
    pub async fn insert_missing(&self, people: &[Person]) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await?;
        for person in people {
            ensure(&mut connection, person).await?;
        }
        Ok(())
    }
}

impl Store {
    /// A user's own row.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn profile(&self, user_id: UserId) -> Result<Option<Profile>, StoreError> {
        let row =
            sqlx::query_as::<_, ProfileRow>(concat!("SELECT ", profile_columns!(), " FROM users WHERE user_id = $1"));
        row.bind(user_id.uuid()).fetch_optional(&self.pool).await?.map(Profile::try_from).transpose()
    }

    /// Changes the fields that users may change. None leaves a field as it is, an empty text clears it.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn change_profile(
        &self,
        user_id: UserId,
        name: Option<&str>,
        phone: Option<&str>,
    ) -> Result<Option<Profile>, StoreError> {
        let row = sqlx::query_as::<_, ProfileRow>(concat!(
            "UPDATE users SET name = NULLIF(COALESCE($2, name), ''), phone = NULLIF(COALESCE($3, phone), ''), \
             updated_at = now() WHERE user_id = $1 RETURNING ",
            profile_columns!()
        ));
        let row = row.bind(user_id.uuid()).bind(name).bind(phone).fetch_optional(&self.pool).await?;
        row.map(Profile::try_from).transpose()
    }
}

#[derive(FromRow)]
struct ProfileRow {
    user_id: Uuid,
    username: String,
    email: Option<String>,
    is_verified: bool,
    name: Option<String>,
    phone: Option<String>,
    created_ms: i64,
    updated_ms: i64,
}

impl TryFrom<ProfileRow> for Profile {
    type Error = StoreError;

    fn try_from(row: ProfileRow) -> Result<Self, StoreError> {
        let ProfileRow { user_id, username, email, is_verified, name, phone, created_ms, updated_ms } = row;
        let (created_at, updated_at) = (unsigned(created_ms)?, unsigned(updated_ms)?);
        let user_id = UserId::from_uuid(user_id);
        Ok(Self { user_id, username, email, is_verified, name, phone, created_at, updated_at })
    }
}

/// Inserts the row of a user if there is none. A taken username gets `-` and four characters of the id, then more of
/// them, and in the end a random name: so no choice of names by others makes this fail.
pub(crate) async fn ensure(connection: &mut PgConnection, person: &Person) -> Result<Named, StoreError> {
    for name in names(person) {
        // No conflict target: neither a row of this user inserted in between nor a taken name, nor one that looks like it,
        // is an error.
        let inserted = sqlx::query(
            "INSERT INTO users (user_id, username, username_skeleton) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        );
        let inserted = inserted
            .bind(person.user_id.uuid())
            .bind(&name)
            .bind(characters::skeleton(&name))
            .execute(&mut *connection)
            .await?;
        let found = sqlx::query_as::<_, (String, bool)>(
            "SELECT username, username_skeleton IS NOT NULL FROM users WHERE user_id = $1",
        );
        let found = found.bind(person.user_id.uuid()).fetch_optional(&mut *connection).await?;
        if let Some((username, has_skeleton)) = found {
            if !has_skeleton {
                add_skeleton(connection, person.user_id, &username).await?;
            }
            return Ok(Named { username, is_new: inserted.rows_affected() > 0 });
        }
    }
    Err(StoreError::Row("every username for the user is taken".to_owned()))
}

/// Adds the skeleton of a name to a row that a version before this one inserted, unless another row has it.
async fn add_skeleton(connection: &mut PgConnection, user_id: UserId, username: &str) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE users SET username_skeleton = $2 WHERE user_id = $1 \
         AND NOT EXISTS (SELECT 1 FROM users AS other WHERE other.username_skeleton = $2)",
    )
    .bind(user_id.uuid())
    .bind(characters::skeleton(username))
    .execute(connection)
    .await?;
    Ok(())
}

/// The usernames that a person may get, the preferred one first. The last is random, so no other person can have
/// taken it.
fn names(person: &Person) -> impl Iterator<Item = String> {
    // A name from an old record is as clean as one from a token.
    let last = format!("user-{}-{}", person.user_id, Uuid::new_v4());
    protocol::input::usernames(&person.username, person.user_id).chain([last])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_grow_with_the_id_and_end_with_one_that_cannot_be_guessed() {
        let user_id: UserId = "0b7c2f6e-5a53-4f7e-9a35-2a0d0c9d1e11".parse().unwrap();
        let of = |username: &str| names(&Person { user_id, username: username.to_owned() }).collect::<Vec<_>>();
        let (first, second) = (of("x"), of("x"));
        let expected = ["x", "x-0b7c", "x-0b7c2f6e", &format!("x-{user_id}"), &format!("user-{user_id}")];
        assert_eq!(first[..5], expected);
        assert!(first[5].starts_with(&format!("user-{user_id}-")) && first[5] != second[5], "{first:?}");
        assert_eq!(of("\0\u{202e}")[0], "user-0b7c2f6e");
    }
}

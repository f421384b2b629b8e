//! People: rows made from a token's claims, or from the log.

use protocol::{Person, UserSeen};
use sqlx::PgConnection;

use crate::{Store, StoreError, signed};

impl Store {
    /// Makes or freshens the row of a person who appeared at some door. Repeatable.
    ///
    /// # Errors
    /// When PostgreSQL does not do it.
    pub async fn user_seen(&self, seen: &UserSeen) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin().await?;
        ensure(&mut transaction, &seen.person).await?;
        let id = seen.person.user_id.uuid();
        if let Some(email) = &seen.email {
            // An e-mail held by another row moves to the newer token.
            sqlx::query("UPDATE users SET email = NULL, updated_at = now() WHERE email = $1 AND user_id <> $2 AND seen_token_issued_at <= $3")
                .bind(email)
                .bind(id)
                .bind(signed(seen.issued_at))
                .execute(&mut *transaction)
                .await?;
        }
        sqlx::query(
            "UPDATE users SET is_verified = $2, name = COALESCE($3, name), seen_token_issued_at = $4, updated_at = now(), \
             email = CASE WHEN $5::text IS NULL OR EXISTS (SELECT 1 FROM users AS other WHERE other.email = $5 AND other.user_id <> $1) \
                 THEN email ELSE $5 END \
             WHERE user_id = $1 AND seen_token_issued_at <= $4",
        )
        .bind(id)
        .bind(seen.email_verified)
        .bind(&seen.name)
        .bind(signed(seen.issued_at))
        .bind(&seen.email)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }
}

/// Makes the row of a person if there is none. A taken username gets `-` and four characters of the id.
pub(crate) async fn ensure(connection: &mut PgConnection, person: &Person) -> Result<(), StoreError> {
    let id = person.user_id.to_string();
    let names =
        [person.username.clone(), format!("{}-{}", person.username, &id[..4]), format!("{}-{id}", person.username)];
    for name in names {
        // No conflict target: neither a row of this person made meanwhile nor a taken name is an error.
        sqlx::query("INSERT INTO users (user_id, username) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(person.user_id.uuid())
            .bind(&name)
            .execute(&mut *connection)
            .await?;
        let exists = sqlx::query("SELECT 1 FROM users WHERE user_id = $1").bind(person.user_id.uuid());
        if exists.fetch_optional(&mut *connection).await?.is_some() {
            return Ok(());
        }
    }
    Err(StoreError::Row("no username is left".to_owned()))
}

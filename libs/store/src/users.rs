//! Users: rows inserted from a token's claims or from the log.

use domain::UserId;
use protocol::{Person, Profile, UserSeen};
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

impl Store {
    /// Inserts or updates the row of a user from the claims of a verified token. Repeatable.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn user_seen(&self, seen: &UserSeen) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin().await?;
        ensure(&mut transaction, &seen.person).await?;
        let id = seen.person.user_id.uuid();
        if let Some(email) = &seen.email {
            // An e-mail address in another user's row moves to the row of the newer token.
            sqlx::query("UPDATE users SET email = NULL, updated_at = now() WHERE email = $1 AND user_id <> $2 AND seen_token_issued_at <= $3")
                .bind(email)
                .bind(id)
                .bind(signed(seen.issued_at))
                .execute(&mut *transaction)
                .await?;
        }
        sqlx::query(
            "UPDATE users SET is_verified = $2, name = COALESCE(name, $3), seen_token_issued_at = $4, updated_at = now(), \
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

/// Inserts the row of a user if there is none. A taken username gets `-` and four characters of the id; if that is
/// taken too, the whole id.
pub(crate) async fn ensure(connection: &mut PgConnection, person: &Person) -> Result<(), StoreError> {
    let id = person.user_id.to_string();
    let names =
        [person.username.clone(), format!("{}-{}", person.username, &id[..4]), format!("{}-{id}", person.username)];
    for name in names {
        // No conflict target: neither a row of this user inserted in between nor a taken name is an error.
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
    Err(StoreError::Row("every username for the user is taken".to_owned()))
}

//! Roles and logins of the services. The privileges are those of [`protocol::rights`].

use protocol::rights::Login;

use crate::{Store, StoreError};

/// Makes a login a member of a role. Names and password are settings of the transaction: such a statement takes no
/// parameters, and a password in its text would be in the server's log.
const SET_LOGIN: &str = "
    DO $login$
    DECLARE
        login CONSTANT text := current_setting('flash.login');
        role CONSTANT text := current_setting('flash.role');
    BEGIN
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = login) THEN
            EXECUTE format('CREATE ROLE %I', login);
        END IF;
        EXECUTE format('ALTER ROLE %I LOGIN PASSWORD %L', login, current_setting('flash.password'));
        EXECUTE format('GRANT %I TO %I', role, login);
    END
    $login$";

impl Store {
    /// Creates the roles that are missing, if this login may, and gives each its privileges. Repeatable.
    ///
    /// # Errors
    /// When a table is missing, or this login does not own it.
    pub async fn grant(&self) -> Result<(), StoreError> {
        sqlx::raw_sql(include_str!("../roles.sql")).execute(&self.pool).await?;
        Ok(())
    }

    /// Creates a login of the service's name with the privileges of its role, or gives it this password. Repeatable.
    ///
    /// # Errors
    /// When this login may not, or the role is missing.
    pub async fn set_login(&self, login: &Login, password: &str) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query(
            "SELECT set_config('flash.login', $1, true), set_config('flash.role', $2, true), \
             set_config('flash.password', $3, true)",
        )
        .bind(login.name)
        .bind(login.role())
        .bind(password)
        .execute(&mut *transaction)
        .await?;
        sqlx::raw_sql(SET_LOGIN).execute(&mut *transaction).await?;
        Ok(transaction.commit().await?)
    }
}

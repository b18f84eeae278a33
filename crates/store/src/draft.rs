//! Forms that people have opened and not sent yet.

use serde_json::Value;
use sqlx::PgConnection;

/// Stores a draft, and deletes those of other days.
pub async fn put(
    conn: &mut PgConnection,
    key: &str,
    login: &str,
    body: &Value,
) -> sqlx::Result<()> {
    sqlx::query!("delete from draft where created_at < now() - interval '1 day'")
        .execute(&mut *conn)
        .await?;
    sqlx::query!("insert into draft (key, login, body) values ($1, $2, $3)", key, login, body)
        .execute(conn)
        .await?;
    Ok(())
}

/// A draft of this person.
pub async fn get(conn: &mut PgConnection, key: &str, login: &str) -> sqlx::Result<Option<Value>> {
    sqlx::query_scalar!("select body from draft where key = $1 and login = $2", key, login)
        .fetch_optional(conn)
        .await
}

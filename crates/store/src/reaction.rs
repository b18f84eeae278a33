//! Reactions on cards that count as decisions, whatever platform they are put on.
//!
//! Invariant: of two changes to one reaction the later one holds, in whatever order they arrive.
//! Their times are the platform's; ours where it gives none.

use sqlx::PgConnection;
use time::OffsetDateTime;

use metalbot_core::domain::ids::BatchId;

/// Stores a reaction of a person. `false`: a later change of it is stored, and nothing changed.
pub async fn put(
    conn: &mut PgConnection,
    batch: BatchId,
    login: &str,
    name: &str,
    at: Option<OffsetDateTime>,
) -> sqlx::Result<bool> {
    let put = sqlx::query!(
        "insert into card_reaction (batch_id, login, name, changed_at)
         values ($1, $2, $3, coalesce($4, clock_timestamp()))
         on conflict (batch_id, login, name) do update
             set standing = true, changed_at = excluded.changed_at
             where card_reaction.changed_at < excluded.changed_at",
        batch.0,
        login,
        name,
        at
    )
    .execute(conn)
    .await?;
    Ok(put.rows_affected() == 1)
}

/// Removes a reaction of a person. `false`: it was not there, or was put there again later.
pub async fn take(
    conn: &mut PgConnection,
    batch: BatchId,
    login: &str,
    name: &str,
    at: Option<OffsetDateTime>,
) -> sqlx::Result<bool> {
    let stood = stands(&mut *conn, batch, login, &[name.to_owned()]).await?;
    let taken = sqlx::query!(
        "insert into card_reaction (batch_id, login, name, standing, changed_at)
         values ($1, $2, $3, false, coalesce($4, clock_timestamp()))
         on conflict (batch_id, login, name) do update
             set standing = false, changed_at = excluded.changed_at
             where card_reaction.changed_at < excluded.changed_at",
        batch.0,
        login,
        name,
        at
    )
    .execute(conn)
    .await?;
    Ok(stood && taken.rows_affected() == 1)
}

/// Deletes all reactions on a card: they were for another plan.
pub async fn forget(conn: &mut PgConnection, batch: BatchId) -> sqlx::Result<()> {
    sqlx::query!(
        "update card_reaction set standing = false,
             changed_at = greatest(changed_at, date_trunc('second', clock_timestamp()))
         where batch_id = $1",
        batch.0
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Returns whether the person has any of these reactions on the card.
pub async fn stands(
    conn: &mut PgConnection,
    batch: BatchId,
    login: &str,
    names: &[String],
) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (
               select from card_reaction
               where batch_id = $1 and login = $2 and name = any($3) and standing) as "stands!""#,
        batch.0,
        login,
        names
    )
    .fetch_one(conn)
    .await
}

//! Reactions on cards that count as decisions, whatever platform they are put on.

use sqlx::PgConnection;

use crate::domain::ids::BatchId;

/// Remembers a reaction of a person.
pub async fn put(
    conn: &mut PgConnection,
    batch: BatchId,
    person: &str,
    name: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into card_reaction (batch_id, person, name) values ($1, $2, $3)
         on conflict do nothing",
        batch.0,
        person,
        name
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Forgets a reaction of a person. `false`: it did not stand for anything.
pub async fn take(
    conn: &mut PgConnection,
    batch: BatchId,
    person: &str,
    name: &str,
) -> sqlx::Result<bool> {
    let taken = sqlx::query!(
        "delete from card_reaction where batch_id = $1 and person = $2 and name = $3",
        batch.0,
        person,
        name
    )
    .execute(conn)
    .await?;
    Ok(taken.rows_affected() == 1)
}

/// Forgets all reactions on a card: they were for another plan.
pub async fn forget(conn: &mut PgConnection, batch: BatchId) -> sqlx::Result<()> {
    sqlx::query!("delete from card_reaction where batch_id = $1", batch.0).execute(conn).await?;
    Ok(())
}

/// Whether the person has any of these reactions on the card.
pub async fn stands(
    conn: &mut PgConnection,
    batch: BatchId,
    person: &str,
    names: &[String],
) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (
               select from card_reaction
               where batch_id = $1 and person = $2 and name = any($3)) as "stands!""#,
        batch.0,
        person,
        names
    )
    .fetch_one(conn)
    .await
}

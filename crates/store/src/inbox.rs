//! Deliveries from chat, stored before they are acknowledged and kept for as long as they are
//! needed to recognise a repeat.

use std::time::Duration;

use serde_json::Value;
use sqlx::{PgConnection, PgPool, PgTransaction};
use time::OffsetDateTime;

use super::notifier::{Topic, notify};
use super::task_lease::interval;

/// A delivery whose turn has come.
#[derive(Clone, PartialEq, Debug)]
pub struct Delivery {
    pub id: i64,
    pub platform: String,
    pub body: Value,
    /// Number of tries before.
    pub attempts: i32,
    pub received_at: OffsetDateTime,
    /// Time since it was received.
    pub age: Duration,
}

struct Row {
    id: i64,
    platform: String,
    body: Value,
    attempts: i32,
    received_at: OffsetDateTime,
    age: f64,
}

impl From<Row> for Delivery {
    fn from(row: Row) -> Delivery {
        let Row { id, platform, body, attempts, received_at, age } = row;
        Delivery { id, platform, body, attempts, received_at, age: Duration::from_secs_f64(age) }
    }
}

/// Stores a delivery. `false`: it was stored before, and nothing changed.
pub async fn accept(
    conn: &mut PgConnection,
    platform: &str,
    sender: &str,
    delivery: &str,
    body: &Value,
) -> sqlx::Result<bool> {
    let stored = sqlx::query!(
        "insert into inbox (platform, sender, delivery, body) values ($1, $2, $3, $4)
         on conflict do nothing",
        platform,
        sender,
        delivery,
        body
    )
    .execute(&mut *conn)
    .await?
    .rows_affected()
        == 1;
    if stored {
        notify(conn, Topic::Inbox).await?;
    }
    Ok(stored)
}

/// The oldest delivery that nobody else works on and that no earlier one of its sender precedes,
/// locked until the transaction ends: an approval and its withdrawal must not be worked on in the
/// other order.
pub async fn take(tx: &mut PgTransaction<'_>) -> sqlx::Result<Option<Delivery>> {
    let row = sqlx::query_as!(
        Row,
        r#"select id, platform, body, attempts, received_at,
                  greatest(extract(epoch from now() - received_at), 0)::float8 as "age!"
         from inbox
         where done_at is null and due_at <= now() and not exists (
             select from inbox earlier
             where earlier.platform = inbox.platform and earlier.sender = inbox.sender
               and earlier.id < inbox.id and earlier.done_at is null)
         order by id for update skip locked limit 1"#
    )
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(Delivery::from))
}

/// Deliveries that have waited for this long and whose time has come, oldest first, after this number.
pub async fn waiting(
    pool: &PgPool,
    waited: Duration,
    after: i64,
    at_most: i64,
) -> sqlx::Result<Vec<i64>> {
    sqlx::query_scalar!(
        "select id from inbox
         where done_at is null and due_at <= now() and received_at <= now() - $1::interval
             and id > $2
         order by id limit $3",
        interval(waited) as _,
        after,
        at_most
    )
    .fetch_all(pool)
    .await
}

/// Deliveries as they came, with their ids and platforms; those that wait no more are left out.
pub async fn bodies(pool: &PgPool, ids: &[i64]) -> sqlx::Result<Vec<(i64, String, Value)>> {
    let rows = sqlx::query!(
        "select id, platform, body from inbox where id = any($1) and done_at is null order by id",
        ids
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.platform, row.body)).collect())
}

/// A delivery that nobody else works on, locked until the transaction ends, whatever precedes it.
pub async fn take_ahead(tx: &mut PgTransaction<'_>, id: i64) -> sqlx::Result<Option<Delivery>> {
    let row = sqlx::query_as!(
        Row,
        r#"select id, platform, body, attempts, received_at,
                  greatest(extract(epoch from now() - received_at), 0)::float8 as "age!"
           from inbox where id = $1 and done_at is null and due_at <= now()
           for update skip locked"#,
        id
    )
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(Delivery::from))
}

/// Returns whether a later delivery of the same sender was worked on before this one.
pub async fn was_overtaken(conn: &mut PgConnection, id: i64) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (
               select from inbox earlier join inbox later
                 on later.platform = earlier.platform and later.sender = earlier.sender
               where earlier.id = $1 and later.id > $1 and later.done_at is not null) as "any!""#,
        id
    )
    .fetch_one(conn)
    .await
}

/// Keeps everybody from taking the delivery for a while.
pub async fn leave_alone(conn: &mut PgConnection, id: i64, wait: Duration) -> sqlx::Result<()> {
    sqlx::query!("update inbox set due_at = now() + $2 where id = $1", id, interval(wait))
        .execute(conn)
        .await?;
    Ok(())
}

/// Lets the delivery be taken again.
pub async fn go_on(pool: &PgPool, id: i64) -> sqlx::Result<()> {
    sqlx::query!("update inbox set due_at = now() where id = $1", id).execute(pool).await?;
    Ok(())
}

/// Stores that the delivery's effects are in this transaction. The address for its answer is a
/// secret, and is kept only for an answer that is still to be sent.
pub async fn done(conn: &mut PgConnection, id: i64) -> sqlx::Result<()> {
    sqlx::query!(
        "update inbox set done_at = now(), last_error = null,
             body = case when exists (
                     select from outbox where key = platform || ':' || delivery || ':answer')
                 then body else body #- '{payload,response_url}' end
         where id = $1",
        id
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Stores that the delivery could not be worked on; it is tried again after a while.
pub async fn postpone(pool: &PgPool, id: i64, wait: Duration, error: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "update inbox set attempts = attempts + 1, due_at = now() + $2, last_error = $3
         where id = $1 and done_at is null",
        id,
        interval(wait),
        error
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Stores that the delivery can never be worked on. It stays in the table, with its error, for an
/// operator.
pub async fn give_up(pool: &PgPool, id: i64, error: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "update inbox set done_at = now(), last_error = $2, body = body #- '{payload,response_url}'
         where id = $1 and done_at is null",
        id,
        error
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Stores that the delivery is of no known kind. It stays in the table as it came, with the reason,
/// for an operator; nobody waits for it.
pub async fn unreadable(conn: &mut PgConnection, id: i64, why: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "update inbox set done_at = now(), last_error = $2, body = body #- '{payload,response_url}'
         where id = $1",
        id,
        why
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Address at which a delivery is answered, if it came within `good`.
pub async fn response_url(
    pool: &PgPool,
    platform: &str,
    delivery: &str,
    good: Duration,
) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar!(
        r#"select body #>> '{payload,response_url}' as "url!" from inbox
           where platform = $1 and delivery = $2 and received_at > now() - $3::interval
             and body #>> '{payload,response_url}' is not null"#,
        platform,
        delivery,
        interval(good) as _
    )
    .fetch_optional(pool)
    .await
}

/// Deletes the address for an answer to a delivery.
pub async fn forget_response_url(
    pool: &PgPool,
    platform: &str,
    delivery: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update inbox set body = body #- '{payload,response_url}'
         where platform = $1 and delivery = $2",
        platform,
        delivery
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Number of deliveries that wait.
pub async fn backlog(pool: &PgPool) -> sqlx::Result<i64> {
    sqlx::query_scalar!(r#"select count(*) as "count!" from inbox where done_at is null"#)
        .fetch_one(pool)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn a_delivery_is_taken_once_and_by_one(pool: PgPool) {
        let body = serde_json::json!({});
        let mut conn = pool.acquire().await.unwrap();
        assert!(accept(&mut conn, "slack", "U1", "d1", &body).await.unwrap());
        assert!(!accept(&mut conn, "slack", "U1", "d1", &body).await.unwrap(), "a repeat");
        assert!(
            accept(&mut conn, "discord", "U1", "d1", &body).await.unwrap(),
            "another platform's"
        );
        let mut one = pool.begin().await.unwrap();
        let mut other = pool.begin().await.unwrap();
        let first = take(&mut one).await.unwrap().expect("it waits");
        let second = take(&mut other).await.unwrap().expect("there are two");
        assert_ne!(first.id, second.id);
        done(&mut one, first.id).await.unwrap();
        one.commit().await.unwrap();
        other.rollback().await.unwrap();
        assert_eq!(backlog(&pool).await.unwrap(), 1, "what was rolled back waits again");
        assert!(
            !accept(&mut conn, "slack", "U1", "d1", &body).await.unwrap(),
            "a repeat after the end"
        );
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn the_address_for_an_answer_is_kept_for_the_answer_and_not_for_long(pool: PgPool) {
        let body = serde_json::json!({ "payload": { "response_url": "https://a", "text": "b" } });
        let hour = Duration::from_secs(3600);
        let address = async |delivery| response_url(&pool, "slack", delivery, hour).await.unwrap();
        let mut conn = pool.acquire().await.unwrap();
        for delivery in ["answered", "silent", "failed", "old"] {
            accept(&mut conn, "slack", "U1", delivery, &body).await.unwrap();
            assert_eq!(address(delivery).await.as_deref(), Some("https://a"));
        }
        let later = "insert into outbox (kind, key, audience, body)
                 values ('notice', 'slack:answered:answer', '{}', '{}');
             update inbox set received_at = now() - interval '2 hours' where delivery = 'old'";
        sqlx::raw_sql(later).execute(&pool).await.unwrap();
        done(&mut conn, 1).await.unwrap();
        done(&mut conn, 2).await.unwrap();
        give_up(&pool, 3, "why").await.unwrap();
        assert_eq!(address("answered").await.as_deref(), Some("https://a"));
        for delivery in ["silent", "failed", "old"] {
            assert_eq!(address(delivery).await, None, "{delivery}");
        }
        forget_response_url(&pool, "slack", "answered").await.unwrap();
        assert_eq!(address("answered").await, None);
    }
}

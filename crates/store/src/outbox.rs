//! Outbox: notices and tickets that are to be sent, written in the transaction that they are about.

use std::time::Duration;

use serde_json::Value;
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool, PgTransaction};

use super::error_kind;
use super::notifier::{Topic, notify};
use super::relay_scope::RelayScope;
use super::task_lease::interval;
use metalbot_core::domain::error_kind::ErrorKind;
use metalbot_core::domain::event::{Event, EventBody};
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::notice::{Audience, Notice};

/// A notice that waits to be sent.
#[derive(Debug)]
pub struct PendingNotice {
    pub id: i64,
    pub key: String,
    /// Audience as stored: a notice of a newer version cannot be read by an older one.
    pub audience: serde_json::Result<Audience>,
    pub notice: serde_json::Result<Notice>,
    pub attempts: i32,
    /// Thread of the batch's card, for notices of its thread; its message may not be posted yet.
    pub thread: Option<Thread>,
}

/// The thread under a batch's card.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Thread {
    pub platform: String,
    pub channel: String,
    pub message_id: Option<String>,
}

/// Failures of one kind that are on no ticket yet.
#[derive(Debug)]
pub struct PendingTicket {
    pub id: i64,
    pub batch: BatchId,
    pub error_kind: ErrorKind,
    pub attempts: i32,
}

/// Queues a notice. `key` makes it recognisable; a key that was used is not queued again. Nothing is
/// queued for the thread of a batch that is announced nowhere.
pub async fn notice(
    conn: &mut PgConnection,
    key: &str,
    audience: &Audience,
    notice: &Notice,
) -> sqlx::Result<()> {
    let (batch, person) = match audience {
        Audience::Thread { batch } => (Some(batch.0), None),
        Audience::Person { login, .. } => (None, Some(login)),
        Audience::Channel { .. } | Audience::Only { .. } => (None, None),
    };
    // A digest is not put into another.
    let is_digest = matches!(notice, Notice::Digest { .. });
    sqlx::query!(
        "insert into outbox (kind, key, batch_id, audience, body, ordering_key, no_digest)
         select 'notice', $1, $2, $3, $4, $5,
                $6 or exists (select from preference where login = $7 and not digest)
         where $2::bigint is null
            or exists (select from batch where id = $2 and platform is not null)
         on conflict do nothing",
        key,
        batch,
        Json(audience) as _,
        Json(notice) as _,
        audience.ordering_key(),
        is_digest,
        person
    )
    .execute(&mut *conn)
    .await?;
    notify(conn, Topic::Outbox).await
}

/// Queues an event for the thread of its batch, mentioning nobody.
pub async fn event(
    conn: &mut PgConnection,
    key: &str,
    batch: BatchId,
    body: EventBody,
) -> sqlx::Result<()> {
    let audience = Audience::Thread { batch };
    notice(conn, key, &audience, &Notice::event(Event::new(batch, body))).await
}

/// Keeps a notice that was just queued for a while, counted from when what it tells is committed: see
/// [`count_down`]. It goes by itself: a digest would not wait.
pub async fn hold_back(conn: &mut PgConnection, key: &str, wait: Duration) -> sqlx::Result<()> {
    sqlx::query!(
        "update outbox set held_for = $2, due_at = now() + $2, no_digest = true where key = $1",
        key,
        interval(wait)
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Begins to count for notices that are held back and have been committed, which is when others can see
/// them. The relay calls it before it looks for what is due.
pub async fn count_down(pool: &PgPool) -> sqlx::Result<()> {
    sqlx::query!(
        "update outbox set due_at = clock_timestamp() + held_for, held_for = null
         where held_for is not null"
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Queues the failures of one kind of a batch, to be put on a ticket. `key` makes it recognisable.
pub async fn ticket(
    conn: &mut PgConnection,
    key: &str,
    batch: BatchId,
    error_kind: ErrorKind,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into outbox (kind, key, batch_id, body) values ('ticket', $1, $2, $3)
         on conflict do nothing",
        key,
        batch.0,
        Value::from(error_kind.as_str())
    )
    .execute(&mut *conn)
    .await?;
    notify(conn, Topic::Outbox).await
}

/// Notices whose time has come, oldest first. One whose ordering key has an older notice that
/// waits, or whose thread waits for its card, is left out: the order within a key is kept.
pub async fn due_notices(
    pool: &PgPool,
    scope: &RelayScope,
    at_most: i64,
) -> sqlx::Result<Vec<PendingNotice>> {
    let (platforms, belongs) = scope.parts();
    let rows = sqlx::query!(
        r#"select o.id, o.key, o.attempts, o.audience as "audience!", o.body,
                  b.platform as "platform?", b.channel as "channel?", c.message_id as "message_id?"
           from outbox o
           left join batch b on b.id = o.batch_id
           left join card c on c.batch_id = o.batch_id
           where o.kind = 'notice' and o.sent_at is null and o.refused_at is null
             and o.digest_id is null and o.due_at <= now() and o.held_for is null
             and (o.batch_id is null or c.message_id is not null or c.refused_at is not null)
             and (coalesce(b.platform, o.audience #>> '{location,platform}',
                           o.audience #>> '{near,platform}', '') = any($2)) = $3
             and not exists (
                 select from outbox earlier
                 where earlier.ordering_key = o.ordering_key and earlier.id < o.id
                   and earlier.sent_at is null and earlier.refused_at is null
                   and earlier.digest_id is null)
           order by o.id limit $1"#,
        at_most,
        &platforms,
        belongs
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| PendingNotice {
            id: row.id,
            key: row.key,
            audience: serde_json::from_value(row.audience),
            notice: serde_json::from_value(row.body),
            attempts: row.attempts,
            thread: row.platform.zip(row.channel).map(|(platform, channel)| Thread {
                platform,
                channel,
                message_id: row.message_id,
            }),
        })
        .collect())
}

/// Failures whose time has come, oldest first.
pub async fn due_tickets(pool: &PgPool, at_most: i64) -> sqlx::Result<Vec<PendingTicket>> {
    let rows = sqlx::query!(
        r#"select id, batch_id as "batch_id!", body as "body!: Json<String>", attempts
           from outbox
           where kind = 'ticket' and sent_at is null and refused_at is null and due_at <= now()
           order by id limit $1"#,
        at_most
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| PendingTicket {
            id: row.id,
            batch: BatchId(row.batch_id),
            error_kind: error_kind(Some(&row.body.0)),
            attempts: row.attempts,
        })
        .collect())
}

/// Locks a row that waits to be sent until the transaction ends; `false` when it waits no more.
pub async fn take(tx: &mut PgTransaction<'_>, id: i64) -> sqlx::Result<bool> {
    let row = sqlx::query!(
        "select id from outbox where id = $1 and sent_at is null and refused_at is null for update",
        id
    )
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.is_some())
}

/// Stores that the other side has it, and with a digest all that is in it.
pub async fn sent(conn: &mut PgConnection, id: i64) -> sqlx::Result<()> {
    sqlx::query!(
        "update outbox set sent_at = now(), last_error = null
         where id = $1 or digest_id = $1",
        id
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Stores that the other side did not take it now; it is sent again after `wait`.
pub async fn postpone(pool: &PgPool, id: i64, wait: Duration, error: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "update outbox set attempts = attempts + 1, due_at = now() + $2, last_error = $3
         where id = $1",
        id,
        interval(wait),
        error
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Postpones a row whose turn has not come; nothing has failed.
pub async fn defer(pool: &PgPool, id: i64, wait: Duration) -> sqlx::Result<()> {
    sqlx::query!("update outbox set due_at = now() + $2 where id = $1", id, interval(wait))
        .execute(pool)
        .await?;
    Ok(())
}

/// Stores that the other side will never take it.
pub async fn refused(pool: &PgPool, id: i64, error: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "update outbox set attempts = attempts + 1, refused_at = now(), last_error = $2
         where id = $1 or digest_id = $1",
        id,
        error
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Wait after this many failed tries: 1 s, 2 s, 4 s ... up to `longest`.
pub fn wait_after(attempts: i32, longest: Duration) -> Duration {
    Duration::from_secs(1 << attempts.clamp(0, 16)).min(longest)
}

/// Number of rows that wait to be sent.
pub async fn backlog(pool: &PgPool) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"select count(*) as "count!" from outbox where sent_at is null and refused_at is null"#
    )
    .fetch_one(pool)
    .await
}

#[cfg(test)]
mod tests {
    use metalbot_core::domain::inbound::ChatLocation;

    use super::*;

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn what_is_held_back_waits_from_when_it_is_committed(pool: PgPool) {
        let location = ChatLocation::channel("console", "metal");
        let body = EventBody::Resumed { by: "bob".into() };
        let notice = Notice::event(Event::new(BatchId(1), body));
        let mut tx = pool.begin().await.unwrap();
        super::notice(&mut tx, "k", &Audience::Channel { location }, &notice).await.unwrap();
        hold_back(&mut tx, "k", Duration::from_secs(60)).await.unwrap();
        // A lock that is waited for, or a database that is slow.
        sqlx::query("select pg_sleep(0.2)").execute(&mut *tx).await.unwrap();
        count_down(&pool).await.unwrap();
        let committed = "select clock_timestamp()";
        let committed: time::OffsetDateTime =
            sqlx::query_scalar(committed).fetch_one(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
        sqlx::query("update outbox set due_at = now()").execute(&pool).await.unwrap();
        let scope = RelayScope::Of("console".into());
        assert!(due_notices(&pool, &scope, 10).await.unwrap().is_empty(), "it counts not yet");
        count_down(&pool).await.unwrap();
        let counted: bool = sqlx::query_scalar(
            "select held_for is null and no_digest and due_at >= $1 + interval '60 s' from outbox",
        )
        .bind(committed)
        .fetch_one(&pool)
        .await
        .unwrap();
        assert!(counted);
    }
}

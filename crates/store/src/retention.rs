//! Deletes what was delivered, sent and told of progress long ago. What was decided and done is kept: batches, jobs,
//! attempts, decisions and the audit are the history of the fleet.

use std::time::Duration;

use sqlx::PgPool;

use super::task_lease::interval;

/// Rows of one table deleted in one statement.
const PAGE: i64 = 5_000;

/// Deletes a page of what was done with before `keep`; returns how many rows. A delivery that came
/// again after that time would be taken for a new one.
pub async fn forget(pool: &PgPool, keep: Duration) -> sqlx::Result<u64> {
    let keep = interval(keep);
    let inbox = sqlx::query!(
        "delete from inbox where id in (
             select id from inbox where done_at < now() - $1::interval order by id limit $2)",
        keep as _,
        PAGE
    )
    .execute(pool)
    .await?;
    // A digest comes after what it holds, and so goes after it.
    let outbox = sqlx::query!(
        "delete from outbox where id in (
             select id from outbox where coalesce(sent_at, refused_at) < now() - $1::interval
             order by id limit $2)",
        keep as _,
        PAGE
    )
    .execute(pool)
    .await?;
    let outgoing_post = sqlx::query!(
        "delete from outgoing_post where (platform, key) in (
             select platform, key from outgoing_post
             where started_at < now() - $1::interval limit $2)",
        keep as _,
        PAGE
    )
    .execute(pool)
    .await?;
    // Of what machines told, the end is history; how far they were on the way is not.
    let progress = sqlx::query!(
        "delete from job_report where id in (
             select id from job_report
             where kind = 'progress' and received_at < now() - $1::interval
                 and exists (select from attempt where attempt.id = attempt_id
                     and outcome is not null)
             limit $2)",
        keep as _,
        PAGE
    )
    .execute(pool)
    .await?;
    Ok([inbox, outbox, outgoing_post, progress].iter().map(|deleted| deleted.rows_affected()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{outbox, outgoing_post};
    use metalbot_core::domain::event::{Event, EventBody};
    use metalbot_core::domain::ids::BatchId;
    use metalbot_core::domain::inbound::ChatLocation;
    use metalbot_core::domain::notice::{Audience, Notice};

    async fn rows(pool: &PgPool) -> Vec<i64> {
        sqlx::query_scalar(
            "select count(*) from inbox union all select count(*) from outbox
             union all select count(*) from outgoing_post",
        )
        .fetch_all(pool)
        .await
        .unwrap()
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn what_waits_and_what_is_young_is_kept(pool: PgPool) {
        let mut conn = pool.acquire().await.unwrap();
        let location =
            ChatLocation { platform: "console".into(), channel: "metal".into(), thread: None };
        let body = EventBody::Resumed { by: "bob".into() };
        let notice = Notice::event(Event::new(BatchId(1), body));
        for key in ["waits", "sent", "in_digest"] {
            let audience = Audience::Channel { location: location.clone() };
            outbox::notice(&mut conn, key, &audience, &notice).await.unwrap();
        }
        outgoing_post::posted(&pool, "slack", "k", "17.1").await.unwrap();
        sqlx::raw_sql(
            "update outbox set digest_id = (select id from outbox where key = 'sent')
             where key = 'in_digest';
             update outbox set sent_at = now() - interval '3 days' where key <> 'waits';
             update outgoing_post set started_at = now() - interval '3 days';
             insert into inbox (platform, sender, delivery, body, done_at)
             values ('console', 'alice', '1', '{}', now() - interval '3 days'),
                    ('console', 'alice', '2', '{}', null)",
        )
        .execute(&pool)
        .await
        .unwrap();
        let day = Duration::from_secs(86_400);
        assert_eq!(forget(&pool, 7 * day).await.unwrap(), 0);
        assert_eq!(forget(&pool, 2 * day).await.unwrap(), 4);
        assert_eq!(rows(&pool).await, [1, 1, 0]);
    }
}

//! Notices of one ordering key that would be too many messages become one digest.
//!
//! Invariant: notices go into a digest in the order in which they were queued, and the digest is
//! queued in the same transaction; they count as sent when the digest is.

use std::time::Duration;

use sqlx::PgPool;

use super::relay_scope::RelayScope;
use super::task_lease::interval;
use super::{corrupt, outbox};
use metalbot_core::domain::notice::{Audience, Notice};
use metalbot_core::domain::notice_digest::{RateDecision, digest, pace};

/// Notices put into digests at once.
const MOST_FOLDED: i64 = 1_000;

/// Most messages of one ordering key within a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RateLimit {
    pub most: u32,
    pub window: Duration,
}

/// Puts notices of ordering keys with too many into digests, or lets them wait until the limit allows more.
/// Returns how many digests were queued. One process at a time may run it for a scope.
pub async fn thin_out(pool: &PgPool, scope: &RelayScope, limit: RateLimit) -> sqlx::Result<usize> {
    let (platforms, belongs) = scope.parts();
    let crowded = sqlx::query!(
        r#"select waiting.ordering_key as "ordering_key!", waiting.count as "waiting!",
                  recent.count as "recent!"
           from (select ordering_key, count(*) from outbox left join batch on batch.id = batch_id
                 where ordering_key is not null and not no_digest
                   and sent_at is null and refused_at is null and digest_id is null
                   and (coalesce(platform, audience #>> '{location,platform}',
                                 audience #>> '{near,platform}', '') = any($3)) = $4
                 group by ordering_key) as waiting,
                lateral (select count(*) from outbox
                         where ordering_key = waiting.ordering_key
                           and sent_at > now() - $2::interval and digest_id is null) as recent
           where waiting.count + recent.count > $1
           order by waiting.ordering_key limit 100"#,
        i64::from(limit.most),
        interval(limit.window) as _,
        &platforms,
        belongs
    )
    .fetch_all(pool)
    .await?;
    let mut digests = 0;
    for row in crowded {
        let count = |number: i64| u32::try_from(number).unwrap_or(u32::MAX);
        match pace(count(row.recent), count(row.waiting), limit.most) {
            RateDecision::Each => {}
            RateDecision::Fold => match fold(pool, &row.ordering_key).await {
                Ok(queued) => digests += queued,
                // What this version cannot read must not delay other ordering keys.
                Err(error @ (sqlx::Error::Decode(_) | sqlx::Error::Protocol(_))) => {
                    let key = row.ordering_key;
                    tracing::error!(ordering_key = key, %error, "notices cannot become a digest");
                }
                Err(error) => return Err(error),
            },
            RateDecision::Hold => hold(pool, &row.ordering_key, limit.window).await?,
        }
    }
    Ok(digests)
}

/// Puts all that waits under an ordering key behind whatever must be in no digest into as many
/// digests as it takes: what was left out would be sent before them. Returns how many.
async fn fold(pool: &PgPool, ordering_key: &str) -> sqlx::Result<usize> {
    let mut tx = pool.begin().await?;
    let behind = sqlx::query_scalar!(
        r#"select coalesce(max(id), 0) as "id!" from outbox
           where ordering_key = $1 and no_digest and sent_at is null and refused_at is null"#,
        ordering_key
    )
    .fetch_one(&mut *tx)
    .await?;
    let mut digests = 0;
    loop {
        let rows = sqlx::query!(
            r#"select id, audience as "audience!", body from outbox
               where ordering_key = $1 and not no_digest and id > $2
                 and sent_at is null and refused_at is null and digest_id is null
               order by id limit $3 for update"#,
            ordering_key,
            behind,
            MOST_FOLDED
        )
        .fetch_all(&mut *tx)
        .await?;
        // A notice of a newer version is left to a process that can read it, with all behind it.
        let notices: Vec<Notice> =
            rows.iter().map_while(|row| serde_json::from_value(row.body.clone()).ok()).collect();
        if notices.is_empty() || digests == 0 && notices.len() == 1 {
            break;
        }
        let (mut rows, mut notices) = (&rows[..], &notices[..]);
        while let Some(first) = rows.first().filter(|_| !notices.is_empty()) {
            let audience: Audience =
                serde_json::from_value(first.audience.clone()).map_err(corrupt)?;
            let (one, taken) = digest(notices);
            let ids: Vec<i64> = rows[..taken].iter().map(|row| row.id).collect();
            let key = format!("digest:{}", first.id);
            outbox::notice(&mut tx, &key, &audience, &one).await?;
            sqlx::query!(
                "update outbox set digest_id = (select id from outbox where key = $2)
                 where id = any($1)",
                &ids,
                key
            )
            .execute(&mut *tx)
            .await?;
            digests += 1;
            (rows, notices) = (&rows[taken..], &notices[taken..]);
        }
    }
    tx.commit().await?;
    Ok(digests)
}

/// Lets an ordering key wait until the oldest message of the window is no longer in it.
async fn hold(pool: &PgPool, ordering_key: &str, window: Duration) -> sqlx::Result<()> {
    sqlx::query!(
        "update outbox set due_at = greatest(due_at, (
             select min(sent_at) + $2::interval from outbox
             where ordering_key = $1 and sent_at > now() - $2::interval and digest_id is null))
         where id = (
             select min(id) from outbox
             where ordering_key = $1
               and sent_at is null and refused_at is null and digest_id is null)",
        ordering_key,
        interval(window) as _
    )
    .execute(pool)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use metalbot_core::domain::event::{Event, EventBody};
    use metalbot_core::domain::ids::BatchId;
    use metalbot_core::domain::inbound::ChatLocation;

    const MINUTE: Duration = Duration::from_secs(60);

    fn to_alice() -> Audience {
        let near = ChatLocation { platform: "slack".into(), channel: "C1".into(), thread: None };
        Audience::Person { login: "alice".into(), near }
    }

    fn slack() -> RelayScope {
        RelayScope::Of("slack".into())
    }

    async fn queue(pool: &PgPool, numbers: std::ops::RangeInclusive<i64>) {
        let mut conn = pool.acquire().await.unwrap();
        for number in numbers {
            let body = EventBody::Resumed { by: "bob".into() };
            let notice = Notice::event(Event::new(BatchId(number), body));
            outbox::notice(&mut conn, &format!("n{number}"), &to_alice(), &notice).await.unwrap();
        }
    }

    /// Sends what is due until nothing is; returns what was sent.
    async fn send(pool: &PgPool, limit: RateLimit) -> Vec<Notice> {
        let mut sent = Vec::new();
        loop {
            thin_out(pool, &slack(), limit).await.unwrap();
            let due = outbox::due_notices(pool, &slack(), 100).await.unwrap();
            if due.is_empty() {
                return sent;
            }
            assert_eq!(due.len(), 1, "one ordering key, one at a time");
            for pending in due {
                let mut conn = pool.acquire().await.unwrap();
                outbox::sent(&mut conn, pending.id).await.unwrap();
                sent.push(pending.notice.unwrap());
            }
        }
    }

    fn batches(notice: &Notice) -> Vec<i64> {
        match notice {
            Notice::Event { event, .. } => vec![event.batch.0],
            Notice::Digest { lines, .. } => {
                lines.iter().flat_map(|line| line.batches.iter().map(|batch| batch.0)).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn a_storm_becomes_few_messages_in_order_and_nothing_is_lost(pool: PgPool) {
        let limit = RateLimit { most: 5, window: MINUTE };
        queue(&pool, 1..=3).await;
        let first = send(&pool, limit).await;
        assert_eq!(first.iter().map(|n| batches(n).len()).collect::<Vec<_>>(), [1, 1, 1]);
        queue(&pool, 4..=500).await;
        let storm = send(&pool, limit).await;
        assert_eq!(storm.len(), 1, "{storm:?}");
        let told: Vec<i64> = first.iter().chain(&storm).flat_map(batches).collect();
        assert_eq!(told, (1..=500).collect::<Vec<i64>>());
        let in_digests: i64 = sqlx::query_scalar(
            "select count(*) from outbox where digest_id is not null and sent_at is not null",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        assert_eq!(in_digests, 497);
        // One more fits, then the key waits for the window to pass.
        queue(&pool, 501..=501).await;
        assert_eq!(send(&pool, limit).await.len(), 1);
        queue(&pool, 502..=510).await;
        assert!(send(&pool, limit).await.is_empty());
        sqlx::query(
            "update outbox set sent_at = sent_at - interval '2 minutes',
                 due_at = due_at - interval '2 minutes'",
        )
        .execute(&pool)
        .await
        .unwrap();
        let late: Vec<i64> = send(&pool, limit).await.iter().flat_map(batches).collect();
        assert_eq!(late, (502..=510).collect::<Vec<i64>>());
        assert_eq!(outbox::backlog(&pool).await.unwrap(), 0);
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn what_one_digest_cannot_hold_is_in_the_next(pool: PgPool) {
        let limit = RateLimit { most: 5, window: MINUTE };
        let mut conn = pool.acquire().await.unwrap();
        for number in 1..=100 {
            // Each of them is a line of its own.
            let wave = EventBody::WaveEnded {
                submitter: "alice".into(),
                wave: u32::try_from(number).unwrap(),
                waves: 200,
                succeeded: 1,
                failed: 0,
                total: 1,
                begins_at: None,
                manual: false,
            };
            let key = format!("n{number}");
            let wave = Notice::event(Event::new(BatchId(number), wave));
            outbox::notice(&mut conn, &key, &to_alice(), &wave).await.unwrap();
        }
        drop(conn);
        let sent = send(&pool, limit).await;
        let parts: Vec<usize> = sent.iter().map(|notice| batches(notice).len()).collect();
        assert_eq!(parts, [40, 40, 20]);
        let told: Vec<i64> = sent.iter().flat_map(batches).collect();
        assert_eq!(told, (1..=100).collect::<Vec<i64>>());
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn who_wants_no_digests_gets_none(pool: PgPool) {
        sqlx::query("insert into preference values ('alice', 'dm', 'dm', 'dm', 'dm', false)")
            .execute(&pool)
            .await
            .unwrap();
        queue(&pool, 1..=9).await;
        let sent = send(&pool, RateLimit { most: 2, window: MINUTE }).await;
        assert_eq!(sent.iter().map(|n| batches(n).len()).collect::<Vec<_>>(), [1; 9]);
    }
}

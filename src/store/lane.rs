//! Crowded lanes of the outbox: notices that would be too many messages become one digest.
//!
//! Invariant: notices are folded in the order in which they were queued, and a digest is queued in
//! the transaction that folds them; they count as sent when the digest is.

use std::time::Duration;

use sqlx::PgPool;

use super::share::Share;
use super::task::interval;
use super::{corrupt, outbox};
use crate::domain::digest::{Pace, digest, pace};
use crate::domain::notice::{Audience, Notice};

/// Notices folded at once.
const MOST_FOLDED: i64 = 1_000;

/// How many messages may go out on one lane within a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    pub most: u32,
    pub window: Duration,
}

/// Brings order into crowded lanes: folds what waits there, or lets it wait until there is room.
/// Returns how many digests were queued. One process at a time may run it for a share.
pub async fn thin_out(pool: &PgPool, share: &Share, room: Room) -> sqlx::Result<usize> {
    let (platforms, belongs) = share.parts();
    let crowded = sqlx::query!(
        r#"select waiting.lane as "lane!", waiting.count as "waiting!", recent.count as "recent!"
           from (select lane, count(*) from outbox left join batch on batch.id = batch_id
                 where lane is not null and not alone
                   and sent_at is null and refused_at is null and folded_into is null
                   and (coalesce(platform, audience #>> '{place,platform}',
                                 audience #>> '{near,platform}', '') = any($3)) = $4
                 group by lane) as waiting,
                lateral (select count(*) from outbox
                         where lane = waiting.lane and sent_at > now() - $2::interval
                           and folded_into is null) as recent
           where waiting.count + recent.count > $1
           order by waiting.lane limit 100"#,
        i64::from(room.most),
        interval(room.window) as _,
        &platforms,
        belongs
    )
    .fetch_all(pool)
    .await?;
    let mut digests = 0;
    for row in crowded {
        let count = |number: i64| u32::try_from(number).unwrap_or(u32::MAX);
        match pace(count(row.recent), count(row.waiting), room.most) {
            Pace::Each => {}
            Pace::Fold => match fold(pool, &row.lane).await {
                Ok(folded) => digests += folded,
                // A lane that this version cannot read must not hold up the others.
                Err(error @ (sqlx::Error::Decode(_) | sqlx::Error::Protocol(_))) => {
                    tracing::error!(lane = row.lane, %error, "a lane cannot be folded");
                }
                Err(error) => return Err(error),
            },
            Pace::Hold => hold(pool, &row.lane, room.window).await?,
        }
    }
    Ok(digests)
}

/// Folds all that waits in a lane behind whatever must not be folded, into as many digests as it
/// takes: what was left out would be sent before them. Returns how many.
async fn fold(pool: &PgPool, lane: &str) -> sqlx::Result<usize> {
    let mut tx = pool.begin().await?;
    let behind = sqlx::query_scalar!(
        r#"select coalesce(max(id), 0) as "id!" from outbox
           where lane = $1 and alone and sent_at is null and refused_at is null"#,
        lane
    )
    .fetch_one(&mut *tx)
    .await?;
    let mut digests = 0;
    loop {
        let rows = sqlx::query!(
            r#"select id, audience as "audience!", body from outbox
               where lane = $1 and not alone and id > $2
                 and sent_at is null and refused_at is null and folded_into is null
               order by id limit $3 for update"#,
            lane,
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
                "update outbox set folded_into = (select id from outbox where key = $2)
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

/// Lets a lane wait until the oldest message of the window is no longer in it.
async fn hold(pool: &PgPool, lane: &str, window: Duration) -> sqlx::Result<()> {
    sqlx::query!(
        "update outbox set due_at = greatest(due_at, (
             select min(sent_at) + $2::interval from outbox
             where lane = $1 and sent_at > now() - $2::interval and folded_into is null))
         where id = (
             select min(id) from outbox
             where lane = $1 and sent_at is null and refused_at is null and folded_into is null)",
        lane,
        interval(window) as _
    )
    .execute(pool)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::BatchId;
    use crate::domain::inbound::Place;

    const MINUTE: Duration = Duration::from_secs(60);

    fn to_alice() -> Audience {
        let near = Place { platform: "slack".into(), channel: "C1".into(), thread: None };
        Audience::Person { login: "alice".into(), near }
    }

    fn slack() -> Share {
        Share::Of("slack".into())
    }

    async fn queue(pool: &PgPool, numbers: std::ops::RangeInclusive<i64>) {
        let mut conn = pool.acquire().await.unwrap();
        for number in numbers {
            let notice = Notice::Resumed { batch: BatchId(number), by: "bob".into() };
            outbox::notice(&mut conn, &format!("n{number}"), &to_alice(), &notice).await.unwrap();
        }
    }

    /// Sends what is due until nothing is; returns what was sent.
    async fn send(pool: &PgPool, room: Room) -> Vec<Notice> {
        let mut sent = Vec::new();
        loop {
            thin_out(pool, &slack(), room).await.unwrap();
            let due = outbox::due_notices(pool, &slack(), 100).await.unwrap();
            if due.is_empty() {
                return sent;
            }
            assert_eq!(due.len(), 1, "one lane, one at a time");
            for pending in due {
                let mut conn = pool.acquire().await.unwrap();
                outbox::sent(&mut conn, pending.id).await.unwrap();
                sent.push(pending.notice.unwrap());
            }
        }
    }

    fn batches(notice: &Notice) -> Vec<i64> {
        match notice {
            Notice::Resumed { batch, .. } => vec![batch.0],
            Notice::Digest { lines, .. } => {
                lines.iter().flat_map(|line| line.batches.iter().map(|batch| batch.0)).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[sqlx::test]
    async fn a_storm_becomes_few_messages_in_order_and_nothing_is_lost(pool: PgPool) {
        let room = Room { most: 5, window: MINUTE };
        queue(&pool, 1..=3).await;
        let first = send(&pool, room).await;
        assert_eq!(first.iter().map(|n| batches(n).len()).collect::<Vec<_>>(), [1, 1, 1]);
        queue(&pool, 4..=500).await;
        let storm = send(&pool, room).await;
        assert_eq!(storm.len(), 1, "{storm:?}");
        let told: Vec<i64> = first.iter().chain(&storm).flat_map(batches).collect();
        assert_eq!(told, (1..=500).collect::<Vec<i64>>());
        let folded: i64 = sqlx::query_scalar(
            "select count(*) from outbox where folded_into is not null and sent_at is not null",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        assert_eq!(folded, 497);
        // One more fits, then the lane has had its fill and waits for the window to pass.
        queue(&pool, 501..=501).await;
        assert_eq!(send(&pool, room).await.len(), 1);
        queue(&pool, 502..=510).await;
        assert!(send(&pool, room).await.is_empty());
        sqlx::query(
            "update outbox set sent_at = sent_at - interval '2 minutes',
                 due_at = due_at - interval '2 minutes'",
        )
        .execute(&pool)
        .await
        .unwrap();
        let late: Vec<i64> = send(&pool, room).await.iter().flat_map(batches).collect();
        assert_eq!(late, (502..=510).collect::<Vec<i64>>());
        assert_eq!(outbox::backlog(&pool).await.unwrap(), 0);
    }

    #[sqlx::test]
    async fn what_one_digest_cannot_hold_is_in_the_next(pool: PgPool) {
        let room = Room { most: 5, window: MINUTE };
        let mut conn = pool.acquire().await.unwrap();
        for number in 1..=100 {
            // Each of them is a line of its own.
            let wave = Notice::WaveEnded {
                batch: BatchId(number),
                submitter: "alice".into(),
                named: false,
                wave: u32::try_from(number).unwrap(),
                waves: 200,
                succeeded: 1,
                failed: 0,
                total: 1,
                begins_at: None,
                manual: false,
            };
            let key = format!("n{number}");
            outbox::notice(&mut conn, &key, &to_alice(), &wave).await.unwrap();
        }
        drop(conn);
        let sent = send(&pool, room).await;
        let parts: Vec<usize> = sent.iter().map(|notice| batches(notice).len()).collect();
        assert_eq!(parts, [40, 40, 20]);
        let told: Vec<i64> = sent.iter().flat_map(batches).collect();
        assert_eq!(told, (1..=100).collect::<Vec<i64>>());
    }

    #[sqlx::test]
    async fn who_wants_no_digests_gets_none(pool: PgPool) {
        sqlx::query("insert into preference values ('alice', 'dm', 'dm', 'dm', 'dm', false)")
            .execute(&pool)
            .await
            .unwrap();
        queue(&pool, 1..=9).await;
        let sent = send(&pool, Room { most: 2, window: MINUTE }).await;
        assert_eq!(sent.iter().map(|n| batches(n).len()).collect::<Vec<_>>(), [1; 9]);
    }
}

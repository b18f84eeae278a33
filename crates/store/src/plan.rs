//! Changes to the plan of a waiting batch.

use sqlx::types::Json;
use sqlx::{PgConnection, PgTransaction};
use time::OffsetDateTime;

use super::batch::Batch;
use super::{card, reaction};
use metalbot_core::domain::approval::Requirement;
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::workflow::Digest;

/// Replaces the plan of a waiting batch, after hosts were taken out of it.
pub async fn change(
    tx: &mut PgTransaction<'_>,
    batch: &mut Batch,
    digest: Digest,
    requirements: Vec<Requirement>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update batch set digest = $2, requirements = $3, plan_changed_at = clock_timestamp()
         where id = $1",
        batch.id.0,
        &digest.0[..],
        Json(&requirements) as _
    )
    .execute(&mut **tx)
    .await?;
    reaction::forget(&mut *tx, batch.id).await?;
    batch.digest = digest;
    batch.requirements = requirements;
    card::touch(&mut *tx, batch.id).await
}

/// Returns whether what was said of a batch at this time was about another plan. Where a platform
/// numbers what happens within a second rather than time it, the times that it tells are too early:
/// what was said in the second of the change counts as said before, since nobody can have read the
/// new plan by then.
pub async fn changed_since(
    conn: &mut PgConnection,
    id: BatchId,
    at: OffsetDateTime,
) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select coalesce(plan_changed_at >= $2, false) as "since!"
           from batch where id = $1"#,
        id.0,
        at
    )
    .fetch_one(conn)
    .await
}

#[cfg(test)]
mod tests {
    use sqlx::PgPool;
    use time::macros::datetime;

    use super::*;

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn what_was_said_in_the_second_of_a_change_was_said_before_it(pool: PgPool) {
        let row = "insert into batch (action, risk, plan, digest, submitter, state, requirements,
                 origin, plan_changed_at)
             values ('reboot', 'disruptive', '{}', decode(repeat('00', 32), 'hex'), 'alice',
                 'awaiting_approval', '[]', jsonb_build_object('origin', 'api'),
                 '2027-01-15 10:00:00.7Z')";
        sqlx::raw_sql(row).execute(&pool).await.unwrap();
        let mut conn = pool.acquire().await.unwrap();
        for (at, since) in [
            (datetime!(2027-01-15 09:59:59 UTC), true),
            (datetime!(2027-01-15 10:00:00.000_003 UTC), true),
            (datetime!(2027-01-15 10:00:00.8 UTC), false),
            (datetime!(2027-01-15 10:00:01 UTC), false),
        ] {
            assert_eq!(changed_since(&mut conn, BatchId(1), at).await.unwrap(), since, "{at}");
        }
    }
}

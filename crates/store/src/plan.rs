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

/// Returns whether a message about a batch from this time was about another plan. Platforms number
/// what happens within a second rather than time it.
pub async fn changed_since(
    conn: &mut PgConnection,
    id: BatchId,
    at: OffsetDateTime,
) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select coalesce(date_trunc('second', plan_changed_at) > $2, false) as "since!"
           from batch where id = $1"#,
        id.0,
        at
    )
    .fetch_one(conn)
    .await
}

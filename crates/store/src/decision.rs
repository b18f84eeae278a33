//! Approvals and rejections. One person decides once about one digest of a batch.

use sqlx::{PgConnection, PgTransaction};

use super::corrupt;
use metalbot_core::domain::approval::{Decision, Verdict};
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::workflow::Digest;

/// Stores a decision. `false`: the person had already decided about this digest.
pub async fn insert(
    tx: &mut PgTransaction<'_>,
    batch: BatchId,
    decision: &Decision,
    owners: &[String],
    via: &str,
    reason: Option<&str>,
) -> sqlx::Result<bool> {
    let verdict = match decision.verdict {
        Verdict::Approve => "approve",
        Verdict::Reject => "reject",
    };
    let stored = sqlx::query!(
        "insert into decision (batch_id, digest, login, verdict, via, reason, owners)
         values ($1, $2, $3, $4, $5, $6, $7)
         on conflict do nothing",
        batch.0,
        &decision.digest.0[..],
        decision.login,
        verdict,
        via,
        reason,
        owners
    )
    .execute(&mut **tx)
    .await?;
    Ok(stored.rows_affected() == 1)
}

/// Takes back what a person decided. `false`: there was nothing to take back.
pub async fn withdraw(
    tx: &mut PgTransaction<'_>,
    batch: BatchId,
    digest: Digest,
    login: &str,
) -> sqlx::Result<bool> {
    let withdrawn = sqlx::query!(
        "update decision set withdrawn_at = now()
         where batch_id = $1 and digest = $2 and login = $3 and withdrawn_at is null",
        batch.0,
        &digest.0[..],
        login
    )
    .execute(&mut **tx)
    .await?;
    Ok(withdrawn.rows_affected() > 0)
}

/// Stores for which owners a person's decision counts by now.
pub async fn set_owners(
    tx: &mut PgTransaction<'_>,
    batch: BatchId,
    digest: Digest,
    login: &str,
    owners: &[String],
) -> sqlx::Result<()> {
    sqlx::query!(
        "update decision set owners = $4
         where batch_id = $1 and digest = $2 and login = $3 and withdrawn_at is null",
        batch.0,
        &digest.0[..],
        login,
        owners
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Standing decisions about a batch, of any digest, oldest first.
pub async fn standing(conn: &mut PgConnection, batch: BatchId) -> sqlx::Result<Vec<Decision>> {
    sqlx::query!(
        "select login, verdict, digest from decision
         where batch_id = $1 and withdrawn_at is null order by id",
        batch.0
    )
    .fetch_all(conn)
    .await?
    .into_iter()
    .map(|row| {
        let digest: [u8; 32] =
            row.digest.try_into().map_err(|_| sqlx::Error::Protocol("digest length".into()))?;
        Ok(Decision {
            login: row.login,
            verdict: match row.verdict.as_str() {
                "approve" => Verdict::Approve,
                "reject" => Verdict::Reject,
                other => {
                    return Err(corrupt(metalbot_core::domain::batch::UnknownState(other.into())));
                }
            },
            digest: Digest(digest),
        })
    })
    .collect()
}

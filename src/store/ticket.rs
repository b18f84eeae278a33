//! Tickets that were filed: our own table is the truth about which exist.

use sqlx::PgTransaction;
use sqlx::types::Json;

use crate::domain::host::HostName;
use crate::domain::ids::BatchId;

/// A ticket as filed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filed<'a> {
    pub fingerprint: &'a str,
    pub batch: BatchId,
    pub error_kind: &'a str,
    pub key: &'a str,
    pub url: &'a str,
    pub hosts: &'a [HostName],
}

/// Remembers a filed ticket. `false`: one with this fingerprint was remembered before.
pub async fn insert(tx: &mut PgTransaction<'_>, filed: &Filed<'_>) -> sqlx::Result<bool> {
    let stored = sqlx::query!(
        "insert into ticket (fingerprint, batch_id, error_kind, jira_key, url, hosts)
         values ($1, $2, $3, $4, $5, $6) on conflict do nothing",
        filed.fingerprint,
        filed.batch.0,
        filed.error_kind,
        filed.key,
        filed.url,
        Json(filed.hosts) as _
    )
    .execute(&mut **tx)
    .await?;
    Ok(stored.rows_affected() == 1)
}

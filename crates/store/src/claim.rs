//! Live claims: which batch holds a host.

use sqlx::{PgConnection, PgTransaction};

use super::corrupt;
use super::lock::ClaimLock;
use metalbot_core::domain::host::HostName;
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::overlap::Claim;

/// Live claims on the locked hosts. No admission can change them before the transaction ends.
pub async fn live(tx: &mut PgTransaction<'_>, lock: &ClaimLock) -> sqlx::Result<Vec<Claim>> {
    read(tx, lock.hosts()).await
}

/// Live claims on hosts as they are seen now. They may change at once: for people, never for an
/// admission.
pub async fn seen(conn: &mut PgConnection, hosts: &[HostName]) -> sqlx::Result<Vec<Claim>> {
    let hosts: Vec<String> = hosts.iter().map(|host| host.as_str().to_owned()).collect();
    read(conn, &hosts).await
}

async fn read(conn: &mut PgConnection, hosts: &[String]) -> sqlx::Result<Vec<Claim>> {
    sqlx::query!(
        "select job.host, job.state as job_state, batch.id, batch.state, batch.submitter
         from job join batch on batch.id = job.batch_id
         where job.host = any($1)
           and job.state in ('pending', 'queued', 'running', 'waiting', 'quarantined')
         order by job.host",
        hosts
    )
    .fetch_all(conn)
    .await?
    .into_iter()
    .map(|row| {
        Ok(Claim {
            host: row.host.parse().map_err(corrupt)?,
            job_state: row.job_state.parse().map_err(corrupt)?,
            batch: BatchId(row.id),
            batch_state: row.state.parse().map_err(corrupt)?,
            submitter: row.submitter,
        })
    })
    .collect()
}

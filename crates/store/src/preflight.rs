//! How far the checks of a batch have come. Several processes may have a part of them each: the hosts in
//! datacenters that they reach.

use sqlx::{PgConnection, PgTransaction};

use super::corrupt;
use metalbot_core::domain::host::HostName;
use metalbot_core::domain::ids::BatchId;

/// Hosts of a batch that have not been checked yet, with their datacenters.
pub async fn hosts_to_check(
    conn: &mut PgConnection,
    batch: BatchId,
) -> sqlx::Result<Vec<(HostName, String)>> {
    sqlx::query!(
        "select host, datacenter from job join batch on batch.id = job.batch_id
         where batch_id = $1 and job.state = 'pending'
           and datacenter <> all(batch.checked_datacenters)
         order by host",
        batch.0
    )
    .fetch_all(conn)
    .await?
    .into_iter()
    .map(|row| Ok((row.host.parse().map_err(corrupt)?, row.datacenter)))
    .collect()
}

/// Stores that the hosts of these datacenters in a locked batch have been checked.
pub async fn mark_checked(
    tx: &mut PgTransaction<'_>,
    id: BatchId,
    datacenters: &[String],
) -> sqlx::Result<()> {
    sqlx::query!(
        "update batch set checked_datacenters = checked_datacenters || $2 where id = $1",
        id.0,
        datacenters
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

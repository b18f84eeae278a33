//! Counts for the caps: hosts that are down, and hosts that wait to start.

use sqlx::PgTransaction;

use super::corrupt;
use metalbot_core::domain::caps::FailureDomain;
use metalbot_core::domain::host::HostName;
use metalbot_core::domain::ids::{BatchId, JobId};

/// Advisory lock of the caps, in the key space of the fleet's lock (`store::lock`).
const CAPS: (i32, i32) = (0x4d42, 2);

struct Row {
    id: i64,
    host: String,
    datacenter: String,
    rack: String,
    owner: String,
}

impl TryFrom<Row> for (JobId, FailureDomain) {
    type Error = sqlx::Error;

    fn try_from(
        Row { id, host, datacenter, rack, owner }: Row,
    ) -> sqlx::Result<(JobId, FailureDomain)> {
        let host = host.parse().map_err(corrupt)?;
        Ok((JobId(id), FailureDomain { host, datacenter, rack, owner }))
    }
}

/// Pending jobs of the waves so far, in the order of their numbers, with the places of their hosts.
pub async fn waiting(
    tx: &mut PgTransaction<'_>,
    batch: BatchId,
    wave: i32,
) -> sqlx::Result<Vec<(JobId, FailureDomain)>> {
    sqlx::query_as!(
        Row,
        "select id, host, datacenter, rack, owner from job
         where batch_id = $1 and state = 'pending' and wave <= $2 order by id",
        batch.0,
        wave
    )
    .fetch_all(&mut **tx)
    .await?
    .into_iter()
    .map(TryFrom::try_from)
    .collect()
}

/// Places of hosts that are, or are about to be, down: queued and running jobs of all batches that are not
/// harmless, quarantined ones, whose hosts are in an unknown state, and those that failed in the
/// middle. Takes the lock that lets one process at a time count and queue.
pub async fn down(tx: &mut PgTransaction<'_>) -> sqlx::Result<Vec<FailureDomain>> {
    let (class, lock) = CAPS;
    sqlx::query!("select pg_advisory_xact_lock($1, $2)", class, lock).execute(&mut **tx).await?;
    sqlx::query_as!(
        Row,
        "select job.id, job.host, job.datacenter, job.rack, job.owner
         from job join batch on batch.id = job.batch_id
         where (job.state in ('queued', 'running', 'waiting', 'quarantined') or job.maybe_down)
           and batch.risk <> 'harmless'"
    )
    .fetch_all(&mut **tx)
    .await?
    .into_iter()
    .map(|row| row.try_into().map(|(_, spot): (JobId, FailureDomain)| spot))
    .collect()
}

/// Counts hosts of a batch that failed in the middle as down no more; returns those that were.
pub async fn let_go(
    tx: &mut PgTransaction<'_>,
    batch: BatchId,
    hosts: &[HostName],
) -> sqlx::Result<Vec<HostName>> {
    let names: Vec<String> = hosts.iter().map(|host| host.as_str().to_owned()).collect();
    sqlx::query_scalar!(
        "update job set maybe_down = false where batch_id = $1 and host = any($2) and maybe_down
         returning host",
        batch.0,
        &names
    )
    .fetch_all(&mut **tx)
    .await?
    .into_iter()
    .map(|host| host.parse().map_err(corrupt))
    .collect()
}

/// Counts the hosts of these jobs, which have succeeded, as up again, unless the action was harmless.
pub async fn are_up(tx: &mut PgTransaction<'_>, jobs: &[i64]) -> sqlx::Result<()> {
    sqlx::query!(
        "update job set maybe_down = false
         where maybe_down and exists (
             select from job done join batch on batch.id = done.batch_id
             where done.id = any($1) and done.host = job.host and batch.risk <> 'harmless')",
        jobs
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use sqlx::PgPool;

    use super::*;
    use crate::attempt::{OutcomeRow, write_outcomes};
    use crate::lease;
    use metalbot_core::domain::job::JobState;

    /// Ends what is queued.
    async fn work(pool: &PgPool, job_state: JobState, maybe_down: bool) {
        let jobs = lease::take(pool, "a", &[], 10).await.unwrap();
        let outcomes: Vec<OutcomeRow> = jobs
            .iter()
            .map(|leased| OutcomeRow {
                lease: leased.id,
                attempt: None,
                job_state,
                step: 0,
                acts_skipped: false,
                wake_in: None,
                maybe_down,
            })
            .collect();
        assert_eq!(write_outcomes(pool, "a", &outcomes).await.unwrap().len(), jobs.len());
    }

    async fn batch(pool: &PgPool, risk: &str) {
        let rows = format!(
            "insert into batch (action, risk, plan, digest, submitter, state, requirements,
                 origin, platform, channel)
             values ('reboot', '{risk}', '{{}}', decode(repeat('00', 32), 'hex'), 'alice',
                 'running', '[]', jsonb_build_object('origin', 'reclaim'), 'console', 'metal');
             insert into job (batch_id, host, owner, datacenter, rack, sku, bmc_address,
                 bmc_credentials, wave, state)
             select max(id), 'web01', 'web', 'fra1', 'r1', 's1', '10.0.0.1', 'default', 0,
                 'queued' from batch"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(rows)).execute(pool).await.unwrap();
    }

    async fn down_now(pool: &PgPool) -> usize {
        down(&mut pool.begin().await.unwrap()).await.unwrap().len()
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn a_host_that_failed_in_the_middle_is_down_until_it_succeeds(pool: PgPool) {
        batch(&pool, "disruptive").await;
        assert_eq!(down_now(&pool).await, 1, "it is about to be");
        work(&pool, JobState::Failed, false).await;
        assert_eq!(down_now(&pool).await, 0, "nothing was done");
        batch(&pool, "disruptive").await;
        work(&pool, JobState::Failed, true).await;
        assert_eq!(down_now(&pool).await, 1);
        batch(&pool, "harmless").await;
        work(&pool, JobState::Succeeded, false).await;
        assert_eq!(down_now(&pool).await, 1, "a lamp mends nothing");
        batch(&pool, "disruptive").await;
        work(&pool, JobState::Succeeded, false).await;
        assert_eq!(down_now(&pool).await, 0);

        batch(&pool, "disruptive").await;
        work(&pool, JobState::Failed, true).await;
        let hosts: [HostName; 1] = ["web01".parse().unwrap()];
        let mut tx = pool.begin().await.unwrap();
        assert_eq!(let_go(&mut tx, BatchId(5), &hosts).await.unwrap(), hosts);
        assert!(let_go(&mut tx, BatchId(5), &hosts).await.unwrap().is_empty());
        tx.commit().await.unwrap();
        assert_eq!(down_now(&pool).await, 0);
    }
}

//! Counts for the caps: hosts that are down, and hosts that wait to start.

use sqlx::PgTransaction;
use time::OffsetDateTime;

use super::corrupt;
use metalbot_core::domain::caps::FailureDomain;
use metalbot_core::domain::host::HostName;
use metalbot_core::domain::ids::{BatchId, JobId};
use metalbot_core::domain::workflow::Plan;

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

/// Places of hosts that are, or are about to be, down: queued and running jobs of all batches that are
/// not harmless, quarantined ones, whose hosts are in an unknown state, and those whose job left
/// them down, whether it failed in the middle or was to turn them off. Takes the lock that lets one
/// process at a time count and queue.
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

/// Counts hosts that a batch left down as down no more; returns those that were.
pub async fn let_go(
    tx: &mut PgTransaction<'_>,
    batch: BatchId,
    hosts: &[HostName],
) -> sqlx::Result<Vec<HostName>> {
    sqlx::query_scalar!(
        "with picked as (
             select id from job where batch_id = $1 and host = any($2) and maybe_down
             order by id for no key update)
         update job set maybe_down = false from picked where picked.id = job.id
         returning host",
        batch.0,
        &names(hosts)
    )
    .fetch_all(&mut **tx)
    .await?
    .into_iter()
    .map(|host| host.parse().map_err(corrupt))
    .collect()
}

/// Jobs that left hosts down which these jobs, that succeed, may leave on. Usually there is none.
pub async fn left_down(tx: &mut PgTransaction<'_>, succeeding: &[i64]) -> sqlx::Result<Vec<i64>> {
    sqlx::query_scalar!(
        "select down.id from job done join job down on down.host = done.host
         where done.id = any($1) and down.maybe_down",
        succeeding
    )
    .fetch_all(&mut **tx)
    .await
}

/// Counts the hosts of these jobs, which have succeeded, as up again where the work leaves them on:
/// a lamp, or a shutdown, says nothing of the kind. The caller has locked them, and those that
/// [`left_down`] names.
pub async fn are_up(tx: &mut PgTransaction<'_>, jobs: &[i64]) -> sqlx::Result<()> {
    let rows = sqlx::query!(
        "select down.id, batch.plan from job done
         join job down on down.host = done.host and down.id <> done.id
         join batch on batch.id = done.batch_id
         where done.id = any($1) and down.maybe_down",
        jobs
    )
    .fetch_all(&mut **tx)
    .await?;
    let up: Vec<i64> = rows
        .into_iter()
        .filter(|row| {
            serde_json::from_value(row.plan.clone()).is_ok_and(|plan: Plan| plan.leaves_on())
        })
        .map(|row| row.id)
        .collect();
    sqlx::query!("update job set maybe_down = false where id = any($1)", &up)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Counts hosts that were seen on as up again, unless a job ended since the look began.
pub async fn seen_on(
    tx: &mut PgTransaction<'_>,
    hosts: &[HostName],
    looked_at: OffsetDateTime,
) -> sqlx::Result<()> {
    sqlx::query!(
        "with picked as (
             select id from job where maybe_down and host = any($1) and ended_at < $2
             order by id for no key update)
         update job set maybe_down = false from picked where picked.id = job.id",
        &names(hosts),
        looked_at
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

fn names(hosts: &[HostName]) -> Vec<String> {
    hosts.iter().map(|host| host.as_str().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sqlx::PgPool;

    use super::*;
    use crate::attempt::{OutcomeRow, write_outcomes};
    use crate::lease;
    use metalbot_core::domain::job::JobState;
    use metalbot_core::domain::placement::ReachableDatacenters;

    /// Ends what is queued.
    async fn work(pool: &PgPool, job_state: JobState, maybe_down: bool) {
        let jobs = lease::take(pool, "a", &ReachableDatacenters::ALL, None, 10).await.unwrap();
        let outcomes: Vec<OutcomeRow> = jobs
            .iter()
            .map(|leased| OutcomeRow {
                lease: leased.id,
                attempt: None,
                job_state,
                step: 0,
                acts_skipped: false,
                wake_in: None,
                news_seen: 0,
                maybe_down,
            })
            .collect();
        assert_eq!(write_outcomes(pool, "a", &outcomes).await.unwrap().len(), jobs.len());
    }

    /// A running batch whose one job is queued, with one step.
    async fn batch(pool: &PgPool, risk: &str, step: serde_json::Value) {
        let plan = json!({
            "action": "test", "risk": risk, "params": {}, "rollout": { "waves": [] },
            "steps": [{ "title": "do it", "action": step, "deadline_secs": 60, "retry": 0 }],
        });
        let rows = format!(
            "insert into batch (action, risk, plan, digest, submitter, state, requirements,
                 origin, platform, channel)
             values ('test', '{risk}', '{plan}', decode(repeat('00', 32), 'hex'), 'alice',
                 'running', '[]', jsonb_build_object('origin', 'reclaim'), 'console', 'metal');
             insert into job (batch_id, host, owner, datacenter, rack, sku, bmc_address,
                 bmc_credentials, wave, state)
             select max(id), 'web01', 'web', 'fra1', 'r1', 's1', '10.0.0.1', 'default', 0,
                 'queued' from batch"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(rows)).execute(pool).await.unwrap();
    }

    async fn reboot(pool: &PgPool) {
        batch(pool, "disruptive", json!({ "run": "power", "to": "cycle" })).await;
    }

    async fn power_off(pool: &PgPool) {
        batch(pool, "disruptive", json!({ "run": "power", "to": "off" })).await;
        work(pool, JobState::Succeeded, true).await;
    }

    async fn down_now(pool: &PgPool) -> usize {
        down(&mut pool.begin().await.unwrap()).await.unwrap().len()
    }

    fn web01() -> [HostName; 1] {
        ["web01".parse().unwrap()]
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn a_host_that_failed_in_the_middle_is_down_until_it_is_left_on(pool: PgPool) {
        reboot(&pool).await;
        assert_eq!(down_now(&pool).await, 1, "it is about to be");
        work(&pool, JobState::Failed, false).await;
        assert_eq!(down_now(&pool).await, 0, "nothing was done");
        reboot(&pool).await;
        work(&pool, JobState::Failed, true).await;
        assert_eq!(down_now(&pool).await, 1);
        batch(&pool, "harmless", json!({ "run": "identify", "seconds": 1 })).await;
        work(&pool, JobState::Succeeded, false).await;
        assert_eq!(down_now(&pool).await, 1, "a lamp mends nothing");
        batch(&pool, "disruptive", json!({ "run": "boot_device", "device": "pxe" })).await;
        work(&pool, JobState::Succeeded, false).await;
        assert_eq!(down_now(&pool).await, 1, "nor does what the next boot would be");
        reboot(&pool).await;
        work(&pool, JobState::Succeeded, false).await;
        assert_eq!(down_now(&pool).await, 0);

        reboot(&pool).await;
        work(&pool, JobState::Failed, true).await;
        let mut tx = pool.begin().await.unwrap();
        assert_eq!(let_go(&mut tx, BatchId(6), &web01()).await.unwrap(), web01());
        assert!(let_go(&mut tx, BatchId(6), &web01()).await.unwrap().is_empty());
        tx.commit().await.unwrap();
        assert_eq!(down_now(&pool).await, 0);
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn a_host_that_was_turned_off_is_down_until_it_is_seen_on(pool: PgPool) {
        let before = crate::now(&mut pool.acquire().await.unwrap()).await.unwrap();
        power_off(&pool).await;
        assert_eq!(down_now(&pool).await, 1, "its own success does not turn it on");
        power_off(&pool).await;
        assert_eq!(down_now(&pool).await, 2, "nor does another");
        let look = async |at| {
            let mut tx = pool.begin().await.unwrap();
            seen_on(&mut tx, &web01(), at).await.unwrap();
            tx.commit().await.unwrap();
        };
        look(before).await;
        assert_eq!(down_now(&pool).await, 2, "it was on before");
        look(crate::now(&mut pool.acquire().await.unwrap()).await.unwrap()).await;
        assert_eq!(down_now(&pool).await, 0);

        power_off(&pool).await;
        batch(&pool, "disruptive", json!({ "run": "power", "to": "on" })).await;
        work(&pool, JobState::Succeeded, false).await;
        assert_eq!(down_now(&pool).await, 0);
    }
}

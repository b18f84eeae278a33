//! Hosts that wait since no live worker reaches their datacenter, and what batches say of them.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::{PgConnection, PgTransaction};

use super::card;
use super::task_lease::interval;
use metalbot_core::domain::ids::BatchId;

/// Silence after which a worker counts as gone. It says each second that it is there; one that is
/// busy, or whose database is, may be late.
const SILENCE: Duration = Duration::from_secs(15);

/// Hosts of a batch that wait for a worker which reaches their datacenter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnreachedHosts {
    pub batch: BatchId,
    pub datacenter: String,
    pub hosts: i64,
}

/// Hosts that a worker should work on now, or look at, and that no live worker reaches; by batch and
/// datacenter.
pub async fn unreached(conn: &mut PgConnection) -> sqlx::Result<Vec<UnreachedHosts>> {
    let live = sqlx::query_scalar!(
        "select datacenters from worker where beat_at >= now() - $1::interval",
        interval(SILENCE) as _
    )
    .fetch_all(&mut *conn)
    .await?;
    if live.iter().any(Option::is_none) {
        // One that reaches all, as is usual.
        return Ok(Vec::new());
    }
    let reached: Vec<String> = live.into_iter().flatten().flatten().collect();
    let mut hosts: BTreeMap<(BatchId, String), i64> = BTreeMap::new();
    for datacenter in waiting_in(&mut *conn).await?.into_iter().filter(|dc| !reached.contains(dc)) {
        for (batch, count) in waiting_for_worker(&mut *conn, &datacenter).await? {
            *hosts.entry((batch, datacenter.clone())).or_default() += count;
        }
    }
    for (batch, datacenter, count) in begun_or_unchecked(&mut *conn, &reached).await? {
        *hosts.entry((batch, datacenter)).or_default() += count;
    }
    let found = hosts.into_iter();
    Ok(found
        .map(|((batch, datacenter), hosts)| UnreachedHosts { batch, datacenter, hosts })
        .collect())
}

/// Datacenters of jobs that are queued or wait. These may be many: each datacenter is found by a step
/// in an index.
async fn waiting_in(conn: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"with recursive place as (
               select least(
                   (select min(datacenter) from job where state = 'queued'),
                   (select min(datacenter) from job where wake_at is not null)) as datacenter
               union all
               select least(
                   (select min(job.datacenter) from job
                    where state = 'queued' and job.datacenter > place.datacenter),
                   (select min(job.datacenter) from job
                    where wake_at is not null and job.datacenter > place.datacenter))
               from place where place.datacenter is not null)
           select datacenter as "datacenter!" from place where datacenter is not null"#
    )
    .fetch_all(conn)
    .await
}

/// Queued jobs and those that have waited long enough in a datacenter, counted by batch.
async fn waiting_for_worker(
    conn: &mut PgConnection,
    datacenter: &str,
) -> sqlx::Result<Vec<(BatchId, i64)>> {
    let rows = sqlx::query!(
        r#"select batch_id as "batch!", count(*) as "hosts!" from (
               select batch_id from job where datacenter = $1 and state = 'queued'
               union all
               select batch_id from job where datacenter = $1 and wake_at <= now()) waiting
           group by batch_id"#,
        datacenter
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (BatchId(row.batch), row.hosts)).collect())
}

/// Jobs outside of these datacenters whose worker is gone, and hosts there that are to be checked.
async fn begun_or_unchecked(
    conn: &mut PgConnection,
    reached: &[String],
) -> sqlx::Result<Vec<(BatchId, String, i64)>> {
    let rows = sqlx::query!(
        r#"select batch_id as "batch!", datacenter as "datacenter!", count(*) as "hosts!" from (
               select batch_id, datacenter from job where state = 'running' and worker is null
               union all
               -- Where no worker is left, nobody frees its jobs.
               select job.batch_id, job.datacenter
               from worker join job on job.worker = worker.name
               where job.state = 'running' and worker.beat_at < now() - $1::interval
               union all
               select batch.id, job.datacenter from batch join job on job.batch_id = batch.id
               where batch.state = 'checking' and job.state = 'pending'
                 and job.datacenter <> all(batch.checked_datacenters)) found
           where datacenter <> all($2)
           group by batch_id, datacenter"#,
        interval(SILENCE) as _,
        reached
    )
    .fetch_all(conn)
    .await?;
    let found = rows.into_iter();
    Ok(found.map(|row| (BatchId(row.batch), row.datacenter, row.hosts)).collect())
}

/// The datacenters that each batch says no worker reaches.
pub async fn said(conn: &mut PgConnection) -> sqlx::Result<BTreeMap<BatchId, Vec<String>>> {
    let rows =
        sqlx::query!("select batch_id, datacenters from batch_unreached").fetch_all(conn).await?;
    Ok(rows.into_iter().map(|row| (BatchId(row.batch_id), row.datacenters)).collect())
}

/// The same of one batch.
pub async fn said_of(conn: &mut PgConnection, batch: BatchId) -> sqlx::Result<Vec<String>> {
    let names =
        sqlx::query_scalar!("select datacenters from batch_unreached where batch_id = $1", batch.0)
            .fetch_optional(conn)
            .await?;
    Ok(names.unwrap_or_default())
}

/// Stores which datacenters of a batch no worker reaches; none: all are reached.
pub async fn say(
    tx: &mut PgTransaction<'_>,
    batch: BatchId,
    datacenters: &[String],
) -> sqlx::Result<()> {
    if datacenters.is_empty() {
        sqlx::query!("delete from batch_unreached where batch_id = $1", batch.0)
            .execute(&mut **tx)
            .await?;
    } else {
        sqlx::query!(
            "insert into batch_unreached (batch_id, datacenters) values ($1, $2)
             on conflict (batch_id) do update set datacenters = excluded.datacenters",
            batch.0,
            datacenters
        )
        .execute(&mut **tx)
        .await?;
    }
    card::touch(&mut *tx, batch).await
}

#[cfg(test)]
mod tests {
    use sqlx::PgPool;

    use super::*;
    use crate::lease;
    use metalbot_core::domain::placement::ReachableDatacenters;

    const LONG: Duration = Duration::from_secs(60);

    fn only(names: &[&str]) -> ReachableDatacenters {
        ReachableDatacenters::only(names.iter().map(|name| name.to_string()))
    }

    async fn run(pool: &PgPool, statements: &'static str) {
        sqlx::raw_sql(statements).execute(pool).await.unwrap();
    }

    /// A running batch and one that is being checked, with a host in each of three datacenters. Of the
    /// first ams1's is queued, fra1's waits and has waited long enough, and osl1's turn has not come.
    async fn two_batches(pool: &PgPool) {
        let rows = "insert into batch (action, risk, plan, digest, submitter, state, requirements,
                 origin, platform, channel)
             select 'reboot', 'disruptive', '{}', sha256(''), 'alice', state, '[]',
                 jsonb_build_object('origin', 'reclaim'), 'console', 'metal'
             from unnest(array['running', 'checking']) as state;
             insert into job (batch_id, host, owner, datacenter, rack, sku, bmc_address,
                 bmc_credentials, wave, state, wake_at)
             select id, dc || '-' || id, 'web', dc, 'r1', 's1', '10.0.0.1', 'default', 0,
                 case when id = 1 then their else 'pending' end,
                 case when id = 1 and their = 'waiting' then now() end
             from batch, (values ('ams1', 'queued'), ('fra1', 'waiting'), ('osl1', 'pending'))
                 as there (dc, their)";
        run(pool, rows).await;
    }

    async fn unreached_now(pool: &PgPool) -> String {
        let found = unreached(&mut pool.acquire().await.unwrap()).await.unwrap().into_iter();
        let line = |one: UnreachedHosts| format!("{} {}", one.batch.0, one.datacenter);
        found.map(line).collect::<Vec<_>>().join(", ")
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn what_no_live_worker_reaches_is_known(pool: PgPool) {
        two_batches(&pool).await;
        assert_eq!(unreached_now(&pool).await, "1 ams1, 1 fra1, 2 ams1, 2 fra1, 2 osl1");
        lease::beat(&pool, "a", &only(&["fra1", "osl1"]), &[], LONG).await.unwrap();
        assert_eq!(unreached_now(&pool).await, "1 ams1, 2 ams1");
        run(&pool, "update batch set checked_datacenters = array['ams1'] where id = 2").await;
        assert_eq!(unreached_now(&pool).await, "1 ams1", "its part of the second has been checked");

        let leased = lease::take(&pool, "b", &only(&["ams1"]), None, 10).await.unwrap();
        assert_eq!(leased.len(), 1);
        assert_eq!(unreached_now(&pool).await, "");
        // It dies over its job, and nobody is there who could find that.
        run(&pool, "update worker set beat_at = now() - interval '1 minute'").await;
        assert_eq!(unreached_now(&pool).await, "1 ams1, 1 fra1, 2 fra1, 2 osl1");
        lease::beat(&pool, "c", &only(&["fra1"]), &[], Duration::from_secs(59)).await.unwrap();
        assert_eq!(unreached_now(&pool).await, "1 ams1, 2 osl1", "its job was freed");
        // A worker of a release that knows no datacenters reaches all.
        run(&pool, "insert into worker (name) values ('old')").await;
        assert_eq!(unreached_now(&pool).await, "");
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn what_a_batch_says_is_changed_and_taken_back(pool: PgPool) {
        two_batches(&pool).await;
        let names = ["ams1", "osl1"].map(str::to_owned);
        for said_now in [&names[..1], &names, &[]] {
            let mut tx = pool.begin().await.unwrap();
            say(&mut tx, BatchId(1), said_now).await.unwrap();
            assert_eq!(said_of(&mut tx, BatchId(1)).await.unwrap(), said_now);
            assert_eq!(said(&mut tx).await.unwrap().len(), usize::from(!said_now.is_empty()));
            tx.commit().await.unwrap();
        }
        let version: i64 =
            sqlx::query_scalar("select version from card").fetch_one(&pool).await.unwrap();
        assert_eq!(version, 3, "each time its card changes");
    }
}

//! The jobs that a worker leases next. Very many may wait, of which each lease takes a few: every part of
//! the questions here is one for an index, and none reads what waits elsewhere.

use rand::seq::SliceRandom;
use sqlx::PgConnection;

use metalbot_core::domain::placement::ReachableDatacenters;
use metalbot_core::domain::workflow::PLAN_VERSION;

/// How many jobs of one batch are taken.
#[derive(Clone, Copy)]
pub(super) enum Share {
    /// As many as of each other running one.
    Even,
    /// As many as there is room for.
    All,
}

/// A job that is locked, to be leased.
pub(super) struct Picked {
    pub id: i64,
    /// Its worker is gone.
    pub taken_over: bool,
}

/// Locks up to `at_most` jobs: those whose worker is gone, then those that have waited long enough, then
/// queued ones.
pub(super) async fn pick(
    conn: &mut PgConnection,
    reachable: &ReachableDatacenters,
    at_most: usize,
    share: Share,
) -> sqlx::Result<Vec<Picked>> {
    match reachable.names() {
        None => pick_anywhere(conn, at_most, share).await,
        Some(names) => pick_within(conn, names, at_most, share).await,
    }
}

async fn pick_anywhere(
    conn: &mut PgConnection,
    at_most: usize,
    share: Share,
) -> sqlx::Result<Vec<Picked>> {
    sqlx::query_as!(
        Picked,
        r#"with orphaned as (
               select job.id from job join batch on batch.id = job.batch_id
               where job.state = 'running' and job.worker is null and batch.plan_version <= $3
               order by job.id limit $1 for update of job skip locked),
           due as (
               select job.id from job join batch on batch.id = job.batch_id
               where job.state = 'waiting' and job.wake_at <= now() and batch.plan_version <= $3
               order by job.wake_at limit $1 for update of job skip locked),
           turn as (
               select id from batch where state = 'running' and plan_version <= $3
               order by random() limit case when $2 then $1 end),
           share as (
               select case when $2 then greatest(1, $1 / greatest(1, count(*))) else $1 end as jobs
               from turn),
           ready as (
               select job.id from turn cross join lateral (
                   select job.id from job
                   where job.batch_id = turn.id and job.state = 'queued'
                   order by job.id limit (select jobs from share)
                   for update of job skip locked) job
               limit $1)
           select id as "id!", taken_over as "taken_over!" from (
               select id, true as taken_over from orphaned union all
               select id, false from due union all
               select id, false from ready) as found
           limit $1"#,
        i64::try_from(at_most).unwrap_or(i64::MAX),
        matches!(share, Share::Even),
        i32::from(PLAN_VERSION)
    )
    .fetch_all(conn)
    .await
}

/// The same of these datacenters alone, of each as many where the share is even.
async fn pick_within(
    conn: &mut PgConnection,
    datacenters: &[String],
    at_most: usize,
    share: Share,
) -> sqlx::Result<Vec<Picked>> {
    let most_of_each = match share {
        Share::Even => (at_most / datacenters.len().max(1)).max(1),
        Share::All => at_most,
    };
    // Where there is room for some only, any other order would prefer the first.
    let mut order: Vec<&String> = datacenters.iter().collect();
    order.shuffle(&mut rand::rng());
    let mut picked = Vec::new();
    for datacenter in order {
        let most = most_of_each.min(at_most - picked.len());
        if most > 0 {
            picked.extend(pick_in(&mut *conn, datacenter, most, share).await?);
        }
    }
    Ok(picked)
}

/// The same of one datacenter, through indexes of its own: much may wait elsewhere.
async fn pick_in(
    conn: &mut PgConnection,
    datacenter: &str,
    at_most: usize,
    share: Share,
) -> sqlx::Result<Vec<Picked>> {
    sqlx::query_as!(
        Picked,
        r#"with orphaned as (
               select job.id from job join batch on batch.id = job.batch_id
               where job.state = 'running' and job.worker is null and job.datacenter = $4
                 and batch.plan_version <= $3
               order by job.id limit $1 for update of job skip locked),
           due as (
               select job.id from job join batch on batch.id = job.batch_id
               -- Only what waits has a time to wake; that it waits is not asked, since another index
               -- would fit then, in which are all that wait elsewhere.
               where job.datacenter = $4 and job.wake_at <= now() and batch.plan_version <= $3
               order by job.wake_at limit $1 for update of job skip locked),
           turn as (
               select id from batch where state = 'running' and plan_version <= $3
                 -- Not `exists`, for which all that is queued may be read.
                 and (select true from job where job.datacenter = $4 and job.batch_id = batch.id
                        and job.state = 'queued' limit 1)
               order by random() limit case when $2 then $1 end),
           share as (
               select case when $2 then greatest(1, $1 / greatest(1, count(*))) else $1 end as jobs
               from turn),
           ready as (
               select job.id from turn cross join lateral (
                   select job.id from job
                   where job.datacenter = $4 and job.batch_id = turn.id and job.state = 'queued'
                   order by job.id limit (select jobs from share)
                   for update of job skip locked) job
               limit $1)
           select id as "id!", taken_over as "taken_over!" from (
               select id, true as taken_over from orphaned union all
               select id, false from due union all
               select id, false from ready) as found
           limit $1"#,
        i64::try_from(at_most).unwrap_or(i64::MAX),
        matches!(share, Share::Even),
        i32::from(PLAN_VERSION),
        datacenter
    )
    .fetch_all(conn)
    .await
}

#[cfg(test)]
mod tests {
    use sqlx::PgPool;

    use super::*;
    use crate::lease::take;

    /// What a worker takes, each as it waited.
    async fn taken(pool: &PgPool, names: &[&str], at_most: usize) -> Vec<String> {
        let here = ReachableDatacenters::only(names.iter().map(|name| name.to_string()));
        let leased = take(pool, "w", &here, None, at_most).await.unwrap();
        let mut hosts: Vec<String> = leased.into_iter().map(|one| one.host.to_string()).collect();
        hosts.sort();
        hosts
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn a_worker_takes_only_jobs_of_datacenters_that_it_reaches(pool: PgPool) {
        // For each datacenter a job that is queued, one that is due, and one whose worker is gone; and
        // twenty batches with queued jobs elsewhere alone.
        let rows = "insert into batch (action, risk, plan, digest, submitter, state, requirements,
                 origin, platform, channel)
             select 'reboot', 'disruptive', '{}', sha256(''), 'alice', 'running', '[]',
                 jsonb_build_object('origin', 'reclaim'), 'console', 'metal'
             from generate_series(1, 21);
             insert into job (batch_id, host, owner, datacenter, rack, sku, bmc_address,
                 bmc_credentials, wave, state, wake_at)
             select 1, dc || '-' || state, 'web', dc, 'r1', 's1', '10.0.0.1', 'default', 0, state,
                 case when state = 'waiting' then now() end
             from unnest(array['ams1', 'fra1', 'osl1']) as dc,
                 unnest(array['queued', 'waiting', 'running']) as state
             union all
             select batch, 'osl1-' || batch, 'web', 'osl1', 'r1', 's1', '10.0.0.1', 'default', 0,
                 'queued', null
             from generate_series(2, 21) as batch";
        sqlx::raw_sql(rows).execute(&pool).await.unwrap();
        assert!(taken(&pool, &["muc1"], 100).await.is_empty());
        let fra1 = ["fra1-queued", "fra1-running", "fra1-waiting"];
        assert_eq!(taken(&pool, &["fra1"], 100).await, fra1);
        assert!(taken(&pool, &["fra1"], 100).await.is_empty());
        assert_eq!(taken(&pool, &["ams1"], 1).await, ["ams1-running"]);
        assert_eq!(taken(&pool, &["ams1"], 1).await, ["ams1-waiting"]);
        // Where there is room for one batch alone, it is one with something to do here.
        assert_eq!(taken(&pool, &["ams1"], 1).await, ["ams1-queued"]);
        assert_eq!(taken(&pool, &["fra1", "osl1"], 100).await.len(), 23, "all that is left");
    }
}

//! What leasing costs the database where much waits: many running batches, and many parked jobs.

use std::time::{Duration, Instant};

use anyhow::ensure;
use metalbot_core::domain::job::JobState;
use metalbot_core::domain::placement::ReachableDatacenters;
use metalbot_store::attempt::{OutcomeRow, write_outcomes};
use metalbot_store::{lease, schema};
use sqlx::{Executor, PgPool};

use crate::site::Site;

const WORKER: &str = "bench";
const BATCHES: usize = 720;
const HOSTS: usize = 100;
/// Jobs that are leased at a time: as many as end between two rounds of a busy worker.
const A_ROUND: usize = 100;
/// As many as a worker takes that has nothing yet.
const ALL_FREE: usize = 2048;
const PARKED: usize = 100_000;

/// Prints a table; returns the figures that have a budget.
pub fn measure() -> anyhow::Result<Vec<(&'static str, f64)>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let site = Site::new(false).await?;
        schema::migrate(&site.pool).await?;
        println!("\nleasing                            jobs   ms (median)   jobs/s");
        let (lease, first) = queued(&site.pool).await?;
        println!(
            "{BATCHES} batches of {HOSTS} queued      {A_ROUND:>8}  {lease:>12.1}  {:>7.0}",
            A_ROUND as f64 * 1000.0 / lease
        );
        println!(
            "the same, by an idle worker     {ALL_FREE:>8}  {first:>12.1}  {:>7.0}",
            ALL_FREE as f64 * 1000.0 / first
        );
        let rate = parked(&site.pool).await?;
        println!(
            "{PARKED} that are due             {ALL_FREE:>8}  {:>12.1}  {rate:>7.0}",
            ALL_FREE as f64 * 1000.0 / rate
        );
        site.close(false).await?;
        Ok(vec![("lease_720x100_ms", lease), ("parked_100000_wake_per_s", rate)])
    })
}

/// Fills the tables anew.
async fn fill(pool: &PgPool, batches: usize, hosts: usize, state: &str) -> anyhow::Result<()> {
    pool.execute("truncate attempt, job, batch, worker restart identity cascade").await?;
    let rows = format!(
        "insert into batch (action, risk, plan, digest, submitter, state, requirements, origin,
             platform, channel)
         select 'reboot', 'disruptive', '{{}}', sha256(''), 'alice', 'running', '[]',
             jsonb_build_object('origin', 'reclaim'), 'console', 'metal'
         from generate_series(1, {batches});
         insert into job (batch_id, host, owner, datacenter, rack, sku, bmc_address,
             bmc_credentials, wave, state, wake_at)
         select batch.id, 'h' || batch.id || '-' || n, 'web', 'fra1', 'r1', 's1', '10.0.0.1',
             'default', 0, '{state}', case when '{state}' = 'waiting' then now() end
         from batch, generate_series(1, {hosts}) n;"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(rows)).execute(pool).await?;
    pool.execute("vacuum analyze job").await?;
    pool.execute("vacuum analyze batch").await?;
    Ok(())
}

/// Milliseconds of a usual round, and of the first.
async fn queued(pool: &PgPool) -> anyhow::Result<(f64, f64)> {
    fill(pool, BATCHES, HOSTS, "queued").await?;
    let mut rounds = Vec::new();
    for _ in 0..50 {
        let started = Instant::now();
        let leased = lease::take(pool, WORKER, &ReachableDatacenters::ALL, None, A_ROUND).await?;
        rounds.push(started.elapsed().as_secs_f64() * 1000.0);
        ensure!(leased.len() == A_ROUND, "{} were leased", leased.len());
    }
    let mut firsts = Vec::new();
    for _ in 0..5 {
        let started = Instant::now();
        let leased = lease::take(pool, WORKER, &ReachableDatacenters::ALL, None, ALL_FREE).await?;
        firsts.push(started.elapsed().as_secs_f64() * 1000.0);
        ensure!(leased.len() == ALL_FREE, "{} were leased", leased.len());
    }
    Ok((median(rounds), median(firsts)))
}

/// Due jobs that a worker takes a second, each parked again before the next are taken.
async fn parked(pool: &PgPool) -> anyhow::Result<f64> {
    fill(pool, PARKED / HOSTS, HOSTS, "waiting").await?;
    let (mut taken, mut seconds) = (0, 0.0);
    while taken < PARKED {
        let started = Instant::now();
        let leased = lease::take(pool, WORKER, &ReachableDatacenters::ALL, None, ALL_FREE).await?;
        seconds += started.elapsed().as_secs_f64();
        ensure!(!leased.is_empty(), "{taken} of {PARKED} were due");
        taken += leased.len();
        let rows: Vec<OutcomeRow> = leased
            .iter()
            .map(|leased| OutcomeRow {
                lease: leased.id,
                attempt: None,
                job_state: JobState::Waiting,
                step: leased.step,
                acts_skipped: false,
                wake_in: Some(Duration::from_secs(3600)),
                news_seen: leased.news,
                maybe_down: false,
            })
            .collect();
        ensure!(write_outcomes(pool, WORKER, &rows).await?.len() == rows.len());
    }
    Ok(taken as f64 / seconds)
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

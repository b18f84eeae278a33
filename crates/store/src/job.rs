//! Jobs: one host of one batch. A job's claim on its host is its row (see the partial unique index).
//!
//! Invariant: whoever locks batches and jobs locks the batches first, and each kind in the order of
//! its numbers, so that nobody waits in a circle. A statement that updates several jobs picks them
//! in that order first; PostgreSQL would update them in the order in which it finds them.

use std::collections::BTreeMap;

use serde_json::json;
use sqlx::{PgConnection, PgPool, PgTransaction};

use super::batch::Batch;
use super::lock::ClaimLock;
use super::{audit, card, corrupt};
use metalbot_core::domain::batch::BatchState;
use metalbot_core::domain::error_kind::HostError;
use metalbot_core::domain::host::{Host, HostName};
use metalbot_core::domain::ids::{BatchId, JobId};
use metalbot_core::domain::job::{JobEvent, JobState, next};
use metalbot_core::domain::principal::Actor;
use metalbot_core::domain::rollout::{JobCounts, Rollout};
use metalbot_core::domain::view::{HostHistoryEntry, StateCounts};

/// A host of a new batch and the index of its wave.
#[derive(Clone, Debug)]
pub struct NewJob<'a> {
    pub host: &'a Host,
    pub wave: u32,
}

/// Stores the jobs of a new batch: pending, or skipped when the batch is refused.
pub async fn insert(
    tx: &mut PgTransaction<'_>,
    _lock: &ClaimLock,
    batch: BatchId,
    jobs: &[NewJob<'_>],
    state: JobState,
) -> sqlx::Result<()> {
    let column = |of: fn(&Host) -> &str| -> Vec<String> {
        jobs.iter().map(|job| of(job.host).to_owned()).collect()
    };
    let waves: Vec<i32> = jobs.iter().map(|job| job.wave.cast_signed()).collect();
    sqlx::query!(
        "insert into job (batch_id, host, owner, datacenter, rack, sku, bmc_address,
             bmc_credentials, wave, state)
         select $1, host, owner, datacenter, rack, sku, bmc_address, bmc_credentials, wave, $2
         from unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
                  $9::text[], $10::int[])
              as new (host, owner, datacenter, rack, sku, bmc_address, bmc_credentials, wave)",
        batch.0,
        state.as_str(),
        &column(|host| host.name.as_str()),
        &column(|host| &host.owner),
        &column(|host| &host.datacenter),
        &column(|host| &host.rack),
        &column(|host| &host.sku),
        &column(|host| &host.bmc.address),
        &column(|host| &host.bmc.credentials),
        &waves
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Applies one event to all jobs of a batch in the given states, or only to some hosts of it;
/// returns the hosts that changed.
pub async fn apply(
    tx: &mut PgTransaction<'_>,
    batch: BatchId,
    event: JobEvent,
    hosts: Option<&[HostName]>,
    actor: &Actor,
) -> sqlx::Result<Vec<HostName>> {
    let hosts: Option<Vec<String>> =
        hosts.map(|hosts| hosts.iter().map(|host| host.as_str().to_owned()).collect());
    let (mut before, mut after, mut ended) = (Vec::new(), Vec::new(), Vec::new());
    for state in JobState::ALL {
        let Ok(then) = next(state, event) else { continue };
        before.push(state.as_str().to_owned());
        after.push(then.as_str().to_owned());
        ended.push(then.is_ended());
    }
    let names = sqlx::query_scalar!(
        "with picked as (
             select job.id, change.after, change.ended
             from job join unnest($2::text[], $3::text[], $4::bool[])
                  as change (before, after, ended) on change.before = job.state
             where batch_id = $1 and ($5::text[] is null or host = any($5))
             order by job.id for no key update of job)
         update job set state = picked.after,
             ended_at = case when picked.ended then now() else ended_at end
         from picked where picked.id = job.id
         returning host",
        batch.0,
        &before,
        &after,
        &ended,
        hosts.as_deref()
    )
    .fetch_all(&mut **tx)
    .await?;
    let mut changed = Vec::new();
    for name in names {
        changed.push(name.parse::<HostName>().map_err(corrupt)?);
    }
    changed.sort();
    if !changed.is_empty() {
        let detail = json!({ "event": format!("{event:?}").to_lowercase(), "hosts": changed });
        audit::record(&mut *tx, actor, "job.state", Some(batch), detail).await?;
        card::touch(&mut *tx, batch).await?;
    }
    Ok(changed)
}

/// Takes hosts that did not pass the checks out of a batch, each with the error of its check.
pub async fn leave_out(
    tx: &mut PgTransaction<'_>,
    batch: BatchId,
    unfit: &[(HostName, HostError)],
    actor: &Actor,
) -> sqlx::Result<()> {
    let hosts: Vec<HostName> = unfit.iter().map(|(host, _)| host.clone()).collect();
    apply(tx, batch, JobEvent::Skip, Some(&hosts), actor).await?;
    let kinds: Vec<String> = unfit.iter().map(|(_, error)| error.kind.to_string()).collect();
    let messages: Vec<String> = unfit.iter().map(|(_, error)| error.message.clone()).collect();
    sqlx::query!(
        "with picked as (
             select job.id, found.kind, found.error
             from job join unnest($2::text[], $3::text[], $4::text[]) as found (host, kind, error)
               on job.host = found.host
             where job.batch_id = $1 order by job.id for no key update of job)
         update job set error_kind = picked.kind, error = picked.error
         from picked where picked.id = job.id",
        batch.0,
        &hosts.iter().map(HostName::to_string).collect::<Vec<String>>(),
        &kinds,
        &messages
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Assigns the hosts that are left in a batch to its waves again, from the one that is open: a canary that
/// was taken out of the batch has a successor.
pub async fn cut_waves(
    tx: &mut PgTransaction<'_>,
    batch: BatchId,
    open: i32,
    rollout: &Rollout,
) -> sqlx::Result<()> {
    let ids = sqlx::query_scalar!(
        "select id from job where batch_id = $1 and state = 'pending' order by id",
        batch.0
    )
    .fetch_all(&mut **tx)
    .await?;
    let waves: Vec<i32> =
        rollout.waves_of(ids.len()).map(|wave| open + wave.cast_signed()).collect();
    sqlx::query!(
        "with picked as (
             select job.id, cut.wave from job join unnest($1::bigint[], $2::int[]) as cut (id, wave)
               on job.id = cut.id and job.wave <> cut.wave
             order by job.id for no key update of job)
         update job set wave = picked.wave from picked where picked.id = job.id",
        &ids,
        &waves
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Lets pending jobs start.
pub async fn queue(tx: &mut PgTransaction<'_>, jobs: &[JobId]) -> sqlx::Result<()> {
    let ids: Vec<i64> = jobs.iter().map(|job| job.0).collect();
    sqlx::query!(
        "with picked as (
             select id from job where id = any($1) and state = 'pending' order by id for no key update)
         update job set state = 'queued' from picked where picked.id = job.id",
        &ids
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Ends the waiting of a batch's jobs that wait without a worker, and lets none begin to wait that does
/// not know: the batch was stopped, and a worker has to see to it.
pub async fn wake(tx: &mut PgTransaction<'_>, batch: BatchId) -> sqlx::Result<()> {
    sqlx::query!(
        "with at_work as (
             select id from job where batch_id = $1 and state in ('waiting', 'running')
             order by id for update)
         update job set news = news + 1, wake_at = case when state = 'waiting' then now() end
         from at_work where job.id = at_work.id",
        batch.0
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Hosts of a batch that are not skipped, with their owners.
pub async fn hosts(
    conn: &mut PgConnection,
    batch: BatchId,
) -> sqlx::Result<Vec<(HostName, String)>> {
    sqlx::query!(
        "select host, owner from job where batch_id = $1 and state <> 'skipped' order by host",
        batch.0
    )
    .fetch_all(conn)
    .await?
    .into_iter()
    .map(|row| Ok((row.host.parse().map_err(corrupt)?, row.owner)))
    .collect()
}

/// Hosts of a batch whose work is still to come, with their owners.
pub async fn to_come(
    conn: &mut PgConnection,
    batch: BatchId,
) -> sqlx::Result<Vec<(HostName, String)>> {
    sqlx::query!(
        "select host, owner from job
         where batch_id = $1 and state in ('pending', 'queued') order by host",
        batch.0
    )
    .fetch_all(conn)
    .await?
    .into_iter()
    .map(|row| Ok((row.host.parse().map_err(corrupt)?, row.owner)))
    .collect()
}

/// Replaces the owners of hosts of a locked batch whose work is still to come. Jobs that a worker has
/// are not changed: the journal locks jobs before their batch.
pub async fn change_owners(
    tx: &mut PgTransaction<'_>,
    batch: BatchId,
    owners: &[(HostName, String)],
) -> sqlx::Result<()> {
    let (hosts, owners): (Vec<String>, Vec<String>) =
        owners.iter().map(|(host, owner)| (host.to_string(), owner.clone())).unzip();
    sqlx::query!(
        // Whoever locks several jobs locks them in the order of their numbers.
        "with moved as (
             select job.id, new.owner
             from job join unnest($2::text[], $3::text[]) as new (host, owner) using (host)
             where job.batch_id = $1 and job.state in ('pending', 'queued')
             order by job.id for update of job)
         update job set owner = moved.owner from moved where job.id = moved.id",
        batch.0,
        &hosts,
        &owners
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Hosts of a batch whose job is in this state.
pub async fn hosts_in(
    conn: &mut PgConnection,
    batch: BatchId,
    state: JobState,
) -> sqlx::Result<Vec<HostName>> {
    sqlx::query_scalar!(
        "select host from job where batch_id = $1 and state = $2 order by host",
        batch.0,
        state.as_str()
    )
    .fetch_all(conn)
    .await?
    .into_iter()
    .map(|host| host.parse().map_err(corrupt))
    .collect()
}

/// Jobs of these hosts that an operator may release: batch and owner by host.
pub async fn releasable(
    conn: &mut PgConnection,
    hosts: &[HostName],
) -> sqlx::Result<Vec<(BatchId, HostName, String)>> {
    let names: Vec<String> = hosts.iter().map(|host| host.as_str().to_owned()).collect();
    sqlx::query!(
        "select batch_id, host, owner from job
         where (state = 'quarantined' or maybe_down) and host = any($1) order by batch_id, host",
        &names
    )
    .fetch_all(conn)
    .await?
    .into_iter()
    .map(|row| Ok((BatchId(row.batch_id), row.host.parse().map_err(corrupt)?, row.owner)))
    .collect()
}

/// Locks the jobs of these hosts in these batches, whose rows the caller has locked. For changes to
/// jobs of several batches, each in a statement of its own.
pub async fn lock(
    tx: &mut PgTransaction<'_>,
    batches: &[BatchId],
    hosts: &[HostName],
) -> sqlx::Result<()> {
    let batches: Vec<i64> = batches.iter().map(|batch| batch.0).collect();
    let names: Vec<String> = hosts.iter().map(|host| host.as_str().to_owned()).collect();
    sqlx::query!(
        "select id from job where batch_id = any($1) and host = any($2) order by id for no key update",
        &batches,
        &names
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(())
}

/// States of a batch's jobs, each with its last error, by host.
pub async fn ends(
    conn: &mut PgConnection,
    batch: BatchId,
) -> sqlx::Result<Vec<(HostName, JobState, Option<String>)>> {
    sqlx::query!("select host, state, error from job where batch_id = $1 order by host", batch.0)
        .fetch_all(conn)
        .await?
        .into_iter()
        .map(|row| {
            let state = row.state.parse().map_err(corrupt)?;
            Ok((row.host.parse().map_err(corrupt)?, state, row.error))
        })
        .collect()
}

/// Counts by state, for people.
pub async fn state_counts(conn: &mut PgConnection, batch: BatchId) -> sqlx::Result<StateCounts> {
    let rows = sqlx::query!(
        r#"select state, count(*) as "count!" from job where batch_id = $1 group by state"#,
        batch.0
    )
    .fetch_all(conn)
    .await?;
    let mut counts = StateCounts::default();
    for row in rows {
        let count = u32::try_from(row.count).unwrap_or(u32::MAX);
        match row.state.parse::<JobState>().map_err(corrupt)? {
            JobState::Pending => counts.pending = count,
            JobState::Queued => counts.queued = count,
            JobState::Running | JobState::Waiting => counts.running += count,
            JobState::Succeeded => counts.succeeded = count,
            JobState::Failed => counts.failed = count,
            JobState::Quarantined => counts.quarantined = count,
            JobState::Cancelled => counts.cancelled = count,
            JobState::Skipped => counts.skipped = count,
        }
    }
    Ok(counts)
}

/// Counts as the rollout needs them.
pub async fn rollout_counts(conn: &mut PgConnection, batch: &Batch) -> sqlx::Result<JobCounts> {
    let row = sqlx::query!(
        r#"select
             -- Those that did not pass the checks are bad hosts of this batch, those that
             -- somebody dropped are none of its hosts.
             count(*) filter (where state <> 'skipped' or error_kind is not null) as "total!",
             count(*) filter (where state = 'pending' and wave <= $2) as "pending_in_wave!",
             count(*) filter (where state = 'pending' and wave > $2) as "pending_later!",
             count(*) filter (where state = 'queued') as "queued!",
             count(*) filter (where state in ('running', 'waiting')) as "running!",
             count(*) filter (where state in ('failed', 'quarantined')) as "failed!",
             count(*) filter (where failed_previously and state in ('pending', 'queued', 'running', 'waiting')
                                 or state = 'skipped' and error_kind is not null)
                 as "failed_previously!"
           from job where batch_id = $1"#,
        batch.id.0,
        batch.wave
    )
    .fetch_one(conn)
    .await?;
    let narrow = |count: i64| u32::try_from(count).unwrap_or(u32::MAX);
    Ok(JobCounts {
        total: narrow(row.total),
        pending_in_wave: narrow(row.pending_in_wave),
        pending_later: narrow(row.pending_later),
        queued: narrow(row.queued),
        running: narrow(row.running),
        failed: narrow((row.failed - i64::from(batch.failures_excused)).max(0)),
        failed_previously: if batch.failed_previously_excused {
            0
        } else {
            narrow(row.failed_previously)
        },
    })
}

/// Marks the hosts of a starting batch that failed in the batch before, unless that is the
/// batch which this one retries. A success of a harmless action, such as a lamp, does not count.
pub async fn mark_failed_previously(
    tx: &mut PgTransaction<'_>,
    batch: BatchId,
    retry_of: Option<BatchId>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "with picked as (
             select id from job
             where batch_id = $1 and state = 'pending' and exists (
                 select from (
                     select earlier.state, earlier.batch_id from job earlier
                     join batch on batch.id = earlier.batch_id
                     where earlier.host = job.host and earlier.id < job.id
                       and earlier.state in ('succeeded', 'failed', 'quarantined')
                       and (batch.risk <> 'harmless' or earlier.state <> 'succeeded')
                     order by earlier.id desc limit 1) last
                 where last.state <> 'succeeded' and last.batch_id is distinct from $2)
             order by id for no key update)
         update job set failed_previously = true from picked where picked.id = job.id",
        batch.0,
        retry_of.map(|id| id.0)
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Batches that worked on these hosts, newest first, at most `each` a host.
pub async fn history(
    conn: &mut PgConnection,
    hosts: &[HostName],
    each: i64,
) -> sqlx::Result<BTreeMap<HostName, Vec<HostHistoryEntry>>> {
    let names: Vec<String> = hosts.iter().map(|host| host.as_str().to_owned()).collect();
    let rows = sqlx::query!(
        r#"select asked.host as "host!", j.batch_id, j.state as job_state, j.error, j.bmc_events,
                  b.action, b.submitter, b.state as batch_state
           from unnest($1::text[]) as asked (host)
           cross join lateral (
               select * from job where job.host = asked.host order by id desc limit $2) j
           join batch b on b.id = j.batch_id
           order by asked.host, j.id desc"#,
        &names,
        each
    )
    .fetch_all(conn)
    .await?;
    let mut history: BTreeMap<HostName, Vec<HostHistoryEntry>> = BTreeMap::new();
    for row in rows {
        history.entry(row.host.parse().map_err(corrupt)?).or_default().push(HostHistoryEntry {
            batch: BatchId(row.batch_id),
            action: row.action,
            submitter: row.submitter,
            batch_state: row.batch_state.parse::<BatchState>().map_err(corrupt)?,
            job_state: row.job_state.parse::<JobState>().map_err(corrupt)?,
            error: row.error,
            bmc_events: row.bmc_events.unwrap_or_default(),
        });
    }
    Ok(history)
}

/// Stores the entries of the BMC's event log when a job failed, unless it was released meanwhile.
pub async fn keep_bmc_events(pool: &PgPool, job: JobId, events: &[String]) -> sqlx::Result<()> {
    sqlx::query!(
        "update job set bmc_events = $2 where id = $1 and state in ('failed', 'quarantined')",
        job.0,
        events
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Returns whether a retry of the batch would take one of these hosts.
pub async fn any_failed(
    conn: &mut PgConnection,
    batch: BatchId,
    hosts: &[HostName],
) -> sqlx::Result<bool> {
    let names: Vec<String> = hosts.iter().map(|host| host.as_str().to_owned()).collect();
    sqlx::query_scalar!(
        r#"select exists (select from job where batch_id = $1 and state = 'failed'
                          and host = any($2)) as "any!""#,
        batch.0,
        &names
    )
    .fetch_one(conn)
    .await
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::PgPoolOptions;

    use super::*;
    use crate::attempt::{OutcomeRow, write_outcomes};
    use crate::{batch, caps, notify_route};
    use metalbot_core::domain::ids::{Epoch, LeaseId};

    /// Two batches, each with a job at work and hosts that failed in the middle; a third one is at
    /// work on these hosts.
    const ROWS: &str = r#"
        insert into batch (action, risk, plan, digest, submitter, state, requirements, origin,
            platform, channel)
        select 'power-on', 'disruptive',
            '{"action": "power-on", "risk": "disruptive", "params": {}, "rollout": {"waves": []},
              "steps": [{"title": "on", "action": {"run": "power", "to": "on"},
                         "deadline_secs": 60, "retry": 0}]}',
            decode(repeat('00', 32), 'hex'), 'alice', 'running', '[]',
            jsonb_build_object('origin', 'reclaim'), 'console', 'metal'
        from generate_series(1, 3);
        insert into job (batch_id, host, owner, datacenter, rack, sku, bmc_address,
            bmc_credentials, wave, state)
        select batch_id, host, 'web', 'fra1', 'r1', 's1', '10.0.0.1', 'default', 0, 'pending'
        from (select 1 + n % 2 as batch_id, 'web' || n as host from generate_series(1, 40) as n
              union all select 1, 'db1' union all select 2, 'db2') as first;
        update job set state = 'failed' where host like 'web%';
        insert into job (batch_id, host, owner, datacenter, rack, sku, bmc_address,
            bmc_credentials, wave, state)
        select 3, 'web' || n, 'web', 'fra1', 'r1', 's1', '10.0.0.1', 'default', 0, 'pending'
        from generate_series(40, 1, -1) as n"#;
    /// As it is before each round; rows that are written in another order lie in another order.
    const RESET: &str = "
        update job set state = 'failed', maybe_down = true, failure_notified = false,
            ended_at = now() - interval '1 hour'
        where id in (select id from job where batch_id <> 3 and host like 'web%' order by random());
        update job set state = 'running', epoch = 1, worker = 'a', ended_at = null
        where batch_id = 3 or host like 'db%'";

    async fn all_succeed(pool: &PgPool, jobs: &[i64]) -> sqlx::Result<()> {
        let row = |job: &i64| OutcomeRow {
            lease: LeaseId { job: JobId(*job), epoch: Epoch(1), fence: 0 },
            attempt: None,
            job_state: JobState::Succeeded,
            step: 1,
            acts_skipped: false,
            wake_in: None,
            news_seen: 0,
            maybe_down: false,
        };
        let rows: Vec<OutcomeRow> = jobs.iter().map(row).collect();
        write_outcomes(pool, "a", &rows).await.map(drop)
    }

    /// As stops and pauses do.
    async fn wake_all(pool: &PgPool, id: i64) -> sqlx::Result<()> {
        for _ in 0..5 {
            let mut tx = pool.begin().await?;
            batch::lock(&mut tx, BatchId(id)).await?;
            wake(&mut tx, BatchId(id)).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    async fn tell_failures(pool: &PgPool, id: i64) -> sqlx::Result<()> {
        let mut tx = pool.begin().await?;
        let batch = batch::lock(&mut tx, BatchId(id)).await?.unwrap();
        notify_route::failures(&mut tx, &batch).await?;
        tx.commit().await
    }

    async fn release(pool: &PgPool, hosts: &[HostName]) -> sqlx::Result<()> {
        let batches = [BatchId(1), BatchId(2)];
        let mut tx = pool.begin().await?;
        for id in batches {
            batch::lock(&mut tx, id).await?;
        }
        lock(&mut tx, &batches, hosts).await?;
        for id in batches {
            caps::let_go(&mut tx, id, hosts).await?;
        }
        tx.commit().await
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn whoever_changes_many_jobs_waits_in_no_circle(pool: PgPool) {
        let impatient = PgPoolOptions::new()
            .max_connections(8)
            .after_connect(|connection, _| {
                Box::pin(async move {
                    sqlx::raw_sql("set deadlock_timeout = '20ms'")
                        .execute(connection)
                        .await
                        .map(drop)
                })
            })
            .connect_with((*pool.connect_options()).clone())
            .await
            .unwrap();
        let pool = &impatient;
        sqlx::raw_sql(ROWS).execute(pool).await.unwrap();
        let query = "select id from job where batch_id = 3 or host like 'db%' order by random()";
        let hosts: Vec<HostName> = (1..=40).map(|n| format!("web{n}").parse().unwrap()).collect();
        for round in 0..100 {
            sqlx::raw_sql(RESET).execute(pool).await.unwrap();
            let jobs: Vec<i64> = sqlx::query_scalar(query).fetch_all(pool).await.unwrap();
            let (some, others) = jobs.split_at(jobs.len() / 2);
            let ended = tokio::join!(
                all_succeed(pool, some),
                all_succeed(pool, others),
                tell_failures(pool, 1),
                tell_failures(pool, 2),
                release(pool, &hosts),
                wake_all(pool, 3),
            );
            for ended in [ended.0, ended.1, ended.2, ended.3, ended.4, ended.5] {
                ended.unwrap_or_else(|error| panic!("round {round}: {error}"));
            }
        }
        let down = "select count(*) from job where maybe_down";
        assert_eq!(sqlx::query_scalar::<_, i64>(down).fetch_one(pool).await.unwrap(), 0);
    }
}

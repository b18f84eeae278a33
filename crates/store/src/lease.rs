//! Leases: a worker's expiring right to a job. Each lease has a higher epoch than the one before,
//! and nothing that carries an older epoch is written.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::PgPool;

use super::task_lease::interval;
use super::{audit, corrupt};
use metalbot_core::domain::error_kind::ErrorKind;
use metalbot_core::domain::host::{BmcEndpoint, HostName};
use metalbot_core::domain::ids::{BatchId, Epoch, JobId};
use metalbot_core::domain::principal::Actor;

/// A job that this worker may work on until the lease ends.
#[derive(Clone, Debug)]
pub struct Leased {
    pub job: JobId,
    pub batch: BatchId,
    pub host: HostName,
    pub epoch: Epoch,
    /// Index of the step to do next.
    pub step: usize,
    /// Tries of that step that are in the journal.
    pub tries: u32,
    /// Set when something was, or may have been, done to the host, not counting the open attempt.
    pub touched: bool,
    /// Address of its BMC when the batch was submitted.
    pub bmc: BmcEndpoint,
    /// An attempt whose worker wrote the intent and never the outcome.
    pub open_attempt: Option<i64>,
}

/// Summary of the journal of a job that was leased before.
#[derive(Clone, Copy, Default)]
struct Tried {
    touched: bool,
    tries: i64,
    open: Option<i64>,
}

/// Leases up to `at_most` jobs: running ones whose worker's lease ran out, then queued ones of
/// running batches, one of each batch in turn, so that a huge batch does not starve a small one. Where
/// the limit allows jobs of some batches only, chance decides which: any order would prefer some.
pub async fn take(
    pool: &PgPool,
    worker: &str,
    at_most: usize,
    lease: Duration,
) -> sqlx::Result<Vec<Leased>> {
    let mut tx = pool.begin().await?;
    let limit = i64::try_from(at_most).unwrap_or(i64::MAX);
    let rows = sqlx::query!(
        r#"with expired as (
               select id from job where state = 'running' and lease_until < now()
               order by lease_until limit $2 for update skip locked),
           turns as (
               select next.id, next.turn from batch cross join lateral (
                   select job.id, row_number() over (order by job.id) as turn from job
                   where job.batch_id = batch.id and job.state = 'queued'
                   order by job.id limit $2) next
               where batch.state = 'running'),
           ready as (
               select job.id from job join turns on turns.id = job.id
               where job.state = 'queued'
               order by turns.turn, random() limit $2 for update of job skip locked),
           picked as (
               select id, true as takeover from expired union all
               select id, false from ready limit $2)
           update job set state = 'running', worker = $1, epoch = epoch + 1,
               lease_until = now() + $3, started_at = coalesce(started_at, now())
           from picked where job.id = picked.id
           returning job.id, job.batch_id, job.host, job.epoch, job.step, job.bmc_address,
               job.bmc_credentials,
               picked.takeover as "takeover!""#,
        worker,
        limit,
        interval(lease)
    )
    .fetch_all(&mut *tx)
    .await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    // A job that nobody had before has no attempts.
    let ids: Vec<i64> = rows.iter().filter(|row| row.epoch > 1).map(|row| row.id).collect();
    let tried: HashMap<i64, Tried> = sqlx::query!(
        r#"select attempt.job_id,
                  count(*) filter (where attempt.step = job.step
                                     and attempt.error_kind is distinct from $2) as "tries!",
                  bool_or(acted) as acted,
                  max(attempt.id) filter (where outcome is null) as open
           from attempt join job on job.id = attempt.job_id
           where attempt.job_id = any($1)
           group by attempt.job_id"#,
        &ids,
        ErrorKind::NoPermit.as_str()
    )
    .fetch_all(&mut *tx)
    .await?
    .into_iter()
    .map(|row| {
        let touched = row.acted.unwrap_or(false);
        (row.job_id, Tried { touched, tries: row.tries, open: row.open })
    })
    .collect();
    let actor = Actor { who: "metalbot".into(), via: worker.to_owned() };
    let detail = |host: &str, epoch: i64| serde_json::json!({ "host": host, "epoch": epoch });
    let taken_over: Vec<_> = rows
        .iter()
        .filter(|row| row.takeover)
        .map(|row| (BatchId(row.batch_id), detail(&row.host, row.epoch)))
        .collect();
    if !taken_over.is_empty() {
        audit::record_many(&mut tx, &actor, "job.taken_over", &taken_over).await?;
    }
    tx.commit().await?;
    rows.into_iter()
        .map(|row| {
            let Tried { touched, tries, open } = tried.get(&row.id).copied().unwrap_or_default();
            Ok(Leased {
                job: JobId(row.id),
                batch: BatchId(row.batch_id),
                host: row.host.parse().map_err(corrupt)?,
                epoch: Epoch(row.epoch),
                step: usize::try_from(row.step).map_err(corrupt)?,
                tries: u32::try_from(tries).unwrap_or(u32::MAX),
                touched,
                bmc: BmcEndpoint { address: row.bmc_address, credentials: row.bmc_credentials },
                open_attempt: open,
            })
        })
        .collect()
}

/// Extends all leases that this worker still has, in one statement; returns those that stand.
/// A job that is missing from the answer is another worker's by now.
pub async fn heartbeat(
    pool: &PgPool,
    worker: &str,
    jobs: &[(JobId, Epoch)],
    lease: Duration,
) -> sqlx::Result<Vec<JobId>> {
    let ids: Vec<i64> = jobs.iter().map(|(job, _)| job.0).collect();
    let epochs: Vec<i64> = jobs.iter().map(|(_, epoch)| epoch.0).collect();
    let kept = sqlx::query_scalar!(
        // Whoever locks several jobs locks them in the order of their numbers.
        "with standing as (
             select job.id from job
             join unnest($2::bigint[], $3::bigint[]) as mine (id, epoch)
               on job.id = mine.id and job.epoch = mine.epoch
             where job.worker = $1 and job.state = 'running' and job.lease_until >= now()
             order by job.id for update of job)
         update job set lease_until = now() + $4
         from standing where job.id = standing.id
         returning job.id",
        worker,
        &ids,
        &epochs,
        interval(lease)
    )
    .fetch_all(pool)
    .await?;
    Ok(kept.into_iter().map(JobId).collect())
}

/// Ends the leases of this process's jobs, which stops in order, so that other workers take them at
/// once. A job with an open attempt is not given up: its act may still reach the BMC, and its lease
/// must run out.
pub async fn give_up(pool: &PgPool, worker: &str) -> sqlx::Result<u64> {
    let given = sqlx::query!(
        "update job set lease_until = now() - interval '1 second'
         where worker = $1 and state = 'running' and not exists (
             select from attempt where attempt.job_id = job.id and attempt.outcome is null)",
        worker
    )
    .execute(pool)
    .await?;
    Ok(given.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt::{AttemptOutcome, Intent, OutcomeRow, write_intents, write_outcomes};
    use metalbot_core::domain::error_kind::HostError;
    use metalbot_core::domain::job::JobState;

    const LONG: Duration = Duration::from_secs(60);

    /// A running batch with one queued job.
    async fn one_job(pool: &PgPool) {
        let rows = "insert into batch (action, risk, plan, digest, submitter, state, requirements,
                 origin, platform, channel)
             values ('reboot', 'disruptive', '{}', decode(repeat('00', 32), 'hex'), 'alice',
                 'running', '[]', jsonb_build_object('origin', 'reclaim'), 'console', 'metal');
             insert into job (batch_id, host, owner, datacenter, rack, sku, bmc_address,
                 bmc_credentials, wave, state)
             select id, 'web01', 'web', 'fra1', 'r1', 's1', '10.0.0.1', 'default', 0,
                 'queued' from batch";
        sqlx::raw_sql(rows).execute(pool).await.unwrap();
    }

    async fn take_one(pool: &PgPool, worker: &str, lease: Duration) -> Option<Leased> {
        take(pool, worker, 10, lease).await.unwrap().pop()
    }

    fn intent(leased: &Leased) -> Intent {
        Intent { job: leased.job, epoch: leased.epoch, step: 0, try_number: 1, untouched: true }
    }

    fn success(leased: &Leased, attempt: i64) -> OutcomeRow {
        OutcomeRow {
            attempt: Some(attempt),
            job: leased.job,
            epoch: leased.epoch,
            outcome: AttemptOutcome::Succeeded,
            acted: true,
            error: None,
            job_state: JobState::Succeeded,
            step: 1,
            maybe_down: false,
        }
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn a_lease_is_exclusive_until_it_ends_and_a_stale_epoch_writes_nothing(pool: PgPool) {
        one_job(&pool).await;
        let old = take_one(&pool, "a", LONG).await.expect("it is queued");
        assert!(take_one(&pool, "b", LONG).await.is_none());
        let attempt = write_intents(&pool, "a", &[intent(&old)]).await.unwrap()[&old.job];
        let given = give_up(&pool, "a").await.unwrap();
        assert_eq!(given, 0, "the act may still reach the BMC: the lease has to run out");
        let ended = "update job set lease_until = now() - interval '1 second'";
        sqlx::query(ended).execute(&pool).await.unwrap();

        let new = take_one(&pool, "b", LONG).await.expect("its lease has ended");
        assert!(new.epoch.0 > old.epoch.0);
        assert_eq!((new.open_attempt, new.tries), (Some(attempt), 1));
        assert!(write_intents(&pool, "a", &[intent(&old)]).await.unwrap().is_empty());
        assert!(write_outcomes(&pool, "a", &[success(&old, attempt)]).await.unwrap().is_empty());
        let open = "select count(*) from attempt where outcome is null";
        let open: i64 = sqlx::query_scalar(open).fetch_one(&pool).await.unwrap();
        assert_eq!(open, 1, "a stale outcome closes nothing");

        // One worker may hold both, when it took its own lease again: they can meet in one group.
        let stale = OutcomeRow {
            outcome: AttemptOutcome::Failed,
            error: Some(HostError::new(ErrorKind::BmcUnreachable, "of the lease before")),
            job_state: JobState::Failed,
            step: 0,
            ..success(&old, attempt)
        };
        let group = [stale, success(&new, attempt)];
        let written = write_outcomes(&pool, "b", &group).await.unwrap();
        assert_eq!(written, [new.job]);
        let ends =
            "select job.state, attempt.outcome from job join attempt on attempt.job_id = job.id";
        let ends: (String, String) = sqlx::query_as(ends).fetch_one(&pool).await.unwrap();
        assert_eq!(ends, ("succeeded".into(), "succeeded".into()), "only the current row counts");
        assert!(take_one(&pool, "a", LONG).await.is_none(), "it has ended");
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn an_ended_lease_writes_no_intent_and_is_not_extended(pool: PgPool) {
        one_job(&pool).await;
        let leased = take_one(&pool, "a", LONG).await.expect("it is queued");
        let mine = [(leased.job, leased.epoch)];
        assert_eq!(heartbeat(&pool, "a", &mine, LONG).await.unwrap(), [leased.job]);
        assert!(heartbeat(&pool, "b", &mine, LONG).await.unwrap().is_empty());
        let older = [(leased.job, Epoch(leased.epoch.0 - 1))];
        assert!(heartbeat(&pool, "a", &older, LONG).await.unwrap().is_empty());
        give_up(&pool, "a").await.unwrap();
        assert!(heartbeat(&pool, "a", &mine, LONG).await.unwrap().is_empty());
        assert!(write_intents(&pool, "a", &[intent(&leased)]).await.unwrap().is_empty());
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn each_running_batch_has_its_turn_in_the_order_of_its_jobs(pool: PgPool) {
        let rows = "insert into batch (action, risk, plan, digest, submitter, state, requirements,
                 origin, platform, channel)
             select 'reboot', 'disruptive', '{}', decode(repeat('00', 32), 'hex'), 'alice', state,
                 '[]', jsonb_build_object('origin', 'reclaim'), 'console', 'metal' from unnest(array['running', 'paused', 'running']) as state;
             insert into job (batch_id, host, owner, datacenter, rack, sku, bmc_address,
                 bmc_credentials, wave, state)
             select id, batch.id || 'web' || n, 'web', 'fra1', 'r1', 's1', '10.0.0.1',
                 'default', 0, 'queued'
             from batch, generate_series(1, case id when 3 then 2 else 50 end) as n";
        sqlx::raw_sql(rows).execute(&pool).await.unwrap();
        let take = async |at_most: usize| {
            let mut hosts: Vec<String> = take(&pool, "a", at_most, LONG)
                .await
                .unwrap()
                .into_iter()
                .map(|leased| leased.host.to_string())
                .collect();
            hosts.sort();
            hosts
        };
        assert_eq!(take(2).await, ["1web1", "3web1"]);
        assert_eq!(take(4).await, ["1web2", "1web3", "1web4", "3web2"]);
        assert_eq!(take(100).await.len(), 46, "the paused batch's stay");
        assert!(take(1).await.is_empty());
    }
    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn a_small_batch_is_not_starved_where_there_is_room_for_one_host_at_a_time(pool: PgPool) {
        let rows = "insert into batch (action, risk, plan, digest, submitter, state, requirements,
                 origin, platform, channel)
             select 'reboot', 'disruptive', '{}', decode(repeat('00', 32), 'hex'), 'alice',
                 'running', '[]', jsonb_build_object('origin', 'reclaim'), 'console', 'metal' from generate_series(1, 2);
             insert into job (batch_id, host, owner, datacenter, rack, sku, bmc_address,
                 bmc_credentials, wave, state)
             select batch.id, batch.id || 'web' || n, 'web', 'fra1', 'r1', 's1', '10.0.0.1',
                 'default', 0, 'queued'
             from batch, generate_series(1, case id when 1 then 500 else 20 end) as n";
        sqlx::raw_sql(rows).execute(&pool).await.unwrap();
        let mut of_small = 0;
        for _ in 0..200 {
            let leased = take(&pool, "a", 1, LONG).await.unwrap();
            of_small += leased.iter().filter(|leased| leased.batch.0 == 2).count();
        }
        assert_eq!(of_small, 20, "all of it, unless chance is against it 180 times of 200");
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn what_was_not_touched_goes_back_when_its_batch_stops(pool: PgPool) {
        one_job(&pool).await;
        let leased = take_one(&pool, "a", LONG).await.expect("it is queued");
        sqlx::query("update batch set state = 'paused', needs_reconcile = false")
            .execute(&pool)
            .await
            .unwrap();
        assert!(write_intents(&pool, "a", &[intent(&leased)]).await.unwrap().is_empty());
        let touched = Intent { untouched: false, ..intent(&leased) };
        let attempt = write_intents(&pool, "a", &[touched]).await.unwrap()[&leased.job];

        // It turned out that nothing was done.
        let back = OutcomeRow {
            outcome: AttemptOutcome::Failed,
            acted: false,
            error: Some(HostError::new(ErrorKind::NoPermit, "stopped")),
            job_state: JobState::Pending,
            step: 0,
            ..success(&leased, attempt)
        };
        assert_eq!(write_outcomes(&pool, "a", &[back]).await.unwrap(), [leased.job]);
        let row: String = sqlx::query_scalar(
            "select concat_ws(' ', job.state, worker, lease_until, job.started_at, error_kind,
                 needs_reconcile) from job join batch on batch.id = batch_id",
        )
        .fetch_one(&pool)
        .await
        .unwrap();
        assert_eq!(row, "pending t");

        // The next lease begins anew.
        sqlx::raw_sql("update batch set state = 'running'; update job set state = 'queued'")
            .execute(&pool)
            .await
            .unwrap();
        let again = take_one(&pool, "b", LONG).await.expect("it is queued");
        assert_eq!((again.tries, again.touched, again.open_attempt), (0, false, None));
        let mut leased = again;
        for (tries, acted) in [(1, false), (2, true)] {
            let attempt = write_intents(&pool, "b", &[intent(&leased)]).await.unwrap()[&leased.job];
            let failed = OutcomeRow {
                outcome: AttemptOutcome::Failed,
                acted,
                error: Some(HostError::new(ErrorKind::BmcUnreachable, "silent")),
                job_state: JobState::Running,
                step: 0,
                ..success(&leased, attempt)
            };
            write_outcomes(&pool, "b", &[failed]).await.unwrap();
            give_up(&pool, "b").await.unwrap();
            leased = take_one(&pool, "b", LONG).await.expect("it was given up");
            assert_eq!((leased.tries, leased.touched), (tries, acted));
        }
    }
}

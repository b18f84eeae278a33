//! Reports of machines, and the tokens that they report with.
//!
//! Invariants: a token never reaches the database, only its SHA-256; a token is good for one attempt and
//! as long as that has no outcome; the same report sent twice is one. A report and the job that it wakes
//! are changed in one transaction, under the job's lock: a job is never parked beside a report that its
//! worker has not seen.

use serde_json::json;
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool, PgTransaction};

use super::{audit, corrupt};
use metalbot_core::domain::batch::BatchState;
use metalbot_core::domain::course::may_act;
use metalbot_core::domain::host::HostName;
use metalbot_core::domain::ids::{BatchId, JobId};
use metalbot_core::domain::principal::Actor;
use metalbot_core::domain::report::{
    MAX_REPORTS, RESERVED_REPORTS, ReceivedReport, Report, ReportKind,
};
use metalbot_core::domain::workflow::{Plan, StepAction};

/// Reports of an ended attempt that are audited, of each token: a machine that does not stop must not
/// fill the record.
const AUDITED: i32 = 10;

/// SHA-256 of a token.
pub type TokenHash = [u8; 32];

/// What came of a report.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReportAnswer {
    Stored {
        batch: BatchId,
        /// Its job was woken.
        wakes: bool,
    },
    /// It is there already.
    Repeated,
    /// Another one has its key.
    KeyTaken,
    /// The attempt has ended, or the token was revoked.
    Ended,
    /// The attempt has all the reports that it may have.
    TooMany,
    /// There is no such token.
    Unknown,
}

/// Lets the machine that works on this attempt report with a token. Answers whether it may: its job must
/// wait, with the attempt open and at a step that waits for reports, nobody must have a token for it,
/// and the batch's state must allow what was begun. While a worker has the job, the attempt may be one
/// that it takes for void, since it has not heard that the intent was written.
pub async fn issue_token(
    tx: &mut PgTransaction<'_>,
    attempt: i64,
    token: &TokenHash,
) -> sqlx::Result<bool> {
    // Before the batch is read: who stops it may hold the lock, and has changed it then.
    sqlx::query!(
        "select job.id from job join attempt on attempt.job_id = job.id
         where attempt.id = $1 for no key update of job",
        attempt
    )
    .fetch_optional(&mut **tx)
    .await?;
    let found = sqlx::query!(
        r#"select job.step, batch.state, batch.plan as "plan: Json<Plan>"
           from attempt join job on job.id = attempt.job_id join batch on batch.id = job.batch_id
           where attempt.id = $1 and attempt.outcome is null and attempt.step = job.step
               and job.state = 'waiting'"#,
        attempt
    )
    .fetch_optional(&mut **tx)
    .await?;
    let Some(found) = found else { return Ok(false) };
    let state: BatchState = found.state.parse().map_err(corrupt)?;
    let at = usize::try_from(found.step).map_err(corrupt)?;
    let Some(step) = found.plan.steps.get(at) else { return Ok(false) };
    let StepAction::WaitReport { revoked_by_takeover, .. } = step.action else { return Ok(false) };
    if may_act(state, true, step.finishing).is_none() {
        return Ok(false);
    }
    let issued = sqlx::query!(
        "insert into report_token (attempt_id, token_hash, revoked_by_takeover, report_count)
         select $1, $2, $3, coalesce(max(report_count), 0) from report_token where attempt_id = $1
         on conflict (attempt_id) where revoked_at is null do nothing",
        attempt,
        token,
        revoked_by_takeover
    )
    .execute(&mut **tx)
    .await?;
    Ok(issued.rows_affected() == 1)
}

/// Revokes the tokens of jobs that were taken over, where their step says so. The jobs are locked.
pub(super) async fn revoke_taken_over(conn: &mut PgConnection, jobs: &[i64]) -> sqlx::Result<()> {
    sqlx::query!(
        "update report_token set revoked_at = now() from attempt
         where attempt.id = attempt_id and attempt.job_id = any($1) and attempt.outcome is null
             and revoked_by_takeover and revoked_at is null",
        jobs
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Stores a report under a token, and wakes its job unless it tells of progress only.
pub async fn receive(
    tx: &mut PgTransaction<'_>,
    token: &TokenHash,
    report: &Report,
) -> sqlx::Result<ReportAnswer> {
    // The job first: whoever takes it over, parks it or ends it locks it before anything of its own.
    let job = sqlx::query_scalar!(
        "select job.id from report_token
         join attempt on attempt.id = attempt_id join job on job.id = attempt.job_id
         where token_hash = $1 for no key update of job",
        token
    )
    .fetch_optional(&mut **tx)
    .await?;
    let Some(job) = job.map(JobId) else { return Ok(ReportAnswer::Unknown) };
    let token = sqlx::query!(
        r#"select report_token.id, attempt_id, report_count, job.batch_id, job.host,
               attempt.outcome is null and revoked_at is null as "open!"
           from report_token
           join attempt on attempt.id = attempt_id join job on job.id = attempt.job_id
           where token_hash = $1"#,
        token
    )
    .fetch_one(&mut **tx)
    .await?;
    let before = sqlx::query!(
        "select kind, body from job_report where attempt_id = $1 and key = $2",
        token.attempt_id,
        report.key
    )
    .fetch_optional(&mut **tx)
    .await?;
    // Before the rest: a machine that has not heard the answer sends what ended its attempt again.
    if let Some(before) = before {
        let same = before.kind == report.kind.as_str() && before.body == report.body;
        return Ok(if same { ReportAnswer::Repeated } else { ReportAnswer::KeyTaken });
    }
    let batch = BatchId(token.batch_id);
    if !token.open {
        note_late(tx, token.id, token.attempt_id, batch, &token.host, report).await?;
        return Ok(ReportAnswer::Ended);
    }
    let most = match report.kind.is_progress() {
        true => MAX_REPORTS - RESERVED_REPORTS,
        false => MAX_REPORTS,
    };
    if token.report_count.cast_unsigned() >= most {
        return Ok(ReportAnswer::TooMany);
    }
    sqlx::query!(
        "with counted as (
             update report_token set report_count = report_count + 1 where id = $1)
         insert into job_report (attempt_id, key, kind, body, at) values ($2, $3, $4, $5, $6)",
        token.id,
        token.attempt_id,
        report.key,
        report.kind.as_str(),
        report.body,
        report.at
    )
    .execute(&mut **tx)
    .await?;
    let wakes = !report.kind.is_progress();
    match report.progress() {
        Some(progress) => {
            sqlx::query!(
                "update job set progress_percent = $2, progress_phase = $3 where id = $1",
                job.0,
                progress.percent.map(i16::from),
                progress.phase
            )
            .execute(&mut **tx)
            .await?;
        }
        None => {
            sqlx::query!(
                "update job set news = news + 1,
                     wake_at = case when state = 'waiting' then now() else wake_at end
                 where id = $1",
                job.0
            )
            .execute(&mut **tx)
            .await?;
        }
    }
    Ok(ReportAnswer::Stored { batch, wakes })
}

/// Audits a report that came too late: a machine that still works on itself though nobody waits for it.
async fn note_late(
    tx: &mut PgTransaction<'_>,
    token: i64,
    attempt: i64,
    batch: BatchId,
    host: &str,
    report: &Report,
) -> sqlx::Result<()> {
    let count = sqlx::query_scalar!(
        "update report_token set late_count = late_count + 1 where id = $1 returning late_count",
        token
    )
    .fetch_one(&mut **tx)
    .await?;
    if count > AUDITED {
        return Ok(());
    }
    let actor = Actor { who: host.to_owned(), via: "agent".into() };
    let detail = json!({ "host": host, "attempt": attempt, "key": report.key,
        "kind": report.kind.as_str() });
    audit::record(tx, &actor, "report.late", Some(batch), detail).await
}

/// The newest report of each of these kinds.
pub async fn newest(
    pool: &PgPool,
    attempt: i64,
    kinds: &[ReportKind],
) -> sqlx::Result<Vec<ReceivedReport>> {
    let kinds: Vec<String> = kinds.iter().map(ToString::to_string).collect();
    sqlx::query!(
        "select newest.kind, newest.body from unnest($2::text[]) as wanted (kind)
         cross join lateral (
             select kind, body from job_report
             where attempt_id = $1 and job_report.kind = wanted.kind and kind <> 'progress'
             order by id desc limit 1) as newest",
        attempt,
        &kinds
    )
    .fetch_all(pool)
    .await?
    .into_iter()
    .map(|row| Ok(ReceivedReport { kind: row.kind.parse().map_err(corrupt)?, body: row.body }))
    .collect()
}

/// The open attempt of a host whose job waits, if it has one.
pub async fn open_attempt(conn: &mut PgConnection, host: &HostName) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar!(
        "select attempt.id from job join attempt on attempt.job_id = job.id
         where job.host = $1 and job.state = 'waiting' and attempt.outcome is null",
        host.as_str()
    )
    .fetch_optional(conn)
    .await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::attempt::{Intent, IntentAnswer, OutcomeRow, write_intents, write_outcomes};
    use crate::lease::{Leased, take};
    use metalbot_core::domain::job::JobState;
    use metalbot_core::domain::placement::ReachableDatacenters;

    const TOKEN: TokenHash = [7; 32];
    const LONG: Duration = Duration::from_secs(600);

    fn report(key: &str, kind: &str) -> Report {
        let body = json!({ "percent": 1 });
        Report { key: key.into(), kind: kind.parse().unwrap(), body, at: None }
    }

    /// A job that waits for its machine's report.
    async fn parked(pool: &PgPool, revoked_by_takeover: bool) -> Leased {
        let plan = json!({ "version": 2, "action": "install", "risk": "harmless", "params": {},
            "steps": [{ "title": "install", "deadline_secs": 600, "retry": 0, "action": {
                "run": "wait_report", "report": "installed",
                "revoked_by_takeover": revoked_by_takeover } }],
            "rollout": { "waves": [], "max_concurrent": null, "max_fail": null } });
        sqlx::query(
            "insert into batch (action, risk, plan, plan_version, digest, submitter, state,
                 requirements, origin, platform, channel)
             values ('install', 'harmless', $1, 2, decode(repeat('00', 32), 'hex'), 'alice',
                 'running', '[]', jsonb_build_object('origin', 'reclaim'), 'console', 'metal')",
        )
        .bind(plan)
        .execute(pool)
        .await
        .unwrap();
        sqlx::raw_sql(
            "insert into job (batch_id, host, owner, datacenter, rack, sku, bmc_address,
                 bmc_credentials, wave, state)
             select id, 'web01', 'web', 'fra1', 'r1', 's1', '10.0.0.1', 'default', 0, 'queued'
             from batch",
        )
        .execute(pool)
        .await
        .unwrap();
        let leased = take_one(pool, "a").await;
        let intent = Intent { lease: leased.id, step: 0, try_number: 1, finishing: false };
        let answers = write_intents(pool, "a", &[intent]).await.unwrap();
        assert!(matches!(answers[&leased.id], IntentAnswer::Written(_)));
        park(pool, "a", &leased).await;
        leased
    }

    async fn take_one(pool: &PgPool, worker: &str) -> Leased {
        take(pool, worker, &ReachableDatacenters::ALL, Some(&[]), 1)
            .await
            .unwrap()
            .pop()
            .expect("a job that is due")
    }

    async fn park(pool: &PgPool, worker: &str, leased: &Leased) {
        let row = OutcomeRow {
            lease: leased.id,
            attempt: None,
            job_state: JobState::Waiting,
            step: 0,
            acts_skipped: false,
            wake_in: Some(LONG),
            news_seen: leased.news,
            maybe_down: false,
        };
        assert_eq!(write_outcomes(pool, worker, &[row]).await.unwrap(), [leased.id]);
    }

    async fn issue(pool: &PgPool, token: TokenHash) -> bool {
        let mut tx = pool.begin().await.unwrap();
        let attempt = open_attempt(&mut tx, &"web01".parse().unwrap()).await.unwrap();
        let Some(attempt) = attempt else { return false };
        let issued = issue_token(&mut tx, attempt, &token).await.unwrap();
        tx.commit().await.unwrap();
        issued
    }

    async fn told(pool: &PgPool, token: TokenHash, report: &Report) -> ReportAnswer {
        let mut tx = pool.begin().await.unwrap();
        let answer = receive(&mut tx, &token, report).await.unwrap();
        tx.commit().await.unwrap();
        answer
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn an_attempt_is_claimed_once_and_only_while_its_job_waits(pool: PgPool) {
        let leased = parked(&pool, false).await;
        let batch = leased.batch;
        assert!(issue(&pool, TOKEN).await);
        assert!(!issue(&pool, [8; 32]).await, "it was claimed");
        assert_eq!(told(&pool, [8; 32], &report("1", "installed")).await, ReportAnswer::Unknown);
        let stored = ReportAnswer::Stored { batch, wakes: true };
        assert_eq!(told(&pool, TOKEN, &report("1", "log")).await, stored);
        take_one(&pool, "b").await;
        assert!(!issue(&pool, [9; 32]).await, "a worker has the job");
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn a_job_is_not_parked_beside_a_report_that_its_worker_has_not_seen(pool: PgPool) {
        parked(&pool, false).await;
        assert!(issue(&pool, TOKEN).await);
        assert!(
            take(&pool, "b", &ReachableDatacenters::ALL, None, 1).await.unwrap().is_empty(),
            "nothing was reported"
        );
        told(&pool, TOKEN, &report("1", "progress")).await;
        assert!(
            take(&pool, "b", &ReachableDatacenters::ALL, None, 1).await.unwrap().is_empty(),
            "progress wakes nobody"
        );
        told(&pool, TOKEN, &report("2", "log")).await;
        let leased = take_one(&pool, "b").await;
        told(&pool, TOKEN, &report("3", "installed")).await;
        park(&pool, "b", &leased).await;
        let again = take_one(&pool, "c").await;
        let kinds = ["installed".parse().unwrap(), "failed".parse().unwrap()];
        let seen = newest(&pool, again.open_attempt.unwrap(), &kinds).await.unwrap();
        assert_eq!(seen.iter().map(|one| one.kind.as_str()).collect::<Vec<_>>(), ["installed"]);
        park(&pool, "c", &again).await;
        assert!(
            take(&pool, "d", &ReachableDatacenters::ALL, None, 1).await.unwrap().is_empty(),
            "all was seen"
        );
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn a_stop_is_not_parked_beside_either(pool: PgPool) {
        let leased = parked(&pool, false).await;
        assert!(issue(&pool, TOKEN).await);
        told(&pool, TOKEN, &report("1", "log")).await;
        let held = take_one(&pool, "b").await;
        let mut tx = pool.begin().await.unwrap();
        crate::job::wake(&mut tx, leased.batch).await.unwrap();
        tx.commit().await.unwrap();
        park(&pool, "b", &held).await;
        take_one(&pool, "c").await;
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn who_tells_much_of_its_progress_is_still_heard_when_it_is_done(pool: PgPool) {
        let batch = parked(&pool, false).await.batch;
        assert!(issue(&pool, TOKEN).await);
        let count = |reports: u32| {
            let query = format!("update report_token set report_count = {reports}");
            let pool = pool.clone();
            async move { sqlx::raw_sql(sqlx::AssertSqlSafe(query)).execute(&pool).await.unwrap() }
        };
        count(MAX_REPORTS - RESERVED_REPORTS).await;
        assert_eq!(told(&pool, TOKEN, &report("1", "progress")).await, ReportAnswer::TooMany);
        let stored = ReportAnswer::Stored { batch, wakes: true };
        assert_eq!(told(&pool, TOKEN, &report("2", "log")).await, stored);
        count(MAX_REPORTS).await;
        assert_eq!(told(&pool, TOKEN, &report("3", "log")).await, ReportAnswer::TooMany);
        assert_eq!(told(&pool, TOKEN, &report("2", "log")).await, ReportAnswer::Repeated);
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn a_takeover_revokes_where_the_step_says_so(pool: PgPool) {
        for revoked_by_takeover in [false, true] {
            sqlx::raw_sql("truncate batch cascade").execute(&pool).await.unwrap();
            parked(&pool, revoked_by_takeover).await;
            assert!(issue(&pool, TOKEN).await);
            told(&pool, TOKEN, &report("1", "log")).await;
            take_one(&pool, "b").await;
            sqlx::raw_sql("update job set worker = null").execute(&pool).await.unwrap();
            let leased = take_one(&pool, "c").await;
            assert_eq!(leased.takeovers, 1);
            let answer = told(&pool, TOKEN, &report("2", "installed")).await;
            assert_eq!(answer == ReportAnswer::Ended, revoked_by_takeover, "{answer:?}");
            park(&pool, "c", &leased).await;
            assert_eq!(issue(&pool, [8; 32]).await, revoked_by_takeover, "it begins anew");
        }
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn a_machine_that_does_not_stop_does_not_fill_the_audit(pool: PgPool) {
        parked(&pool, false).await;
        assert!(issue(&pool, TOKEN).await);
        let ended = "update attempt set outcome = 'failed', outcome_at = now()";
        sqlx::raw_sql(ended).execute(&pool).await.unwrap();
        for key in 0..2 * AUDITED {
            let answer = told(&pool, TOKEN, &report(&key.to_string(), "log")).await;
            assert_eq!(answer, ReportAnswer::Ended);
        }
        let audited = "select count(*) from audit where event = 'report.late'";
        let audited: i64 = sqlx::query_scalar(audited).fetch_one(&pool).await.unwrap();
        assert_eq!(audited, i64::from(AUDITED));
    }
}

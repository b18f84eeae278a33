//! Read models: what people are shown of batches.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use super::batch::{self, Batch};
use super::{corrupt, decision, error_kind, host_wont_fix, job, placement, ticket};
use metalbot_core::domain::approval::Verdict;
use metalbot_core::domain::batch::BatchState;
use metalbot_core::domain::error_kind::ErrorKind;
use metalbot_core::domain::host::HostName;
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::job::JobState;
use metalbot_core::domain::view::{ApprovalView, BatchLine, BatchView, Failure, ProgressView};
use metalbot_core::domain::waiting::{Facts, UnreachedFacts, waiting};
use metalbot_core::domain::workflow::Plan;

/// Everything that a card or `/metal status` shows.
pub async fn batch_view(conn: &mut PgConnection, id: BatchId) -> sqlx::Result<Option<BatchView>> {
    let Some(batch) = batch::get(&mut *conn, id).await? else { return Ok(None) };
    let counts = job::state_counts(&mut *conn, id).await?;
    let refused = batch.state == BatchState::Refused;
    let unreached = placement::said_of(&mut *conn, id).await?;
    let jobs = sqlx::query!(
        "select host, state, wave, failed_previously, datacenter, progress_percent, progress_phase
         from job where batch_id = $1 order by host",
        id.0
    )
    .fetch_all(&mut *conn)
    .await?;
    let (mut hosts, mut running, mut waves) = (Vec::new(), Vec::new(), 0);
    let (mut failed_previously, mut pending) = (Vec::new(), 0);
    let mut progress: BTreeMap<Option<String>, ProgressView> = BTreeMap::new();
    let (mut unreached_queued, mut unreached_others) = (0, 0);
    for row in jobs {
        let host: HostName = row.host.parse().map_err(corrupt)?;
        let state: JobState = row.state.parse().map_err(corrupt)?;
        waves = waves.max(row.wave + 1);
        if state == JobState::Pending && row.wave <= batch.wave {
            pending += 1;
        }
        if unreached.contains(&row.datacenter) {
            match state {
                JobState::Queued => unreached_queued += 1,
                JobState::Running | JobState::Waiting => unreached_others += 1,
                JobState::Pending if batch.state == BatchState::Checking => unreached_others += 1,
                _ => {}
            }
        }
        if row.failed_previously
            && !batch.failed_previously_excused
            && !state.is_ended()
            && !batch.state.is_final()
        {
            failed_previously.push(host.clone());
        }
        if matches!(state, JobState::Running | JobState::Waiting) {
            running.push(host.clone());
            if row.progress_percent.is_some() || row.progress_phase.is_some() {
                let percent = row.progress_percent.map(u8::try_from).transpose();
                add_progress(
                    &mut progress,
                    host.clone(),
                    row.progress_phase,
                    percent.map_err(corrupt)?,
                );
            }
        }
        if refused || state != JobState::Skipped {
            hosts.push(host);
        }
    }
    let approved = sqlx::query!(
        "select login, owners from decision
         where batch_id = $1 and digest = $2 and verdict = 'approve' and withdrawn_at is null
         order by id",
        id.0,
        &batch.digest.0[..]
    )
    .fetch_all(&mut *conn)
    .await?;
    let approvals = batch
        .requirements
        .iter()
        .map(|part| ApprovalView {
            owner: part.owner.clone(),
            hosts: part.hosts,
            quorum: part.quorum,
            from: part.from.iter().cloned().collect(),
            approved_by: approved
                .iter()
                .filter(|row| row.owners.contains(&part.owner))
                .map(|row| row.login.clone())
                .collect(),
        })
        .collect();
    let lacks_approval = batch.lacks_approval();
    let waiting = waiting(Facts {
        state: batch.state,
        lacks_approval,
        rollout: &batch.plan.rollout,
        until: batch.until(),
        blocked_by: batch.blocked_by.as_deref(),
        pending,
        pending_later: counts.pending.saturating_sub(pending),
        queued: counts.queued,
        unreached: UnreachedFacts {
            datacenters: &unreached,
            queued: unreached_queued,
            others: unreached_others,
        },
    });
    let Plan { action, risk, params, at_default, steps, rollout, .. } = batch.plan;
    Ok(Some(BatchView {
        id,
        action,
        risk: risk.to_string(),
        params: params.into_iter().filter(|(name, _)| !at_default.contains(name)).collect(),
        state: batch.state,
        state_reason: batch.state_reason,
        submitter: batch.submitter,
        reason: batch.reason,
        hosts,
        steps: steps.into_iter().map(|step| step.title).collect(),
        approvals,
        lacks_approval,
        created_at: batch.created_at,
        expires_at: batch.expires_at,
        started_at: batch.started_at,
        finished_at: batch.finished_at,
        counts,
        wave: batch.wave.cast_unsigned() + 1,
        waves: waves.cast_unsigned(),
        waiting,
        wave_pause: rollout.wave_pause,
        start: rollout.start,
        countdown_secs: rollout.countdown_secs,
        failed_previously,
        pause_count: batch.pause_count,
        max_concurrent: rollout.max_concurrent,
        max_fail: rollout.max_fail.map(|size| size.to_string()),
        running,
        progress: progress.into_values().collect(),
        failures: failures(&mut *conn, id).await?,
        left_out: left_out(&mut *conn, id).await?,
        tickets: ticket::views(&mut *conn, id).await?,
        wont_fix: host_wont_fix::of_batch(&mut *conn, id).await?,
        retry_of: batch.retry_of,
        digest: batch.digest.to_string(),
    }))
}

/// Puts a host to those that do the same.
fn add_progress(
    all: &mut BTreeMap<Option<String>, ProgressView>,
    host: HostName,
    phase: Option<String>,
    percent: Option<u8>,
) {
    let of_phase = all.entry(phase.clone()).or_insert_with(|| ProgressView {
        phase,
        percent: None,
        hosts: Vec::new(),
    });
    of_phase.hosts.push(host);
    if let Some(percent) = percent {
        let (least, most) = of_phase.percent.unwrap_or((percent, percent));
        of_phase.percent = Some((least.min(percent), most.max(percent)));
    }
}

/// Failed and quarantined hosts of a batch by kind of error.
pub async fn failures(conn: &mut PgConnection, id: BatchId) -> sqlx::Result<Vec<Failure>> {
    by_kind(conn, id, &[JobState::Failed, JobState::Quarantined]).await
}

/// Hosts that did not pass the checks by kind of error.
pub async fn left_out(conn: &mut PgConnection, id: BatchId) -> sqlx::Result<Vec<Failure>> {
    by_kind(conn, id, &[JobState::Skipped]).await
}

async fn by_kind(
    conn: &mut PgConnection,
    id: BatchId,
    states: &[JobState],
) -> sqlx::Result<Vec<Failure>> {
    let states: Vec<String> = states.iter().map(|state| state.as_str().to_owned()).collect();
    // Hosts that were dropped by a person are skipped as well, without an error.
    let rows = sqlx::query!(
        "select host, state, error_kind, error from job
         where batch_id = $1 and state = any($2) and (state <> 'skipped' or error is not null)
         order by host",
        id.0,
        &states
    )
    .fetch_all(conn)
    .await?;
    let mut failures: BTreeMap<(ErrorKind, bool), Failure> = BTreeMap::new();
    for row in rows {
        let quarantined = row.state == JobState::Quarantined.as_str();
        let kind = error_kind(row.error_kind.as_deref());
        failures
            .entry((kind, quarantined))
            .or_insert_with(|| Failure {
                kind,
                error: row.error.unwrap_or_default(),
                hosts: Vec::new(),
                quarantined,
            })
            .hosts
            .push(row.host.parse().map_err(corrupt)?);
    }
    Ok(failures.into_values().collect())
}

/// Into how many waves a batch is cut.
pub async fn waves(conn: &mut PgConnection, id: BatchId) -> sqlx::Result<u32> {
    let last = sqlx::query_scalar!(
        r#"select coalesce(max(wave), 0) as "last!" from job where batch_id = $1"#,
        id.0
    )
    .fetch_one(conn)
    .await?;
    Ok(last.cast_unsigned() + 1)
}

/// The newest batches, of one submitter or of all.
pub async fn list(
    conn: &mut PgConnection,
    submitter: Option<&str>,
    at_most: i64,
) -> sqlx::Result<Vec<BatchLine>> {
    sqlx::query!(
        r#"select id, action, state, submitter, created_at,
                  (select count(*) from job where job.batch_id = batch.id) as "hosts!"
           from batch where $1::text is null or submitter = $1
           order by id desc limit $2"#,
        submitter,
        at_most
    )
    .fetch_all(conn)
    .await?
    .into_iter()
    .map(|row| {
        Ok(BatchLine {
            id: BatchId(row.id),
            action: row.action,
            state: row.state.parse().map_err(corrupt)?,
            submitter: row.submitter,
            host_count: u32::try_from(row.hosts).unwrap_or(u32::MAX),
            created_at: row.created_at,
        })
    })
    .collect()
}

/// People who approved what was carried out, for the ticket.
pub async fn approvers(conn: &mut PgConnection, batch: &Batch) -> sqlx::Result<Vec<String>> {
    Ok(decision::standing(conn, batch.id)
        .await?
        .into_iter()
        .filter(|given| given.digest == batch.digest && given.verdict == Verdict::Approve)
        .map(|decision| decision.login)
        .collect())
}

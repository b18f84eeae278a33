//! The hosts of tickets: which jobs failed, what is known of each, and which have succeeded since.

use sqlx::types::Json;
use sqlx::{PgConnection, PgTransaction};
use time::OffsetDateTime;

use super::{corrupt, error_kind};
use metalbot_core::domain::error_kind::ErrorKind;
use metalbot_core::domain::host::{BmcIdentity, HostName};
use metalbot_core::domain::ids::{BatchId, JobId, TicketId};
use metalbot_core::domain::triage::{HostFailure, Source};
use metalbot_core::domain::workflow::Plan;

/// Hosts of a batch that failed or did not pass its checks: all of them, or those with one kind of
/// error that are on no ticket yet. A stored kind that this version does not know is
/// [`ErrorKind::Unspecified`], as everywhere.
pub async fn failed_jobs(
    conn: &mut PgConnection,
    batch: BatchId,
    new_of_kind: Option<ErrorKind>,
) -> sqlx::Result<Vec<(JobId, HostFailure)>> {
    let known: Vec<String> = ErrorKind::ALL.iter().map(ErrorKind::to_string).collect();
    let rows = sqlx::query!(
        r#"select job.id, host, owner, datacenter, rack, sku, error_kind, error, step,
                  job.state = 'skipped' as "left_out!", batch.action,
                  batch.plan as "plan: Json<Plan>", vendor as "vendor?", firmware as "firmware?"
           from job join batch on batch.id = batch_id left join bmc_identity using (host)
           where batch_id = $1
             and (job.state in ('failed', 'quarantined') or job.state = 'skipped' and error is not null)
             and ($2::text is null
                  or case when error_kind = any($3) then error_kind else $4 end = $2
                  and not exists (select from ticket_host where job_id = job.id))
           order by host"#,
        batch.0,
        new_of_kind.map(ErrorKind::as_str),
        &known,
        ErrorKind::Unspecified.as_str()
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let failure = HostFailure {
                host: row.host.parse().map_err(corrupt)?,
                owner: row.owner,
                datacenter: row.datacenter,
                rack: row.rack,
                sku: row.sku,
                bmc: bmc(row.vendor, row.firmware),
                usual: Default::default(),
                action: row.action,
                source: source(&row.plan, row.left_out, row.step),
                kind: error_kind(row.error_kind.as_deref()),
                error: row.error.unwrap_or_default(),
            };
            Ok((JobId(row.id), failure))
        })
        .collect()
}

fn bmc(vendor: Option<String>, firmware: Option<String>) -> BmcIdentity {
    let (vendor, firmware) = (vendor.unwrap_or_default(), firmware.unwrap_or_default());
    BmcIdentity { vendor, firmware }
}

fn source(plan: &Plan, left_out: bool, step: i32) -> Source {
    if left_out {
        let names: Vec<String> = plan.checks.iter().map(|check| check.name()).collect();
        return Source::Check { name: names.join(", ") };
    }
    match usize::try_from(step).ok().and_then(|step| plan.steps.get(step)) {
        Some(step) => Source::Step { run: step.action.name(), title: step.title.clone() },
        None => Source::Step { run: String::new(), title: "after the last step".into() },
    }
}

/// Host of a ticket, with the facts that a technician needs.
#[derive(Clone, Debug)]
pub struct FailedHost {
    pub batch: BatchId,
    pub failure: HostFailure,
    /// Attempts of all its steps, repeats included; none for a failure before anything was tried.
    pub attempts: i64,
    pub first_try: Option<OffsetDateTime>,
    pub last_try: Option<OffsetDateTime>,
    /// Last entries of the BMC's own log, oldest first.
    pub bmc_events: Vec<String>,
    /// Set when it has succeeded since.
    pub resolved: bool,
}

/// The hosts of a ticket, each as it failed last.
pub async fn hosts(conn: &mut PgConnection, ticket: TicketId) -> sqlx::Result<Vec<FailedHost>> {
    sqlx::query!(
        r#"select distinct on (job.host) job.host, job.owner, job.datacenter, job.rack, job.sku,
                  job.bmc_events, batch.action, failure.batch_id, failure.error_kind, failure.error,
                  failure.source as "source: Json<Source>",
                  failure.resolved_at is not null as "resolved!",
                  tries.number as "attempts!", tries.first, tries.last,
                  vendor as "vendor?", firmware as "firmware?"
           from ticket_host failure
           join job on job.id = failure.job_id
           join batch on batch.id = failure.batch_id
           left join bmc_identity on bmc_identity.host = job.host
           cross join lateral (
               select count(*) as number, min(intent_at) as first, max(outcome_at) as last
               from attempt where attempt.job_id = job.id) tries
           where failure.ticket_id = $1
           order by job.host, job.id desc"#,
        ticket.0
    )
    .fetch_all(conn)
    .await?
    .into_iter()
    .map(|row| {
        Ok(FailedHost {
            batch: BatchId(row.batch_id),
            failure: HostFailure {
                host: row.host.parse().map_err(corrupt)?,
                owner: row.owner,
                datacenter: row.datacenter,
                rack: row.rack,
                sku: row.sku,
                bmc: bmc(row.vendor, row.firmware),
                usual: Default::default(),
                action: row.action,
                source: row.source.0,
                kind: error_kind(Some(&row.error_kind)),
                error: row.error,
            },
            attempts: row.attempts,
            first_try: row.first,
            last_try: row.last,
            bmc_events: row.bmc_events.unwrap_or_default(),
            resolved: row.resolved,
        })
    })
    .collect()
}

/// Logins of those who asked for or approved the ticket's batches, or one of them: each once, who
/// asked first.
pub async fn concerned(
    conn: &mut PgConnection,
    ticket: TicketId,
    batch: Option<BatchId>,
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"with concerned as (
               select batch.* from batch
               where id in (select batch_id from ticket_host where ticket_id = $1)
                 and ($2::bigint is null or id = $2))
           select login as "login!"
           from (select submitter as login, 0 as rank from concerned
                 union
                 select decision.login, 1 from decision
                 join concerned on concerned.id = batch_id and concerned.digest = decision.digest
                 where verdict = 'approve' and withdrawn_at is null) as people
           group by login order by min(rank), login"#,
        ticket.0,
        batch.map(|batch| batch.0)
    )
    .fetch_all(conn)
    .await
}

/// Hosts of a ticket that failed in one batch.
pub async fn of_batch(
    conn: &mut PgConnection,
    ticket: TicketId,
    batch: BatchId,
) -> sqlx::Result<Vec<HostName>> {
    sqlx::query_scalar!(
        "select job.host from ticket_host join job on job.id = job_id
         where ticket_id = $1 and ticket_host.batch_id = $2 order by job.host",
        ticket.0,
        batch.0
    )
    .fetch_all(conn)
    .await?
    .into_iter()
    .map(|host| host.parse().map_err(corrupt))
    .collect()
}

/// Stores which hosts of filed tickets of the last 90 days have succeeded in the same action since
/// they failed; returns each with its ticket and the batch in which it did.
pub async fn find_resolved(
    tx: &mut PgTransaction<'_>,
) -> sqlx::Result<Vec<(TicketId, HostName, BatchId)>> {
    let rows = sqlx::query!(
        r#"with resolved as (
               select failure.ticket_id, failure.job_id, failed.host, good.batch_id
               from ticket_host failure
               join job failed on failed.id = failure.job_id
               join batch asked on asked.id = failure.batch_id
               join ticket on ticket.id = failure.ticket_id
               cross join lateral (
                   select job.batch_id from job join batch on batch.id = job.batch_id
                   where job.host = failed.host and job.id > failed.id
                     and job.state = 'succeeded' and batch.action = asked.action
                   order by job.id limit 1) good
               where failure.resolved_at is null and ticket.jira_key is not null
                 and ticket.last_failed_at > now() - interval '90 days')
           update ticket_host set resolved_at = now() from resolved
           where ticket_host.ticket_id = resolved.ticket_id and ticket_host.job_id = resolved.job_id
           returning ticket_host.ticket_id, resolved.host, resolved.batch_id"#
    )
    .fetch_all(&mut **tx)
    .await?;
    rows.into_iter()
        .map(|row| {
            let host = row.host.parse().map_err(corrupt)?;
            Ok((TicketId(row.ticket_id), host, BatchId(row.batch_id)))
        })
        .collect()
}

/// Returns whether every host of the ticket has succeeded since.
pub async fn all_resolved(conn: &mut PgConnection, ticket: TicketId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select bool_and(resolved_at is not null) as "all!" from ticket_host where ticket_id = $1"#,
        ticket.0
    )
    .fetch_one(conn)
    .await
}

#[cfg(test)]
mod tests {
    use sqlx::PgPool;

    use super::*;
    use metalbot_core::domain::rollout::Rollout;
    use metalbot_core::domain::workflow::{PLAN_VERSION, Risk};

    fn plan() -> Plan {
        Plan {
            version: PLAN_VERSION,
            action: "reboot".into(),
            risk: Risk::Disruptive,
            params: Default::default(),
            at_default: Default::default(),
            checks: Default::default(),
            steps: Vec::new(),
            rollout: Rollout::default(),
        }
    }

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn failures_of_an_unknown_kind_are_found_as_unspecified(pool: PgPool) {
        sqlx::query(
            "insert into batch (action, risk, plan, digest, submitter, state, requirements,
                 origin, platform, channel)
             values ('reboot', 'disruptive', $1, sha256(''), 'alice', 'failed', '[]',
                 jsonb_build_object('origin', 'reclaim'), 'console', 'metal')",
        )
        .bind(Json(plan()))
        .execute(&pool)
        .await
        .unwrap();
        sqlx::raw_sql(
            "insert into job (batch_id, host, owner, datacenter, rack, sku, bmc_address,
                 bmc_credentials, wave, state, error_kind, error)
             select 1, host, 'web', 'fra1', 'r1', 's1', '10.0.0.1', 'default', 0, 'failed', kind, 'e'
             from (values ('web01', 'of_a_newer_version'), ('web02', null), ('web03', 'bmc_busy'))
                 as failed (host, kind)",
        )
        .execute(&pool)
        .await
        .unwrap();
        let mut conn = pool.acquire().await.unwrap();
        let mut found = async |kind: Option<ErrorKind>| -> Vec<(String, ErrorKind)> {
            let failed = failed_jobs(&mut conn, BatchId(1), kind).await.unwrap();
            failed.into_iter().map(|(_, one)| (one.host.to_string(), one.kind)).collect()
        };
        let unspecified = ["web01", "web02"].map(|host| (host.to_owned(), ErrorKind::Unspecified));
        assert_eq!(found(Some(ErrorKind::Unspecified)).await, unspecified);
        let busy = [("web03".to_owned(), ErrorKind::BmcBusy)];
        assert_eq!(found(Some(ErrorKind::BmcBusy)).await, busy);
        assert_eq!(found(None).await.len(), 3);
    }
}

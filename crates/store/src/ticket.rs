//! Triage tickets: the truth about which exist and which failures they are for. A ticket is stored
//! before Jira has it; [`super::ticket_work`] holds what is to be written to Jira,
//! [`super::ticket_poll`] what was read from it.

use std::time::Duration;

use serde_json::Value;
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool, PgTransaction};
use time::OffsetDateTime;

use super::notifier::{Topic, notify};
use super::task_lease::interval;
use super::{card, corrupt, error_kind};
use metalbot_core::domain::common_cause::Shared;
use metalbot_core::domain::error_kind::ErrorKind;
use metalbot_core::domain::host::HostName;
use metalbot_core::domain::ids::{BatchId, JobId, TicketId};
use metalbot_core::domain::ticket_view::TicketView;
use metalbot_core::domain::triage::{Source, Standing, TicketTarget};

/// Advisory lock of whoever decides which failure belongs to which ticket, in the key space of the
/// fleet's lock (`store::lock`).
const PLACING: (i32, i32) = (0x4d42, 3);

/// A ticket of the same signature as a failure.
#[derive(Clone, Debug)]
pub struct KnownTicket {
    pub id: TicketId,
    /// Key and address, once it is filed.
    pub filed: Option<(String, String)>,
    pub shared: Option<Shared>,
    pub standing: Standing,
    /// Time since a host of it failed last.
    pub quiet_for: Duration,
}

/// A ticket to be filed.
#[derive(Clone, Debug)]
pub struct NewTicket<'a> {
    /// Name of the ticket, in Jira's labels, too.
    pub fingerprint: &'a str,
    /// First batch with a failure for it.
    pub batch: BatchId,
    pub error_kind: ErrorKind,
    pub target: &'a TicketTarget,
    /// Rule that chose the target, for people.
    pub rule: &'a str,
    pub signature: &'a str,
    pub shared: Option<&'a Shared>,
}

/// A host of a ticket as it failed in one batch.
#[derive(Clone, Debug)]
pub struct NewHost<'a> {
    pub job: JobId,
    pub source: &'a Source,
    pub error_kind: ErrorKind,
    pub error: &'a str,
}

/// Lets one transaction at a time decide which failures belong together.
pub async fn lock(tx: &mut PgTransaction<'_>) -> sqlx::Result<()> {
    let (class, lock) = PLACING;
    sqlx::query!("select pg_advisory_xact_lock($1, $2)", class, lock).execute(&mut **tx).await?;
    Ok(())
}

/// The tickets of a signature that are open, were closed no longer ago than `recent`, or have one of
/// these hosts; the newest first.
pub async fn of_signature(
    conn: &mut PgConnection,
    signature: &str,
    recent: Duration,
    hosts: &[&HostName],
) -> sqlx::Result<Vec<KnownTicket>> {
    let hosts: Vec<String> = hosts.iter().map(|host| host.to_string()).collect();
    let rows = sqlx::query!(
        r#"select id, jira_key, url, shared as "shared: Json<Shared>", closed_as,
                  extract(epoch from now() - closed_at)::float8 as closed_ago,
                  extract(epoch from now() - last_failed_at)::float8 as "quiet!"
           from ticket
           where signature = $1 and (
               closed_as is null or closed_at > now() - $2::interval
               or exists (select from ticket_host join job on job.id = job_id
                          where ticket_id = ticket.id and job.host = any($3)))
           order by id desc"#,
        signature,
        interval(recent) as _,
        &hosts
    )
    .fetch_all(conn)
    .await?;
    let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
    Ok(rows
        .into_iter()
        .map(|row| KnownTicket {
            id: TicketId(row.id),
            filed: row.jira_key.zip(row.url),
            shared: row.shared.map(|shared| shared.0),
            standing: match row.closed_as.as_deref() {
                None => Standing::Open,
                Some("declined") => Standing::Declined,
                Some("gone") => Standing::Gone,
                Some(_) => Standing::Done { since: seconds(row.closed_ago.unwrap_or(0.0)) },
            },
            quiet_for: seconds(row.quiet),
        })
        .collect())
}

/// Stores a new ticket. `None`: one with this fingerprint is there.
pub async fn insert(
    tx: &mut PgTransaction<'_>,
    new: &NewTicket<'_>,
) -> sqlx::Result<Option<TicketId>> {
    let id = sqlx::query_scalar!(
        "insert into ticket (fingerprint, batch_id, error_kind, target, rule, signature,
             shared)
         values ($1, $2, $3, $4, $5, $6, $7) on conflict (fingerprint) do nothing
         returning id",
        new.fingerprint,
        new.batch.0,
        new.error_kind.as_str(),
        Json(new.target) as _,
        new.rule,
        new.signature,
        new.shared.map(Json) as _
    )
    .fetch_optional(&mut **tx)
    .await?;
    notify(tx, Topic::Outbox).await?;
    Ok(id.map(TicketId))
}

/// Adds failures of a batch; what was there already stays. Returns how many were new.
pub async fn add_hosts(
    tx: &mut PgTransaction<'_>,
    ticket: TicketId,
    batch: BatchId,
    hosts: &[NewHost<'_>],
) -> sqlx::Result<u64> {
    let jobs: Vec<i64> = hosts.iter().map(|host| host.job.0).collect();
    let sources: Vec<Value> =
        hosts.iter().map(|host| serde_json::to_value(host.source).unwrap_or_default()).collect();
    let kinds: Vec<String> = hosts.iter().map(|host| host.error_kind.to_string()).collect();
    let errors: Vec<String> = hosts.iter().map(|host| host.error.to_owned()).collect();
    let added = sqlx::query!(
        "insert into ticket_host (ticket_id, job_id, batch_id, source, error_kind, error)
         select $1, job_id, $2, source, kind, error
         from unnest($3::bigint[], $4::jsonb[], $5::text[], $6::text[])
              as new (job_id, source, kind, error)
         on conflict do nothing",
        ticket.0,
        batch.0,
        &jobs,
        &sources,
        &kinds,
        &errors
    )
    .execute(&mut **tx)
    .await?;
    Ok(added.rows_affected())
}

/// Marks a ticket that is for more failures than Jira knows: it is written again as soon as possible.
pub async fn grow(
    tx: &mut PgTransaction<'_>,
    ticket: TicketId,
    shared: Option<&Shared>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update ticket set version = version + 1, shared = $2, last_failed_at = now(),
             due_at = case when refused_at is null then due_at else now() end
         where id = $1",
        ticket.0,
        shared.map(Json) as _
    )
    .execute(&mut **tx)
    .await?;
    notify(tx, Topic::Outbox).await
}

/// Marks a ticket of which Jira no longer shows all that is known.
pub async fn rewrite(tx: &mut PgTransaction<'_>, ticket: TicketId) -> sqlx::Result<()> {
    sqlx::query!("update ticket set version = version + 1 where id = $1", ticket.0)
        .execute(&mut **tx)
        .await?;
    notify(tx, Topic::Outbox).await
}

/// Queues a comment. `facts` says what it is about: one that says the same as the last is not made.
pub async fn comment(
    tx: &mut PgTransaction<'_>,
    ticket: TicketId,
    body: &Value,
    facts: &str,
) -> sqlx::Result<bool> {
    let news = sqlx::query!(
        "update ticket set last_comment = $2 where id = $1 and last_comment is distinct from $2",
        ticket.0,
        facts
    )
    .execute(&mut **tx)
    .await?;
    if news.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query!("insert into ticket_comment (ticket_id, body) values ($1, $2)", ticket.0, body)
        .execute(&mut **tx)
        .await?;
    notify(tx, Topic::Outbox).await?;
    Ok(true)
}

/// State to which a ticket is to be moved in its workflow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TicketTransition {
    Open,
    Closed,
}

impl TicketTransition {
    fn as_str(self) -> &'static str {
        match self {
            TicketTransition::Open => "open",
            TicketTransition::Closed => "closed",
        }
    }

    pub(super) fn parse(text: &str) -> Option<TicketTransition> {
        [TicketTransition::Open, TicketTransition::Closed]
            .into_iter()
            .find(|to| to.as_str() == text)
    }
}

/// Asks for a transition. A ticket that is opened again counts as open from now on.
pub async fn request_transition(
    tx: &mut PgTransaction<'_>,
    ticket: TicketId,
    to: TicketTransition,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update ticket set pending_transition = $2,
             closed_as = case when $2 = 'open' then null else closed_as end,
             closed_at = case when $2 = 'open' then null else closed_at end,
             verify_at = case when $2 = 'open' then null else verify_at end
         where id = $1",
        ticket.0,
        to.as_str()
    )
    .execute(&mut **tx)
    .await?;
    notify(tx, Topic::Outbox).await
}

/// Batches with hosts on the ticket, oldest first.
pub async fn batches(conn: &mut PgConnection, ticket: TicketId) -> sqlx::Result<Vec<BatchId>> {
    let ids = sqlx::query_scalar!(
        "select distinct batch_id from ticket_host where ticket_id = $1 order by batch_id",
        ticket.0
    )
    .fetch_all(conn)
    .await?;
    Ok(ids.into_iter().map(BatchId).collect())
}

/// Marks the cards of the ticket's batches as out of date.
pub async fn touch_cards(conn: &mut PgConnection, ticket: TicketId) -> sqlx::Result<()> {
    for batch in batches(&mut *conn, ticket).await? {
        card::touch(&mut *conn, batch).await?;
    }
    Ok(())
}

/// The tickets of a batch as people see them.
pub async fn views(conn: &mut PgConnection, batch: BatchId) -> sqlx::Result<Vec<TicketView>> {
    let rows = sqlx::query!(
        r#"select jira_key, url, error_kind, status, assignee, attempts, last_error,
                  refused_at is not null as "refused!"
           from ticket
           where batch_id = $1 or id in (select ticket_id from ticket_host where batch_id = $1)
           order by id"#,
        batch.0
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| TicketView {
            // One that is filed at the first try, a moment from now, need not be shown.
            waits: (row.jira_key.is_none() && (row.refused || row.attempts > 0))
                .then(|| row.last_error.unwrap_or_default()),
            key: row.jira_key.unwrap_or_default(),
            url: row.url.unwrap_or_default(),
            kind: error_kind(Some(&row.error_kind)),
            status: row.status,
            assignee: row.assignee,
            refused: row.refused,
        })
        .filter(|view| !view.key.is_empty() || view.waits.is_some())
        .collect())
}

/// One line of `metalbot operator tickets list`.
#[derive(Clone, Debug, serde::Serialize)]
pub struct TicketLine {
    pub fingerprint: String,
    /// `waiting`, `refused`, `open`, `done`, `declined` or `gone`.
    pub state: String,
    pub key: Option<String>,
    pub url: Option<String>,
    pub site: String,
    pub project: String,
    pub error_kind: ErrorKind,
    pub status: Option<String>,
    pub assignee: Option<String>,
    /// Reason why it waits or is refused.
    pub reason: Option<String>,
    /// Fields that Jira did not take, with its reasons.
    pub rejected_fields: Option<String>,
    /// Logins of people concerned whom Jira does not know.
    pub unknown_accounts: Vec<String>,
    pub batches: Vec<i64>,
    pub hosts: Vec<HostName>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// Tickets that wait, are refused or open; with `closed` also the others. The newest first.
pub async fn list(
    conn: &mut PgConnection,
    closed: bool,
    at_most: i64,
) -> sqlx::Result<Vec<TicketLine>> {
    sqlx::query!(
        r#"select fingerprint, jira_key, url, target as "target: Json<TicketTarget>", error_kind,
                  case when jira_key is null and refused_at is not null then 'refused'
                       when jira_key is null then 'waiting'
                       else coalesce(closed_as, 'open') end as "state!",
                  status, assignee, last_error, rejected_fields, unknown_accounts, created_at,
                  array(select distinct batch_id from ticket_host where ticket_id = ticket.id
                        order by 1) as "batches!",
                  array(select distinct host from ticket_host join job on job.id = job_id
                        where ticket_id = ticket.id order by 1) as "hosts!"
           from ticket where $1 or closed_as is null order by id desc limit $2"#,
        closed,
        at_most
    )
    .fetch_all(conn)
    .await?
    .into_iter()
    .map(|row| {
        let TicketTarget { site, project, .. } = row.target.0;
        let hosts = row.hosts.into_iter().map(|host| host.parse().map_err(corrupt));
        Ok(TicketLine {
            fingerprint: row.fingerprint,
            state: row.state,
            key: row.jira_key,
            url: row.url,
            site,
            project,
            error_kind: error_kind(Some(&row.error_kind)),
            status: row.status,
            assignee: row.assignee,
            reason: row.last_error,
            rejected_fields: row.rejected_fields,
            unknown_accounts: row.unknown_accounts,
            batches: row.batches,
            hosts: hosts.collect::<sqlx::Result<_>>()?,
            created_at: row.created_at,
        })
    })
    .collect()
}

/// Numbers of tickets, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TicketCounts {
    pub waiting: i64,
    pub refused: i64,
    pub open: i64,
    /// People concerned of open tickets whom Jira does not know.
    pub unknown_accounts: i64,
}

/// Counts tickets that are not closed.
pub async fn counts(pool: &PgPool) -> sqlx::Result<TicketCounts> {
    sqlx::query_as!(
        TicketCounts,
        r#"select count(*) filter (where jira_key is null and refused_at is null) as "waiting!",
                  count(*) filter (where jira_key is null and refused_at is not null) as "refused!",
                  count(*) filter (where jira_key is not null) as "open!",
                  coalesce(sum(cardinality(unknown_accounts)), 0) as "unknown_accounts!"
           from ticket where closed_as is null"#
    )
    .fetch_one(pool)
    .await
}

/// Common property of the ticket's hosts.
pub async fn shared(conn: &mut PgConnection, ticket: TicketId) -> sqlx::Result<Option<Shared>> {
    let shared = sqlx::query_scalar!(
        r#"select shared as "shared: Json<Shared>" from ticket where id = $1"#,
        ticket.0
    )
    .fetch_one(conn)
    .await?;
    Ok(shared.map(|shared| shared.0))
}

/// Returns whether the ticket is open, by the last poll.
pub async fn is_open(conn: &mut PgConnection, ticket: TicketId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select closed_as is null as "open!" from ticket where id = $1"#,
        ticket.0
    )
    .fetch_one(conn)
    .await
}

/// Tickets of a batch's hosts, each with its state as [`list`] names it.
pub async fn of_batch_hosts(
    conn: &mut PgConnection,
    batch: BatchId,
) -> sqlx::Result<Vec<(HostName, TicketId, String, Option<(String, String)>)>> {
    sqlx::query!(
        r#"select job.host, ticket.id, jira_key, url,
                  case when jira_key is null and refused_at is not null then 'refused'
                       when jira_key is null then 'waiting'
                       else coalesce(closed_as, 'open') end as "state!"
           from ticket_host join ticket on ticket.id = ticket_id join job on job.id = job_id
           where ticket_host.batch_id = $1 order by job.host"#,
        batch.0
    )
    .fetch_all(conn)
    .await?
    .into_iter()
    .map(|row| {
        let host = row.host.parse().map_err(corrupt)?;
        Ok((host, TicketId(row.id), row.state, row.jira_key.zip(row.url)))
    })
    .collect()
}

//! States of filed tickets, as they were read from Jira.

use std::time::Duration;

use sqlx::types::Json;
use sqlx::{PgPool, PgTransaction};
use time::OffsetDateTime;

use super::relay_scope::RelayScope;
use super::task_lease::interval;
use metalbot_core::domain::ids::TicketId;
use metalbot_core::domain::placement::ReachableDatacenters;
use metalbot_core::domain::triage::TicketTarget;

/// Way in which a ticket was closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClosedAs {
    Done,
    /// Nobody will fix it.
    Declined,
    /// Jira does not have it any more, or not for us.
    Gone,
}

impl ClosedAs {
    fn as_str(self) -> &'static str {
        match self {
            ClosedAs::Done => "done",
            ClosedAs::Declined => "declined",
            ClosedAs::Gone => "gone",
        }
    }

    fn parse(text: &str) -> Option<ClosedAs> {
        [ClosedAs::Done, ClosedAs::Declined, ClosedAs::Gone]
            .into_iter()
            .find(|one| one.as_str() == text)
    }
}

/// A ticket to be polled, as it was seen last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolledTicket {
    pub id: TicketId,
    pub site: String,
    pub key: String,
    pub url: String,
    pub status: Option<String>,
    pub resolution: Option<String>,
    pub assignee: Option<String>,
    pub closed_as: Option<ClosedAs>,
    pub last_failed_at: OffsetDateTime,
}

/// Tickets that were not polled for so long, the longest first. A closed one may be opened again by a
/// person: it is polled ten times as rarely, for as long as `after_close`.
pub async fn due(
    pool: &PgPool,
    scope: &RelayScope,
    every: Duration,
    after_close: Duration,
    at_most: i64,
) -> sqlx::Result<Vec<PolledTicket>> {
    let (sites, belongs) = scope.parts();
    let rows = sqlx::query!(
        r#"select id, target as "target: Json<TicketTarget>", jira_key as "key!", url as "url!", status,
                  resolution, assignee, closed_as, last_failed_at
           from ticket
           where jira_key is not null and pending_transition is null
             and (target ->> 'site' = any($4)) = $5
             and (closed_as is null and polled_at <= now() - $1::interval
                  or closed_at > now() - $2::interval and polled_at <= now() - $1::interval * 10)
           order by polled_at limit $3"#,
        interval(every),
        interval(after_close),
        at_most,
        &sites,
        belongs
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| PolledTicket {
            id: TicketId(row.id),
            site: row.target.0.site,
            key: row.key,
            url: row.url,
            status: row.status,
            resolution: row.resolution,
            assignee: row.assignee,
            closed_as: row.closed_as.as_deref().and_then(ClosedAs::parse),
            last_failed_at: row.last_failed_at,
        })
        .collect())
}

/// Postpones tickets whose state could not be read now to their next turn.
pub async fn skip(pool: &PgPool, ids: &[TicketId]) -> sqlx::Result<()> {
    let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
    sqlx::query!("update ticket set polled_at = now() where id = any($1)", &ids)
        .execute(pool)
        .await?;
    Ok(())
}

/// Stores what was read; returns the time, which names the notices of it. `None`: something else was
/// stored since `before` was read.
pub async fn saw(
    tx: &mut PgTransaction<'_>,
    before: &PolledTicket,
    now: &PolledTicket,
) -> sqlx::Result<Option<OffsetDateTime>> {
    sqlx::query_scalar!(
        "update ticket set jira_key = $2, url = $3, status = $4, resolution = $5, assignee = $6,
             closed_as = $7, polled_at = now(),
             closed_at = case when $7::text is null then null
                         when closed_as is not distinct from $7 then closed_at else now() end,
             verify_at = case when $7 is distinct from 'done' then null
                          when closed_as is not distinct from $7 then verify_at else now() end,
             verified_datacenters = case when closed_as is not distinct from $7
                                    then verified_datacenters else '{}' end
         where id = $1 and pending_transition is null and closed_as is not distinct from $8
         returning polled_at",
        before.id.0,
        now.key,
        now.url,
        now.status,
        now.resolution,
        now.assignee,
        now.closed_as.map(ClosedAs::as_str),
        before.closed_as.map(ClosedAs::as_str)
    )
    .fetch_optional(&mut **tx)
    .await
}

/// A ticket that is done, whose hosts are to be verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TicketToVerify {
    pub ticket: TicketId,
    pub key: String,
    pub url: String,
    /// Time at which it was found to be done.
    pub since: OffsetDateTime,
    /// Datacenters whose hosts have been verified since.
    pub verified: Vec<String>,
}

/// Tickets with hosts in these datacenters that are to be verified, the longest waiting first.
pub async fn to_verify(
    pool: &PgPool,
    reachable: &ReachableDatacenters,
    at_most: i64,
) -> sqlx::Result<Vec<TicketToVerify>> {
    let rows = sqlx::query!(
        r#"select id, jira_key as "key!", url as "url!", verify_at as "since!",
                  verified_datacenters as verified
           from ticket
           where verify_at is not null and jira_key is not null
             -- One whose hosts have all succeeded meanwhile is anybody's.
             and ($2::text[] is null or (
                 select coalesce(bool_or(datacenter = any($2)), true)
                 from ticket_host join job on job.id = job_id
                 where ticket_id = ticket.id and resolved_at is null
                   and datacenter <> all(verified_datacenters)))
           order by verify_at limit $1"#,
        at_most,
        reachable.names()
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| TicketToVerify {
            ticket: TicketId(row.id),
            key: row.key,
            url: row.url,
            since: row.since,
            verified: row.verified,
        })
        .collect())
}

/// Stores that the ticket's hosts have been verified, or with `part` those of some datacenters alone.
/// `false`: meanwhile somebody has opened it again, or verified others of its hosts.
pub async fn verified(
    tx: &mut PgTransaction<'_>,
    one: &TicketToVerify,
    part: Option<&[String]>,
) -> sqlx::Result<bool> {
    let done = sqlx::query!(
        "update ticket set
             verify_at = case when $4::text[] is null then null else verify_at end,
             verified_datacenters = case when $4 is null then '{}'
                                    else verified_datacenters || $4 end
         where id = $1 and verify_at = $2 and verified_datacenters = $3",
        one.ticket.0,
        one.since,
        &one.verified,
        part
    )
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

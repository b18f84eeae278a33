//! What Jira says about the tickets that are filed.

use std::time::Duration;

use sqlx::types::Json;
use sqlx::{PgPool, PgTransaction};
use time::OffsetDateTime;

use super::share::Share;
use super::task::interval;
use crate::domain::ids::TicketId;
use crate::domain::triage::Target;

/// How a ticket ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    Done,
    /// Nobody will mend it.
    Declined,
    /// Jira does not have it any more, or not for us.
    Gone,
}

impl Ended {
    fn as_str(self) -> &'static str {
        match self {
            Ended::Done => "done",
            Ended::Declined => "declined",
            Ended::Gone => "gone",
        }
    }

    fn parse(text: &str) -> Option<Ended> {
        [Ended::Done, Ended::Declined, Ended::Gone].into_iter().find(|one| one.as_str() == text)
    }
}

/// A ticket to be looked at, as it was seen last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    pub id: TicketId,
    /// None for one of a former version, which went to the default site.
    pub site: Option<String>,
    pub key: String,
    pub url: String,
    pub status: Option<String>,
    pub resolution: Option<String>,
    pub assignee: Option<String>,
    pub ended: Option<Ended>,
    pub last_failed_at: OffsetDateTime,
}

/// Tickets that nobody has looked at for so long, the longest first. One that has ended may be
/// opened again by a person: it is looked at ten times as rarely, for as long as `after_end`.
pub async fn due(
    pool: &PgPool,
    share: &Share,
    every: Duration,
    after_end: Duration,
    at_most: i64,
) -> sqlx::Result<Vec<Seen>> {
    let (sites, belongs) = share.parts();
    let rows = sqlx::query!(
        r#"select id, target as "target: Json<Target>", jira_key as "key!", url as "url!", status,
                  resolution, assignee, ended, last_failed_at
           from ticket
           where jira_key is not null and move_to is null
             and (coalesce(target ->> 'site', '') = any($4)) = $5
             and (ended is null and looked_at <= now() - $1::interval
                  or ended_at > now() - $2::interval and looked_at <= now() - $1::interval * 10)
           order by looked_at limit $3"#,
        interval(every),
        interval(after_end),
        at_most,
        &sites,
        belongs
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Seen {
            id: TicketId(row.id),
            site: row.target.map(|target| target.0.site),
            key: row.key,
            url: row.url,
            status: row.status,
            resolution: row.resolution,
            assignee: row.assignee,
            ended: row.ended.as_deref().and_then(Ended::parse),
            last_failed_at: row.last_failed_at,
        })
        .collect())
}

/// Nothing could be learned of these now; they are looked at again in their time.
pub async fn skip(pool: &PgPool, ids: &[TicketId]) -> sqlx::Result<()> {
    let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
    sqlx::query!("update ticket set looked_at = now() where id = any($1)", &ids)
        .execute(pool)
        .await?;
    Ok(())
}

/// Writes down what was seen; returns the moment, which names what follows from it. `None`: somebody
/// has written something else since `before` was read.
pub async fn saw(
    tx: &mut PgTransaction<'_>,
    before: &Seen,
    now: &Seen,
) -> sqlx::Result<Option<OffsetDateTime>> {
    sqlx::query_scalar!(
        "update ticket set jira_key = $2, url = $3, status = $4, resolution = $5, assignee = $6,
             ended = $7, looked_at = now(),
             ended_at = case when $7::text is null then null
                        when ended is not distinct from $7 then ended_at else now() end,
             recheck_at = case when $7 is distinct from 'done' then null
                          when ended is not distinct from $7 then recheck_at else now() end
         where id = $1 and move_to is null and ended is not distinct from $8
         returning looked_at",
        before.id.0,
        now.key,
        now.url,
        now.status,
        now.resolution,
        now.assignee,
        now.ended.map(Ended::as_str),
        before.ended.map(Ended::as_str)
    )
    .fetch_optional(&mut **tx)
    .await
}

/// A ticket that is done, whose hosts are to be looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recheck {
    pub ticket: TicketId,
    pub key: String,
    pub url: String,
    /// When it was found to be done.
    pub since: OffsetDateTime,
}

/// Tickets whose hosts are to be looked at, the longest waiting first.
pub async fn to_recheck(pool: &PgPool, at_most: i64) -> sqlx::Result<Vec<Recheck>> {
    let rows = sqlx::query!(
        r#"select id, jira_key as "key!", url as "url!", recheck_at as "since!" from ticket
           where recheck_at is not null and jira_key is not null
           order by recheck_at limit $1"#,
        at_most
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Recheck {
            ticket: TicketId(row.id),
            key: row.key,
            url: row.url,
            since: row.since,
        })
        .collect())
}

/// The ticket's hosts have been looked at. `false`: meanwhile somebody has opened it again.
pub async fn rechecked(tx: &mut PgTransaction<'_>, one: &Recheck) -> sqlx::Result<bool> {
    let done = sqlx::query!(
        "update ticket set recheck_at = null where id = $1 and recheck_at = $2",
        one.ticket.0,
        one.since
    )
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

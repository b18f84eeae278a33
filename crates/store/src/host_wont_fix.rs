//! Hosts that nobody will fix: their ticket was closed so. The row goes when the host succeeds.

use sqlx::{PgConnection, PgTransaction};

use super::corrupt;
use metalbot_core::domain::host::HostName;
use metalbot_core::domain::ids::{BatchId, TicketId};
use metalbot_core::domain::ticket_view::WontFixView;

/// Marks the ticket's hosts that have not succeeded since.
pub async fn set(tx: &mut PgTransaction<'_>, ticket: TicketId) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into host_wont_fix (host, ticket_id)
         select distinct job.host, ticket_host.ticket_id
         from ticket_host join job on job.id = job_id
         where ticket_host.ticket_id = $1 and resolved_at is null
         on conflict (host) do update set ticket_id = excluded.ticket_id, marked_at = now()",
        ticket.0
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Takes the marks of a ticket away: it is no longer one that nobody will fix.
pub async fn clear_of(tx: &mut PgTransaction<'_>, ticket: TicketId) -> sqlx::Result<()> {
    sqlx::query!("delete from host_wont_fix where ticket_id = $1", ticket.0)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Takes the marks of hosts away.
pub async fn clear(tx: &mut PgTransaction<'_>, hosts: &[HostName]) -> sqlx::Result<()> {
    let names: Vec<String> = hosts.iter().map(|host| host.as_str().to_owned()).collect();
    sqlx::query!("delete from host_wont_fix where host = any($1)", &names)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// The marked ones of these hosts.
pub async fn of_hosts(
    conn: &mut PgConnection,
    hosts: &[HostName],
) -> sqlx::Result<Vec<WontFixView>> {
    let names: Vec<String> = hosts.iter().map(|host| host.as_str().to_owned()).collect();
    sqlx::query!(
        r#"select host, jira_key as "key!", url as "url!", resolution
           from host_wont_fix join ticket on ticket.id = ticket_id
           where host = any($1) and jira_key is not null order by host"#,
        &names
    )
    .fetch_all(conn)
    .await?
    .into_iter()
    .map(|row| {
        Ok(WontFixView {
            host: row.host.parse().map_err(corrupt)?,
            key: row.key,
            url: row.url,
            resolution: row.resolution.unwrap_or_default(),
        })
    })
    .collect()
}

/// The marked hosts of a batch that are still to be worked on.
pub async fn of_batch(conn: &mut PgConnection, batch: BatchId) -> sqlx::Result<Vec<WontFixView>> {
    let hosts = sqlx::query_scalar!(
        "select job.host from job join host_wont_fix on host_wont_fix.host = job.host
         where batch_id = $1 and state in ('pending', 'queued', 'running', 'waiting')",
        batch.0
    )
    .fetch_all(&mut *conn)
    .await?;
    let hosts: Result<Vec<HostName>, _> =
        hosts.into_iter().map(|host| host.parse().map_err(corrupt)).collect();
    of_hosts(conn, &hosts?).await
}

//! `metalbot tickets`: what waits for Jira, and which rule sends a failure where.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use sqlx::{PgConnection, PgPool};

use crate::config::Config;
use crate::runtime::database::Database;
use crate::ticket::explain::{self, Explained, ExplainedTicket};
use metalbot_core::domain::host::fold;
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::triage::TicketUpdate;
use metalbot_store::ticket::TicketLine;
use metalbot_store::{self as store, ticket};

/// Most tickets that one list shows.
const LISTED: i64 = 1000;

pub(super) async fn list(file: &Path, all: bool, json: bool) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    let (database, pool) = open(&config).await?;
    let tickets = ticket::list(&mut *pool.acquire().await?, all, LISTED).await?;
    close(database, pool).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&tickets)?);
    } else if tickets.is_empty() {
        println!("No ticket waits or is open.");
    } else {
        tickets.iter().for_each(|ticket| println!("{}", line(ticket)));
    }
    Ok(ExitCode::SUCCESS)
}

fn line(ticket: &TicketLine) -> String {
    let name = ticket.key.as_deref().unwrap_or(&ticket.project);
    let batches: Vec<String> = ticket.batches.iter().map(|id| BatchId(*id).to_string()).collect();
    let mut line = format!(
        "{:<9} {name:<10} {:<16} {} of {}",
        ticket.state,
        ticket.error_kind,
        fold(&ticket.hosts),
        batches.join(", ")
    );
    let status = [ticket.status.as_deref(), ticket.assignee.as_deref()];
    let status: Vec<&str> = status.into_iter().flatten().collect();
    if !status.is_empty() {
        line += &format!(" ({})", status.join(", "));
    }
    if let Some(reason) = &ticket.reason {
        line += &format!("\n          {reason}");
    }
    if let Some(rejected_fields) = &ticket.rejected_fields {
        line += &format!("\n          filed without: {rejected_fields}");
    }
    if !ticket.unknown_accounts.is_empty() {
        line += &format!("\n          nobody in Jira: {}", ticket.unknown_accounts.join(", "));
    }
    line
}

pub(super) async fn explain(file: &Path, batch: BatchId, json: bool) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    let routes = config.routes().context("no tickets are filed: there is no section [jira]")?;
    let (database, pool) = open(&config).await?;
    let mut conn = pool.acquire().await?;
    let found = explain_batch(&mut conn, &config, &routes, batch).await;
    drop(conn);
    close(database, pool).await?;
    let Some(explained) = found? else {
        eprintln!("there is no batch {batch}");
        return Ok(ExitCode::FAILURE);
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&explained)?);
    } else if explained.is_empty() {
        println!("No host of {batch} has failed.");
    } else {
        let default = &routes.default.site;
        explained.iter().for_each(|one| println!("{}", told(one, default)));
    }
    Ok(ExitCode::SUCCESS)
}

async fn explain_batch(
    conn: &mut PgConnection,
    config: &Config,
    routes: &metalbot_core::domain::triage::Routes,
    batch: BatchId,
) -> anyhow::Result<Option<Vec<Explained>>> {
    if store::batch::get(&mut *conn, batch).await?.is_none() {
        return Ok(None);
    }
    Ok(Some(explain::explain(conn, routes, &config.tickets, batch).await?))
}

fn told(one: &Explained, default_site: &str) -> String {
    let hosts = fold(&one.hosts);
    let because = match one.because.is_empty() {
        true => "no other rule matches".to_owned(),
        false => one.because.join(", "),
    };
    let shared = one.shared.as_ref().map_or_else(String::new, |shared| {
        format!("\n  in common: {} {}", shared.dimension.as_str(), shared.value)
    });
    let outcome = match &one.ticket {
        ExplainedTicket::Placed { state, key: Some(key), .. } => format!("is on {key} ({state})"),
        ExplainedTicket::Placed { state, .. } => {
            format!("is on a ticket that is not filed yet ({state})")
        }
        ExplainedTicket::Would { act, key, .. } => {
            let key = key.as_deref().unwrap_or("a ticket that waits to be filed");
            match act {
                TicketUpdate::New => "would get a new ticket".to_owned(),
                TicketUpdate::Join => format!("would be added to {key}"),
                TicketUpdate::Reopen => format!("would open {key} again"),
                TicketUpdate::Comment => format!("would be a comment on {key}, which stays closed"),
                TicketUpdate::Nothing => format!("would get none: {key} was closed for good"),
            }
        }
    };
    format!(
        "{hosts}: {} ({})\n  {} -> {}: {because}{shared}\n  {outcome}",
        one.error_kind,
        one.error,
        one.rule,
        one.target.name(default_site),
    )
}

async fn open(config: &Config) -> anyhow::Result<(Database, PgPool)> {
    let database = Database::open(config).await?;
    let pool = store::connect_lazy(&database.url, 2)?;
    Ok((database, pool))
}

async fn close(database: Database, pool: PgPool) -> anyhow::Result<()> {
    pool.close().await;
    database.close().await
}

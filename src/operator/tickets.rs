//! `metalbot operator tickets`: what waits for Jira, and which rule sends a failure where.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, ensure};

use super::database::OpenDatabase;
use super::output::print;
use crate::ticket::explain::{self, Explained, ExplainedTicket};
use metalbot_core::domain::host::fold;
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::triage::{Routes, TicketUpdate};
use metalbot_store::ticket::TicketLine;
use metalbot_store::{self as store, ticket};

/// Most tickets that one list shows.
const LISTED: i64 = 1000;

pub(super) async fn list(file: &Path, all: bool, json: bool) -> anyhow::Result<ExitCode> {
    let database = OpenDatabase::open(file).await?;
    let tickets = ticket::list(&mut *database.pool.acquire().await?, all, LISTED).await?;
    database.close().await?;
    print(&match tickets.is_empty() {
        _ if json => serde_json::to_string_pretty(&tickets)?,
        true => "No ticket waits or is open.".into(),
        false => tickets.iter().map(line).collect::<Vec<_>>().join("\n"),
    })?;
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
    let database = OpenDatabase::open(file).await?;
    let found = explain_batch(&database, batch).await;
    database.close().await?;
    let (routes, explained) = found?;
    let default = &routes.default.site;
    print(&match explained.is_empty() {
        _ if json => serde_json::to_string_pretty(&explained)?,
        true => format!("No host of {batch} has failed."),
        false => explained.iter().map(|one| told(one, default)).collect::<Vec<_>>().join("\n"),
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn explain_batch(
    database: &OpenDatabase,
    batch: BatchId,
) -> anyhow::Result<(Routes, Vec<Explained>)> {
    let config = &database.config;
    let routes = config.routes().context("no tickets are filed: there is no section [jira]")?;
    let mut conn = database.pool.acquire().await?;
    let known = store::batch::get(&mut conn, batch).await?.is_some();
    ensure!(known, "there is no batch {batch}");
    let explained = explain::explain(&mut conn, &routes, &config.tickets, batch).await?;
    Ok((routes, explained))
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

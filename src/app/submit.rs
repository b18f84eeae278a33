//! Stores a typed request as a batch, or as a refusal that says who holds the hosts.

use std::collections::BTreeSet;
use std::time::Instant;

use sqlx::PgTransaction;
use time::format_description::well_known::Rfc3339;

use super::error::{Conflict, NotFound};
use super::{App, Error, RequestContext};
use crate::identity::authz::{Authorised, Permission, authorise};
use crate::inventory::Inventory;
use crate::telemetry;
use metalbot_core::command::Submit;
use metalbot_core::domain::approval::{self, Needed, count_by_owner};
use metalbot_core::domain::batch::{BatchEvent, BatchState};
use metalbot_core::domain::host::{Host, HostName};
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::inbound::ChatLocation;
use metalbot_core::domain::job::JobState;
use metalbot_core::domain::overlap::{Overlap, overlap};
use metalbot_core::domain::reply::{Admitted, Refusal};
use metalbot_core::domain::rollout::{Start, WavePause};
use metalbot_core::domain::view::ApprovalView;
use metalbot_core::domain::workflow::{Plan, digest};
use metalbot_store::batch::{Batch, NewBatch};
use metalbot_store::job::NewJob;
use metalbot_store::notifier::{Topic, notify};
use metalbot_store::{self as store, claim, lock};

/// Outcome of a submission.
#[derive(Debug)]
pub enum Submitted {
    /// The batch was stored and holds its hosts.
    Admitted(Admitted),
    /// The batch was stored as refused, because other batches hold some of its hosts.
    Refused(Refusal),
}

/// Batch to be admitted, once its submitter and the approvals needed are known.
pub(super) struct Admission<'a> {
    pub(super) request: &'a Submit,
    /// The hosts of the request, in its order.
    pub(super) hosts: Vec<&'a Host>,
    pub(super) needed: Needed,
    /// Channel of the batch's card, if it gets one.
    pub(super) announced: Option<&'a ChatLocation>,
    pub(super) retry_of: Option<BatchId>,
}

/// Admits a batch that the person may submit: all of its hosts, or none.
pub async fn submit(
    tx: &mut PgTransaction<'_>,
    app: &App,
    ctx: &RequestContext,
    request: &Submit,
    retry_of: Option<BatchId>,
) -> Result<Submitted, Error> {
    let inventory = app.inventory.current();
    let hosts = known_hosts(&inventory, &request.hosts)?;
    let by_owner = count_by_owner(hosts.iter().map(|host| host.owner.as_str()));
    let owners: BTreeSet<String> = by_owner.keys().cloned().collect();
    let plan = &request.plan;
    let allowed = authorise(
        &app.policy,
        &ctx.principal,
        Permission::Submit { action: &plan.action, owners: &owners },
    )?;
    let needed = approval::requirements(&app.approvals, &plan.action, plan.risk, &by_owner);
    let admission =
        Admission { request, hosts, needed, announced: ctx.origin.location(), retry_of };
    admit(tx, app, ctx, allowed, admission).await
}

/// Stores the batch, with its claims or as refused.
pub(super) async fn admit(
    tx: &mut PgTransaction<'_>,
    app: &App,
    ctx: &RequestContext,
    allowed: Authorised,
    admission: Admission<'_>,
) -> Result<Submitted, Error> {
    let Admission { request, hosts, needed, announced, retry_of } = admission;
    let plan = &request.plan;
    let started = Instant::now();
    let claim_lock = lock::admission(tx, &request.hosts).await?;
    let found = overlap(&request.hosts, &claim::live(tx, &claim_lock).await?);
    let new = NewBatch {
        plan,
        digest: digest(plan, &request.hosts),
        submitter: allowed.login(),
        reason: request.reason.as_deref(),
        requirements: &needed.requirements,
        origin: &ctx.origin,
        announced,
        retry_of,
    };
    let mut batch = store::batch::insert(tx, &claim_lock, &new, &ctx.actor()).await?;
    let jobs: Vec<NewJob<'_>> = hosts
        .iter()
        .zip(plan.rollout.waves_of(hosts.len()))
        .map(|(host, wave)| NewJob { host, wave })
        .collect();

    metrics::histogram!(telemetry::ADMISSION_SECONDS).record(started.elapsed());
    if !found.held.is_empty() {
        store::job::insert(tx, &claim_lock, batch.id, &jobs, JobState::Skipped).await?;
        return refuse(tx, app, ctx, request, &mut batch, found).await;
    }
    store::job::insert(tx, &claim_lock, batch.id, &jobs, JobState::Pending).await?;
    if plan.checks.is_empty() {
        store::approval::pass_checks(tx, &mut batch, &needed, &ctx.actor()).await?;
    } else {
        // `executor::checker` goes on from here.
        store::card::touch(tx, batch.id).await?;
        notify(tx, Topic::Work).await?;
    }
    Ok(Submitted::Admitted(Admitted {
        batch: batch.id,
        action: plan.action.clone(),
        state: batch.state,
        hosts: request.hosts.clone(),
        digest: batch.digest.to_string(),
        approvals: match batch.state {
            BatchState::Checking => Vec::new(),
            _ => needed.requirements.iter().map(ApprovalView::lacking).collect(),
        },
    }))
}

/// Asks again for the hosts of a batch that failed, with the same plan.
pub async fn retry(
    tx: &mut PgTransaction<'_>,
    app: &App,
    ctx: &RequestContext,
    id: BatchId,
) -> Result<Submitted, Error> {
    let batch = existing(tx, id).await?;
    if !batch.state.is_final() {
        return Err(Conflict::NotEnded { batch: id, state: batch.state }.into());
    }
    let hosts = store::job::hosts_in(tx, id, JobState::Failed).await?;
    if hosts.is_empty() {
        return Err(match batch.state {
            BatchState::Succeeded => Conflict::NothingFailed(id).into(),
            _ => Conflict::NothingToRetry(id).into(),
        });
    }
    let mut plan = batch.plan;
    let Some(spec) = app.catalog.get(&plan.action) else {
        return Err(NotFound::Action(plan.action).into());
    };
    // The action may have been found more dangerous since.
    plan.risk = plan.risk.max(spec.risk);
    plan.rollout.countdown_secs = spec.countdown(app.limits.countdown).as_secs();
    // The start time was meant for the first batch.
    plan.rollout.start = None;
    let reason = batch.reason.or_else(|| Some(format!("retry of {id}")));
    submit(tx, app, ctx, &Submit { plan, hosts, reason }, Some(id)).await
}

async fn refuse(
    tx: &mut PgTransaction<'_>,
    app: &App,
    ctx: &RequestContext,
    request: &Submit,
    batch: &mut Batch,
    found: Overlap,
) -> Result<Submitted, Error> {
    let reason = found
        .held
        .iter()
        .map(|held| {
            let hosts = metalbot_core::domain::host::fold(&held.hosts);
            format!("{hosts} held by {} of {}", held.batch, held.submitter)
        })
        .collect::<Vec<_>>()
        .join("; ");
    store::batch::apply(tx, batch, BatchEvent::Refuse, &ctx.actor(), Some(&reason)).await?;
    let in_chat = app.catalog.get(&request.plan.action).is_some();
    let free_command = (!found.free.is_empty() && in_chat)
        .then(|| command_line(app, &request.plan, &found.free, request.reason.as_deref()));
    Ok(Submitted::Refused(Refusal {
        batch: batch.id,
        action: request.plan.action.clone(),
        hosts: request.hosts.clone(),
        held: found.held,
        free: found.free,
        free_command,
    }))
}

/// Locks and returns the batch. Fails with [`NotFound::Batch`] if there is none.
pub(super) async fn existing(tx: &mut PgTransaction<'_>, id: BatchId) -> Result<Batch, Error> {
    store::batch::lock(tx, id).await?.ok_or_else(|| NotFound::Batch(id).into())
}

/// Looks the hosts up in the inventory. Fails with [`NotFound::Hosts`]: a host can leave the
/// inventory after the command was parsed, or between a batch and its retry.
pub(super) fn known_hosts<'a>(
    inventory: &'a Inventory,
    names: &[HostName],
) -> Result<Vec<&'a Host>, Error> {
    let (mut known, mut gone) = (Vec::with_capacity(names.len()), Vec::new());
    for name in names {
        match inventory.get(name) {
            Some(host) => known.push(host),
            None => gone.push(name.clone()),
        }
    }
    if gone.is_empty() {
        return Ok(known);
    }
    Err(NotFound::Hosts(gone).into())
}

/// Writes the command that asks for the same plan on these hosts; arguments with default values are
/// left out.
pub(super) fn command_line(
    app: &App,
    plan: &Plan,
    hosts: &[HostName],
    reason: Option<&str>,
) -> String {
    let mut line = format!("/metal {} {}", plan.action, metalbot_core::domain::host::fold(hosts));
    let defaults = app.catalog.get(&plan.action).map(|spec| &spec.args);
    for (name, value) in &plan.params {
        let default = defaults.and_then(|args| args.get(name)).and_then(|arg| arg.default.as_ref());
        if default != Some(value) {
            line += &format!(" {name}={}", quoted(value));
        }
    }
    if !plan.rollout.waves.is_empty() {
        let waves: Vec<String> = plan.rollout.waves.iter().map(ToString::to_string).collect();
        line += &format!(" wave={}", waves.join(","));
    }
    match plan.rollout.wave_pause {
        Some(WavePause::Seconds(seconds)) => line += &format!(" wave-pause={seconds}s"),
        Some(WavePause::Manual) => line += " wave-pause=manual",
        None => {}
    }
    if let Some(most) = plan.rollout.max_concurrent {
        line += &format!(" max-concurrent={most}");
    }
    if let Some(budget) = plan.rollout.max_fail {
        line += &format!(" max-fail={budget}");
    }
    if let Some(start) = plan.rollout.start {
        let key = match start {
            Start::At(_) => "at",
            Start::NotBefore(_) => "not-before",
        };
        // RFC 3339 has no form for years beyond 9999, which no start can lie in.
        line += &format!(" {key}={}", start.time().format(&Rfc3339).unwrap_or_default());
    }
    if let Some(reason) = reason {
        line += &format!(" reason={}", quoted(reason));
    }
    line
}

fn quoted(value: &str) -> String {
    let plain = !value.is_empty()
        && value.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '%' | ','));
    if plain {
        value.to_owned()
    } else {
        format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

//! Changing the course of a batch: cancel, pause, resume, take hosts out, release quarantined ones.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgTransaction;

use super::decide::end;
use super::error::{Conflict, NotFound};
use super::submit::existing;
use super::{App, Error, RequestContext};
use crate::identity::authz::{Authorised, Permission, authorise};
use metalbot_core::domain::approval::{self, count_by_owner};
use metalbot_core::domain::batch::{BatchEvent, BatchState};
use metalbot_core::domain::course::ACT_LIFETIME;
use metalbot_core::domain::event::{EventBody, PauseCause};
use metalbot_core::domain::host::HostName;
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::job::JobEvent;
use metalbot_core::domain::workflow::digest;
use metalbot_store::batch::Batch;
use metalbot_store::{self as store, outbox};

/// Ends a batch. Hosts that were touched are brought to a safe end, and no other is touched. People are
/// told so when nothing can leave any more that was allowed before.
pub async fn cancel(
    tx: &mut PgTransaction<'_>,
    app: &App,
    ctx: &RequestContext,
    id: BatchId,
) -> Result<(), Error> {
    let mut batch = stoppable(tx, app, ctx, id).await?.0;
    let reason = format!("cancelled by {}", ctx.login());
    end(tx, &mut batch, BatchEvent::Cancel, &ctx.actor(), Some(&reason)).await?;
    let finishing = store::job::state_counts(tx, id).await?.running;
    tell(tx, ctx, id, EventBody::Cancelled { by: ctx.login().to_owned(), finishing }).await?;
    if finishing > 0 {
        outbox::hold_back(tx, &ctx.key, ACT_LIFETIME).await?;
    }
    Ok(())
}

/// Starts no further host until somebody resumes.
pub async fn pause(
    tx: &mut PgTransaction<'_>,
    app: &App,
    ctx: &RequestContext,
    id: BatchId,
) -> Result<(), Error> {
    let mut batch = stoppable(tx, app, ctx, id).await?.0;
    let reason = format!("paused by {}", ctx.login());
    store::batch::apply(tx, &mut batch, BatchEvent::Pause, &ctx.actor(), Some(&reason)).await?;
    store::job::apply(tx, id, JobEvent::Unqueue, None, &ctx.actor()).await?;
    let cause = PauseCause::Person { by: ctx.login().to_owned() };
    tell(tx, ctx, id, EventBody::Paused { pause_number: batch.pause_count, cause }).await?;
    if store::job::state_counts(tx, id).await?.running > 0 {
        outbox::hold_back(tx, &ctx.key, ACT_LIFETIME).await?;
    }
    Ok(())
}

/// Resumes a paused batch; the failures so far no longer count against its budget. `seen` is the
/// number of the pause that the person saw, if the request carries it (a button does, a command
/// does not).
pub async fn resume(
    tx: &mut PgTransaction<'_>,
    app: &App,
    ctx: &RequestContext,
    id: BatchId,
    seen: Option<i32>,
) -> Result<(), Error> {
    let mut batch = steerable(tx, app, ctx, id).await?.0;
    if batch.state == BatchState::Paused && seen.is_some_and(|seen| seen != batch.pause_count) {
        return Err(Conflict::PausedAgain(id).into());
    }
    if batch.lacks_approval() {
        return Err(Conflict::ApprovalLost(id).into());
    }
    store::batch::apply(tx, &mut batch, BatchEvent::Resume, &ctx.actor(), None).await?;
    let counts = store::job::state_counts(tx, id).await?;
    let failures = counts.failed + counts.quarantined;
    store::batch::excuse_failures(tx, &mut batch, failures.cast_signed()).await?;
    tell(tx, ctx, id, EventBody::Resumed { by: ctx.login().to_owned() }).await
}

/// Takes hosts out of a batch that waits for approval. This changes the plan, so approvals that
/// were given no longer count.
pub async fn drop_hosts(
    tx: &mut PgTransaction<'_>,
    app: &App,
    ctx: &RequestContext,
    id: BatchId,
    hosts: &[HostName],
) -> Result<(), Error> {
    let (mut batch, _) = steerable(tx, app, ctx, id).await?;
    if batch.state != BatchState::AwaitingApproval {
        return Err(Conflict::DropTooLate { batch: id, state: batch.state }.into());
    }
    let before = store::job::hosts(tx, id).await?;
    let strangers: Vec<HostName> =
        hosts.iter().filter(|host| !before.iter().any(|(own, _)| own == *host)).cloned().collect();
    if !strangers.is_empty() {
        return Err(NotFound::HostsInBatch { batch: id, hosts: strangers }.into());
    }
    if hosts.len() == before.len() {
        return Err(Conflict::DropLeavesNone(id).into());
    }
    let dropped = store::job::apply(tx, id, JobEvent::Skip, Some(hosts), &ctx.actor()).await?;
    let left: Vec<(HostName, String)> =
        before.into_iter().filter(|(host, _)| !hosts.contains(host)).collect();
    let by_owner = count_by_owner(left.iter().map(|(_, owner)| owner.as_str()));
    let plan = &batch.plan;
    let needed = approval::requirements(&app.approvals, &plan.action, plan.risk, &by_owner);
    let changed = digest(plan, left.iter().map(|(host, _)| host));
    let voided = store::decision::standing(tx, id)
        .await?
        .into_iter()
        .filter(|decision| decision.digest == batch.digest)
        .map(|decision| decision.login)
        .collect();
    let nobody_left = needed.requirements.is_empty();
    store::job::cut_waves(tx, id, batch.wave, &batch.plan.rollout).await?;
    store::plan::change(tx, &mut batch, changed, needed.requirements).await?;
    if nobody_left {
        let nobody = Some("no approval is needed");
        store::batch::apply(tx, &mut batch, BatchEvent::Approve, &ctx.actor(), nobody).await?;
    }
    tell(tx, ctx, id, EventBody::HostsDropped { by: ctx.login().to_owned(), dropped, voided }).await
}

/// Releases hosts that are quarantined, or counted as down, after somebody has looked at them.
/// Returns their batches.
pub async fn release(
    tx: &mut PgTransaction<'_>,
    app: &App,
    ctx: &RequestContext,
    hosts: &[HostName],
) -> Result<Vec<BatchId>, Error> {
    let found = store::job::releasable(tx, hosts).await?;
    let others: Vec<HostName> = hosts
        .iter()
        .filter(|host| !found.iter().any(|(_, held, _)| held == *host))
        .cloned()
        .collect();
    if !others.is_empty() {
        return Err(Conflict::NotReleasable(others).into());
    }
    let owners: BTreeSet<String> = found.iter().map(|(_, _, owner)| owner.clone()).collect();
    let _: Authorised =
        authorise(&app.policy, &ctx.principal, Permission::Release { owners: &owners })?;
    let mut by_batch: BTreeMap<BatchId, Vec<HostName>> = BTreeMap::new();
    for (batch, host, _) in found {
        by_batch.entry(batch).or_default().push(host);
    }
    let actor = ctx.actor();
    for batch in by_batch.keys() {
        store::batch::lock(tx, *batch).await?;
    }
    let batches: Vec<BatchId> = by_batch.keys().copied().collect();
    store::job::lock(tx, &batches, hosts).await?;
    for (batch, hosts) in &by_batch {
        let mut freed =
            store::job::apply(tx, *batch, JobEvent::Release, Some(hosts), &actor).await?;
        freed.extend(store::caps::let_go(tx, *batch, hosts).await?);
        freed.sort();
        if freed.is_empty() {
            // Another request released them first.
            continue;
        }
        let body = EventBody::Released { by: ctx.login().to_owned(), hosts: freed };
        let key = format!("{}:{}", &ctx.key, batch.0);
        outbox::event(tx, &key, *batch, body).await?;
    }
    Ok(by_batch.into_keys().collect())
}

/// Locks a batch for a person who may steer it.
async fn steerable(
    tx: &mut PgTransaction<'_>,
    app: &App,
    ctx: &RequestContext,
    id: BatchId,
) -> Result<(Batch, Authorised), Error> {
    let batch = existing(tx, id).await?;
    let owners = store::job::hosts(tx, id).await?.into_iter().map(|(_, owner)| owner).collect();
    let verb = Permission::Control { submitter: &batch.submitter, owners: &owners };
    let proof = authorise(&app.policy, &ctx.principal, verb)?;
    Ok((batch, proof))
}

/// Locks a batch for a person who may at least stop it: more people may stop than may steer.
async fn stoppable(
    tx: &mut PgTransaction<'_>,
    app: &App,
    ctx: &RequestContext,
    id: BatchId,
) -> Result<(Batch, Authorised), Error> {
    let batch = existing(tx, id).await?;
    let owners = store::job::hosts(tx, id).await?.into_iter().map(|(_, owner)| owner).collect();
    let approvers = batch.requirements.iter().flat_map(|part| part.from.iter().cloned()).collect();
    let verb = Permission::Stop {
        submitter: &batch.submitter,
        owners: &owners,
        approvers: &approvers,
        action: &batch.plan.action,
    };
    let proof = authorise(&app.policy, &ctx.principal, verb)?;
    Ok((batch, proof))
}

async fn tell(
    tx: &mut PgTransaction<'_>,
    ctx: &RequestContext,
    batch: BatchId,
    body: EventBody,
) -> Result<(), Error> {
    Ok(outbox::event(tx, &ctx.key, batch, body).await?)
}

//! Approvals and rejections: by a button, a reaction, a reply in the thread or a command.

use serde_json::json;
use sqlx::{PgPool, PgTransaction};
use time::OffsetDateTime;

use super::approval_check::{count, lose};
use super::error::Conflict;
use super::submit::existing;
use super::{App, Error, RequestContext};
use metalbot_core::domain::approval::{Decision, Tally, Verdict, may_decide};
use metalbot_core::domain::batch::{BatchEvent, BatchState};
use metalbot_core::domain::event::EventBody;
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::job::JobEvent;
use metalbot_core::domain::principal::Actor;
use metalbot_core::domain::workflow::Digest;
use metalbot_store::batch::Batch;
use metalbot_store::{self as store, audit, card, outbox};

/// Counts one person's decision on a batch that waits for approval, or that is paused since its approval
/// does not stand any more. A rejection counts until the batch starts. `seen` is the plan that the person saw, if the
/// request carries it (a button does); a plan that changed since then, or since they asked, is not
/// approved.
pub async fn decide(
    tx: &mut PgTransaction<'_>,
    app: &App,
    ctx: &RequestContext,
    id: BatchId,
    verdict: Verdict,
    seen: Option<Digest>,
    reason: Option<&str>,
) -> Result<(), Error> {
    let mut batch = existing(tx, id).await?;
    must_wait(&batch, verdict)?;
    let another = match (seen, ctx.asked_at) {
        (Some(seen), _) => seen != batch.digest,
        // An approval from before the change is not for this plan; a rejection still counts.
        (None, Some(at)) if verdict == Verdict::Approve => {
            store::plan::changed_since(tx, id, at).await?
        }
        (None, _) => false,
    };
    if another {
        return Err(Conflict::PlanChanged(id).into());
    }
    let is_known = |login: &str| app.directory.current().by_login(login).is_some();
    if verdict == Verdict::Approve && !is_known(&batch.submitter) {
        return Err(Conflict::SubmitterLeft { batch: id, login: batch.submitter }.into());
    }
    let owners = may_decide(&batch.requirements, &batch.submitter, &ctx.principal)?;
    let decision = Decision { login: ctx.login().to_owned(), verdict, digest: batch.digest };
    let actor = ctx.actor();
    if verdict == Verdict::Reject {
        // A person who sees a mistake after approving must be able to stop the batch.
        store::decision::withdraw(tx, id, batch.digest, ctx.login()).await?;
    }
    if !store::decision::insert(tx, id, &decision, &owners, &actor.via, reason).await? {
        return Err(Conflict::AlreadyDecided(id).into());
    }
    let detail = json!({
        "by": decision.login, "owners": owners, "digest": batch.digest.to_string(),
        "reason": reason,
    });
    let event = match verdict {
        Verdict::Approve => "batch.approved",
        Verdict::Reject => "batch.rejected",
    };
    audit::record(tx, &actor, event, Some(id), detail).await?;
    card::touch(tx, id).await?;

    let directory = app.directory.current();
    let (standing, _) = count(tx, &batch, |login| directory.by_login(login)).await?;
    let by = ctx.login().to_owned();
    let body = match verdict {
        Verdict::Approve => {
            let complete = standing.approved();
            let resumes = complete && batch.state == BatchState::Paused;
            if complete {
                let reason = format!("approved by {}", approvers(&standing));
                let event = if resumes { BatchEvent::Resume } else { BatchEvent::Approve };
                store::batch::apply(tx, &mut batch, event, &actor, Some(&reason)).await?;
            }
            if resumes {
                store::approval::mark_checked(tx, &mut batch).await?;
            }
            let waits = batch.until().is_some();
            EventBody::Approved { by, via: actor.via, owners, complete, waits, resumes }
        }
        Verdict::Reject => {
            end(tx, &mut batch, BatchEvent::Reject, &actor, reason).await?;
            EventBody::Rejected { by, reason: reason.map(str::to_owned) }
        }
    };
    Ok(outbox::event(tx, &ctx.key, id, body).await?)
}

/// An emoji that counts as a decision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DecidingReaction {
    pub name: String,
    pub verdict: Verdict,
    /// Time at which it was put there or taken away, by the platform's clock.
    pub at: Option<OffsetDateTime>,
}

/// Counts a reaction as a decision. A second approving emoji of the same person does not count
/// again.
pub async fn react(
    tx: &mut PgTransaction<'_>,
    app: &App,
    ctx: &RequestContext,
    id: BatchId,
    reaction: DecidingReaction,
) -> Result<(), Error> {
    let DecidingReaction { name, verdict, at } = reaction;
    let who = ctx.login();
    let before = store::reaction::stands(tx, id, who, &app.reactions.approve).await?;
    if !store::reaction::put(tx, id, who, &name, at).await? {
        // The delivery came late: the reaction has been taken away since.
        return Ok(());
    }
    if before && verdict == Verdict::Approve {
        return Ok(());
    }
    decide(tx, app, ctx, id, verdict, None, None).await
}

/// Handles a reaction that was taken away: with a person's last approving emoji their approval is
/// withdrawn. A rejection has ended the batch and cannot be taken back.
pub async fn take_back(
    tx: &mut PgTransaction<'_>,
    app: &App,
    ctx: &RequestContext,
    id: BatchId,
    reaction: DecidingReaction,
) -> Result<(), Error> {
    let who = ctx.login();
    let stood = store::reaction::take(tx, id, who, &reaction.name, reaction.at).await?;
    // Otherwise the approval came from a button or another reaction, or was for another plan.
    if stood
        && reaction.verdict == Verdict::Approve
        && !store::reaction::stands(tx, id, who, &app.reactions.approve).await?
    {
        withdraw(tx, app, ctx, id).await?;
    }
    Ok(())
}

/// Takes back an approval, which counts until work on a host has begun: the batch waits again if it
/// needs that approval. Afterwards nothing is undone by it.
async fn withdraw(
    tx: &mut PgTransaction<'_>,
    app: &App,
    ctx: &RequestContext,
    id: BatchId,
) -> Result<(), Error> {
    let mut batch = existing(tx, id).await?;
    let waits = batch.state == BatchState::AwaitingApproval || batch.lacks_approval();
    if batch.state.is_final()
        || !store::decision::withdraw(tx, id, batch.digest, ctx.login()).await?
    {
        return Ok(());
    }
    if !waits && store::approval::has_begun(tx, id).await? {
        return Err(Conflict::Begun(id).into());
    }
    let (by, actor) = (ctx.login().to_owned(), ctx.actor());
    audit::record(tx, &actor, "batch.approval_withdrawn", Some(id), json!({ "by": by })).await?;
    card::touch(tx, id).await?;
    let waits_again = match batch.state {
        BatchState::Scheduled | BatchState::Running | BatchState::Paused if !waits => {
            let directory = app.directory.current();
            let (standing, _) = count(tx, &batch, |login| directory.by_login(login)).await?;
            match batch.state {
                _ if standing.approved() => {}
                // A job that a worker has would go on if somebody resumed it.
                BatchState::Paused => {
                    store::approval::lose_while_paused(tx, &mut batch).await?;
                }
                _ => {
                    let why = format!("{by} took the approval back");
                    _ = lose(tx, &app.approvals, &mut batch, &actor, &why).await?;
                }
            }
            !standing.approved()
        }
        _ => false,
    };
    let body = EventBody::ApprovalWithdrawn { by, waits: waits_again };
    Ok(outbox::event(tx, &ctx.key, id, body).await?)
}

/// Ends batches whose approval did not come in time. Returns how many.
pub async fn expire_overdue(pool: &PgPool) -> Result<usize, Error> {
    let overdue = store::approval::overdue(&mut *pool.acquire().await?).await?;
    let mut expired = 0;
    for id in overdue {
        match expire(pool, id).await {
            Ok(ended) => expired += usize::from(ended),
            // A batch that this version cannot read must not hold up the others.
            Err(error) => {
                tracing::error!(batch = %id, ?error, "an overdue batch cannot be expired")
            }
        }
    }
    Ok(expired)
}

async fn expire(pool: &PgPool, id: BatchId) -> Result<bool, Error> {
    let mut tx = pool.begin().await?;
    let Some(mut batch) = store::batch::lock(&mut tx, id).await? else { return Ok(false) };
    // Somebody may have approved it before this transaction got the lock.
    if batch.state != BatchState::AwaitingApproval {
        return Ok(false);
    }
    let actor = Actor::system("expiry");
    end(&mut tx, &mut batch, BatchEvent::Expire, &actor, Some("nobody approved in time")).await?;
    let body = EventBody::Expired {
        submitter: batch.submitter.clone(),
        waited_for: batch.requirements.iter().map(|part| part.owner.clone()).collect(),
    };
    let key = format!("batch:{}:expired", id.0);
    outbox::event(&mut tx, &key, id, body).await?;
    tx.commit().await?;
    Ok(true)
}

/// Moves a batch to a final state and frees the hosts that nobody works on.
pub(super) async fn end(
    tx: &mut PgTransaction<'_>,
    batch: &mut Batch,
    event: BatchEvent,
    actor: &Actor,
    reason: Option<&str>,
) -> Result<(), Error> {
    store::batch::apply(tx, batch, event, actor, reason).await?;
    store::job::apply(tx, batch.id, JobEvent::Cancel, None, actor).await?;
    Ok(())
}

/// Fails when the batch needs no such decision.
fn must_wait(batch: &Batch, verdict: Verdict) -> Result<(), Error> {
    let id = batch.id;
    match (batch.state, verdict) {
        (BatchState::AwaitingApproval, _) if batch.overdue => {
            Err(Conflict::DecisionOverdue(id).into())
        }
        (BatchState::AwaitingApproval, _) | (BatchState::Scheduled, Verdict::Reject) => Ok(()),
        (BatchState::Paused, Verdict::Approve) if batch.lacks_approval() => Ok(()),
        (BatchState::Paused, Verdict::Reject) if batch.lacks_approval() => {
            Err(Conflict::Begun(id).into())
        }
        (state, _) => {
            let why = batch.state_reason.clone();
            Err(Conflict::NothingToDecide { batch: id, state, why }.into())
        }
    }
}

fn approvers(tally: &Tally) -> String {
    let mut people: Vec<&str> =
        tally.parts.iter().flat_map(|part| part.approved_by.iter().map(String::as_str)).collect();
    people.sort_unstable();
    people.dedup();
    people.join(", ")
}

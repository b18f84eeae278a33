//! Calling those who must approve: when the approval is asked for, and once more before it expires.
//!
//! Invariant: each is said once for a batch, by the transaction that marks the batch as called or
//! reminded; the database's clock says when.

use std::collections::BTreeSet;

use sqlx::{PgPool, PgTransaction};

use super::{App, Error};
use metalbot_core::domain::batch::BatchState;
use metalbot_core::domain::host::HostName;
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::inbound::Place;
use metalbot_core::domain::notice::{ApprovalView, Audience, Notice};
use metalbot_store::batch::Batch;
use metalbot_store::{self as store, notify_route, outbox, preference, view};

/// Calls those who must approve new batches, where they can be called, and reminds of approvals that
/// are about to expire. Returns how many batches it told of.
pub async fn call_approvers(pool: &PgPool, app: &App) -> Result<usize, Error> {
    let due =
        store::batch::approvers_to_notify(&mut *pool.acquire().await?, app.remind_before).await?;
    let mut called = 0;
    for id in due {
        match call_for(pool, app, id).await {
            Ok(told) => called += usize::from(told),
            // One that this version cannot read must not hold up the others.
            Err(error) => tracing::error!(batch = %id, ?error, "its approvers are not called"),
        }
    }
    Ok(called)
}

async fn call_for(pool: &PgPool, app: &App, id: BatchId) -> Result<bool, Error> {
    let mut tx = pool.begin().await?;
    let Some(batch) = store::batch::lock(&mut tx, id).await? else { return Ok(false) };
    if batch.state != BatchState::AwaitingApproval || batch.overdue {
        return Ok(false);
    }
    // Between the look and the lock another process may have called.
    let Some(reminder) =
        store::batch::mark_approvers_notified(&mut tx, id, app.remind_before).await?
    else {
        return Ok(false);
    };
    let Some(seen) = view::batch_view(&mut tx, id).await? else { return Ok(false) };
    let lacking: Vec<ApprovalView> = seen
        .approvals
        .into_iter()
        .filter(|part| part.approved_by.len() < part.quorum as usize)
        .collect();
    call(&mut tx, app, &batch, &seen.hosts, lacking, reminder).await?;
    tx.commit().await?;
    Ok(true)
}

async fn call(
    tx: &mut PgTransaction<'_>,
    app: &App,
    batch: &Batch,
    hosts: &[HostName],
    lacking: Vec<ApprovalView>,
    reminder: bool,
) -> Result<(), Error> {
    let from: BTreeSet<String> =
        lacking.iter().flat_map(|part| part.from.iter().cloned()).collect();
    let given: BTreeSet<String> =
        lacking.iter().flat_map(|part| part.approved_by.iter().cloned()).collect();
    let home = notify_route::home(batch);
    let calls: Vec<_> = app
        .calls
        .iter()
        .filter(|call| call.platform == home.platform && from.contains(&call.group))
        .collect();
    let notice = |groups: &[String]| Notice::ApprovalWanted {
        batch: batch.id,
        action: batch.plan.action.clone(),
        hosts: hosts.to_vec(),
        submitter: batch.submitter.clone(),
        reason: batch.reason.clone(),
        channel: home.channel.clone(),
        lacking: lacking.clone(),
        groups: groups.to_vec(),
        expires_at: batch.expires_at,
        reminder,
    };
    let key = format!("batch:{}:{}", batch.id.0, if reminder { "reminder" } else { "asked" });
    let mentioned: Vec<String> =
        calls.iter().filter(|call| call.mention.is_some()).map(|call| call.group.clone()).collect();
    // The card has asked already; a reminder is worth a message even where nobody can be mentioned.
    if reminder || !mentioned.is_empty() {
        let groups = if reminder { from.iter().cloned().collect() } else { mentioned };
        let thread = Audience::Thread { batch: batch.id };
        outbox::notice(tx, &key, &thread, &notice(&groups)).await?;
    }
    let channels: BTreeSet<&String> =
        calls.iter().filter_map(|call| call.channel.as_ref()).collect();
    for channel in channels.into_iter().filter(|channel| **channel != home.channel) {
        let groups: Vec<String> = calls
            .iter()
            .filter(|call| call.channel.as_ref() == Some(channel))
            .map(|call| call.group.clone())
            .collect();
        let platform = home.platform.clone();
        let place = Place { platform, channel: channel.clone(), thread: None };
        let key = format!("{key}:{channel}");
        outbox::notice(tx, &key, &Audience::Place { place }, &notice(&groups)).await?;
    }
    let directory = app.directory.current();
    for login in preference::told_of_approvals(tx).await? {
        let may = directory.by_login(&login).is_some_and(|who| who.in_any(&from));
        let known =
            app.addresses.contains_key(home.platform.as_str()) && directory.email(&login).is_some();
        let reachable = known || directory.account(&login, &home.platform).is_some();
        if may && reachable && login != batch.submitter && !given.contains(&login) {
            let key = format!("{key}:dm:{login}");
            let person = Audience::Person { login, near: home.clone() };
            outbox::notice(tx, &key, &person, &notice(&[])).await?;
        }
    }
    Ok(())
}

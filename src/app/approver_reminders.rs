//! Asks those who must approve: when a batch begins to wait, and once more before it expires.
//!
//! Invariant: each of the two is sent once for a batch, by the transaction that marks the batch as
//! asked or reminded. The database's clock decides when.

use std::collections::BTreeSet;

use sqlx::{PgPool, PgTransaction};

use metalbot_core::domain::batch::BatchState;
use metalbot_core::domain::event::{Event, EventBody};
use metalbot_core::domain::host::HostName;
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::inbound::ChatLocation;
use metalbot_core::domain::notice::{Audience, Notice};
use metalbot_core::domain::notify::ApproverMention;
use metalbot_core::domain::view::ApprovalView;
use metalbot_store::batch::Batch;
use metalbot_store::{self as store, outbox, preference, view};

use super::approval_check::approval_round_key;
use super::{App, Error};

/// Asks those who must approve new batches, and reminds of approvals that are about to expire.
/// Returns how many batches it asked for.
pub async fn remind_approvers(pool: &PgPool, app: &App) -> Result<usize, Error> {
    let due = store::approval::approvers_to_notify(&mut *pool.acquire().await?, app.remind_before)
        .await?;
    let mut asked = 0;
    for id in due {
        match remind_of(pool, app, id).await {
            Ok(done) => asked += usize::from(done),
            // A batch that this version cannot read must not hold up the others.
            Err(error) => tracing::error!(batch = %id, ?error, "cannot ask a batch's approvers"),
        }
    }
    Ok(asked)
}

async fn remind_of(pool: &PgPool, app: &App, id: BatchId) -> Result<bool, Error> {
    let mut tx = pool.begin().await?;
    let Some(batch) = store::batch::lock(&mut tx, id).await? else { return Ok(false) };
    let waits = batch.state == BatchState::AwaitingApproval && !batch.overdue;
    if !waits && !batch.lacks_approval() {
        return Ok(false);
    }
    // Another process may have asked before this one got the lock.
    let marked = store::approval::mark_approvers_notified(&mut tx, id, app.remind_before).await?;
    let Some(reminder) = marked else { return Ok(false) };
    let Some(seen) = view::batch_view(&mut tx, id).await? else { return Ok(false) };
    let lacking: Vec<ApprovalView> = seen
        .approvals
        .into_iter()
        .filter(|part| part.approved_by.len() < part.quorum as usize)
        .collect();
    // A batch without a card has no thread to ask in; approvers find it in the lists.
    if let Some(home) = batch.announced.clone() {
        let reminder = Reminder { batch: &batch, home, hosts: seen.hosts, lacking, reminder };
        reminder.send(&mut tx, app).await?;
    }
    tx.commit().await?;
    Ok(true)
}

struct Reminder<'a> {
    batch: &'a Batch,
    /// Channel of the batch's card.
    home: ChatLocation,
    hosts: Vec<HostName>,
    lacking: Vec<ApprovalView>,
    /// True if the approvers were asked before.
    reminder: bool,
}

impl Reminder<'_> {
    async fn send(&self, tx: &mut PgTransaction<'_>, app: &App) -> Result<(), Error> {
        let from: BTreeSet<String> =
            self.lacking.iter().flat_map(|part| part.from.iter().cloned()).collect();
        let calls: Vec<&ApproverMention> = app
            .approver_mentions
            .iter()
            .filter(|call| call.platform == self.home.platform && from.contains(&call.group))
            .collect();
        self.in_thread(tx, &from, &calls).await?;
        self.in_channels(tx, &calls).await?;
        self.directly(tx, app, &from).await
    }

    fn notice(&self, groups: Vec<String>) -> Notice {
        let batch = self.batch;
        let body = EventBody::ApprovalWanted {
            action: batch.plan.action.clone(),
            hosts: self.hosts.clone(),
            submitter: batch.submitter.clone(),
            reason: batch.reason.clone(),
            channel: Some(self.home.channel.clone()),
            lacking: self.lacking.clone(),
            groups,
            expires_at: batch.expires_at,
            reminder: self.reminder,
        };
        Notice::event(Event::new(batch.id, body))
    }

    fn key(&self) -> String {
        let what = if self.reminder { "reminder" } else { "asked" };
        approval_round_key(self.batch, what)
    }

    /// Writes in the batch's thread. The card itself has asked already, so a first message is sent
    /// only to mention groups; a reminder is sent even if nobody can be mentioned.
    async fn in_thread(
        &self,
        tx: &mut PgTransaction<'_>,
        from: &BTreeSet<String>,
        calls: &[&ApproverMention],
    ) -> Result<(), Error> {
        let mentioned: Vec<String> = calls
            .iter()
            .filter(|call| call.mention.is_some())
            .map(|call| call.group.clone())
            .collect();
        if self.reminder || !mentioned.is_empty() {
            let groups = if self.reminder { from.iter().cloned().collect() } else { mentioned };
            let thread = Audience::Thread { batch: self.batch.id };
            outbox::notice(tx, &self.key(), &thread, &self.notice(groups)).await?;
        }
        Ok(())
    }

    /// Writes in the groups' own channels.
    async fn in_channels(
        &self,
        tx: &mut PgTransaction<'_>,
        calls: &[&ApproverMention],
    ) -> Result<(), Error> {
        let channels: BTreeSet<&String> =
            calls.iter().filter_map(|call| call.channel.as_ref()).collect();
        for channel in channels.into_iter().filter(|channel| **channel != self.home.channel) {
            let groups: Vec<String> = calls
                .iter()
                .filter(|call| call.channel.as_ref() == Some(channel))
                .map(|call| call.group.clone())
                .collect();
            let location = ChatLocation::channel(self.home.platform.clone(), channel.clone());
            let key = format!("{}:{channel}", self.key());
            let audience = Audience::Channel { location };
            outbox::notice(tx, &key, &audience, &self.notice(groups)).await?;
        }
        Ok(())
    }

    /// Writes to people who want to hear of approvals by direct message.
    async fn directly(
        &self,
        tx: &mut PgTransaction<'_>,
        app: &App,
        from: &BTreeSet<String>,
    ) -> Result<(), Error> {
        let platform = self.home.platform.as_str();
        let given: BTreeSet<&String> =
            self.lacking.iter().flat_map(|part| part.approved_by.iter()).collect();
        let directory = app.directory.current();
        for login in preference::told_of_approvals(tx).await? {
            let may = directory.by_login(&login).is_some_and(|who| who.in_any(from));
            let known = app.platforms.contains_key(platform) && directory.email(&login).is_some();
            let reachable = known || directory.account(&login, platform).is_some();
            if may && reachable && login != self.batch.submitter && !given.contains(&login) {
                let key = format!("{}:dm:{login}", self.key());
                let person = Audience::Person { login, near: self.home.clone() };
                outbox::notice(tx, &key, &person, &self.notice(Vec::new())).await?;
            }
        }
        Ok(())
    }
}

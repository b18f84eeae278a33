//! Whether an approval still stands when it is used: those who gave it may decide no more, or hosts
//! belong to other owners by now.
//!
//! Invariant: directory and inventory are asked outside of every transaction ([`ask`]); what follows
//! is stored under the batch's row lock ([`settle`], [`lose`]), and whoever acts proves what is
//! stored. An approval that does not stand takes a batch on which no work has begun back to waiting,
//! and pauses one that is under way.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use sqlx::{PgPool, PgTransaction};

use metalbot_core::domain::approval::{
    self, ApprovalLoss, ApprovalRule, Decision, Needed, Tally, count_by_owner, may_decide, tally,
};
use metalbot_core::domain::batch::BatchState;
use metalbot_core::domain::host::{HostName, Hosts};
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::job::JobEvent;
use metalbot_core::domain::people::{DirectoryAway, People};
use metalbot_core::domain::principal::{Actor, Principal};
use metalbot_store::batch::{ApplyError, Batch};
use metalbot_store::{self as store, audit};

/// Answers of directory and inventory about one batch.
#[derive(Debug)]
pub struct ApprovalFacts {
    /// Who asked for it, and those who have decided, by login; `None` for one who is not in the directory
    /// any more.
    people: BTreeMap<String, Option<Principal>>,
    /// Present owners of the hosts whose work is still to come. Hosts that have left the inventory are
    /// missing: nothing is done to them.
    owners: BTreeMap<HostName, String>,
}

/// Error of a question whose answer is not known: what depends on it waits.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error(transparent)]
    Away(#[from] DirectoryAway),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Result of a check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ApprovalStanding {
    Stands,
    Lost(ApprovalLoss),
    /// Somebody has decided since directory and inventory were asked: they must be asked again.
    Outdated,
}

/// Effect of a lost approval on its batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LostApproval {
    /// No work has begun: it waits for approval again.
    Waits,
    Paused,
}

/// Asks directory and inventory about a batch. No transaction is open meanwhile.
pub async fn ask(
    pool: &PgPool,
    people: &dyn People,
    hosts: &dyn Hosts,
    id: BatchId,
) -> Result<ApprovalFacts, AskError> {
    let mut conn = pool.acquire().await?;
    let decisions = store::decision::standing(&mut conn, id).await?;
    let to_come = store::job::to_come(&mut conn, id).await?;
    let submitter = store::batch::get(&mut conn, id).await?.map(|batch| batch.submitter);
    drop(conn);
    let mut logins: BTreeSet<String> =
        decisions.into_iter().map(|decision| decision.login).collect();
    logins.extend(submitter);
    let mut known = BTreeMap::new();
    for login in logins {
        let person = people.ask(&login)?;
        known.insert(login, person);
    }
    let owner = |name: &HostName| hosts.host(name).map(|host| host.owner);
    let owners = to_come.into_iter().filter_map(|(name, _)| Some((owner(&name)?, name)));
    let owners = owners.map(|(owner, name)| (name, owner)).collect();
    Ok(ApprovalFacts { people: known, owners })
}

/// Judges whether the approval of a locked batch stands by these facts, and stores the answer, with
/// the present owners of its hosts.
pub async fn settle(
    tx: &mut PgTransaction<'_>,
    rules: &[ApprovalRule],
    facts: &ApprovalFacts,
    batch: &mut Batch,
) -> sqlx::Result<ApprovalStanding> {
    let decisions = store::decision::standing(tx, batch.id).await?;
    let of_this_plan = |decision: &&Decision| decision.digest == batch.digest;
    if !decisions.iter().filter(of_this_plan).all(|one| facts.people.contains_key(&one.login)) {
        return Ok(ApprovalStanding::Outdated);
    }
    if facts.people.get(&batch.submitter).is_none_or(Option::is_none) {
        // Whoever agreed, agreed to what this person wanted.
        let why = format!("{} is not in the directory any more", batch.submitter);
        for Decision { login, .. } in decisions.iter().filter(of_this_plan) {
            withdraw(tx, batch, login, &why).await?;
        }
        let submitter_left = Some(batch.submitter.clone());
        return Ok(ApprovalStanding::Lost(ApprovalLoss { submitter_left, ..Default::default() }));
    }
    let moved = follow_owners(tx, rules, facts, batch).await?;
    let find = |login: &str| facts.people.get(login).cloned().flatten();
    let (tally, left) = count(tx, batch, find).await?;
    if tally.approved() {
        store::approval::mark_checked(tx, batch).await?;
        return Ok(ApprovalStanding::Stands);
    }
    Ok(ApprovalStanding::Lost(ApprovalLoss { left, moved, submitter_left: None }))
}

/// Takes a locked batch whose approval does not stand back to waiting, or pauses it if work on its
/// hosts may have begun.
pub async fn lose(
    tx: &mut PgTransaction<'_>,
    rules: &[ApprovalRule],
    batch: &mut Batch,
    actor: &Actor,
    why: &str,
) -> Result<LostApproval, ApplyError> {
    let is_running = batch.state == BatchState::Running;
    if is_running {
        // First, so that no worker leases one of them afterwards.
        store::job::apply(tx, batch.id, JobEvent::Unqueue, None, actor).await?;
    }
    // A job that a worker has is taken back by that worker; until then its batch only pauses.
    let may_have_begun = is_running
        && (store::approval::has_begun(tx, batch.id).await?
            || store::job::state_counts(tx, batch.id).await?.running > 0);
    if may_have_begun {
        store::approval::pause(tx, batch, actor, why).await?;
    } else {
        let expires = needed(tx, rules, batch).await?.expires;
        store::approval::ask_again(tx, batch, expires, actor, why).await?;
    }
    Ok(if may_have_begun { LostApproval::Paused } else { LostApproval::Waits })
}

/// Adds up the standing decisions, each by its person's present groups. Decisions of people who may
/// not decide any more are withdrawn, so that the card does not show approvals that do not count;
/// returns these people, too.
pub(super) async fn count(
    tx: &mut PgTransaction<'_>,
    batch: &Batch,
    find: impl Fn(&str) -> Option<Principal>,
) -> sqlx::Result<(Tally, Vec<String>)> {
    let mut decisions: Vec<(Principal, Decision)> = Vec::new();
    let mut left = Vec::new();
    for decision in store::decision::standing(tx, batch.id).await? {
        if decision.digest != batch.digest {
            continue;
        }
        let may = |who: &Principal| may_decide(&batch.requirements, &batch.submitter, who).is_ok();
        match find(&decision.login).filter(may) {
            Some(who) => decisions.push((who, decision)),
            None => {
                withdraw(tx, batch, &decision.login, "may not decide any more").await?;
                left.push(decision.login);
            }
        }
    }
    Ok((tally(&batch.requirements, batch.digest, &batch.submitter, &decisions), left))
}

/// Withdraws a decision that does not count any more.
async fn withdraw(
    tx: &mut PgTransaction<'_>,
    batch: &Batch,
    login: &str,
    why: &str,
) -> sqlx::Result<()> {
    store::decision::withdraw(tx, batch.id, batch.digest, login).await?;
    let (actor, detail) = (Actor::system("directory"), json!({ "by": login, "why": why }));
    audit::record(tx, &actor, "batch.approval_withdrawn", Some(batch.id), detail).await
}

/// Stores the present owners of hosts whose work is still to come, with what they require; returns the
/// hosts that have others than before. Who may decide for the new owners as well has approved for
/// them.
async fn follow_owners(
    tx: &mut PgTransaction<'_>,
    rules: &[ApprovalRule],
    facts: &ApprovalFacts,
    batch: &mut Batch,
) -> sqlx::Result<Vec<HostName>> {
    let to_come = store::job::to_come(tx, batch.id).await?;
    let moved: Vec<(HostName, String)> = to_come
        .into_iter()
        .filter_map(|(host, before)| {
            let now = facts.owners.get(&host).filter(|now| **now != before)?;
            Some((host, now.clone()))
        })
        .collect();
    if moved.is_empty() {
        return Ok(Vec::new());
    }
    store::job::change_owners(tx, batch.id, &moved).await?;
    let needed = needed(tx, rules, batch).await?;
    store::approval::change_requirements(tx, batch, needed.requirements).await?;
    let actor = Actor::system("inventory");
    let detail = json!({ "owners": moved.iter().cloned().collect::<BTreeMap<_, _>>() });
    audit::record(tx, &actor, "batch.owners_changed", Some(batch.id), detail).await?;
    for decision in store::decision::standing(tx, batch.id).await? {
        let person = facts.people.get(&decision.login).and_then(Option::as_ref);
        let owners =
            person.and_then(|who| may_decide(&batch.requirements, &batch.submitter, who).ok());
        if let Some(owners) = owners {
            let (id, digest) = (batch.id, decision.digest);
            store::decision::set_owners(tx, id, digest, &decision.login, &owners).await?;
        }
    }
    Ok(moved.into_iter().map(|(host, _)| host).collect())
}

/// Approvals that a batch needs by the stored owners of its hosts.
async fn needed(
    tx: &mut PgTransaction<'_>,
    rules: &[ApprovalRule],
    batch: &Batch,
) -> sqlx::Result<Needed> {
    let hosts = store::job::hosts(tx, batch.id).await?;
    let by_owner = count_by_owner(hosts.iter().map(|(_, owner)| owner.as_str()));
    Ok(approval::requirements(rules, &batch.plan.action, batch.plan.risk, &by_owner))
}

/// Key of a notice that is sent once in each round of approval.
pub fn approval_round_key(batch: &Batch, what: &str) -> String {
    match batch.approval_round {
        0 => format!("batch:{}:{what}", batch.id.0),
        round => format!("batch:{}:{what}:{round}", batch.id.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A running batch whose hosts nobody has taken yet.
    const RUNNING: &str = r#"
        insert into batch (action, risk, plan, digest, submitter, state, requirements, origin,
            started_at)
        values ('reboot', 'disruptive', '{"action": "reboot", "risk": "disruptive", "params": {},
                "steps": [], "rollout": {"waves": [], "max_concurrent": null, "max_fail": null}}',
            sha256(''), 'alice', 'running', '[]', '{"origin": "reclaim"}', now());
        insert into job (batch_id, host, owner, datacenter, rack, sku, bmc_address, bmc_credentials,
            wave, state)
        select 1, host, 'web-owners', 'fra1', 'r1', 's1', '10.0.0.1', 'default', 0, 'queued'
        from unnest(array['web01', 'web02']) as host"#;
    const LEASED: &str = "update job set state = 'running' where host = 'web01'";
    const BEGUN: &str = "update job set state = 'succeeded' where host = 'web01';
        update batch set begun_at = now()";

    /// What becomes of it when its approval is lost.
    async fn lost(pool: &PgPool, before: &'static str) -> (LostApproval, Vec<String>) {
        sqlx::raw_sql(RUNNING).execute(pool).await.unwrap();
        sqlx::raw_sql(before).execute(pool).await.unwrap();
        let mut tx = pool.begin().await.unwrap();
        let mut batch = store::batch::lock(&mut tx, BatchId(1)).await.unwrap().unwrap();
        let actor = Actor::system("test");
        let lost = lose(&mut tx, &[], &mut batch, &actor, "bob has left").await.unwrap();
        tx.commit().await.unwrap();
        let states = "select state || case when started_at is null then '' else ', started' end
                     || case when approval_lost_at is null then '' else ', lacks approval' end
                     || case when expires_at is null then '' else ', expires' end from batch
             union all select state from job";
        (lost, sqlx::query_scalar(states).fetch_all(pool).await.unwrap())
    }

    #[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
    async fn a_batch_whose_work_has_not_begun_waits_again(pool: PgPool) {
        let (lost, states) = lost(&pool, "").await;
        assert_eq!(lost, LostApproval::Waits);
        assert_eq!(states, ["awaiting_approval, expires", "pending", "pending"]);
    }

    #[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
    async fn a_batch_of_which_a_worker_has_a_host_pauses(pool: PgPool) {
        let (lost, mut states) = lost(&pool, LEASED).await;
        states[1..].sort();
        assert_eq!(lost, LostApproval::Paused);
        assert_eq!(states, ["paused, started, lacks approval", "pending", "running"]);
    }

    #[sqlx::test(migrator = "metalbot_store::MIGRATIONS")]
    async fn a_batch_whose_work_has_begun_pauses(pool: PgPool) {
        let (lost, mut states) = lost(&pool, BEGUN).await;
        states[1..].sort();
        assert_eq!(lost, LostApproval::Paused);
        assert_eq!(states, ["paused, started, lacks approval", "pending", "succeeded"]);
    }
}

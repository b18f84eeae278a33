//! Approval rules: which approvals a batch needs, and the tally of those given.
//!
//! Invariants: without a matching rule one approval by the owner is needed (default closed); the
//! submitter's own approval never counts; an approval counts for one [`Digest`] only, and only
//! while the approver is in the right group.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::host::{HostName, fold};
use super::human_duration;
use super::principal::Principal;
use super::workflow::{Digest, Risk};

/// Time until an unapproved batch expires, when no rule gives one.
pub const DEFAULT_EXPIRY: Duration = Duration::from_secs(60 * 60);

/// One `[[approval]]` of the configuration. Conditions that are left out match everything.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalRule {
    pub action: Option<String>,
    pub risk: Option<Risk>,
    /// Condition: owner group of the hosts.
    pub owner: Option<String>,
    /// Number of different people who must approve; 0 means that no approval is needed.
    #[serde(default = "one")]
    pub quorum: u32,
    #[serde(default = "owner_only")]
    pub from: Vec<ApproverRef>,
    /// Time that the batch waits for approval before it expires.
    #[serde(default = "default_expiry", deserialize_with = "human_duration::deserialize")]
    pub expires: Duration,
}

fn one() -> u32 {
    1
}

fn owner_only() -> Vec<ApproverRef> {
    vec![ApproverRef::Owner]
}

fn default_expiry() -> Duration {
    DEFAULT_EXPIRY
}

/// People who may approve, as the configuration writes them: `owner` (the owner group of the hosts)
/// or `group:NAME`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize)]
#[serde(try_from = "String")]
pub enum ApproverRef {
    Owner,
    Group(String),
}

/// Text that is neither `owner` nor `group:NAME`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} names no approvers: write \"owner\" or \"group:NAME\"")]
pub struct NotAnApproverRef(pub String);

impl TryFrom<String> for ApproverRef {
    type Error = NotAnApproverRef;

    fn try_from(text: String) -> Result<Self, NotAnApproverRef> {
        match text.strip_prefix("group:") {
            Some(group) if !group.is_empty() => Ok(ApproverRef::Group(group.into())),
            None if text == "owner" => Ok(ApproverRef::Owner),
            _ => Err(NotAnApproverRef(text)),
        }
    }
}

impl ApprovalRule {
    /// Groups whose members may approve for hosts of this owner.
    pub fn groups(&self, owner: &str) -> BTreeSet<String> {
        self.from
            .iter()
            .map(|from| match from {
                ApproverRef::Owner => owner.to_owned(),
                ApproverRef::Group(group) => group.clone(),
            })
            .collect()
    }

    fn matches(&self, action: &str, risk: Risk, owner: &str) -> bool {
        self.action.as_deref().is_none_or(|wanted| wanted == action)
            && self.risk.is_none_or(|wanted| wanted == risk)
            && self.owner.as_deref().is_none_or(|wanted| wanted == owner)
    }
}

/// Approvals that one owner group's part of a batch needs. Stored with the batch, so that a later
/// change of the rules does not change a batch that waits for decisions.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Requirement {
    pub owner: String,
    /// Number of the batch's hosts that belong to that owner.
    pub hosts: u32,
    pub quorum: u32,
    /// Groups whose members may approve this part.
    pub from: BTreeSet<String>,
}

/// Approvals that a batch needs before it may start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Needed {
    /// Requirements, sorted by owner; empty when no approval is needed.
    pub requirements: Vec<Requirement>,
    /// Time until the batch expires: the shortest of the rules that need an approval.
    pub expires: Duration,
}

/// Counts the hosts of each owner group.
pub fn count_by_owner<'a>(owners: impl IntoIterator<Item = &'a str>) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for owner in owners {
        *counts.entry(owner.to_owned()).or_default() += 1;
    }
    counts
}

/// Finds the first matching rule for each owner group. Without a match, one approval by the owner
/// is needed within [`DEFAULT_EXPIRY`].
pub fn requirements(
    rules: &[ApprovalRule],
    action: &str,
    risk: Risk,
    hosts_by_owner: &BTreeMap<String, u32>,
) -> Needed {
    let mut requirements = Vec::new();
    let mut expires: Option<Duration> = None;
    for (owner, &hosts) in hosts_by_owner {
        let rule = rules.iter().find(|rule| rule.matches(action, risk, owner));
        let (quorum, from, limit) = match rule {
            Some(rule) => (rule.quorum, rule.groups(owner), rule.expires),
            None => (1, BTreeSet::from([owner.clone()]), DEFAULT_EXPIRY),
        };
        if quorum > 0 {
            requirements.push(Requirement { owner: owner.clone(), hosts, quorum, from });
            expires = Some(expires.map_or(limit, |shortest| shortest.min(limit)));
        }
    }
    Needed { requirements, expires: expires.unwrap_or(DEFAULT_EXPIRY) }
}

/// Content of a decision: approve or reject.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Approve,
    Reject,
}

impl Verdict {
    /// The name in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Approve => "approve",
            Verdict::Reject => "reject",
        }
    }

    /// Reads what [`Verdict::as_str`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        [Verdict::Approve, Verdict::Reject].into_iter().find(|verdict| verdict.as_str() == text)
    }
}

/// Decision of one person on one plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    pub login: String,
    pub verdict: Verdict,
    /// Digest of the plan that the person saw.
    pub digest: Digest,
}

/// Reasons why a person may not decide on a batch. The message is for that person.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MayNot {
    #[error("you submitted this batch, so somebody else has to decide on it")]
    OwnBatch,
    #[error("only members of {} may decide on this batch", list(.from))]
    NotAnApprover { from: BTreeSet<String> },
}

fn list(groups: &BTreeSet<String>) -> String {
    groups.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// Owners for whose hosts this person may decide; never empty.
pub fn may_decide(
    requirements: &[Requirement],
    submitter: &str,
    person: &Principal,
) -> Result<Vec<String>, MayNot> {
    if person.login == submitter {
        return Err(MayNot::OwnBatch);
    }
    let owners: Vec<String> = requirements
        .iter()
        .filter(|part| person.in_any(&part.from))
        .map(|part| part.owner.clone())
        .collect();
    if owners.is_empty() {
        let from = requirements.iter().flat_map(|part| part.from.iter().cloned()).collect();
        return Err(MayNot::NotAnApprover { from });
    }
    Ok(owners)
}

/// Tally for the hosts of one owner group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OwnerTally {
    pub owner: String,
    pub hosts: u32,
    pub quorum: u32,
    /// Logins of those who approved, in the order of their first approval.
    pub approved_by: Vec<String>,
    pub from: BTreeSet<String>,
}

impl OwnerTally {
    /// True if enough different people approved this part.
    pub fn reached(&self) -> bool {
        self.approved_by.len() >= self.quorum as usize
    }
}

/// Tally of all decisions on a batch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tally {
    pub parts: Vec<OwnerTally>,
    /// Login of the first person who rejected.
    pub rejected_by: Option<String>,
}

impl Tally {
    /// True if every part has its quorum and nobody rejected.
    pub fn approved(&self) -> bool {
        self.rejected_by.is_none() && self.parts.iter().all(OwnerTally::reached)
    }
}

/// Adds up decisions in the given order. Each comes with the person's current groups; the caller
/// leaves out people who are no longer in the directory. One valid reject rejects the whole batch,
/// even when the same person approves as well.
pub fn tally(
    requirements: &[Requirement],
    digest: Digest,
    submitter: &str,
    decisions: &[(Principal, Decision)],
) -> Tally {
    let valid: Vec<&(Principal, Decision)> = decisions
        .iter()
        .filter(|(person, decision)| {
            decision.digest == digest
                && decision.login == person.login
                && may_decide(requirements, submitter, person).is_ok()
        })
        .collect();
    let parts = requirements
        .iter()
        .map(|need| {
            let mut approved_by: Vec<String> = Vec::new();
            for (person, decision) in &valid {
                if decision.verdict == Verdict::Approve
                    && person.in_any(&need.from)
                    && !approved_by.contains(&person.login)
                {
                    approved_by.push(person.login.clone());
                }
            }
            OwnerTally {
                owner: need.owner.clone(),
                hosts: need.hosts,
                quorum: need.quorum,
                approved_by,
                from: need.from.clone(),
            }
        })
        .collect();
    let rejected_by = valid
        .iter()
        .find(|(_, decision)| decision.verdict == Verdict::Reject)
        .map(|(person, _)| person.login.clone());
    Tally { parts, rejected_by }
}

/// Cause for which an approval that was complete does not stand any more. Empty: somebody took it back.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ApprovalLoss {
    /// Logins of people who approved and may not decide any more.
    pub left: Vec<String>,
    /// Hosts that have another owner than when they were approved.
    pub moved: Vec<HostName>,
    /// Login of the one who asked for it, if they are not in the directory any more.
    #[serde(default)]
    pub submitter_left: Option<String>,
}

impl fmt::Display for ApprovalLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = (!self.left.is_empty())
            .then(|| format!("{} approved and may not decide any more", self.left.join(", ")));
        let has = if self.moved.len() == 1 { "has" } else { "have" };
        let moved = (!self.moved.is_empty())
            .then(|| format!("{} {has} another owner now", fold(&self.moved)));
        let submitter = self
            .submitter_left
            .as_ref()
            .map(|login| format!("{login} asked for it and is not in the directory any more"));
        let causes: Vec<String> = submitter.into_iter().chain(left).chain(moved).collect();
        match causes.is_empty() {
            true => f.write_str("an approval was taken back"),
            false => f.write_str(&causes.join("; ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: Digest = Digest([1; 32]);
    const OLD: Digest = Digest([2; 32]);
    use Verdict::{Approve, Reject};

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    fn who(login: &str, groups: &[&str]) -> Principal {
        Principal { login: login.into(), name: login.into(), groups: set(groups) }
    }

    fn said(person: Principal, verdict: Verdict, digest: Digest) -> (Principal, Decision) {
        let decision = Decision { login: person.login.clone(), verdict, digest };
        (person, decision)
    }

    fn need(owner: &str, quorum: u32, from: &[&str]) -> Requirement {
        Requirement { owner: owner.into(), hosts: 2, quorum, from: set(from) }
    }

    fn rules(text: &str) -> Vec<ApprovalRule> {
        #[derive(Deserialize)]
        struct File {
            #[serde(default)]
            approval: Vec<ApprovalRule>,
        }
        toml::from_str::<File>(text).unwrap().approval
    }

    const POLICY: &str = r#"
        [[approval]]
        action = "identify"
        quorum = 0
        [[approval]]
        owner = "db-owners"
        risk = "disruptive"
        quorum = 2
        from = ["owner", "group:sre-leads"]
        expires = "30m"
        [[approval]]
        risk = "disruptive"
        expires = "2h"
        [[approval]]
        risk = "harmless"
        quorum = 0
    "#;

    #[test]
    fn the_first_matching_rule_of_each_owner_holds() {
        use Risk::*;
        type Row<'a> = (&'a str, Risk, &'a [&'a str], &'a [(&'a str, u32, &'a [&'a str])], u64);
        let (web, db) = ("web-owners", "db-owners");
        let both: &[&str] = &[db, web];
        let leads: &[&str] = &[db, "sre-leads"];
        let table: &[Row<'_>] = &[
            ("identify", Disruptive, both, &[], 60),
            ("power-on", Harmless, both, &[], 60),
            ("reboot", Disruptive, &[web], &[(web, 1, &[web])], 120),
            ("reboot", Disruptive, both, &[(db, 2, leads), (web, 1, &[web])], 30),
            // No rule matches: default closed.
            ("wipe", Destructive, both, &[(db, 1, &[db]), (web, 1, &[web])], 60),
        ];
        for (action, risk, owners, parts, minutes) in table {
            let hosts = owners.iter().map(|owner| (owner.to_string(), 2)).collect();
            let expected = Needed {
                requirements: parts.iter().map(|(o, q, from)| need(o, *q, from)).collect(),
                expires: Duration::from_secs(minutes * 60),
            };
            assert_eq!(requirements(&rules(POLICY), action, *risk, &hosts), expected, "{action}");
        }
    }

    #[test]
    fn no_rules_at_all_means_one_owner() {
        let hosts = BTreeMap::from([("web-owners".to_string(), 2)]);
        let needed = requirements(&[], "identify", Risk::Harmless, &hosts);
        assert_eq!(needed.requirements, [need("web-owners", 1, &["web-owners"])]);
        assert_eq!(needed.expires, DEFAULT_EXPIRY);
    }

    #[test]
    fn rules_are_strict() {
        for wrong in [
            "[[approval]]\nquorumm = 1",
            "[[approval]]\nfrom = [\"everyone\"]",
            "[[approval]]\nfrom = [\"group:\"]",
            "[[approval]]\nrisk = \"low\"",
            "[[approval]]\nexpires = 60",
            "[[approval]]\nquorum = -1",
        ] {
            #[derive(Deserialize, Debug)]
            struct File {
                #[serde(rename = "approval")]
                _approval: Vec<ApprovalRule>,
            }
            assert!(toml::from_str::<File>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn who_may_decide() {
        let needs = [need("web", 1, &["web", "leads"]), need("db", 1, &["db", "leads"])];
        let all = MayNot::NotAnApprover { from: set(&["web", "db", "leads"]) };
        type Row<'a> = (&'a str, &'a [&'a str], Result<Vec<String>, MayNot>);
        let table: &[Row<'_>] = &[
            ("bob", &["web"], Ok(vec!["web".into()])),
            ("lea", &["leads"], Ok(vec!["web".into(), "db".into()])),
            ("eve", &["other"], Err(all.clone())),
            ("eve", &[], Err(all)),
            // Submitters are refused first, even if they are in every group.
            ("alice", &["web", "db", "leads"], Err(MayNot::OwnBatch)),
            ("alice", &[], Err(MayNot::OwnBatch)),
        ];
        for (login, groups, expected) in table {
            assert_eq!(&may_decide(&needs, "alice", &who(login, groups)), expected, "{login}");
        }
        assert!(may_decide(&[], "alice", &who("bob", &["web"])).is_err());
    }

    #[test]
    fn counting() {
        let bob = || who("bob", &["web"]);
        let ben = || who("ben", &["web"]);
        let dave = || who("dave", &["db"]);
        let lea = || who("lea", &["leads"]);
        let alice = || who("alice", &["web", "db", "leads"]);
        let web1 = vec![need("web", 1, &["web", "leads"])];
        let web2 = vec![need("web", 2, &["web", "leads"])];
        let split = vec![need("web", 1, &["web", "leads"]), need("db", 1, &["db", "leads"])];
        type Row<'a> =
            (&'a str, &'a [Requirement], Vec<(Principal, Decision)>, &'a [&'a [&'a str]], bool);
        let table: Vec<Row<'_>> = vec![
            ("nothing said", &web1, vec![], &[&[]], false),
            ("nobody needed", &[], vec![], &[], true),
            ("one of one", &web1, vec![said(bob(), Approve, D)], &[&["bob"]], true),
            ("one of two", &web2, vec![said(bob(), Approve, D)], &[&["bob"]], false),
            (
                "a person counts once",
                &web2,
                vec![said(bob(), Approve, D), said(bob(), Approve, D)],
                &[&["bob"]],
                false,
            ),
            (
                "two of two",
                &web2,
                vec![said(bob(), Approve, D), said(ben(), Approve, D)],
                &[&["bob", "ben"]],
                true,
            ),
            ("an old plan", &web1, vec![said(bob(), Approve, OLD)], &[&[]], false),
            ("the wrong owner", &web1, vec![said(dave(), Approve, D)], &[&[]], false),
            ("left the group", &web1, vec![said(who("bob", &[]), Approve, D)], &[&[]], false),
            ("the submitter", &web1, vec![said(alice(), Approve, D)], &[&[]], false),
            ("half", &split, vec![said(dave(), Approve, D)], &[&[], &["dave"]], false),
            (
                "both halves",
                &split,
                vec![said(dave(), Approve, D), said(bob(), Approve, D)],
                &[&["bob"], &["dave"]],
                true,
            ),
            (
                "one lead for both",
                &split,
                vec![said(lea(), Approve, D)],
                &[&["lea"], &["lea"]],
                true,
            ),
        ];
        for (name, needs, decisions, approved_by, approved) in table {
            let tally = tally(needs, D, "alice", &decisions);
            let seen: Vec<&[String]> =
                tally.parts.iter().map(|part| part.approved_by.as_slice()).collect();
            assert_eq!(seen, approved_by, "{name}");
            assert_eq!(tally.approved(), approved, "{name}");
            assert_eq!(tally.rejected_by, None, "{name}");
        }
    }

    #[test]
    fn a_decision_is_its_own_persons() {
        let mut forged = said(who("bob", &["web"]), Approve, D);
        forged.1.login = "eve".into();
        assert!(!tally(&[need("web", 1, &["web"])], D, "alice", &[forged]).approved());
    }

    #[test]
    fn one_valid_reject_rejects() {
        let needs = [need("web", 1, &["web"])];
        let bob = || who("bob", &["web"]);
        let approve = || said(who("ben", &["web"]), Approve, D);
        type Row<'a> = (Vec<(Principal, Decision)>, Option<&'a str>);
        let table: Vec<Row<'_>> = vec![
            (vec![approve(), said(bob(), Reject, D)], Some("bob")),
            (vec![said(bob(), Reject, D), said(bob(), Approve, D)], Some("bob")),
            (vec![approve(), said(bob(), Reject, OLD)], None),
            (vec![approve(), said(who("eve", &["db"]), Reject, D)], None),
            (vec![approve(), said(who("alice", &["web"]), Reject, D)], None),
        ];
        for (decisions, rejected_by) in table {
            let tally = tally(&needs, D, "alice", &decisions);
            assert_eq!(tally.rejected_by.as_deref(), rejected_by);
            assert_eq!(tally.approved(), rejected_by.is_none());
        }
    }
}

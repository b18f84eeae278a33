//! The only permission check.
//!
//! Invariants: everything that no rule allows is forbidden; an [`Authorised`] can be made only
//! here, so a function that takes one cannot be called without this check. Decisions on batches are
//! checked by [`metalbot_core::domain::approval::may_decide`].

use std::collections::BTreeSet;

use serde::Deserialize;

use metalbot_core::domain::principal::Principal;

/// One `[[allow]]` of the configuration: members of `group` may submit these actions on hosts of
/// these owner groups. `*` stands for all.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowRule {
    pub group: String,
    #[serde(default = "all")]
    pub actions: Vec<String>,
    #[serde(default = "all")]
    pub owners: Vec<String>,
}

fn all() -> Vec<String> {
    vec!["*".into()]
}

impl AllowRule {
    fn covers(&self, action: &str, owner: &str) -> bool {
        let names = |list: &[String], name: &str| list.iter().any(|one| one == "*" || one == name);
        names(&self.actions, action) && names(&self.owners, owner)
    }
}

/// Rules that say who may do what.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Policy {
    pub allow: Vec<AllowRule>,
    /// Groups that may steer any batch and release any host. Submitting is not part of it.
    pub admins: BTreeSet<String>,
}

/// Permission to be checked.
#[derive(Clone, Copy, Debug)]
pub enum Permission<'a> {
    /// Start an action on hosts of these owner groups.
    Submit { action: &'a str, owners: &'a BTreeSet<String> },
    /// Resume a batch, or drop hosts of it.
    Control { submitter: &'a str, owners: &'a BTreeSet<String> },
    /// Cancel or pause a batch. This harms no host, so more people may do it: those who may steer
    /// it, approve it, or start one like it.
    Stop {
        submitter: &'a str,
        owners: &'a BTreeSet<String>,
        approvers: &'a BTreeSet<String>,
        action: &'a str,
    },
    /// Release quarantined hosts, or hosts that are counted as down.
    Release { owners: &'a BTreeSet<String> },
    /// Choose the notices that a channel gets.
    Tune,
    /// Give power commands from a shell, without approval.
    AdminPower,
    /// Read anything.
    Read,
}

/// Proof that [`authorise`] allowed a request.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub struct Authorised {
    login: String,
}

impl Authorised {
    /// Login of the person who was authorised.
    pub fn login(&self) -> &str {
        &self.login
    }
}

/// Refusal of a permission, with the groups that have it. The message is for the person who asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Forbidden {
    #[error("nobody may {action} hosts of {}; ask an administrator for a rule", list(.owners))]
    SubmitNobody { action: String, owners: BTreeSet<String> },
    #[error(
        "you may not {action} hosts of {}; members of {} may: ask one of them",
        list(.owners), list(.groups)
    )]
    Submit { action: String, owners: BTreeSet<String>, groups: BTreeSet<String> },
    #[error("only {submitter}{} may change this batch: ask one of them", or_members(.groups))]
    Control { submitter: String, groups: BTreeSet<String> },
    #[error("only {submitter}{} may stop this batch: ask one of them", or_members(.groups))]
    Stop { submitter: String, groups: BTreeSet<String> },
    #[error("only members of {} may release these hosts: ask one of them", list(.groups))]
    Release { groups: BTreeSet<String> },
    #[error("only members of {} may choose what a channel is told: ask one of them", list(.groups))]
    Tune { groups: BTreeSet<String> },
    #[error("only members of {} may act by hand: ask one of them, or submit it in chat", list(.groups))]
    AdminPower { groups: BTreeSet<String> },
}

fn list(groups: &BTreeSet<String>) -> String {
    match groups.is_empty() {
        true => "no group".into(),
        false => groups.iter().map(String::as_str).collect::<Vec<_>>().join(", "),
    }
}

fn or_members(groups: &BTreeSet<String>) -> String {
    match groups.is_empty() {
        true => String::new(),
        false => format!(" and members of {}", list(groups)),
    }
}

/// Checks that `who` has a permission. Fails with the people and groups that have it.
pub fn authorise(
    policy: &Policy,
    who: &Principal,
    verb: Permission<'_>,
) -> Result<Authorised, Forbidden> {
    match verb {
        Permission::Read => {}
        Permission::Submit { action, owners } => submit(policy, who, action, owners)?,
        Permission::Control { submitter, owners } => {
            let groups = owners_and_admins(policy, owners);
            if who.login != submitter && !who.in_any(&groups) {
                return Err(Forbidden::Control { submitter: submitter.into(), groups });
            }
        }
        Permission::Tune => {
            // Everybody who may submit anything, since the channel shows their batches.
            let allowed = policy.allow.iter().map(|rule| rule.group.clone());
            let groups: BTreeSet<String> = allowed.chain(policy.admins.iter().cloned()).collect();
            if !who.in_any(&groups) {
                return Err(Forbidden::Tune { groups });
            }
        }
        Permission::AdminPower => {
            if !who.in_any(&policy.admins) {
                return Err(Forbidden::AdminPower { groups: policy.admins.clone() });
            }
        }
        Permission::Stop { submitter, owners, approvers, action } => {
            let mut groups = owners_and_admins(policy, owners);
            groups.extend(approvers.iter().cloned());
            let peers =
                policy.allow.iter().filter(|rule| owners.iter().all(|o| rule.covers(action, o)));
            groups.extend(peers.map(|rule| rule.group.clone()));
            if who.login != submitter && !who.in_any(&groups) {
                return Err(Forbidden::Stop { submitter: submitter.into(), groups });
            }
        }
        Permission::Release { owners } => {
            // A person who owns only some of the hosts may not release the others.
            let owns_all = !owners.is_empty() && owners.is_subset(&who.groups);
            if !owns_all && !who.in_any(&policy.admins) {
                return Err(Forbidden::Release { groups: owners_and_admins(policy, owners) });
            }
        }
    }
    Ok(Authorised { login: who.login.clone() })
}

/// Checks that a rule covers each owner group; no rule covers hosts without an owner.
fn submit(
    policy: &Policy,
    who: &Principal,
    action: &str,
    owners: &BTreeSet<String>,
) -> Result<(), Forbidden> {
    let rules_for = |owner: &str| {
        let owner = owner.to_owned();
        policy.allow.iter().filter(move |rule| rule.covers(action, &owner))
    };
    let lacking: BTreeSet<String> = owners
        .iter()
        .filter(|owner| !rules_for(owner).any(|rule| who.groups.contains(&rule.group)))
        .cloned()
        .collect();
    if lacking.is_empty() && !owners.is_empty() {
        return Ok(());
    }
    let groups: BTreeSet<String> =
        lacking.iter().flat_map(|owner| rules_for(owner)).map(|rule| rule.group.clone()).collect();
    let action = action.to_owned();
    Err(match groups.is_empty() {
        true => Forbidden::SubmitNobody { action, owners: lacking },
        false => Forbidden::Submit { action, owners: lacking, groups },
    })
}

fn owners_and_admins(policy: &Policy, owners: &BTreeSet<String>) -> BTreeSet<String> {
    owners.union(&policy.admins).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    fn who(login: &str, groups: &[&str]) -> Principal {
        Principal { login: login.into(), name: login.into(), groups: set(groups) }
    }

    fn allow(group: &str, actions: &[&str], owners: &[&str]) -> AllowRule {
        let strings = |list: &[&str]| list.iter().map(|one| one.to_string()).collect();
        AllowRule { group: group.into(), actions: strings(actions), owners: strings(owners) }
    }

    fn policy() -> Policy {
        Policy {
            allow: vec![
                allow("sre", &["*"], &["*"]),
                allow("web", &["reboot", "identify"], &["web"]),
                allow("night", &["reboot"], &["web", "db"]),
            ],
            admins: set(&["admins"]),
        }
    }

    #[test]
    fn submitting_needs_a_rule_for_every_owner() {
        let table: &[(&[&str], &str, &[&str], bool)] = &[
            (&["sre"], "reboot", &["web", "db"], true),
            (&["sre"], "wipe", &["db"], true),
            (&["web"], "reboot", &["web"], true),
            (&["web"], "wipe", &["web"], false),
            (&["web"], "reboot", &["web", "db"], false),
            (&["web"], "reboot", &["db"], false),
            (&["web", "night"], "reboot", &["web", "db"], true),
            (&["web", "night"], "identify", &["web", "db"], false),
            (&[], "reboot", &["web"], false),
            (&["admins"], "reboot", &["web"], false),
            (&["sre"], "reboot", &[], false),
            // The text `*` as a group name allows nothing.
            (&["*"], "reboot", &["web"], false),
        ];
        for (groups, action, owners, expected) in table {
            let verb = Permission::Submit { action, owners: &set(owners) };
            let answer = authorise(&policy(), &who("p", groups), verb);
            assert_eq!(answer.is_ok(), *expected, "{groups:?} {action} {owners:?}");
        }
    }

    #[test]
    fn no_rules_allow_nothing_but_reading() {
        let (nothing, anybody) = (Policy::default(), who("p", &["sre", "admins", "web"]));
        let web = set(&["web"]);
        let submit = Permission::Submit { action: "identify", owners: &web };
        assert!(authorise(&nothing, &anybody, submit).is_err());
        assert_eq!(authorise(&nothing, &anybody, Permission::Read).unwrap().login(), "p");
    }

    #[test]
    fn steering_and_releasing() {
        type Row<'a> = (&'a str, &'a [&'a str], &'a [&'a str], bool, bool);
        let table: &[Row<'_>] = &[
            // login, groups, owners, may steer alice's batch, may release
            ("alice", &["sre"], &["web"], true, false),
            ("bob", &["web"], &["web"], true, true),
            ("bob", &["web"], &["web", "db"], true, false),
            ("bob", &["web", "db"], &["web", "db"], true, true),
            ("dave", &["db"], &["web"], false, false),
            ("carol", &["sre"], &["web"], false, false),
            ("root", &["admins"], &["web"], true, true),
            ("root", &["admins"], &[], true, true),
            ("bob", &["web"], &[], false, false),
        ];
        for (login, groups, owners, steer, release) in table {
            let (who, owners) = (who(login, groups), set(owners));
            let verb = Permission::Control { submitter: "alice", owners: &owners };
            assert_eq!(authorise(&policy(), &who, verb).is_ok(), *steer, "{who:?} {owners:?}");
            let verb = Permission::Release { owners: &owners };
            assert_eq!(authorise(&policy(), &who, verb).is_ok(), *release, "{who:?} {owners:?}");
        }
    }

    #[test]
    fn only_administrators_act_by_hand() {
        let table: &[(&[&str], bool)] =
            &[(&["admins"], true), (&["sre", "web"], false), (&[], false), (&["*"], false)];
        for (groups, expected) in table {
            let answer = authorise(&policy(), &who("p", groups), Permission::AdminPower);
            assert_eq!(answer.is_ok(), *expected, "{groups:?}");
        }
        let nobody = authorise(&Policy::default(), &who("p", &["admins"]), Permission::AdminPower);
        let nobody = nobody.unwrap_err().to_string();
        assert!(nobody.starts_with("only members of no group may act by hand"), "{nobody}");
    }

    #[test]
    fn stopping_is_easier_than_going_on() {
        let (web, leads) = (set(&["web"]), set(&["leads"]));
        let stop = |login: &str, groups: &[&str], owners: &BTreeSet<String>| {
            let (submitter, action) = ("alice", "reboot");
            let verb = Permission::Stop { submitter, owners, approvers: &leads, action };
            authorise(&policy(), &who(login, groups), verb)
        };
        for (login, groups, may) in [
            ("alice", &["none"][..], true),
            ("bob", &["web"], true),
            ("root", &["admins"], true),
            ("lea", &["leads"], true),
            // They could have started it.
            ("carol", &["sre"], true),
            ("nina", &["night"], true),
            ("dave", &["db"], false),
            ("eve", &[], false),
        ] {
            assert_eq!(stop(login, groups, &web).is_ok(), may, "{login}");
        }
        // A person who could have started only a part of it may not stop the whole.
        let more = set(&["web", "mail"]);
        assert!(stop("nina", &["night"], &more).is_err());
        assert!(stop("carol", &["sre"], &more).is_ok());
        assert_eq!(
            stop("dave", &["db"], &web).unwrap_err().to_string(),
            "only alice and members of admins, leads, night, sre, web may stop this batch: \
             ask one of them"
        );
    }

    #[test]
    fn refusals_say_what_would_be_needed() {
        let (dave, web) = (who("dave", &["db"]), set(&["web"]));
        let message =
            |policy: &Policy, verb| authorise(policy, &dave, verb).unwrap_err().to_string();
        assert_eq!(
            message(&policy(), Permission::Submit { action: "reboot", owners: &web }),
            "you may not reboot hosts of web; members of night, sre, web may: ask one of them"
        );
        assert_eq!(
            message(&Policy::default(), Permission::Submit { action: "reboot", owners: &web }),
            "nobody may reboot hosts of web; ask an administrator for a rule"
        );
        assert_eq!(
            message(&policy(), Permission::Control { submitter: "alice", owners: &web }),
            "only alice and members of admins, web may change this batch: ask one of them"
        );
        assert_eq!(
            message(&policy(), Permission::Release { owners: &web }),
            "only members of admins, web may release these hosts: ask one of them"
        );
    }
}

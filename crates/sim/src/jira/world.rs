//! What the stand-in knows: its settings, its tickets and what has to go wrong next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::JiraFault;

/// Which of the two Jiras it stands in for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SimDialect {
    /// REST version 2, wiki text, people by user name.
    DataCenter,
    /// REST version 3, Atlassian Document Format, people by account id.
    Cloud,
}

/// What the stand-in knows before the first ticket.
#[derive(Clone, Debug)]
pub struct SimJiraSite {
    pub dialect: SimDialect,
    /// The one bearer token that it takes, or with `user` the password.
    pub token: String,
    /// With it, basic authentication is the only one.
    pub user: Option<String>,
    pub projects: Vec<String>,
    pub issue_types: Vec<String>,
    pub priorities: Vec<String>,
    pub components: Vec<String>,
    /// Ids of custom fields on the screen.
    pub custom_fields: Vec<String>,
    /// Fields beside summary that a ticket must have, by project.
    pub required: Vec<(String, String)>,
    /// Accounts that exist; `None` takes every name.
    pub people: Option<Vec<String>>,
    /// The first status is that of a new ticket.
    pub statuses: Vec<Status>,
    pub transitions: Vec<Transition>,
    /// How long the search does not see a new ticket.
    pub search_lag: Duration,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    pub name: String,
    /// Jira's key: `new`, `indeterminate` or `done`.
    pub category: &'static str,
}

/// A way between two statuses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transition {
    pub name: String,
    pub from: String,
    pub to: String,
    /// Set on arrival; `None` makes the ticket unresolved again.
    pub resolution: Option<String>,
}

impl SimJiraSite {
    /// Data Center with three projects, four issue types, everybody, and a workflow from Open over
    /// In Progress to Done and back.
    pub fn with_token(token: impl Into<String>) -> SimJiraSite {
        let status = |name: &str, category| Status { name: name.into(), category };
        let transition = |name: &str, from: &str, to: &str, resolution: Option<&str>| Transition {
            name: name.into(),
            from: from.into(),
            to: to.into(),
            resolution: resolution.map(str::to_owned),
        };
        SimJiraSite {
            dialect: SimDialect::DataCenter,
            token: token.into(),
            user: None,
            projects: words(&["OPS", "HW", "NET"]),
            issue_types: words(&["Task", "Bug", "Incident", "Problem"]),
            priorities: words(&["Highest", "High", "Medium", "Low", "Lowest"]),
            components: words(&["Servers", "Network", "Power"]),
            custom_fields: words(&["customfield_10010"]),
            required: Vec::new(),
            people: None,
            statuses: vec![
                status("Open", "new"),
                status("In Progress", "indeterminate"),
                status("Done", "done"),
            ],
            transitions: vec![
                transition("Start Progress", "Open", "In Progress", None),
                transition("Resolve", "Open", "Done", Some("Done")),
                transition("Resolve", "In Progress", "Done", Some("Done")),
                transition("Reject", "Open", "Done", Some("Won't Fix")),
                transition("Reject", "In Progress", "Done", Some("Won't Fix")),
                transition("Reopen", "Done", "Open", None),
            ],
            search_lag: Duration::ZERO,
        }
    }

    /// The same as Cloud, for a user with an API token.
    pub fn cloud(user: impl Into<String>, token: impl Into<String>) -> SimJiraSite {
        let user = Some(user.into());
        SimJiraSite { dialect: SimDialect::Cloud, user, ..SimJiraSite::with_token(token) }
    }

    pub(super) fn knows(&self, account: &str) -> bool {
        let plain = !account.is_empty() && !account.contains(char::is_whitespace);
        plain && self.people.as_ref().is_none_or(|people| people.iter().any(|one| one == account))
    }
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

/// One ticket as the stand-in keeps it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Ticket {
    pub key: String,
    /// Keys that it had in other projects.
    pub former_keys: Vec<String>,
    pub project: String,
    pub issue_type: String,
    pub summary: String,
    /// As it came: wiki text, or a document as JSON text.
    pub description: String,
    pub labels: Vec<String>,
    pub components: Vec<String>,
    pub priority: Option<String>,
    pub assignee: Option<String>,
    /// Gone where the account was deleted.
    pub reporter: Option<String>,
    pub fields: Map<String, Value>,
    pub status: String,
    pub resolution: Option<String>,
    pub resolved: Option<OffsetDateTime>,
    pub created: OffsetDateTime,
    /// As they came, oldest first.
    pub comments: Vec<String>,
    pub watchers: BTreeSet<String>,
}

#[derive(Debug)]
pub(super) struct JiraWorld {
    pub site: SimJiraSite,
    pub tickets: Vec<Ticket>,
    /// Last number that each project gave.
    pub numbers: BTreeMap<String, u64>,
    pub down: bool,
    pub lose_creates: u32,
    pub faults: VecDeque<(Option<String>, JiraFault)>,
    pub requests: BTreeMap<&'static str, u64>,
}

impl JiraWorld {
    pub fn new(site: SimJiraSite) -> JiraWorld {
        JiraWorld {
            site,
            tickets: Vec::new(),
            numbers: BTreeMap::new(),
            down: false,
            lose_creates: 0,
            faults: VecDeque::new(),
            requests: BTreeMap::new(),
        }
    }

    /// The fault of this request: the oldest for its kind or for any.
    pub fn fault_for(&mut self, kind: &str) -> Option<JiraFault> {
        if kind == "create" && self.lose_creates > 0 {
            self.lose_creates -= 1;
            return Some(JiraFault::DropReply);
        }
        let fits = |wanted: &Option<String>| wanted.as_ref().is_none_or(|wanted| wanted == kind);
        let at = self.faults.iter().position(|(wanted, _)| fits(wanted))?;
        self.faults.remove(at).map(|(_, fault)| fault)
    }

    pub fn next_key(&mut self, project: &str) -> String {
        let number = self.numbers.entry(project.to_owned()).or_default();
        *number += 1;
        format!("{project}-{number}")
    }

    /// Also by a key that it had before it was moved.
    pub fn find(&self, key: &str) -> Option<&Ticket> {
        self.tickets.iter().find(|ticket| ticket.is(key))
    }

    pub fn find_mut(&mut self, key: &str) -> Option<&mut Ticket> {
        self.tickets.iter_mut().find(|ticket| ticket.is(key))
    }

    /// Takes the ticket from where it is through the transition at that place of the settings.
    #[expect(clippy::disallowed_methods, reason = "the simulated Jira has a clock of its own")]
    pub fn take_through(&mut self, key: &str, at: usize) -> bool {
        let Some(transition) = self.site.transitions.get(at).cloned() else { return false };
        match self.find_mut(key).filter(|ticket| ticket.status == transition.from) {
            Some(ticket) => {
                ticket.status = transition.to;
                ticket.resolved = transition.resolution.as_ref().map(|_| OffsetDateTime::now_utc());
                ticket.resolution = transition.resolution;
                true
            }
            None => false,
        }
    }
}

impl Ticket {
    fn is(&self, key: &str) -> bool {
        self.key == key || self.former_keys.iter().any(|former| former == key)
    }
}

//! State of the simulated Jira: its settings, its tickets and the faults to come.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::JiraFault;

/// Version of Jira that is simulated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SimDialect {
    /// Data Center: REST version 2, wiki text, people by user name.
    DataCenter,
    /// Cloud: REST version 3, Atlassian Document Format, people by account id.
    Cloud,
}

/// Settings of the simulated site.
#[derive(Clone, Debug)]
pub struct SimJiraSite {
    pub dialect: SimDialect,
    /// Only valid bearer token; with `user` set, the password.
    pub token: String,
    /// User name; if set, only basic authentication is accepted.
    pub user: Option<String>,
    pub projects: Vec<String>,
    pub issue_types: Vec<String>,
    pub priorities: Vec<String>,
    pub components: Vec<String>,
    /// Ids of custom fields on the screen.
    pub custom_fields: Vec<String>,
    /// Required fields besides the summary, as pairs of project and field.
    pub required: Vec<(String, String)>,
    /// Accounts that exist; `None` accepts every name.
    pub people: Option<Vec<String>>,
    /// Statuses; the first one is that of a new ticket.
    pub statuses: Vec<Status>,
    pub transitions: Vec<Transition>,
    /// Time in which the search does not find a new ticket.
    pub search_lag: Duration,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    pub name: String,
    /// Category in Jira's words: `new`, `indeterminate` or `done`.
    pub category: &'static str,
}

/// Transition between two statuses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transition {
    pub name: String,
    pub from: String,
    pub to: String,
    /// Resolution after the transition; `None` makes the ticket unresolved again.
    pub resolution: Option<String>,
}

impl SimJiraSite {
    /// Settings of Data Center with three projects, four issue types, all accounts, and a workflow
    /// from Open over In Progress to Done and back.
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

    /// Settings of Cloud, otherwise the same, for a user with an API token.
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

/// Ticket as stored.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Ticket {
    pub key: String,
    /// Earlier keys, from other projects.
    pub former_keys: Vec<String>,
    pub project: String,
    pub issue_type: String,
    pub summary: String,
    /// Description as received: wiki text, or a document as JSON text.
    pub description: String,
    pub labels: Vec<String>,
    pub components: Vec<String>,
    pub priority: Option<String>,
    pub assignee: Option<String>,
    /// Account of the reporter; `None` after it was deleted.
    pub reporter: Option<String>,
    pub fields: Map<String, Value>,
    pub status: String,
    pub resolution: Option<String>,
    pub resolved: Option<OffsetDateTime>,
    pub created: OffsetDateTime,
    /// Comments as received, oldest first.
    pub comments: Vec<String>,
    pub watchers: BTreeSet<String>,
}

#[derive(Debug)]
pub(super) struct JiraWorld {
    pub site: SimJiraSite,
    pub tickets: Vec<Ticket>,
    /// Last ticket number of each project.
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

    /// Takes the fault for this request: the oldest for its kind or for any kind.
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

    /// Finds a ticket by its key or by an earlier one.
    pub fn find(&self, key: &str) -> Option<&Ticket> {
        self.tickets.iter().find(|ticket| ticket.is(key))
    }

    pub fn find_mut(&mut self, key: &str) -> Option<&mut Ticket> {
        self.tickets.iter_mut().find(|ticket| ticket.is(key))
    }

    /// Moves the ticket from its status through the transition at that index of the settings.
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

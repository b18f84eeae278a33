//! Creates one ticket in Jira: with everything that the route asks for or, where Jira does not take
//! that, with less.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use super::facts::TicketFacts;
use super::people::Concerned;
use super::relay::{RelayError, TicketProblem, TicketRelay};
use super::render::TicketPerson;
use crate::failpoint::{Point, reach};
use crate::runtime::task::TaskLease;
use metalbot_core::domain::triage::TicketTarget;
use metalbot_jira::{Body, Issue, JiraError, NewIssue};
use metalbot_store::ticket_work::{self, Work};

/// Wait before a ticket in doubt is looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// A ticket that Jira has.
pub(super) struct Filed {
    pub issue: Issue,
    /// Version of our ticket that it shows; 0 when that is not known.
    pub rendered_version: i64,
    /// Fields that Jira did not take, with its reasons.
    pub rejected_fields: Option<String>,
}

/// Extent of a ticket that Jira is asked to take.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Extent {
    Full,
    /// Without the fields that Jira named.
    Without(Vec<String>),
    /// Only what every ticket has; people are named and not mentioned.
    Least,
    /// The least, in the project of the default route.
    LeastElsewhere,
}

impl TicketRelay {
    /// Finds the ticket or creates it. `None`: another process has done so.
    pub(super) async fn file(
        &self,
        work: &Work,
        facts: &TicketFacts,
        people: &Concerned,
        lease: &TaskLease,
    ) -> Result<Option<Filed>, RelayError> {
        let label = format!("metalbot-{}", work.fingerprint);
        if let Some(doubt) = work.doubt {
            if let Some(issue) = self.site.find_by_label(&label).await? {
                return Ok(Some(Filed { issue, rendered_version: 0, rejected_fields: None }));
            }
            if let Some(left) =
                self.policy.create_confirm_timeout.checked_sub(doubt).filter(|left| !left.is_zero())
            {
                return Err(RelayError::Doubt(left.min(LOOK_AGAIN)));
            }
        }
        let mut refusals: Vec<String> = Vec::new();
        let mut extent = Extent::Full;
        loop {
            let rejected_fields = (!refusals.is_empty()).then(|| refusals.join("; "));
            let new =
                self.issue(work, facts, people, &label, &extent, rejected_fields.as_deref())?;
            if !ticket_work::create_begins(&self.pool, work.id).await? {
                return Ok(None);
            }
            if !lease.holds() {
                return Err(RelayError::LeaseLost);
            }
            reach(Point::TicketBeforeCreate);
            let created = self.site.create(&new).await;
            reach(Point::TicketAfterCreate);
            let error = match created {
                Ok(issue) => {
                    return Ok(Some(Filed {
                        issue,
                        rendered_version: work.version,
                        rejected_fields,
                    }));
                }
                Err(error @ JiraError::Unknown { .. }) => return Err(error.into()),
                Err(error) => error,
            };
            ticket_work::create_failed(&self.pool, work.id).await?;
            let JiraError::Rejected { field_errors, .. } = &error else { return Err(error.into()) };
            let next = match error.is_about_access() {
                true => None,
                false => self.next_extent(work, &extent, &new, field_errors),
            };
            let Some(next) = next else { return Err(error.into()) };
            tracing::warn!(ticket = work.fingerprint, %error, ?next, "Jira refuses a part of a ticket: it is filed with less");
            let said = error.to_string();
            let said = said.strip_prefix("Jira refused it: ").unwrap_or(&said).to_owned();
            if !refusals.contains(&said) {
                refusals.push(said);
            }
            extent = next;
        }
    }

    /// Extent to ask for after a refusal; `None` when there is nothing less.
    fn next_extent(
        &self,
        work: &Work,
        extent: &Extent,
        refused: &NewIssue,
        field_errors: &BTreeMap<String, String>,
    ) -> Option<Extent> {
        let ours = optional_fields(refused);
        let named: Vec<String> =
            field_errors.keys().filter(|field| ours.contains(field)).cloned().collect();
        let (target, default) = (&work.target, &self.default);
        let elsewhere = target.site == default.site
            && (&target.project, &target.issue_type) != (&default.project, &default.issue_type);
        match extent {
            Extent::Full if !named.is_empty() => Some(Extent::Without(named)),
            Extent::Full | Extent::Without(_) => Some(Extent::Least),
            Extent::Least if elsewhere => Some(Extent::LeastElsewhere),
            Extent::Least | Extent::LeastElsewhere => None,
        }
    }

    fn issue(
        &self,
        work: &Work,
        facts: &TicketFacts,
        people: &Concerned,
        label: &str,
        extent: &Extent,
        rejected_fields: Option<&str>,
    ) -> Result<NewIssue, RelayError> {
        let default = &self.default;
        let target: &TicketTarget = match extent {
            Extent::LeastElsewhere => default,
            _ => &work.target,
        };
        let least = matches!(extent, Extent::Least | Extent::LeastElsewhere);
        let named: Concerned = people
            .iter()
            .map(|(login, who)| {
                let account = who.account.clone().filter(|_| !least);
                (login.clone(), TicketPerson { account, ..who.clone() })
            })
            .collect();
        let context = self.context(work, facts, &named, rejected_fields);
        let text = self.templates.failure(&context).map_err(TicketProblem::from)?;
        let new = NewIssue {
            project: target.project.clone(),
            issue_type: target.issue_type.clone(),
            summary: text.summary,
            body: Body::markdown(text.body),
            labels: vec![label.to_owned()],
            components: Vec::new(),
            priority: None,
            assignee: None,
            fields: Map::new(),
        };
        if least {
            return Ok(new);
        }
        let without = |field: &str| match extent {
            Extent::Without(fields) => fields.iter().any(|one| one == field),
            _ => false,
        };
        let fields = target.fields.iter().filter(|(field, _)| !without(field));
        Ok(NewIssue {
            labels: target.labels.iter().cloned().chain([label.to_owned()]).collect(),
            components: target
                .components
                .iter()
                .filter(|_| !without("components"))
                .cloned()
                .collect(),
            priority: target.priority.clone().filter(|_| !without("priority")),
            assignee: target.assignee.clone().filter(|_| !without("assignee")),
            fields: fields
                .map(|(field, value)| match serde_json::from_str::<Value>(value) {
                    Ok(value) => Ok((field.clone(), value)),
                    Err(cause) => Err(TicketProblem::Field { field: field.clone(), cause }),
                })
                .collect::<Result<_, _>>()?,
            ..new
        })
    }
}

/// Fields that the ticket has and could do without.
fn optional_fields(new: &NewIssue) -> Vec<String> {
    let given = [
        ("components", !new.components.is_empty()),
        ("priority", new.priority.is_some()),
        ("assignee", new.assignee.is_some()),
    ];
    let given = given.into_iter().filter(|(_, given)| *given).map(|(field, _)| field.to_owned());
    given.chain(new.fields.keys().cloned()).collect()
}

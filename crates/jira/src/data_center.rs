//! Reading from Jira Data Center, REST version 2.
//!
//! Pages of states are read by `jira_query`, with our own HTTP client: its timeout, its TLS, no
//! redirects. That crate does not look at the status of an answer, needs every field of its model
//! (an issue whose reporter is gone has none), and Jira refuses a whole page for one ticket that
//! was deleted. So a ticket that it does not bring is asked for by itself, where all of that is
//! distinguished: what it brings is used, what it does not bring means nothing.

use jira_query::{JiraInstance, Pagination};
use serde::Deserialize;
use time::OffsetDateTime;

use super::error::JiraError;
use super::read::{Category, FoundIssue, IssueState, first_with_label, state_of};
use super::wire::Wire;

/// Tickets of one page: `jira_query` asks for no more at a time.
const PAGE: usize = 20;

#[derive(Deserialize)]
struct Page {
    issues: Vec<FoundIssue>,
}

/// The oldest ticket with the label.
pub(super) async fn find_by_label(wire: &Wire, label: &str) -> Result<Option<String>, JiraError> {
    let jql = format!("labels = \"{label}\" ORDER BY created ASC");
    let query = [("jql", jql.as_str()), ("fields", "labels"), ("maxResults", "50")];
    let page: Page = wire.get("rest/api/2/search", &query).await?;
    first_with_label(&page.issues, label)
}

/// See [`super::Site::states`].
pub(super) async fn states(wire: &Wire, keys: &[String]) -> Result<Vec<IssueState>, JiraError> {
    let mut states = Vec::with_capacity(keys.len());
    let reader = reader(wire);
    for page in keys.chunks(PAGE) {
        let found = match &reader {
            Some(reader) => read_page(reader, page).await,
            None => Vec::new(),
        };
        for key in page {
            match found.iter().find(|state| state.key == *key) {
                Some(state) => states.push(state.clone()),
                None => states.extend(state_of(wire, "rest/api/2/issue", key).await?),
            }
        }
    }
    Ok(states)
}

fn reader(wire: &Wire) -> Option<JiraInstance> {
    let host = wire.url("").as_str().trim_end_matches('/').to_owned();
    let jira = JiraInstance::at(host).ok()?;
    // Our client brings the credentials.
    Some(jira.with_client(wire.client()).paginate(Pagination::MaxResults(PAGE as u32)))
}

async fn read_page(jira: &JiraInstance, keys: &[String]) -> Vec<IssueState> {
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    match jira.issues(&keys).await {
        Ok(issues) => issues.into_iter().map(state).collect(),
        Err(error) => {
            tracing::debug!(%error, "a page of tickets was not read: they are asked for one by one");
            Vec::new()
        }
    }
}

fn state(issue: jira_query::Issue) -> IssueState {
    let fields = issue.fields;
    IssueState {
        key: issue.key,
        moved_to: None,
        status: fields.status.name,
        category: Category::of(&fields.status.status_category.key),
        resolution: fields.resolution.map(|resolution| resolution.name),
        resolved_at: fields.resolutiondate.and_then(|when| {
            let nanos = i128::from(when.timestamp_millis()) * 1_000_000;
            OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()
        }),
        assignee: fields.assignee.map(|person| person.display_name),
    }
}

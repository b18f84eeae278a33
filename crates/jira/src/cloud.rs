//! Reading from Jira Cloud, REST version 3.
//!
//! Not by `jira_query`: it speaks version 2 only, puts the page token into the address as it is,
//! and needs a time zone of every person, which Cloud's privacy settings hide. States come from
//! `issue/bulkfetch`, which unlike the search is not behind what was written.

use serde::Deserialize;
use serde_json::{Value, json};

use super::error::JiraError;
use super::read::{FoundIssue, IssueState, STATE_FIELDS, first_with_label, state_of};
use super::wire::Wire;

/// Most issues that `bulkfetch` takes.
const PAGE: usize = 100;
/// Pages of a search for a label that one ticket or a few have.
const MOST_PAGES: usize = 20;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    #[serde(default)]
    issues: Vec<FoundIssue>,
    next_page_token: Option<String>,
    #[serde(default)]
    is_last: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fetched {
    #[serde(default)]
    issues: Vec<FoundIssue>,
    /// Issues that could not be read just now; those that do not exist are not listed at all.
    #[serde(default)]
    issue_errors: Vec<Value>,
}

/// The oldest ticket with the label that the search already knows.
pub(super) async fn find_by_label(wire: &Wire, label: &str) -> Result<Option<String>, JiraError> {
    let mut question = json!({
        "jql": format!("labels = \"{label}\" ORDER BY created ASC"),
        "fields": ["labels"],
        "maxResults": 50,
    });
    // A page may be short, or even empty, and not be the last.
    for _ in 0..MOST_PAGES {
        let page: Page = wire.ask("rest/api/3/search/jql", &question).await?;
        if let Some(key) = first_with_label(&page.issues, label)? {
            return Ok(Some(key));
        }
        match page.next_page_token.filter(|_| !page.is_last) {
            Some(token) => question["nextPageToken"] = token.into(),
            None => return Ok(None),
        }
    }
    Err(JiraError::Transient {
        retry_after: None,
        detail: format!("the search for the label {label} does not end"),
    })
}

/// See [`super::Site::states`].
pub(super) async fn states(wire: &Wire, keys: &[String]) -> Result<Vec<IssueState>, JiraError> {
    let mut states = Vec::with_capacity(keys.len());
    for page in keys.chunks(PAGE) {
        let question = json!({ "issueIdsOrKeys": page, "fields": STATE_FIELDS });
        let fetched: Fetched = wire.ask("rest/api/3/issue/bulkfetch", &question).await?;
        if let Some(error) = fetched.issue_errors.first() {
            return Err(JiraError::Transient { retry_after: None, detail: error.to_string() });
        }
        let mut found = fetched.issues;
        for key in page {
            match found.iter().position(|issue| issue.key == *key) {
                Some(at) => states.push(found.swap_remove(at).state(key)?),
                // Gone, or moved and so under another key.
                None => states.extend(state_of(wire, "rest/api/3/issue", key).await?),
            }
        }
    }
    Ok(states)
}

//! Reading of tickets: their states, and which of them has a label.

use serde::Deserialize;
use time::OffsetDateTime;
use time::macros::format_description;

use super::check::is_key;
use super::error::JiraError;
use super::wire::Wire;

/// Fields that [`FoundIssue::state`] needs.
pub(super) const STATE_FIELDS: [&str; 4] = ["status", "resolution", "resolutiondate", "assignee"];

/// State of a ticket. Names are the site's own, which may be in any language; the category is
/// not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IssueState {
    /// Key as it was asked for.
    pub key: String,
    /// Its key now, where it was moved to another project.
    pub moved_to: Option<String>,
    /// Such as `In Progress`.
    pub status: String,
    pub category: Category,
    /// Such as `Done` or `Won't Fix`; `None` while unresolved.
    pub resolution: Option<String>,
    /// Time of its resolution, by Jira's clock.
    pub resolved_at: Option<OffsetDateTime>,
    /// Name for people.
    pub assignee: Option<String>,
}

/// Category of a status, the same in every workflow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Category {
    /// Nobody has begun; also where the site gives no category.
    New,
    InProgress,
    Done,
}

impl Category {
    /// Jira's own key of the category.
    pub(super) fn of(key: &str) -> Category {
        match key {
            "done" => Category::Done,
            "indeterminate" => Category::InProgress,
            _ => Category::New,
        }
    }
}

/// An issue with the fields that were asked for.
#[derive(Deserialize)]
pub(super) struct FoundIssue {
    pub key: String,
    #[serde(default)]
    fields: Fields,
}

#[derive(Default, Deserialize)]
struct Fields {
    #[serde(default)]
    labels: Vec<String>,
    status: Option<Status>,
    resolution: Option<Named>,
    resolutiondate: Option<String>,
    assignee: Option<Person>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    name: String,
    status_category: Option<Keyed>,
}

#[derive(Deserialize)]
struct Keyed {
    key: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Person {
    display_name: String,
}

impl FoundIssue {
    /// `asked` is the key that we know.
    pub fn state(self, asked: &str) -> Result<IssueState, JiraError> {
        let Some(status) = self.fields.status else {
            return Err(JiraError::Transient {
                retry_after: None,
                detail: format!("Jira does not say the status of {asked}"),
            });
        };
        let category = status.status_category.map_or(Category::New, |one| Category::of(&one.key));
        Ok(IssueState {
            key: asked.to_owned(),
            moved_to: (self.key != asked).then_some(self.key),
            status: status.name,
            category,
            resolution: self.fields.resolution.map(|one| one.name),
            resolved_at: self.fields.resolutiondate.as_deref().and_then(moment),
            assignee: self.fields.assignee.map(|one| one.display_name),
        })
    }
}

/// `2026-11-23T14:02:10.000+0100`, as Jira writes times; `None` for anything else.
fn moment(text: &str) -> Option<OffsetDateTime> {
    let format = format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond][offset_hour sign:mandatory][offset_minute]"
    );
    OffsetDateTime::parse(text, &format).ok()
}

/// The first issue that bears the label.
pub(super) fn first_with_label(
    found: &[FoundIssue],
    label: &str,
) -> Result<Option<String>, JiraError> {
    let bears =
        |one: &&FoundIssue| is_key(&one.key) && one.fields.labels.iter().any(|l| l == label);
    match found.iter().find(bears) {
        Some(one) => Ok(Some(one.key.clone())),
        None if found.is_empty() => Ok(None),
        // Some servers answer a query that they do not understand with every issue: that is no
        // proof of absence.
        None => Err(JiraError::Transient {
            retry_after: None,
            detail: format!("the search for the label {label} found other issues"),
        }),
    }
}

/// The state of one ticket, wherever it was moved; `None` when it is gone.
pub(super) async fn state_of(
    wire: &Wire,
    resource: &str,
    key: &str,
) -> Result<Option<IssueState>, JiraError> {
    let fields = STATE_FIELDS.join(",");
    match wire.get::<FoundIssue>(&format!("{resource}/{key}"), &[("fields", &fields)]).await {
        Ok(found) => found.state(key).map(Some),
        Err(JiraError::Rejected { status: Some(404), .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn times_as_jira_writes_them() {
        let wanted = datetime!(2026-11-23 14:02:10.25 +1);
        assert_eq!(moment("2026-11-23T14:02:10.250+0100"), Some(wanted));
        assert_eq!(moment("2026-11-23T13:02:10.250+0000"), Some(wanted));
        assert_eq!(moment("23/Nov/26"), None);
    }
}

//! The JSON form of tickets, people and statuses.
//!
//! Invariant: a field that Jira always sends is there, even if nobody in this project reads it: the
//! models of other clients need it.

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::macros::format_description;

use super::world::{SimDialect, SimJiraSite, Ticket};

/// Issue with the wanted fields; `*all` means every field.
pub(super) fn issue(site: &SimJiraSite, ticket: &Ticket, wanted: &[&str]) -> Value {
    let all = wanted.contains(&"*all");
    let mut fields = fields(site, ticket);
    fields.retain(|field, _| all || wanted.contains(&field.as_str()));
    let id = id(&ticket.key);
    json!({
        "expand": "renderedFields,names,schema,operations,editmeta,changelog",
        "id": id,
        "self": format!("/rest/api/2/issue/{id}"),
        "key": ticket.key,
        "fields": fields,
    })
}

/// Number that no other key has.
pub(super) fn id(key: &str) -> String {
    key.bytes().fold(7_u64, |sum, byte| sum.wrapping_mul(131).wrapping_add(byte.into())).to_string()
}

pub(super) fn comments(site: &SimJiraSite, ticket: &Ticket) -> Value {
    let one = |(at, text): (usize, &String)| {
        let author = user(site, "metalbot");
        let written = moment(ticket.created);
        json!({
            "self": format!("/rest/api/2/issue/{}/comment/{at}", ticket.key), "id": at.to_string(),
            "author": author, "updateAuthor": author, "body": body(site, text),
            "created": written, "updated": written,
        })
    };
    let comments: Vec<Value> = ticket.comments.iter().enumerate().map(one).collect();
    let total = comments.len();
    json!({ "comments": comments, "total": total, "maxResults": total, "startAt": 0 })
}

pub(super) fn user(site: &SimJiraSite, account: &str) -> Value {
    let shown = account.split(['.', '@']).next().unwrap_or_default();
    let avatars = json!({ "16x16": "/a", "24x24": "/a", "32x32": "/a", "48x48": "/a" });
    match site.dialect {
        SimDialect::DataCenter => json!({
            "self": format!("/rest/api/2/user?username={account}"), "name": account,
            "key": account, "emailAddress": format!("{shown}@example.com"),
            "displayName": shown, "active": true, "timeZone": "UTC", "avatarUrls": avatars,
        }),
        // Cloud leaves time zone and address out for people who keep them private.
        SimDialect::Cloud => json!({
            "self": format!("/rest/api/3/user?accountId={account}"), "accountId": account,
            "accountType": "atlassian", "displayName": shown, "active": true,
            "avatarUrls": avatars,
        }),
    }
}

pub(super) fn status(site: &SimJiraSite, name: &str) -> Value {
    let category = site.statuses.iter().find(|one| one.name == name).map_or("new", |s| s.category);
    let (id, shown, color) = match category {
        "done" => (3, "Done", "green"),
        "indeterminate" => (4, "In Progress", "yellow"),
        _ => (2, "To Do", "blue-gray"),
    };
    json!({
        "self": format!("/rest/api/2/status/{id}"), "description": "", "iconUrl": "/i",
        "name": name, "id": id.to_string(),
        "statusCategory": {
            "self": format!("/rest/api/2/statuscategory/{id}"), "id": id, "key": category,
            "colorName": color, "name": shown,
        },
    })
}

fn fields(site: &SimJiraSite, ticket: &Ticket) -> Map<String, Value> {
    let link = |of: &str| format!("/rest/api/2/{of}/1");
    let named = |of: &str, name: &str| json!({ "self": link(of), "id": "1", "description": "", "iconUrl": "/i", "name": name });
    let person = |account: &Option<String>| account.as_ref().map(|account| user(site, account));
    let project = json!({
        "self": link("project"), "id": "1", "key": ticket.project, "name": ticket.project,
        "projectTypeKey": "business", "avatarUrls": user(site, "x")["avatarUrls"],
    });
    let mut issue_type = named("issuetype", &ticket.issue_type);
    issue_type["subtask"] = false.into();
    let components: Value = ticket.components.iter().map(|name| named("component", name)).collect();
    let description = match ticket.description.is_empty() {
        true => Value::Null,
        false => body(site, &ticket.description),
    };
    let created = moment(ticket.created);
    let shown = json!({
        "project": project,
        "issuetype": issue_type,
        "summary": ticket.summary,
        "description": description,
        "labels": ticket.labels,
        "components": components,
        "priority": ticket.priority.as_ref().map(|name| named("priority", name)),
        "assignee": person(&ticket.assignee),
        "reporter": person(&ticket.reporter),
        "creator": user(site, "metalbot"),
        "status": status(site, &ticket.status),
        "resolution": ticket.resolution.as_ref().map(|name| named("resolution", name)),
        "resolutiondate": ticket.resolved.map(moment),
        "created": created,
        "updated": created,
        "workratio": -1,
        "comment": comments(site, ticket),
        "issuelinks": [],
        "subtasks": [],
        "fixVersions": [],
        "versions": [],
        "votes": { "self": link("votes"), "votes": 0, "hasVoted": false },
        "watches": {
            "self": link("watchers"), "watchCount": ticket.watchers.len(), "isWatching": false,
        },
    });
    let mut fields = shown.as_object().cloned().unwrap_or_default();
    fields.extend(ticket.fields.clone());
    fields
}

/// Text in the form that this version of Jira sends: wiki text, or a document.
fn body(site: &SimJiraSite, text: &str) -> Value {
    match site.dialect {
        SimDialect::DataCenter => text.into(),
        SimDialect::Cloud => serde_json::from_str(text).unwrap_or_default(),
    }
}

fn moment(when: OffsetDateTime) -> String {
    let moment = format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]+0000"
    );
    when.format(&moment).unwrap_or_default()
}

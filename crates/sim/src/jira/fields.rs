//! Checks the fields of a create or update with the site's settings, as Jira's screens and schemes
//! do.
//!
//! Invariant: a wrong field gives an error under its id and changes nothing.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::adf::{self, DocumentError};
use super::world::{SimDialect, SimJiraSite, Ticket};

/// Errors by field, in Jira's words.
pub(super) type Errors = Vec<(String, String)>;

const MAX_TEXT: usize = 32_767;

/// Creates a ticket from the body of a request; it has no key yet.
#[expect(clippy::disallowed_methods, reason = "the simulated Jira has a clock of its own")]
pub(super) fn new_ticket(site: &SimJiraSite, body: &Value) -> Result<Ticket, Errors> {
    let empty = Map::new();
    let fields = body["fields"].as_object().unwrap_or(&empty);
    let mut errors = Errors::new();
    let project = text(&body["fields"]["project"]["key"]);
    if !site.projects.contains(&project) {
        errors.push(("project".into(), "project is required".into()));
    }
    let issue_type = text(&body["fields"]["issuetype"]["name"]);
    if !site.issue_types.contains(&issue_type) {
        errors.push(("issuetype".into(), "The issue type selected is invalid.".into()));
    }
    if !fields.contains_key("summary") {
        errors.push(("summary".into(), "You must specify a summary of the issue.".into()));
    }
    for (_, field) in site.required.iter().filter(|(of, _)| *of == project) {
        if fields.get(field).is_none_or(Value::is_null) {
            errors.push((field.clone(), format!("{field} is required.")));
        }
    }
    let mut ticket = Ticket {
        key: String::new(),
        former_keys: Vec::new(),
        project,
        issue_type,
        summary: String::new(),
        description: String::new(),
        labels: Vec::new(),
        components: Vec::new(),
        priority: None,
        assignee: None,
        reporter: Some("metalbot".into()),
        fields: Map::new(),
        status: site.statuses.first().map(|status| status.name.clone()).unwrap_or_default(),
        resolution: None,
        resolved: None,
        created: OffsetDateTime::now_utc(),
        comments: Vec::new(),
        watchers: BTreeSet::new(),
    };
    for (field, value) in fields.iter().filter(|(id, _)| *id != "project" && *id != "issuetype") {
        set(site, &mut ticket, field, value, &mut errors);
    }
    if errors.is_empty() { Ok(ticket) } else { Err(errors) }
}

/// Creates the changed ticket from the body of an update (`fields` and `update`).
pub(super) fn changed(site: &SimJiraSite, ticket: &Ticket, body: &Value) -> Result<Ticket, Errors> {
    let mut errors = Errors::new();
    let mut ticket = ticket.clone();
    for (field, value) in body["fields"].as_object().into_iter().flatten() {
        set(site, &mut ticket, field, value, &mut errors);
    }
    for (field, operations) in body["update"].as_object().into_iter().flatten() {
        for operation in operations.as_array().into_iter().flatten() {
            match (field.as_str(), operation["add"].as_str()) {
                ("labels", Some(label)) => {
                    check_label(label, &mut errors);
                    if !ticket.labels.iter().any(|have| have == label) {
                        ticket.labels.push(label.into());
                    }
                }
                _ => errors.push((field.clone(), "Operation is not supported.".into())),
            }
        }
    }
    if errors.is_empty() { Ok(ticket) } else { Err(errors) }
}

/// Reason why a value is not a valid description or comment, in Jira's words.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("Operation value must be a string")]
    NotText,
    #[error(
        "Operation value must be an Atlassian Document (see the REST documentation): INVALID_INPUT {0}"
    )]
    Document(#[from] DocumentError),
    #[error("The entered text is too long. It exceeds the allowed limit of 32,767 characters.")]
    TooLong,
}

/// Text of a description or comment, in the form that is stored.
pub(super) fn body_text(site: &SimJiraSite, value: &Value) -> Result<String, BodyError> {
    let kept = match (site.dialect, value) {
        (SimDialect::DataCenter, Value::String(text)) => text.clone(),
        (SimDialect::DataCenter, _) => return Err(BodyError::NotText),
        (SimDialect::Cloud, document) => {
            adf::check(document)?;
            document.to_string()
        }
    };
    match kept.encode_utf16().count() > MAX_TEXT {
        true => Err(BodyError::TooLong),
        false => Ok(kept),
    }
}

fn set(site: &SimJiraSite, ticket: &mut Ticket, field: &str, value: &Value, errors: &mut Errors) {
    let mut wrong = |why: String| errors.push((field.to_owned(), why));
    match field {
        "summary" => match summary(value) {
            Ok(summary) => ticket.summary = summary,
            Err(why) => wrong(why.into()),
        },
        "description" if value.is_null() => ticket.description = String::new(),
        "description" => match body_text(site, value) {
            Ok(text) => ticket.description = text,
            Err(error) => wrong(error.to_string()),
        },
        "labels" => match serde_json::from_value::<Vec<String>>(value.clone()) {
            Ok(labels) => {
                labels.iter().for_each(|label| check_label(label, errors));
                ticket.labels = labels;
            }
            Err(_) => wrong("data was not an array of strings".into()),
        },
        "components" => {
            let names: Vec<String> =
                value.as_array().into_iter().flatten().map(|one| text(&one["name"])).collect();
            for name in names.iter().filter(|name| !site.components.contains(name)) {
                wrong(format!("Component name '{name}' is not valid"));
            }
            ticket.components = names;
        }
        "priority" => {
            let name = text(&value["name"]);
            if !site.priorities.contains(&name) {
                wrong("The priority selected is invalid.".into());
            }
            ticket.priority = Some(name);
        }
        "assignee" => {
            let account = match site.dialect {
                SimDialect::DataCenter => text(&value["name"]),
                SimDialect::Cloud => text(&value["accountId"]),
            };
            if !site.knows(&account) {
                wrong(format!("User '{account}' cannot be assigned issues."));
            }
            ticket.assignee = Some(account);
        }
        field if site.custom_fields.iter().any(|known| known == field) => {
            ticket.fields.insert(field.into(), value.clone());
        }
        field => wrong(format!(
            "Field '{field}' cannot be set. It is not on the appropriate screen, or unknown."
        )),
    }
}

fn summary(value: &Value) -> Result<String, &'static str> {
    let summary = text(value);
    if summary.trim().is_empty() {
        Err("You must specify a summary of the issue.")
    } else if summary.contains(['\n', '\r']) {
        Err("The summary is invalid because it contains newline characters.")
    } else if summary.encode_utf16().count() > 255 {
        Err("Summary must be less than 255 characters.")
    } else {
        Ok(summary)
    }
}

fn check_label(label: &str, errors: &mut Errors) {
    let why = if label.is_empty() || label.contains(char::is_whitespace) {
        format!("The label '{label}' contains spaces which is invalid.")
    } else if label.chars().count() > 255 {
        "The label exceeds the maximum length of 255 characters.".into()
    } else {
        return;
    };
    errors.push(("labels".into(), why));
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

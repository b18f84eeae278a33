//! Forms: a submission whose parts come from fields instead of a line of text. A form becomes the
//! command that a person could have typed, and is handled like one; see [`crate::app::intake`].
//!
//! Invariant: the command that a form becomes is read back and means the same, or it is refused.

use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use time::OffsetDateTime;

use super::submit::command_line;
use super::{App, Error, preview};
use metalbot_core::command::{self, ActionRequest, Command, CommandError, CommandProblem, Submit};
use metalbot_core::domain::inbound::ChatLocation;
use metalbot_core::domain::preview::Preview;
use metalbot_core::domain::principal::Principal;
use metalbot_store::{self as store, draft};

/// Fields that a person filled in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Form {
    pub action: String,
    /// A node set.
    pub hosts: String,
    /// The action's arguments and the parameters of all actions; empty ones are not given.
    pub params: Vec<(String, String)>,
}

/// The field that an error belongs to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Field {
    Action,
    Hosts,
    Param(String),
}

/// Error at a field of a form. The message is for the person.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldError {
    pub field: Field,
    pub message: String,
}

/// Reads the database's clock, by which times in forms are meant.
pub async fn now(pool: &PgPool) -> sqlx::Result<OffsetDateTime> {
    store::now(&mut *pool.acquire().await?).await
}

/// Turns a form into a submission, and into the text behind `/metal` that asks for the same.
pub fn compile(
    app: &App,
    form: &Form,
    now: OffsetDateTime,
) -> Result<(String, Submit), FieldError> {
    let params: Vec<(String, String)> =
        form.params.iter().filter(|(_, value)| !value.trim().is_empty()).cloned().collect();
    let request = ActionRequest { action: &form.action, hosts: &form.hosts, params: &params };
    let inventory = app.inventory.current();
    let inventory = inventory.as_ref();
    let submit = command::submission(&request, &app.catalog, inventory, &app.limits, now)
        .map_err(|error| at_field(&error))?;
    let line = command_line(app, &submit.plan, &submit.hosts, submit.reason.as_deref());
    let text = line.trim_start_matches("/metal ").to_owned();
    match command::understand(&text, &app.catalog, inventory, &app.limits, now) {
        Ok(Command::Submit(same)) if same == submit => Ok((text, submit)),
        Ok(_) => Err(FieldError {
            field: Field::Hosts,
            message: "this cannot be written as a command".into(),
        }),
        Err(error) => Err(at_field(&error)),
    }
}

fn at_field(error: &CommandError) -> FieldError {
    let field = match &error.problem {
        CommandProblem::UnknownVerb { .. } | CommandProblem::Unplannable { .. } => Field::Action,
        CommandProblem::UnknownKey { key, .. }
        | CommandProblem::DuplicateKey { key }
        | CommandProblem::MissingValue { key, .. }
        | CommandProblem::BadValue { key, .. }
        | CommandProblem::MissingArgument { key, .. } => Field::Param(key.clone()),
        CommandProblem::ReasonMissing | CommandProblem::ReasonTooLong { .. } => {
            Field::Param("reason".into())
        }
        _ => Field::Hosts,
    };
    let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
    FieldError { field, message: format!("{}{hint}", error.message()) }
}

/// A form that was looked at and not sent yet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Draft {
    pub command: String,
    pub location: ChatLocation,
}

/// Stores a draft that a person is shown before they send it; returns its key and the preview.
pub async fn keep(
    pool: &PgPool,
    app: &App,
    who: &Principal,
    submit: &Submit,
    drafted: &Draft,
) -> Result<(String, Preview), Error> {
    let mut tx = pool.begin().await?;
    let preview = preview::preview(&mut tx, app, who, submit).await?;
    let key = format!("{:032x}", rand::random::<u128>());
    let body = serde_json::to_value(drafted).expect("a draft holds only texts");
    draft::put(&mut tx, &key, &who.login, &body).await?;
    tx.commit().await?;
    Ok((key, preview))
}

/// Reads the draft that this person is about to send; `None` if it is too old and was deleted.
pub async fn kept(pool: &PgPool, who: &Principal, key: &str) -> sqlx::Result<Option<Draft>> {
    let body = draft::get(&mut *pool.acquire().await?, key, &who.login).await?;
    Ok(body.and_then(|body| serde_json::from_value(body).ok()))
}

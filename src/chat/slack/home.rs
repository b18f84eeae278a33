//! The app's home: a person's batches and those that wait for their approval, with buttons.
//! <https://docs.slack.dev/surfaces/app-home>
//!
//! Invariant: a page is published only when the audit has grown since the last time and the content
//! has changed, at the earliest a few seconds after the last time, and with the user's present
//! identity.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::PgPool;

use super::blocks::{self, MOST_IN_SECTION, MOST_LABEL, MOST_QUESTION, beginning};
use super::forms::{ASKS, AT_HOME, RenderNotice};
use super::mrkdwn::escape;
use super::web_api::{ApiError, WebApi};
use super::{PLATFORM, own_id, scope};
use crate::app::app_home::{self, DueHome, Home, HomeBatch};
use crate::app::identify::{self, IdentifyError};
use crate::app::{App, PlatformError};
use crate::chat::{Button, ButtonStyle, Message};
use metalbot_core::domain::batch::BatchState;
use metalbot_core::domain::host::fold;
use metalbot_core::domain::inbound::PlatformUser;
use metalbot_core::domain::reply::Reply;
use metalbot_core::domain::view::BatchView;

/// Longest list of hosts of one batch, longest reason, and longest name, in characters.
const MOST_HOSTS: usize = 300;
const MOST_NAME: usize = 80;

/// Function that returns the buttons of a batch's card.
pub type Buttons = fn(&BatchView) -> Vec<Button>;

/// Publisher of the pages.
#[derive(Clone)]
pub struct AppHomes {
    pub pool: PgPool,
    pub app: Arc<App>,
    pub api: Arc<WebApi>,
    pub buttons: Buttons,
    pub words: RenderNotice,
}

/// Error of a page that is not shown.
#[derive(Debug, thiserror::Error)]
enum PublishError {
    #[error("the database: {0}")]
    Database(#[from] sqlx::Error),
    /// Slack does not say who the user is.
    #[error(transparent)]
    Identify(#[from] PlatformError),
    #[error(transparent)]
    Slack(#[from] ApiError),
}

impl PublishError {
    /// Time after which Slack wants to be asked again, if it named one.
    fn wait(&self) -> Option<Duration> {
        match self {
            PublishError::Slack(ApiError::Later { wait, .. }) => *wait,
            PublishError::Slack(ApiError::Unknown(_) | ApiError::Refused(_))
            | PublishError::Database(_)
            | PublishError::Identify(_) => None,
        }
    }
}

impl AppHomes {
    /// Publishes the pages that are out of date; returns `true` if there were any.
    pub async fn run_once(self: Arc<Self>) -> anyhow::Result<bool> {
        let due = app_home::due(&self.pool, PLATFORM).await?;
        for home in &due {
            // An error of one page must not keep the others from being shown.
            match self.publish(home).await {
                Ok(()) => {}
                Err(PublishError::Database(error)) => return Err(error.into()),
                Err(error) => {
                    let (why, wait) = (error.to_string(), error.wait());
                    let user = &home.platform_user_id;
                    tracing::warn!(why, user, "cannot show a person's own page in Slack");
                    app_home::failed(&self.pool, PLATFORM, home, wait, &why).await?;
                }
            }
        }
        Ok(!due.is_empty())
    }

    /// Shows a page.
    async fn publish(&self, due: &DueHome) -> Result<(), PublishError> {
        let user = PlatformUser { platform: PLATFORM.into(), id: due.platform_user_id.clone() };
        // Identified anew, because the account may belong to another person since the page was
        // opened.
        let view = match identify::identify(&self.pool, &self.app, &user).await {
            Ok(Some(who)) => view(&app_home::home(&self.pool, &who).await?, self.buttons),
            Ok(None) => self.of_stranger(user),
            Err(IdentifyError::Database(error)) => return Err(error.into()),
            Err(IdentifyError::Platform(error)) => return Err(error.into()),
        };
        let digest = Sha256::digest(view.to_string()).to_vec();
        if due.digest.as_ref() != Some(&digest) {
            let request = json!({ "user_id": own_id(&due.platform_user_id), "view": view });
            self.api.post("views.publish", scope(&due.platform_user_id), "", &request).await?;
        }
        Ok(app_home::rendered(&self.pool, PLATFORM, due, &digest).await?)
    }

    /// Renders the page of an unknown user, which says how to become known.
    fn of_stranger(&self, user: PlatformUser) -> Value {
        let PlatformUser { platform, id } = user;
        let admins = self.app.policy.admins.iter().cloned().collect();
        let unknown = Reply::UnknownUser { platform, user: id, admins };
        let message = Message { markdown: (self.words)(&unknown), card: None };
        json!({ "type": "home", "blocks": blocks::render(&message, false).blocks })
    }
}

/// Renders a person's page.
fn view(page: &Home, buttons: Buttons) -> Value {
    let mut blocks = vec![header("Waiting for your approval")];
    part(&mut blocks, &page.waiting, buttons, "Nothing waits for you.");
    blocks.push(json!({ "type": "divider" }));
    blocks.push(header("Your batches"));
    part(&mut blocks, &page.mine, buttons, "None goes on. `/metal` opens a form for a new one.");
    json!({ "type": "home", "blocks": blocks })
}

fn part(blocks: &mut Vec<Value>, all: &[HomeBatch], buttons: Buttons, none: &str) {
    if all.is_empty() {
        blocks.push(section(none));
    }
    for shown in all {
        blocks.push(section(&line(&shown.batch)));
        // A button refers to the batch's card, so a batch without one gets none.
        let here = shown.card.as_ref().is_some_and(|(location, _)| location.platform == PLATFORM);
        let buttons = if here { buttons(&shown.batch) } else { Vec::new() };
        if !buttons.is_empty() {
            let elements: Vec<Value> =
                buttons.iter().enumerate().map(|(at, one)| button(&shown.batch, at, one)).collect();
            blocks.push(json!({ "type": "actions", "elements": elements }));
        }
    }
}

/// Renders a batch in a few lines; lines beyond Slack's limit for a section are left out.
fn line(batch: &BatchView) -> String {
    let hosts = beginning(&fold(&batch.hosts), MOST_HOSTS);
    let state = batch.state.as_str().replace('_', " ");
    let mut lines = vec![
        format!(
            "*{} {}* · {} host{} · *{state}* · {}",
            batch.id,
            name(&batch.action),
            batch.hosts.len(),
            if batch.hosts.len() == 1 { "" } else { "s" },
            name(&format!("asked by {}", batch.submitter)),
        ),
        format!("`{}`", escape(&hosts)),
    ];
    if batch.started_at.is_some() {
        let counts = batch.counts;
        let failed = counts.failed + counts.quarantined;
        let mut text = format!("{} of {} done", counts.succeeded, counts.total());
        if failed > 0 {
            text += &format!(" · {failed} failed");
        }
        lines.push(text);
    }
    if batch.state == BatchState::AwaitingApproval {
        if let Some(at) = batch.expires_at {
            let at = at.unix_timestamp();
            // Shown in the reader's own time zone.
            lines.push(format!("expires <!date^{at}^{{date_short_pretty}} {{time}}|{at}>"));
        }
        for part in &batch.approvals {
            let (have, need) = (part.approved_by.len(), part.quorum);
            lines.push(format!("{}: {have} of {need} approved", name(&part.owner)));
        }
    }
    if let Some(reason) = &batch.reason {
        lines.push(escape(&beginning(reason, MOST_HOSTS)));
    }
    let mut text = String::new();
    let mut length = 0;
    for line in lines {
        length += line.chars().count() + 1;
        if length > MOST_IN_SECTION {
            return text + "\n…";
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text += &line;
    }
    text
}

/// Escapes a name of Metalbot or of the directory, and cuts it if it is too long.
fn name(text: &str) -> String {
    escape(&beginning(text, MOST_NAME))
}

fn button(batch: &BatchView, at: usize, button: &Button) -> Value {
    let asks = button.ask.as_ref().map(|ask| format!(":{ASKS}{}", beginning(ask, MOST_QUESTION)));
    let asks = asks.unwrap_or_default();
    let id = format!("{AT_HOME}{}:{at}{asks}", batch.id.0);
    let mut element = json!({
        "type": "button", "action_id": id, "value": button.value,
        "text": { "type": "plain_text", "text": beginning(&button.label, MOST_LABEL) },
    });
    match button.style {
        ButtonStyle::Plain => {}
        ButtonStyle::Primary => element["style"] = "primary".into(),
        ButtonStyle::Danger => element["style"] = "danger".into(),
    }
    element
}

fn header(text: &str) -> Value {
    json!({ "type": "header", "text": { "type": "plain_text", "text": text } })
}

fn section(text: &str) -> Value {
    json!({ "type": "section", "text": { "type": "mrkdwn", "text": text, "verbatim": true } })
}

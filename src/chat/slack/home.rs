//! The app's home: a person's batches and what waits for their approval, with buttons.
//! <https://docs.slack.dev/surfaces/app-home>
//!
//! Invariant: a page is published when the audit has grown since and it shows something else, a few
//! seconds after the last time at the earliest.

use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::PgPool;

use super::forms::{ASKS, AT_HOME};
use super::mrkdwn::escape;
use super::web_api::{ApiError, WebApi};
use super::{PLATFORM, own_id, scope};
use crate::app::App;
use crate::app::homes::{self, DueHome, Home, Shown};
use crate::chat::{Button, ButtonStyle};
use crate::domain::batch::BatchState;
use crate::domain::host::fold;
use crate::domain::notice::BatchView;

/// Longest list of hosts of one line.
const MOST_HOSTS: usize = 300;

/// The buttons of a batch's card.
pub type Buttons = fn(&BatchView) -> Vec<Button>;

/// What publishes the pages.
#[derive(Clone)]
pub struct Homes {
    pub pool: PgPool,
    pub app: Arc<App>,
    pub api: Arc<WebApi>,
    pub buttons: Buttons,
}

impl Homes {
    /// Publishes the pages that show what is no longer so; `true` when there were any.
    pub async fn round(self: Arc<Self>) -> anyhow::Result<bool> {
        let due = homes::due(&self.pool, PLATFORM).await?;
        for home in &due {
            self.publish(home).await?;
        }
        Ok(!due.is_empty())
    }

    async fn publish(&self, due: &DueHome) -> anyhow::Result<()> {
        let page = homes::home(&self.pool, &self.app, &due.login).await?;
        let view = view(&page, self.buttons);
        let digest = Sha256::digest(view.to_string()).to_vec();
        if due.digest.as_ref() != Some(&digest) {
            let request = json!({ "user_id": own_id(&due.person), "view": view });
            if let Err(error) =
                self.api.post("views.publish", scope(&due.person), "", &request).await
            {
                tracing::warn!(%error, user = due.person, "a home was not shown");
                let wait = match &error {
                    ApiError::Later { wait, .. } => *wait,
                    ApiError::Unknown(_) | ApiError::Refused(_) => None,
                };
                let why = error.to_string();
                homes::failed(&self.pool, PLATFORM, due, wait, &why).await?;
                return Ok(());
            }
        }
        homes::shown(&self.pool, PLATFORM, due, &digest).await?;
        Ok(())
    }
}

/// The page.
fn view(page: &Home, buttons: Buttons) -> Value {
    let mut blocks = vec![header("Waiting for your approval")];
    part(&mut blocks, &page.waiting, buttons, "Nothing waits for you.");
    blocks.push(json!({ "type": "divider" }));
    blocks.push(header("Your batches"));
    part(&mut blocks, &page.mine, buttons, "None goes on. `/metal` opens a form for a new one.");
    json!({ "type": "home", "blocks": blocks })
}

fn part(blocks: &mut Vec<Value>, all: &[Shown], buttons: Buttons, none: &str) {
    if all.is_empty() {
        blocks.push(section(none));
    }
    for shown in all {
        blocks.push(section(&line(&shown.batch)));
        // A button needs the card that it stands for.
        let here = shown.card.as_ref().is_some_and(|(place, _)| place.platform == PLATFORM);
        let buttons = if here { buttons(&shown.batch) } else { Vec::new() };
        if !buttons.is_empty() {
            let elements: Vec<Value> =
                buttons.iter().enumerate().map(|(at, one)| button(&shown.batch, at, one)).collect();
            blocks.push(json!({ "type": "actions", "elements": elements }));
        }
    }
}

fn line(batch: &BatchView) -> String {
    let mut hosts = fold(&batch.hosts);
    if hosts.chars().count() > MOST_HOSTS {
        hosts = hosts.chars().take(MOST_HOSTS).chain(['…']).collect();
    }
    let state = batch.state.as_str().replace('_', " ");
    let mut text = format!(
        "*{} {}* · {} host{} · *{state}* · {}\n`{}`",
        batch.id,
        escape(&batch.action),
        batch.hosts.len(),
        if batch.hosts.len() == 1 { "" } else { "s" },
        escape(&format!("asked by {}", batch.submitter)),
        escape(&hosts),
    );
    if batch.started_at.is_some() {
        let counts = batch.counts;
        let failed = counts.failed + counts.quarantined;
        text += &format!("\n{} of {} done", counts.succeeded, counts.total());
        if failed > 0 {
            text += &format!(" · {failed} failed");
        }
    }
    if batch.state == BatchState::AwaitingApproval {
        for part in &batch.approvals {
            let (have, need) = (part.approved_by.len(), part.quorum);
            text += &format!("\n{}: {have} of {need} approved", escape(&part.owner));
        }
        if let Some(at) = batch.expires_at {
            let at = at.unix_timestamp();
            // Shown in the reader's own time zone.
            text += &format!(" · expires <!date^{at}^{{date_short_pretty}} {{time}}|{at}>");
        }
    }
    if let Some(reason) = &batch.reason {
        text += &format!("\n{}", escape(reason));
    }
    text
}

fn button(batch: &BatchView, at: usize, button: &Button) -> Value {
    let asks = button.ask.as_ref().map(|ask| format!(":{ASKS}{ask}")).unwrap_or_default();
    let id = format!("{AT_HOME}{}:{at}{asks}", batch.id.0);
    let mut element = json!({
        "type": "button", "action_id": id, "value": button.value,
        "text": { "type": "plain_text", "text": button.label },
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

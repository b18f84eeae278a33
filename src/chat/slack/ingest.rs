//! What both ways in have in common: what a delivery is, and that it is stored before it is
//! acknowledged.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::PgPool;

use super::web_api::WebApi;
use super::{PLATFORM, decode};
use crate::app::ingest::{self, NewDelivery, Once};
use metalbot_core::domain::inbound::{Inbound, InboundBody};

/// Presses of one button by one person within this time are one press.
const DOUBLE_CLICK: Duration = Duration::from_secs(3);

/// What answers a delivery at once, because Slack waits for it or a `trigger_id` runs out: slash
/// commands that open a form, buttons of views, forms that were sent.
#[derive(Clone)]
pub struct ModalHooks {
    /// Whether a delivery is for the forms.
    pub wants: fn(&Value) -> bool,
    /// Answers it, within [`ANSWER_WITHIN`].
    pub answer: Arc<dyn Fn(Value) -> BoxFuture<'static, ModalResponse> + Send + Sync>,
}

/// How long a form may take; Slack gives up after three seconds.
pub const ANSWER_WITHIN: Duration = Duration::from_millis(2_500);

/// What a form answers.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ModalResponse {
    /// Goes back with the acknowledgement: the errors at a form's fields, the next view.
    pub response: Option<Value>,
    /// What is to be stored before the acknowledgement, because a person asked for it.
    pub deliver: Vec<NewDelivery>,
}

/// Takes the deliveries of one process.
#[derive(Clone)]
pub struct SlackIngest {
    pub pool: PgPool,
    pub forms: ModalHooks,
    pub api: Arc<WebApi>,
}

/// What is to be done with a delivery.
#[derive(Clone, PartialEq, Debug)]
pub enum Sorted {
    /// It is to be stored.
    Store(NewDelivery),
    /// It is to be answered at once.
    AnswerNow,
    /// It concerns nobody here.
    Drop,
    /// It comes from where nothing can be done; this is what to say to it.
    Refuse(Option<Value>),
}

/// Why a form gets no answer in time.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    #[error("a form took too long to answer")]
    TooSlow,
    #[error("the database: {0}")]
    Database(#[from] sqlx::Error),
}

impl SlackIngest {
    /// Says what a delivery is. What cannot be read is stored as it is.
    pub fn sort(&self, body: Value) -> Sorted {
        if let Ok(scope) = decode::scope(&body["payload"])
            && !self.api.knows(scope)
        {
            tracing::warn!(scope, "Slack delivers for an installation that there is no token for");
            return Sorted::Refuse(no_token(&body, scope));
        }
        if (self.forms.wants)(&body) {
            return Sorted::AnswerNow;
        }
        match decode::read(&body) {
            Ok(Some(inbound)) => Sorted::Store(delivery(inbound, body)),
            Ok(None) => Sorted::Drop,
            Err(why) => {
                tracing::warn!(%why, "a delivery of Slack cannot be read; it is kept");
                Sorted::Store(unreadable(body))
            }
        }
    }

    /// Stores deliveries in their order.
    pub async fn store(&self, deliveries: &[NewDelivery]) -> sqlx::Result<()> {
        ingest::accept(&self.pool, deliveries).await
    }

    /// Lets the forms answer, and stores what they hand on.
    pub async fn answer(&self, body: Value) -> Result<Option<Value>, AnswerError> {
        let answering = (self.forms.answer)(body);
        let answer = tokio::time::timeout(ANSWER_WITHIN, answering)
            .await
            .map_err(|_| AnswerError::TooSlow)?;
        self.store(&answer.deliver).await?;
        Ok(answer.response)
    }
}

/// What a person is told who types where we have no token. To nothing else Slack shows an answer.
fn no_token(body: &Value, scope: &str) -> Option<Value> {
    let text = format!(
        "Nothing was done: Metalbot has no token for {scope}. Whoever runs it can add one to its \
         configuration, as [[slack.workspaces]] with team = \"{scope}\"."
    );
    let typed = body["type"] == "slash_commands";
    typed.then(|| json!({ "response_type": "ephemeral", "text": text }))
}

/// A delivery that can be read, for the inbox.
fn delivery(inbound: Inbound, body: Value) -> NewDelivery {
    let mut once = Vec::new();
    if let InboundBody::Button { message, value, .. } = &inbound.body {
        let key =
            format!("click:{}:{message}:{}:{value}", inbound.location.channel, inbound.user.id);
        once.push(Once { key, window: DOUBLE_CLICK });
    }
    NewDelivery {
        platform: PLATFORM,
        sender: inbound.user.id,
        key: inbound.delivery,
        body: without_ids_of_the_way(body),
        once,
    }
}

fn unreadable(body: Value) -> NewDelivery {
    let mut body = without_ids_of_the_way(body);
    if let Some(payload) = body.get_mut("payload").and_then(Value::as_object_mut) {
        payload.remove("response_url");
    }
    let digest = hex::encode(Sha256::digest(body.to_string()));
    NewDelivery {
        platform: PLATFORM,
        // In nobody's order: it must not hold up what people ask for.
        sender: format!("unreadable:{digest}"),
        key: format!("unreadable:{digest}"),
        body,
        once: Vec::new(),
    }
}

/// What differs between two ways or two tries of one delivery is no part of it; neither is the
/// verification token, which is a secret that Slack has long replaced by signatures.
fn without_ids_of_the_way(mut body: Value) -> Value {
    if let Some(envelope) = body.as_object_mut() {
        for key in ["envelope_id", "retry_attempt", "retry_reason", "accepts_response_payload"] {
            envelope.remove(key);
        }
    }
    let typed = body["type"] == "slash_commands";
    if let Some(payload) = body.get_mut("payload").and_then(Value::as_object_mut) {
        payload.remove("token");
        // Who typed a command is answered there; whoever can see it can write in our name.
        if !typed {
            payload.remove("response_url");
        }
    }
    body
}

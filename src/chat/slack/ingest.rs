//! Common part of Socket Mode and HTTP mode: sorts deliveries, and stores them before they are
//! acknowledged.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::PgPool;

use super::web_api::{Installation, WebApi};
use super::{PLATFORM, decode};
use crate::app::ingest::{self, NewDelivery, Once};
use metalbot_core::domain::inbound::{Inbound, InboundBody};

/// Presses of one button by one person within this time are one press.
const DOUBLE_CLICK: Duration = Duration::from_secs(3);

/// Functions that answer a delivery at once, because Slack waits for it or a `trigger_id` expires:
/// slash commands that open a form, buttons of views, forms that were sent.
#[derive(Clone)]
pub struct ModalHooks {
    /// Returns whether a delivery is for the forms.
    pub wants: fn(&Value) -> bool,
    /// Answers a delivery, within [`ANSWER_WITHIN`].
    pub answer: Arc<dyn Fn(Value) -> BoxFuture<'static, ModalResponse> + Send + Sync>,
}

/// Longest time for the answer to a form; Slack gives up after three seconds.
pub const ANSWER_WITHIN: Duration = Duration::from_millis(2_500);

/// Answer of a form.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ModalResponse {
    /// Response that is sent with the acknowledgement: the errors at a form's fields, the next
    /// view.
    pub response: Option<Value>,
    /// Deliveries to be stored before the acknowledgement, because they are a person's requests.
    pub deliver: Vec<NewDelivery>,
}

/// Takes the deliveries of one process.
#[derive(Clone)]
pub struct SlackIngest {
    pub pool: PgPool,
    pub forms: ModalHooks,
    pub api: Arc<WebApi>,
}

/// Handling of a delivery.
#[derive(Clone, PartialEq, Debug)]
pub enum Sorted {
    /// The delivery is stored, then acknowledged.
    Store(NewDelivery),
    /// The forms answer the delivery at once.
    AnswerNow,
    /// The delivery is not for Metalbot; it is acknowledged and not stored.
    Drop,
    /// It is not known yet whose the token is: the delivery is not acknowledged, and Slack repeats it.
    Later,
    /// The delivery comes from an installation without a token; the value is the response, if any.
    Refuse(Option<Value>),
}

/// Error of a form that gets no answer in time.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    #[error("a form took too long to answer")]
    TooSlow,
    #[error("the database: {0}")]
    Database(#[from] sqlx::Error),
}

impl SlackIngest {
    /// Decides how a delivery is handled. A delivery that cannot be read is stored as it is.
    pub fn sort(&self, body: Value) -> Sorted {
        if let Ok(scope) = decode::scope(&body["payload"]) {
            match self.api.installation(scope) {
                Installation::Ours => {}
                Installation::NotKnownYet => return Sorted::Later,
                Installation::Foreign => {
                    tracing::warn!(
                        scope,
                        "Slack sent a delivery of an installation without a token"
                    );
                    return Sorted::Refuse(no_token(&body, scope));
                }
            }
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

    /// Lets the forms answer, and stores their deliveries.
    pub async fn answer(&self, body: Value) -> Result<Option<Value>, AnswerError> {
        let answering = (self.forms.answer)(body);
        let answer = tokio::time::timeout(ANSWER_WITHIN, answering)
            .await
            .map_err(|_| AnswerError::TooSlow)?;
        self.store(&answer.deliver).await?;
        Ok(answer.response)
    }
}

/// Response to a person who types a command in an installation without a token. Slack shows no
/// response to other deliveries.
fn no_token(body: &Value, scope: &str) -> Option<Value> {
    let text = format!(
        "Nothing was done: Metalbot has no token for {scope}. Whoever runs it can add one to its \
         configuration, as [[slack.workspaces]] with team = \"{scope}\"."
    );
    let typed = body["type"] == "slash_commands";
    typed.then(|| json!({ "response_type": "ephemeral", "text": text }))
}

/// Makes a delivery that can be read, for the inbox.
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
        // A sender of its own: it must not hold up people's requests.
        sender: format!("unreadable:{digest}"),
        key: format!("unreadable:{digest}"),
        body,
        once: Vec::new(),
    }
}

/// Removes the fields that differ between two tries of one delivery, or between Socket Mode and
/// HTTP, so that a repeat is recognised. Also removes the verification token, a secret that Slack
/// has long replaced by signatures.
fn without_ids_of_the_way(mut body: Value) -> Value {
    if let Some(envelope) = body.as_object_mut() {
        for key in ["envelope_id", "retry_attempt", "retry_reason", "accepts_response_payload"] {
            envelope.remove(key);
        }
    }
    let typed = body["type"] == "slash_commands";
    if let Some(payload) = body.get_mut("payload").and_then(Value::as_object_mut) {
        payload.remove("token");
        // Only commands are answered by it, so it is removed elsewhere: with it anybody can write
        // in the bot's name.
        if !typed {
            payload.remove("response_url");
        }
    }
    body
}

//! Modals and the app's home: deliveries that must be answered while Slack waits.
//!
//! Invariant: no request is carried out here. A form that a person sends becomes a delivery in the
//! inbox, as a typed command or as the press of a button.

use std::sync::Arc;

use serde_json::{Value, json};
use sqlx::PgPool;

use super::ingest::{ModalHooks, ModalResponse};
use super::modal::{self, Meta, Pressed};
use super::web_api::{ApiError, WebApi};
use super::{PLATFORM, blocks, decode};
use crate::app::form::{self, Draft, Form};
use crate::app::identify::{self, IdentifyError};
use crate::app::ingest::NewDelivery;
use crate::app::intake::DecodeError;
use crate::app::{App, app_home, channel_access};
use crate::chat::Message;
use metalbot_core::command;
use metalbot_core::domain::inbound::{ChatLocation, Inbound, InboundBody, PlatformUser};
use metalbot_core::domain::principal::Principal;
use metalbot_core::domain::reply::Reply;

/// Prefix of the `action_id` of buttons that ask something first; the question follows.
pub const ASKS: &str = "ask:";
/// Prefix of the `action_id` of buttons on the app's home; the batch follows.
pub const AT_HOME: &str = "home:";
/// Name of the shortcut in the manifest.
pub const SHORTCUT: &str = "new_batch";
/// Largest file of hosts, in bytes.
const MOST_FILE: usize = 1024 * 1024;

/// Error of a form that cannot be answered; the text is for operators.
#[derive(Debug, thiserror::Error)]
enum ModalError {
    #[error(transparent)]
    Unreadable(#[from] DecodeError),
    #[error(transparent)]
    Slack(#[from] ApiError),
    #[error("the database: {0}")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Identify(#[from] IdentifyError),
    #[error(transparent)]
    App(#[from] crate::app::Error),
}

/// Error of a file of hosts that cannot be used; the text is for the person.
#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("the file could not be fetched from Slack; paste the hosts instead")]
    Fetch,
    #[error(transparent)]
    NotAList(#[from] command::NotAList),
}

/// Renders an answer as Markdown.
pub type RenderNotice = Arc<dyn Fn(&Reply) -> String + Send + Sync>;

/// Handler of modals and of the app's home.
#[derive(Clone)]
pub struct ModalHandler {
    pub pool: PgPool,
    pub app: Arc<App>,
    pub api: Arc<WebApi>,
    pub words: RenderNotice,
}

impl ModalHandler {
    /// The handler as functions that the ingest calls.
    pub fn forms(self) -> ModalHooks {
        let handler = Arc::new(self);
        ModalHooks {
            wants,
            answer: Arc::new(move |body| {
                let handler = Arc::clone(&handler);
                Box::pin(async move {
                    match handler.answer(&body).await {
                        Ok(answer) => answer,
                        Err(error) => {
                            tracing::warn!(%error, "a form could not be answered");
                            failure_answer(&body)
                        }
                    }
                })
            }),
        }
    }

    async fn answer(&self, body: &Value) -> Result<ModalResponse, ModalError> {
        let payload = &body["payload"];
        if body["type"] == "slash_commands" {
            let channel = payload["channel_id"].as_str().map(str::to_owned);
            return self.open_new(payload, "/user_id", Meta { channel, ..Meta::default() }).await;
        }
        if let Some(location) = decode::let_in(body)? {
            channel_access::opened(&self.pool, &location).await?;
            return Ok(ModalResponse::default());
        }
        if body["type"] == "events_api" {
            let user = user(payload, "/event/user")?;
            app_home::opened(&self.pool, &user).await?;
            return Ok(ModalResponse::default());
        }
        let view = &payload["view"];
        match (payload["type"].as_str(), view["callback_id"].as_str()) {
            (Some("shortcut"), _) => self.open_new(payload, "/user/id", Meta::default()).await,
            (Some("view_submission"), Some(modal::NEW)) => self.look_at(payload).await,
            (Some("view_submission"), Some(modal::PREVIEW)) => self.send(payload).await,
            (Some("view_submission"), Some(modal::ASK)) => self.answered(payload),
            (Some("block_actions"), _) => self.pressed(payload).await,
            _ => Ok(ModalResponse::default()),
        }
    }

    async fn open_new(
        &self,
        payload: &Value,
        at: &str,
        meta: Meta,
    ) -> Result<ModalResponse, ModalError> {
        let user = user(payload, at)?;
        let view = match self.who(&user).await? {
            Some(_) => modal::new(&self.app.catalog, &self.app.limits, None, &meta),
            None => self.stranger(user),
        };
        self.open(payload, view).await
    }

    async fn open(&self, payload: &Value, view: Value) -> Result<ModalResponse, ModalError> {
        let request = json!({ "trigger_id": payload["trigger_id"], "view": view });
        let scope = decode::scope(payload)?;
        self.api.post("views.open", scope, "", &request).await?;
        Ok(ModalResponse::default())
    }

    fn stranger(&self, user: PlatformUser) -> Value {
        let admins = self.app.policy.admins.iter().cloned().collect();
        let PlatformUser { platform, id } = user;
        let unknown = Reply::UnknownUser { platform, user: id, admins };
        modal::notice("Who are you?", self.shown(&unknown))
    }

    /// Renders an answer as blocks.
    fn shown(&self, reply: &Reply) -> Value {
        self.shown_whole(reply).0
    }

    /// Renders an answer as blocks; the second value is true if nothing is left out.
    fn shown_whole(&self, reply: &Reply) -> (Value, bool) {
        let message = Message { markdown: (self.words)(reply), card: None };
        let rendered = blocks::render(&message, false);
        let shown = serde_json::to_value(rendered.blocks).expect("blocks hold only texts");
        (shown, rendered.whole.is_none())
    }

    /// Answers the form for a new batch with its errors, or with a preview.
    async fn look_at(&self, payload: &Value) -> Result<ModalResponse, ModalError> {
        let (user, view) = (user(payload, "/user/id")?, &payload["view"]);
        let Some(who) = self.who(&user).await? else {
            return respond(json!({ "response_action": "update", "view": self.stranger(user) }));
        };
        let (meta, filled) = (Meta::of(view), modal::filled(view));
        let mut hosts = command::pasted(&filled.hosts);
        if let Some((name, url)) = &filled.file {
            match self.listed(decode::scope(payload)?, name, url).await {
                Ok(more) => hosts = format!("{hosts} {more}").trim().to_owned(),
                Err(why) => return errors("file", &why.to_string()),
            }
        }
        let Some(channel) = meta.channel.clone().or(filled.channel) else {
            return errors("channel", "choose a channel");
        };
        let asked = Form { action: filled.action, hosts, params: filled.params };
        let now = form::now(&self.pool).await?;
        let (command, submit) = match form::compile(&self.app, &asked, now) {
            Ok(compiled) => compiled,
            Err(wrong) => {
                let only_file = filled.file.is_some() && filled.hosts.trim().is_empty();
                let block = match modal::block_of(&wrong.field, &asked.action) {
                    hosts if hosts == "hosts" && only_file => "file".to_owned(),
                    block => block,
                };
                return errors(&block, &wrong.message);
            }
        };
        let scope = decode::scope(payload)?;
        let location = ChatLocation {
            platform: PLATFORM.into(),
            channel: format!("{scope}/{channel}"),
            thread: None,
        };
        if let Some(why) = channel_access::ask(&self.pool, &self.app, &location).await? {
            let block = if meta.channel.is_some() { "hosts" } else { "channel" };
            return errors(block, &why);
        }
        let draft = Draft { command, location };
        let kept = form::keep(&self.pool, &self.app, &who, &submit, &draft).await;
        let (key, preview) = kept?;
        let may = preview.forbidden.is_none() && preview.held.is_empty();
        let (shown, whole) = self.shown_whole(&Reply::Preview { preview: Box::new(preview) });
        if may && !whole {
            let why = "too many names to show before you submit; ask for fewer hosts at a time";
            return errors(if filled.file.is_some() { "file" } else { "hosts" }, why);
        }
        let meta = Meta { draft: Some(key), ..Meta::default() };
        respond(json!({
            "response_action": "push", "view": modal::preview(shown, may, &meta),
        }))
    }

    /// Reads the hosts of a file that was sent with a form.
    async fn listed(&self, scope: &str, name: &str, url: &str) -> Result<String, FileError> {
        let content = self.api.download(scope, url, MOST_FILE).await.map_err(|error| {
            tracing::warn!(%error, "a file of a form could not be fetched from Slack");
            FileError::Fetch
        })?;
        Ok(command::listed(name, &content)?)
    }

    /// Submits the draft of a preview that was sent.
    async fn send(&self, payload: &Value) -> Result<ModalResponse, ModalError> {
        let user = user(payload, "/user/id")?;
        let Some(who) = self.who(&user).await? else {
            return respond(json!({ "response_action": "update", "view": self.stranger(user) }));
        };
        let key = Meta::of(&payload["view"]).draft.unwrap_or_default();
        let Some(draft) = form::kept(&self.pool, &who, &key).await? else {
            let late = modal::paragraph("That took too long: please fill in the form again.");
            let view = modal::notice("Too late", json!([late]));
            return respond(json!({ "response_action": "update", "view": view }));
        };
        let body = InboundBody::Command { text: draft.command };
        let (delivery_id, location) = (format!("form:{key}"), draft.location);
        let inbound = Inbound { delivery: delivery_id, user, location, body };
        let response = Some(json!({ "response_action": "clear" }));
        Ok(ModalResponse { response, deliver: vec![delivery(&inbound)] })
    }

    /// Delivers the press of a button whose question the person has answered.
    fn answered(&self, payload: &Value) -> Result<ModalResponse, ModalError> {
        let view = &payload["view"];
        let pressed =
            Meta::of(view).button.ok_or(DecodeError::from("a form without its button"))?;
        let id = view["id"].as_str().ok_or(DecodeError::from("a view without an id"))?;
        let Pressed { channel, thread, message, value } = pressed;
        let inbound = Inbound {
            delivery: format!("answer:{id}"),
            user: user(payload, "/user/id")?,
            location: ChatLocation { platform: PLATFORM.into(), channel, thread },
            body: InboundBody::Button { message, value, answer: modal::answer(view) },
        };
        Ok(ModalResponse { response: None, deliver: vec![delivery(&inbound)] })
    }

    async fn pressed(&self, payload: &Value) -> Result<ModalResponse, ModalError> {
        let action = &payload["actions"][0];
        let id = action["action_id"].as_str().unwrap_or_default();
        if id == modal::CHOOSE {
            return self.another_action(payload).await;
        }
        let Some(value) = action["value"].as_str() else { return Ok(ModalResponse::default()) };
        let pressed = match id.strip_prefix(AT_HOME) {
            Some(at_home) => self.at_home(at_home, value).await?,
            None => on_message(payload, value)?,
        };
        let label = action["text"]["text"].as_str().unwrap_or("Answer");
        if let Some((_, question)) = id.split_once(ASKS) {
            let meta = Meta { button: Some(pressed.clone()), ..Meta::default() };
            match self.open(payload, modal::ask(label, question, &meta)).await {
                Ok(answer) => return Ok(answer),
                // The press still counts; only the answer to the question is missing.
                Err(error) => {
                    tracing::warn!(%error, label, "a button's question cannot be asked");
                }
            }
        }
        let stamp = action["action_ts"].as_str().unwrap_or_default();
        let who = user(payload, "/user/id")?;
        let Pressed { channel, thread, message, value } = pressed;
        let inbound = Inbound {
            delivery: format!("click:{channel}:{message}:{}:{value}:{stamp}", who.id),
            user: who,
            location: ChatLocation { platform: PLATFORM.into(), channel, thread },
            body: InboundBody::Button { message, value, answer: None },
        };
        Ok(ModalResponse { response: None, deliver: vec![delivery(&inbound)] })
    }

    /// Shows the fields of the action that was chosen; text in the other fields stays.
    async fn another_action(&self, payload: &Value) -> Result<ModalResponse, ModalError> {
        let view = &payload["view"];
        let chosen = payload["actions"][0]["selected_option"]["value"].as_str();
        let meta = Meta::of(view);
        let new = modal::new(&self.app.catalog, &self.app.limits, chosen, &meta);
        let request = json!({ "view_id": view["id"], "hash": view["hash"], "view": new });
        match self.api.post("views.update", decode::scope(payload)?, "", &request).await {
            // The person chose again meanwhile, or closed the form.
            Ok(_) | Err(ApiError::Refused(_)) => Ok(ModalResponse::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// Finds the card that a button of the app's home stands for: `42` or `42:ask:...`.
    async fn at_home(&self, at_home: &str, value: &str) -> Result<Pressed, ModalError> {
        let batch = at_home.split(':').next().unwrap_or_default();
        let batch = batch.parse().map_err(|_| DecodeError::from("a button of no batch"))?;
        let card = app_home::card_of(&self.pool, batch).await?;
        let (location, message) = card
            .filter(|(location, _)| location.platform == PLATFORM)
            .ok_or(DecodeError::from("a batch without a card"))?;
        let (channel, value) = (location.channel, value.to_owned());
        Ok(Pressed { channel, thread: None, message, value })
    }

    async fn who(&self, user: &PlatformUser) -> Result<Option<Principal>, ModalError> {
        Ok(identify::identify(&self.pool, &self.app, user).await?)
    }
}

/// Returns whether a delivery is answered here: commands that open a form, everything about views,
/// buttons that ask a question, and the bot's joining of a channel.
fn wants(body: &Value) -> bool {
    let payload = &body["payload"];
    match body["type"].as_str() {
        Some("slash_commands") => {
            let typed = payload["text"].as_str().unwrap_or_default().trim();
            typed.is_empty() || typed.eq_ignore_ascii_case("new")
        }
        Some("events_api") => {
            payload["event"]["type"] == "app_home_opened" && payload["event"]["tab"] == "home"
                || decode::let_in(body).is_ok_and(|location| location.is_some())
        }
        Some("interactive") => match payload["type"].as_str() {
            Some("view_submission") => true,
            Some("shortcut") => payload["callback_id"] == SHORTCUT,
            Some("block_actions") => {
                let id = payload["actions"][0]["action_id"].as_str().unwrap_or_default();
                payload["container"]["type"] == "view" || id.starts_with(ASKS)
            }
            _ => false,
        },
        _ => false,
    }
}

/// Reads the press of a button on a message.
fn on_message(payload: &Value, value: &str) -> Result<Pressed, ModalError> {
    let field = |path: &str| payload.pointer(path).and_then(Value::as_str);
    let message =
        field("/container/message_ts").ok_or(DecodeError::from("a button without its message"))?;
    let channel = field("/container/channel_id").or(field("/channel/id"));
    let channel = channel.ok_or(DecodeError::from("a button without its channel"))?;
    let thread = field("/message/thread_ts").or(field("/container/thread_ts"));
    Ok(Pressed {
        channel: format!("{}/{channel}", decode::scope(payload)?),
        thread: thread.filter(|head| *head != message).map(str::to_owned),
        message: message.to_owned(),
        value: value.to_owned(),
    })
}

fn delivery(inbound: &Inbound) -> NewDelivery {
    NewDelivery {
        platform: PLATFORM,
        sender: inbound.user.id.clone(),
        key: inbound.delivery.clone(),
        body: decode::form(inbound),
        once: Vec::new(),
    }
}

fn user(payload: &Value, at: &str) -> Result<PlatformUser, ModalError> {
    let id =
        payload.pointer(at).and_then(Value::as_str).ok_or(DecodeError::from("it names no user"))?;
    Ok(PlatformUser { platform: PLATFORM.into(), id: format!("{}/{id}", decode::scope(payload)?) })
}

fn respond(response: Value) -> Result<ModalResponse, ModalError> {
    Ok(ModalResponse { response: Some(response), deliver: Vec::new() })
}

/// Answers with an error at a field of the form.
fn errors(block: &str, message: &str) -> Result<ModalResponse, ModalError> {
    respond(json!({ "response_action": "errors", "errors": { block: message } }))
}

/// Answers the person after a fault of Metalbot or Slack.
fn failure_answer(body: &Value) -> ModalResponse {
    let text = "That did not work; nothing was done. Please try again, or type `/metal help`.";
    let response = match (body["type"].as_str(), body["payload"]["type"].as_str()) {
        (Some("slash_commands"), _) => Some(json!({ "response_type": "ephemeral", "text": text })),
        (_, Some("view_submission")) => {
            let view = modal::notice("Sorry", json!([modal::paragraph(text)]));
            Some(json!({ "response_action": "update", "view": view }))
        }
        _ => None,
    };
    ModalResponse { response, deliver: Vec::new() }
}

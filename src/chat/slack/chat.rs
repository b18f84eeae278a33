//! Messages into Slack.
//!
//! Invariants: a post that may have arrived is searched for before it is repeated; messages of one
//! channel are edited at most once a second, those of a workspace a little less often, however many
//! batches run; messages over these limits wait in the database and not here.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::{Value, json};
use sqlx::PgPool;
use time::OffsetDateTime;

use super::blocks::{self, RenderedBlocks};
use super::channel_access::{closed_by, open_conversation};
use super::web_api::{ApiError, WebApi};
use super::{PLATFORM, own_id, people, scope};
use crate::app::outgoing_post::{self, Begun};
use crate::app::{App, identify, ingest};
use crate::chat::{Chat, ChatError, MENTION, Message};
use metalbot_core::domain::inbound::ChatLocation;

/// Least time between two edits in a channel.
const EDITS_OF_CHANNEL: Duration = Duration::from_secs(1);
/// Least time between two edits in an installation: `chat.update` may be called about 50 times a
/// minute (tier 3, <https://docs.slack.dev/apis/web-api/rate-limits>).
const EDITS_OF_ALL: Duration = Duration::from_millis(1_200);
/// Time for which a `response_url` can be used: Slack's 30 minutes, less a minute for delays
/// (<https://docs.slack.dev/interactivity/handling-user-interaction#message_responses>).
const ANSWERS_FOR: Duration = Duration::from_secs(29 * 60);
/// Event type in the metadata of Metalbot's messages, by which a lost post is found.
const EVENT: &str = "metalbot_message";
/// Most difference between Slack's clock and the database's.
const CLOCKS: Duration = Duration::from_secs(60);
/// Messages of one page, and most pages, of a search for a lost post.
const PAGE: &str = "200";
const PAGES: usize = 20;

/// Posts into Slack.
#[derive(Clone)]
pub struct SlackChat {
    pool: PgPool,
    api: Arc<WebApi>,
    edits: Arc<Pace>,
    app: Arc<App>,
    /// Conversations with one user each, by user.
    conversations: Arc<Mutex<HashMap<String, String>>>,
}

impl fmt::Debug for SlackChat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SlackChat")
    }
}

impl SlackChat {
    pub fn new(pool: PgPool, api: Arc<WebApi>, app: Arc<App>) -> Self {
        SlackChat { pool, api, edits: Arc::default(), app, conversations: Arc::default() }
    }

    /// Builds the fields of a request for a message, with its mentions in Slack's form.
    async fn content(&self, at: &ChatLocation, rendered: &RenderedBlocks) -> Value {
        let mut blocks = json!(rendered.blocks);
        for text in texts(&mut blocks) {
            while let Some((before, rest)) = text.split_once(&format!("<{MENTION}")) {
                let Some((name, after)) = rest.split_once('>') else { break };
                let mention = self.mention(name, at).await;
                *text = format!("{before}{mention}{after}");
            }
        }
        json!({ "channel": own_id(&at.channel), "text": rendered.text, "blocks": blocks })
    }

    /// Text in Slack that notifies a group of the configuration, or else a person by login. A person
    /// who cannot be notified is still named.
    async fn mention(&self, name: &str, at: &ChatLocation) -> String {
        let mut groups = self.app.approver_mentions.iter();
        let group = groups.find(|one| one.platform == PLATFORM && one.group == name);
        if let Some(id) = group.and_then(|one| one.mention.as_ref()) {
            return format!("<!subteam^{id}>");
        }
        let user = async {
            let mut conn = self.pool.acquire().await?;
            identify::account(&mut conn, &self.app, name, at).await
        };
        match user.await {
            Ok(Some(id)) => format!("<@{}>", own_id(&id)),
            Ok(None) | Err(_) => format!("*@{name}*"),
        }
    }

    /// Returns the conversation with one user alone, as an id of ours. A user's id will not do:
    /// Slack accepts it to post a message, but neither to read messages nor to send a file.
    async fn conversation(&self, user: &str) -> Result<String, ApiError> {
        if let Some(known) = self.opened().get(user) {
            return Ok(known.clone());
        }
        let channel = open_conversation(&self.api, user).await?;
        self.opened().insert(user.to_owned(), channel.clone());
        Ok(channel)
    }

    fn opened(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.conversations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Posts a message that everybody in the channel sees, once for its key.
    async fn say(
        &self,
        to: &ChatLocation,
        key: &str,
        message: &Message,
    ) -> Result<String, ChatError> {
        let rendered = blocks::render(message, true);
        let begun = outgoing_post::begin(&self.pool, PLATFORM, key).await.map_err(database)?;
        let known = match begun {
            Begun::Posted(id) => Some(id),
            Begun::Before(since) => self.look_for(to, key, since).await?,
            Begun::Now => None,
        };
        let id = match known {
            Some(id) => id,
            None => self.post_now(to, key, &rendered).await?,
        };
        outgoing_post::posted(&self.pool, PLATFORM, key, &id).await.map_err(database)?;
        if let Some(whole) = &rendered.whole {
            let thread = to.thread.as_deref().unwrap_or(&id);
            let (scope, channel) = (scope(&to.channel), own_id(&to.channel));
            let file = self.api.upload(scope, channel, Some(thread), "message.txt", whole).await;
            match file {
                Ok(()) => {}
                // The message is posted. A card's id must be stored even if its file is missing,
                // and a file that Slack refuses now it will also refuse later.
                Err(error) if message.card.is_some() || matches!(error, ApiError::Refused(_)) => {
                    tracing::warn!(key, %error, "the file of a long message was not sent");
                }
                Err(error) => return Err(failure(error)),
            }
        }
        Ok(id)
    }

    async fn post_now(
        &self,
        to: &ChatLocation,
        key: &str,
        rendered: &RenderedBlocks,
    ) -> Result<String, ChatError> {
        let channel = own_id(&to.channel);
        let mut request = self.content(to, rendered).await;
        request["metadata"] = json!({ "event_type": EVENT, "event_payload": { "key": key } });
        request["unfurl_links"] = false.into();
        request["unfurl_media"] = false.into();
        if let Some(thread) = &to.thread {
            request["thread_ts"] = thread.as_str().into();
        }
        let answer = self.api.post("chat.postMessage", scope(&to.channel), channel, &request).await;
        if matches!(answer, Err(ApiError::Later { .. } | ApiError::Refused(_))) {
            outgoing_post::refused(&self.pool, PLATFORM, key).await.map_err(database)?;
        }
        let answer = answer.map_err(failure)?;
        let ts = answer["ts"].as_str();
        ts.map(str::to_owned).ok_or_else(|| ChatError::Transient("it gave no message id".into()))
    }

    /// Searches for the message that an earlier try may have posted.
    async fn look_for(
        &self,
        to: &ChatLocation,
        key: &str,
        since: OffsetDateTime,
    ) -> Result<Option<String>, ChatError> {
        let channel = own_id(&to.channel);
        let mut params = vec![
            ("channel", channel.to_owned()),
            ("oldest", (since - CLOCKS).unix_timestamp().to_string()),
            ("include_all_metadata", "true".into()),
            ("limit", PAGE.into()),
        ];
        let method = match &to.thread {
            Some(head) => {
                params.push(("ts", head.clone()));
                "conversations.replies"
            }
            None => "conversations.history",
        };
        let unpaged = params.len();
        for _ in 0..PAGES {
            let page = match self.api.get(method, scope(&to.channel), channel, &params).await {
                // The bot cannot read the channel, so it cannot have posted there; the post itself
                // will fail with the cause.
                Err(ApiError::Refused(_)) => return Ok(None),
                page => page.map_err(failure)?,
            };
            let ours = |message: &&Value| {
                message["metadata"]["event_type"] == EVENT
                    && message["metadata"]["event_payload"]["key"] == key
            };
            let found = page["messages"].as_array().and_then(|all| all.iter().find(ours));
            if let Some(ts) = found.and_then(|message| message["ts"].as_str()) {
                return Ok(Some(ts.to_owned()));
            }
            let next = page["response_metadata"]["next_cursor"].as_str().unwrap_or_default();
            if next.is_empty() {
                break;
            }
            params.truncate(unpaged);
            params.push(("cursor", next.to_owned()));
        }
        Ok(None)
    }

    /// Shows a message to one person: as the response to their slash command, which Slack also
    /// shows in channels that the bot is not in; otherwise in the channel, for them alone;
    /// otherwise as a direct message.
    async fn whisper(
        &self,
        to: &ChatLocation,
        user: &str,
        key: &str,
        message: &Message,
    ) -> Result<String, ChatError> {
        let rendered = blocks::render(message, false);
        let channel = own_id(&to.channel);
        let mut request = self.content(to, &rendered).await;
        if self.answer(key, &request).await? {
            return Ok(String::new());
        }
        request["user"] = own_id(user).into();
        if let Some(thread) = &to.thread {
            request["thread_ts"] = thread.as_str().into();
        }
        match self.api.post("chat.postEphemeral", scope(&to.channel), channel, &request).await {
            Ok(answer) => Ok(answer["message_ts"].as_str().unwrap_or_default().to_owned()),
            Err(ApiError::Refused(code))
                if closed_by(&code).is_some() || code == "user_not_in_channel" =>
            {
                self.direct(to, user, key, message).await
            }
            Err(error) => Err(failure(error)),
        }
    }

    /// Sends a message as the response to a slash command. Returns `false` if the message answers
    /// no slash command or the response was refused, so that it must be posted instead.
    async fn answer(&self, key: &str, content: &Value) -> Result<bool, ChatError> {
        let Some(delivery) = answers(key) else { return Ok(false) };
        let url = ingest::answer_at(&self.pool, PLATFORM, delivery, ANSWERS_FOR).await;
        let Some(url) = url.map_err(database)? else { return Ok(false) };
        let answer = json!({
            "response_type": "ephemeral", "replace_original": false,
            "text": content["text"], "blocks": content["blocks"],
        });
        let sent = self.api.respond(&url, &answer).await;
        // One try is enough: the message can still be posted, and a second response would repeat
        // it.
        ingest::answer_no_more(&self.pool, PLATFORM, delivery).await.map_err(database)?;
        match sent {
            Ok(()) => Ok(true),
            Err(error @ ApiError::Unknown(_)) => Err(failure(error)),
            Err(error) => {
                tracing::debug!(key, %error, "a response cannot be sent; it is posted instead");
                Ok(false)
            }
        }
    }
}

/// Returns the delivery that a message answers, by the message's key.
fn answers(key: &str) -> Option<&str> {
    key.strip_prefix(PLATFORM)?.strip_prefix(':')?.strip_suffix(":answer")
}

/// Returns the texts of sections, to be changed.
fn texts(blocks: &mut Value) -> impl Iterator<Item = &mut String> {
    let blocks = blocks.as_array_mut().into_iter().flatten();
    blocks.filter_map(|block| match block.pointer_mut("/text/text") {
        Some(Value::String(text)) => Some(text),
        _ => None,
    })
}

#[async_trait]
impl Chat for SlackChat {
    async fn post(
        &self,
        to: &ChatLocation,
        only_to: Option<&str>,
        key: &str,
        message: &Message,
    ) -> Result<String, ChatError> {
        match only_to {
            Some(user) => self.whisper(to, user, key, message).await,
            None => self.say(to, key, message).await,
        }
    }

    async fn user_by_email(
        &self,
        near: &ChatLocation,
        email: &str,
    ) -> Result<Option<String>, ChatError> {
        people::user_by_email(&self.api, scope(&near.channel), email).await.map_err(failure)
    }

    async fn direct(
        &self,
        near: &ChatLocation,
        user: &str,
        key: &str,
        message: &Message,
    ) -> Result<String, ChatError> {
        let channel = self.conversation(user).await.map_err(failure)?;
        let directly = ChatLocation { channel, thread: None, ..near.clone() };
        let said = self.say(&directly, key, message).await;
        if matches!(said, Err(ChatError::Closed(_))) {
            self.opened().remove(user);
        }
        said
    }

    async fn link(&self, at: &ChatLocation, id: &str) -> Result<Option<String>, ChatError> {
        let channel = own_id(&at.channel);
        let params = [("channel", channel.to_owned()), ("message_ts", id.to_owned())];
        let found = self.api.get("chat.getPermalink", scope(&at.channel), channel, &params).await;
        Ok(found.map_err(failure)?["permalink"].as_str().map(str::to_owned))
    }

    async fn update(
        &self,
        at: &ChatLocation,
        id: &str,
        message: &Message,
    ) -> Result<(), ChatError> {
        let paces = [(at.channel.as_str(), EDITS_OF_CHANNEL), (scope(&at.channel), EDITS_OF_ALL)];
        if let Some(wait) = self.edits.turn(&paces) {
            return Err(ChatError::Later { wait, why: "an edit".into() });
        }
        let channel = own_id(&at.channel);
        let mut request = self.content(at, &blocks::render(message, true)).await;
        request["ts"] = id.into();
        self.api
            .post("chat.update", scope(&at.channel), channel, &request)
            .await
            .map(drop)
            .map_err(failure)
    }
}

fn failure(error: ApiError) -> ChatError {
    match error {
        ApiError::Later { wait: Some(wait), why } => ChatError::Later { wait, why },
        ApiError::Later { wait: None, why } | ApiError::Unknown(why) => ChatError::Transient(why),
        ApiError::Refused(code) => match closed_by(&code) {
            Some(why) => ChatError::Closed(why.into()),
            None => ChatError::Rejected(code),
        },
    }
}

fn database(error: sqlx::Error) -> ChatError {
    ChatError::Transient(error.to_string())
}

/// Times of the next edit, by the name of the channel or installation.
#[derive(Debug, Default)]
struct Pace(Mutex<HashMap<String, Turns>>);

#[derive(Clone, Copy, Debug)]
struct Turns {
    next: Instant,
    /// Edits that had to wait since the last one was allowed.
    sent_away: u32,
}

impl Pace {
    /// Allows an edit for all these names, or returns how long to wait. Edits that must wait are
    /// given different times, so that they do not all come back at once.
    fn turn(&self, paces: &[(&str, Duration)]) -> Option<Duration> {
        let now = Instant::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, turns| turns.next + LONGEST_SILENCE > now);
        let mut longest = None;
        for (name, between) in paces {
            let Some(turns) = all.get_mut(*name).filter(|turns| turns.next > now) else { continue };
            let wait = turns.next - now + *between * turns.sent_away;
            turns.sent_away += 1;
            longest = longest.max(Some(wait));
        }
        if longest.is_none() {
            for (name, between) in paces {
                let turns = Turns { next: now + *between, sent_away: 0 };
                all.insert((*name).to_owned(), turns);
            }
        }
        longest
    }
}

/// Time without edits after which a name is forgotten.
const LONGEST_SILENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_taken_one_after_the_other() {
        let pace = Pace::default();
        let (second, both) = (Duration::from_secs(1), Duration::from_secs(2));
        let one = [("T/C1", second), ("T", both)];
        let other = [("T/C2", second), ("T", both)];
        assert_eq!(pace.turn(&one), None);
        let first = pace.turn(&other).expect("the workspace has had its turn");
        let second = pace.turn(&one).expect("so has the channel");
        let third = pace.turn(&other).unwrap();
        assert!(first <= both && second > both && third > second, "{first:?} {second:?} {third:?}");
        assert_eq!(pace.turn(&[("U", both)]), None, "another workspace");
    }
}

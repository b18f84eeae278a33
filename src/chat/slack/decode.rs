//! Decodes deliveries of Slack.
//!
//! Invariant: only the fields that are needed are read. A field that is null or of another type
//! counts as absent, and is an error only if it is required; so a payload that Slack extends, or an
//! installation for a whole organisation (`"team": null`), does not make a delivery unreadable.
//!
//! A delivery has one shape in Socket Mode and over HTTP: `{"type": "slash_commands" |
//! "interactive" | "events_api", "payload": {...}}`, Socket Mode's envelope. Payloads:
//! <https://docs.slack.dev/interactivity/implementing-slash-commands>,
//! <https://docs.slack.dev/reference/interaction-payloads/block_actions-payload>,
//! <https://docs.slack.dev/apis/events-api>.

use serde::Deserialize;
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::PLATFORM;
use crate::app::intake::DecodeError;
use metalbot_core::domain::inbound::{ChatLocation, Inbound, InboundBody, PlatformUser};

/// Type of a delivery that Metalbot made from a form. Only the inbox reads it: Slack cannot send
/// one.
const FORM: &str = "form";

/// Encodes the request of a form as a delivery, for the inbox.
pub fn form(inbound: &Inbound) -> Value {
    json!({ "type": FORM, "payload": inbound })
}

/// Decodes a stored delivery, for the inbox.
pub fn decode(body: &Value) -> Result<Inbound, DecodeError> {
    if body["type"] == FORM {
        return Inbound::deserialize(&body["payload"])
            .map_err(|error| DecodeError(error.to_string()));
    }
    read(body)?.ok_or_else(|| "it asks for nothing".into())
}

/// Decodes a delivery of Slack; `None` if it is not for Metalbot: messages outside of threads,
/// messages of bots, unused kinds of events.
pub fn read(body: &Value) -> Result<Option<Inbound>, DecodeError> {
    let payload = &body["payload"];
    match body["type"].as_str() {
        Some("slash_commands") => slash(payload).map(Some),
        Some("interactive") => match text(payload, "/type") {
            Ok("block_actions") => click(payload),
            Ok(other) => Err(format!("an interaction of type {other}").into()),
            Err(error) => Err(error),
        },
        Some("events_api") => event(payload),
        Some(other) => Err(format!("an envelope of type {other}").into()),
        None => Err("an envelope without a type".into()),
    }
}

fn slash(payload: &Value) -> Result<Inbound, DecodeError> {
    let typed = payload["text"].as_str().unwrap_or_default();
    Ok(Inbound {
        delivery: format!("slash:{}:{}", scope(payload)?, text(payload, "/trigger_id")?),
        user: user(payload, text(payload, "/user_id")?)?,
        location: location(payload, text(payload, "/channel_id")?, None)?,
        body: InboundBody::Command { text: plain(typed).trim().to_owned() },
    })
}

fn click(payload: &Value) -> Result<Option<Inbound>, DecodeError> {
    let Ok(message) = text(payload, "/container/message_ts") else {
        // A button of a view; views are answered when they arrive.
        return Ok(None);
    };
    let action = &payload["actions"][0];
    let Some(value) = action["value"].as_str() else { return Ok(None) };
    let channel = text(payload, "/container/channel_id").or(text(payload, "/channel/id"))?;
    let who = text(payload, "/user/id")?;
    let thread = text(payload, "/message/thread_ts").or(text(payload, "/container/thread_ts")).ok();
    let stamp = text(action, "/action_ts").or(text(payload, "/trigger_id"))?;
    let scope = scope(payload)?;
    Ok(Some(Inbound {
        delivery: format!("click:{scope}/{channel}:{message}:{who}:{value}:{stamp}"),
        user: user(payload, who)?,
        location: location(payload, channel, thread.filter(|head| *head != message))?,
        body: InboundBody::Button { message: message.into(), value: value.into(), answer: None },
    }))
}

fn event(payload: &Value) -> Result<Option<Inbound>, DecodeError> {
    let event = &payload["event"];
    match text(event, "/type")? {
        "message" => said(payload, event),
        "reaction_added" => reaction(payload, event, true),
        "reaction_removed" => reaction(payload, event, false),
        _ => Ok(None),
    }
}

/// Returns the channel that the bot has joined, if the delivery is that event.
/// <https://docs.slack.dev/reference/events/member_joined_channel>
pub fn let_in(body: &Value) -> Result<Option<ChatLocation>, DecodeError> {
    let (payload, event) = (&body["payload"], &body["payload"]["event"]);
    let joined = body["type"] == "events_api" && event["type"] == "member_joined_channel";
    if !joined || bot(payload) != Some(text(event, "/user")?) {
        return Ok(None);
    }
    location(payload, text(event, "/channel")?, None).map(Some)
}

/// Decodes a message: only a person's reply in a thread that the bot began can be for Metalbot.
fn said(payload: &Value, event: &Value) -> Result<Option<Inbound>, DecodeError> {
    // A message that an app posts with a person's token has both a user and a `bot_id`.
    let of_a_person = event["bot_id"].is_null()
        && matches!(event["subtype"].as_str(), None | Some("thread_broadcast" | "file_share"));
    let Some(head) = event["thread_ts"].as_str() else { return Ok(None) };
    let ts = text(event, "/ts")?;
    if !of_a_person || head == ts {
        return Ok(None);
    }
    let (me, began) = (bot(payload), event["parent_user_id"].as_str());
    let who = text(event, "/user")?;
    if me == Some(who) || (me.is_some() && began.is_some() && me != began) {
        return Ok(None);
    }
    let channel = text(event, "/channel")?;
    Ok(Some(Inbound {
        // Not the event's id: Slack was seen to repeat one message under several ids.
        delivery: format!("message:{}/{channel}:{ts}", scope(payload)?),
        user: user(payload, who)?,
        location: location(payload, channel, Some(head))?,
        body: InboundBody::ThreadReply {
            text: plain(event["text"].as_str().unwrap_or_default()),
            at: moment(ts),
        },
    }))
}

fn reaction(payload: &Value, event: &Value, added: bool) -> Result<Option<Inbound>, DecodeError> {
    let item = &event["item"];
    if item["type"] != "message" {
        return Ok(None);
    }
    let (me, author) = (bot(payload), event["item_user"].as_str());
    let who = text(event, "/user")?;
    if me == Some(who) || (me.is_some() && author.is_some() && me != author) {
        return Ok(None);
    }
    let (channel, message) = (text(item, "/channel")?, text(item, "/ts")?);
    let name = text(event, "/reaction")?;
    // The skin tone (`+1::skin-tone-3`) makes no difference.
    let name = name.split_once("::").map_or(name, |(name, _)| name);
    let stamp = text(event, "/event_ts").or(text(payload, "/event_id"))?;
    let verb = if added { "react" } else { "unreact" };
    let scope = scope(payload)?;
    Ok(Some(Inbound {
        delivery: format!("{verb}:{scope}/{channel}:{message}:{who}:{name}:{stamp}"),
        user: user(payload, who)?,
        location: location(payload, channel, None)?,
        body: InboundBody::Reaction {
            message: message.into(),
            name: name.into(),
            added,
            at: text(event, "/event_ts").ok().and_then(moment),
        },
    }))
}

/// Reads a time such as `1700000000.123456`, seconds with microseconds.
fn moment(ts: &str) -> Option<OffsetDateTime> {
    let (seconds, micros) = ts.split_once('.')?;
    let micros = micros.parse().ok().filter(|_| micros.len() == 6)?;
    let at = OffsetDateTime::from_unix_timestamp(seconds.parse().ok()?).ok()?;
    at.checked_add(Duration::microseconds(micros))
}

/// Returns the user id of the bot that an event was sent for.
fn bot(payload: &Value) -> Option<&str> {
    let first = payload["authorizations"].get(0)?;
    first["user_id"].as_str().filter(|_| first["is_bot"] == true)
}

/// Returns the installation that a payload was sent for: an organisation, or else a workspace.
pub fn scope(payload: &Value) -> Result<&str, DecodeError> {
    let first = &payload["authorizations"][0];
    let is_org = [payload, first].iter().any(|at| {
        let flag = &at["is_enterprise_install"];
        *flag == true || *flag == "true"
    });
    let find = |paths: [&str; 3]| paths.iter().find_map(|path| text(payload, path).ok());
    let org = find(["/authorizations/0/enterprise_id", "/enterprise/id", "/enterprise_id"]);
    let team = find(["/authorizations/0/team_id", "/team/id", "/team_id"]);
    match (is_org, org, team) {
        (true, Some(org), _) | (false, Some(org), None) => Ok(org),
        (_, _, Some(team)) => Ok(team),
        (_, None, None) => Err("it names no workspace and no organisation".into()),
    }
}

fn user(payload: &Value, id: &str) -> Result<PlatformUser, DecodeError> {
    Ok(PlatformUser { platform: PLATFORM.into(), id: format!("{}/{id}", scope(payload)?) })
}

fn location(
    payload: &Value,
    channel: &str,
    thread: Option<&str>,
) -> Result<ChatLocation, DecodeError> {
    Ok(ChatLocation {
        platform: PLATFORM.into(),
        channel: format!("{}/{channel}", scope(payload)?),
        thread: thread.map(str::to_owned),
    })
}

/// Reads a text at a JSON pointer. Fails if it is absent or empty.
fn text<'a>(value: &'a Value, path: &str) -> Result<&'a str, DecodeError> {
    let found = value.pointer(path).and_then(Value::as_str).filter(|text| !text.is_empty());
    found.ok_or_else(|| format!("it has no text at {path}").into())
}

/// Text as the person saw it when they typed: Slack escapes `& < >` and writes mentions and links
/// as `<@U1>`, `<#C1|name>`, `<!here>`, `<https://e.org|e.org>`
/// (<https://docs.slack.dev/messaging/formatting-message-text>).
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('<') {
        out += before;
        let Some((inside, behind)) = after.split_once('>') else {
            out.push('<');
            rest = after;
            continue;
        };
        let (target, label) = match inside.split_once('|') {
            Some((target, label)) => (target, Some(label)),
            None => (inside, None),
        };
        let sigil = match target.chars().next() {
            Some('@' | '!') => "@",
            Some('#') => "#",
            _ => "",
        };
        let shown = label.unwrap_or(target.trim_start_matches(['@', '#', '!']));
        if !shown.starts_with(sigil) {
            out += sigil;
        }
        out += shown;
        rest = behind;
    }
    out += rest;
    out.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;

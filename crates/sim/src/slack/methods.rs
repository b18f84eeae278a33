//! The methods of the Web API.
//!
//! Invariant: a call that is refused changes nothing, and its code is the documented one.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::World;
use super::check;
use super::state::{BOT, File, ShownMessage, State, User, conversation, message};

/// Time in which a trigger can open views.
const TRIGGER: Duration = Duration::from_secs(3);

type Args = Map<String, Value>;
type Answer = Result<Value, &'static str>;

/// Answers a call of the bot.
pub fn call(state: &mut State, world: &World, method: &str, args: &Args) -> Answer {
    let known: &[&str] = match method {
        "apps.connections.open" | "auth.test" => &[],
        "chat.postMessage" => &[
            "channel",
            "text",
            "blocks",
            "thread_ts",
            "metadata",
            "unfurl_links",
            "unfurl_media",
            "reply_broadcast",
        ],
        "chat.update" => &["channel", "ts", "text", "blocks", "metadata"],
        "chat.postEphemeral" => &["channel", "user", "text", "blocks", "thread_ts"],
        "conversations.history" => {
            &["channel", "oldest", "latest", "limit", "cursor", "include_all_metadata", "inclusive"]
        }
        "conversations.replies" => {
            &["channel", "ts", "oldest", "latest", "limit", "cursor", "include_all_metadata"]
        }
        "chat.getPermalink" => &["channel", "message_ts"],
        "conversations.open" => &["users", "return_im"],
        "conversations.info" => &["channel", "include_locale", "include_num_members"],
        "users.info" => &["user"],
        "users.lookupByEmail" => &["email"],
        "views.open" | "views.push" => &["trigger_id", "view"],
        "views.update" => &["view_id", "external_id", "hash", "view"],
        "views.publish" => &["user_id", "view", "hash"],
        "files.getUploadURLExternal" => &["filename", "length"],
        "files.completeUploadExternal" => &["files", "channel_id", "thread_ts", "initial_comment"],
        _ => return Err("unknown_method"),
    };
    if args.keys().any(|key| !known.contains(&key.as_str())) {
        return Err("invalid_arguments");
    }
    match method {
        "apps.connections.open" => {
            let ticket = format!("ticket-{}", state.next());
            state.tickets.insert(ticket.clone());
            Ok(json!({ "url": format!("ws://{}/link?ticket={ticket}", world.socket) }))
        }
        "auth.test" => Ok(json!({
            "url": "https://metal.slack.test/", "team": "Metal", "user": "metalbot",
            "team_id": state.team, "user_id": BOT, "bot_id": "B0BOT",
            "enterprise_id": state.team, "is_enterprise_install": state.team.starts_with('E'),
        })),
        "chat.postMessage" => post(state, args),
        "chat.update" => update(state, args),
        "chat.postEphemeral" => whisper(state, args),
        "conversations.history" => read(state, args, None),
        "conversations.replies" => read(state, args, Some(text(args, "ts")?)),
        "conversations.open" => open(state, text(args, "users")?),
        "chat.getPermalink" => {
            let channel = reachable(state, args)?;
            let ts = text(args, "message_ts")?;
            state.message(channel, ts).map_err(|_| "message_not_found")?;
            let id = ts.replace('.', "");
            let url = format!("https://metal.slack.test/archives/{channel}/p{id}");
            Ok(json!({ "channel": channel, "permalink": url }))
        }
        "conversations.info" => about(state, args),
        "users.info" => info(state.users.get(text(args, "user")?).ok_or("user_not_found")?),
        "users.lookupByEmail" => {
            let email = text(args, "email")?;
            let mut users = state.users.values();
            info(users.find(|user| user.email == email).ok_or("users_not_found")?)
        }
        "views.open" | "views.push" => open_view(state, args, method == "views.push"),
        "views.update" => update_view(state, args),
        "views.publish" => publish(state, args),
        "files.getUploadURLExternal" => place_for_file(state, world, args),
        _ => share_file(state, args),
    }
}

fn text<'a>(args: &'a Args, name: &str) -> Result<&'a str, &'static str> {
    args.get(name).and_then(Value::as_str).filter(|t| !t.is_empty()).ok_or("invalid_arguments")
}

/// Opens a conversation with a user. <https://docs.slack.dev/reference/methods/conversations.open>
fn open(state: &mut State, user: &str) -> Answer {
    let user = state.users.get(user).ok_or("user_not_found")?;
    if user.deleted {
        return Err("user_disabled");
    }
    let id = conversation(&user.id);
    state.direct.insert(id.clone());
    Ok(json!({ "no_op": false, "already_open": false, "channel": { "id": id } }))
}

/// Channel of a call that reads: the bot must be in it. A person's id is not accepted.
fn reachable<'a>(state: &State, args: &'a Args) -> Result<&'a str, &'static str> {
    let channel = text(args, "channel")?;
    if state.direct.contains(channel) {
        return Ok(channel);
    }
    let members = state.channels.get(channel).ok_or("channel_not_found")?;
    match (members.contains(BOT), state.private.contains(channel)) {
        (true, _) => Ok(channel),
        (false, true) => Err("channel_not_found"),
        (false, false) => Err("not_in_channel"),
    }
}

/// Channel of a call that writes, with the same conditions.
fn writable<'a>(state: &State, args: &'a Args) -> Result<&'a str, &'static str> {
    let channel = reachable(state, args)?;
    if state.archived.contains(channel) { Err("is_archived") } else { Ok(channel) }
}

/// Describes a channel. <https://docs.slack.dev/reference/methods/conversations.info>
fn about(state: &State, args: &Args) -> Answer {
    let channel = text(args, "channel")?;
    let is_member = match reachable(state, args) {
        Ok(_) => true,
        Err("not_in_channel") => false,
        Err(code) => return Err(code),
    };
    let (is_private, is_archived) =
        (state.private.contains(channel), state.archived.contains(channel));
    Ok(json!({ "channel": {
        "id": channel, "is_channel": true, "is_im": false, "is_private": is_private,
        "is_archived": is_archived, "is_member": is_member, "context_team_id": state.team,
    } }))
}

fn content(state: &State, channel: &str, args: &Args) -> Result<ShownMessage, &'static str> {
    check::content(args)?;
    if let Some(head) = args.get("thread_ts").and_then(Value::as_str)
        && state.message(channel, head).is_err()
    {
        return Err("thread_not_found");
    }
    Ok(message(channel, BOT, &Value::Object(args.clone())))
}

fn post(state: &mut State, args: &Args) -> Answer {
    // Only this method accepts a person's id for the conversation with them.
    let channel = match text(args, "channel")? {
        user if state.users.contains_key(user) => {
            open(state, user)?;
            conversation(user)
        }
        _ => writable(state, args)?.to_owned(),
    };
    let message = content(state, &channel, args)?;
    let ts = state.post(message);
    let posted = wire(state.message(&channel, &ts).map_err(|_| "fatal_error")?, true);
    Ok(json!({ "channel": channel, "ts": ts, "message": posted }))
}

fn update(state: &mut State, args: &Args) -> Answer {
    let channel = writable(state, args)?.to_owned();
    let ts = text(args, "ts")?;
    let new = content(state, &channel, args)?;
    let old = state.messages.iter_mut().find(|m| m.channel == channel && m.ts == ts);
    let old = old.filter(|old| old.only_to.is_none()).ok_or("message_not_found")?;
    if old.user != BOT {
        return Err("cant_update_message");
    }
    let metadata = if new.metadata.is_null() { old.metadata.take() } else { new.metadata };
    let ShownMessage { text, fallback, blocks, pings, .. } = new;
    let (ts, thread) = (old.ts.clone(), old.thread.take());
    let (reactions, edits) = (std::mem::take(&mut old.reactions), old.edits + 1);
    let (channel, user, only_to) = (channel.clone(), BOT.to_owned(), None);
    *old = ShownMessage {
        ts,
        thread,
        text,
        fallback,
        blocks,
        pings,
        metadata,
        reactions,
        edits,
        channel,
        user,
        only_to,
    };
    let answer = wire(old, true);
    Ok(json!({ "channel": old.channel, "ts": old.ts, "text": old.fallback, "message": answer }))
}

fn whisper(state: &mut State, args: &Args) -> Answer {
    let channel = writable(state, args)?.to_owned();
    let user = text(args, "user")?;
    let members = state.channels.get(&channel).ok_or("channel_not_found")?;
    if !members.contains(user) {
        return Err("user_not_in_channel");
    }
    let mut message = content(state, &channel, args)?;
    message.only_to = Some(user.into());
    Ok(json!({ "message_ts": state.post(message) }))
}

/// Page of a channel, newest first, or of a thread, oldest first; without ephemeral messages.
fn read(state: &State, args: &Args, thread: Option<&str>) -> Answer {
    let channel = reachable(state, args)?;
    let oldest: f64 =
        args.get("oldest").and_then(|value| value.as_str()?.parse().ok()).unwrap_or_default();
    let limit = args.get("limit").and_then(|value| value.as_str()?.parse().ok()).unwrap_or(100);
    let from = args.get("cursor").and_then(|value| value.as_str()?.parse().ok()).unwrap_or(0);
    let with_metadata = args.get("include_all_metadata").is_some_and(|value| value == "true");
    let mut all: Vec<&ShownMessage> = state
        .messages
        .iter()
        .filter(|m| m.channel == channel && m.only_to.is_none())
        .filter(|m| match thread {
            Some(head) => m.ts == head || m.thread.as_deref() == Some(head),
            None => m.thread.is_none(),
        })
        .filter(|m| m.ts.parse::<f64>().is_ok_and(|ts| ts >= oldest))
        .collect();
    match thread {
        Some(_)
            if all.is_empty() && state.message(channel, thread.unwrap_or_default()).is_err() =>
        {
            return Err("thread_not_found");
        }
        Some(_) => {}
        None => all.reverse(),
    }
    let more = all.len() > from + limit;
    let page: Vec<Value> =
        all.iter().skip(from).take(limit).map(|m| wire(m, with_metadata)).collect();
    let next = if more { (from + limit).to_string() } else { String::new() };
    Ok(json!({
        "messages": page, "has_more": more, "response_metadata": { "next_cursor": next },
    }))
}

fn wire(message: &ShownMessage, with_metadata: bool) -> Value {
    let mut value = json!({
        "type": "message", "user": message.user, "ts": message.ts, "text": message.fallback,
        "blocks": message.blocks,
    });
    if message.user == BOT {
        value["bot_id"] = "B0BOT".into();
    }
    if let Some(thread) = &message.thread {
        value["thread_ts"] = thread.as_str().into();
    }
    if with_metadata && !message.metadata.is_null() {
        value["metadata"] = message.metadata.clone();
        // Other apps store more than text there, and Metalbot may do so later.
        value["metadata"]["event_payload"]["more"] = json!({ "number": 1, "list": [true, null] });
    }
    value
}

/// Describes a user. <https://docs.slack.dev/reference/methods/users.info>
fn info(user: &User) -> Answer {
    let org = user.team.strip_prefix('E').map(|_| json!({ "enterprise_id": user.team }));
    Ok(json!({ "user": {
        "id": user.id, "team_id": user.team, "enterprise_user": org, "name": user.login, "deleted": user.deleted,
        "is_bot": false, "is_restricted": false, "is_email_confirmed": user.confirmed,
        "profile": { "real_name": user.login, "email": user.email },
    } }))
}

fn open_view(state: &mut State, args: &Args, push: bool) -> Answer {
    let trigger = text(args, "trigger_id")?;
    let (user, since) = state.triggers.remove(trigger).ok_or("invalid_trigger_id")?;
    if since.elapsed() > TRIGGER {
        return Err("expired_trigger_id");
    }
    let view = checked_view(state, args, "modal")?;
    let views = state.views.entry(user).or_default();
    if push && views.len() >= 3 {
        return Err("push_limit_reached");
    }
    if !push {
        views.clear();
    }
    views.push(view.clone());
    Ok(json!({ "view": view }))
}

fn update_view(state: &mut State, args: &Args) -> Answer {
    let id = text(args, "view_id")?.to_owned();
    let mut view = checked_view(state, args, "modal")?;
    view["id"] = id.as_str().into();
    let all = state.views.values_mut().flatten();
    let old = all.into_iter().find(|view| view["id"] == id.as_str()).ok_or("not_found")?;
    *old = view.clone();
    Ok(json!({ "view": view }))
}

fn publish(state: &mut State, args: &Args) -> Answer {
    let user = text(args, "user_id")?.to_owned();
    if !state.users.contains_key(&user) {
        return Err("user_not_found");
    }
    let view = checked_view(state, args, "home")?;
    state.homes.insert(user, view.clone());
    Ok(json!({ "view": view }))
}

fn checked_view(state: &mut State, args: &Args, kind: &str) -> Answer {
    let mut view = args.get("view").cloned().ok_or("invalid_arguments")?;
    check::view(&view, kind)?;
    view["id"] = format!("V{:08}", state.next()).into();
    view["hash"] = format!("{}.hash", state.next()).into();
    view["team_id"] = state.team.as_str().into();
    Ok(view)
}

fn place_for_file(state: &mut State, world: &World, args: &Args) -> Answer {
    let length = text(args, "length")?.parse().map_err(|_| "invalid_arguments")?;
    let id = format!("F{:08}", state.next());
    let url = format!("http://{}/upload/{id}", world.api);
    let name = text(args, "filename")?.to_owned();
    let content = String::new();
    state.files.push(File { id: id.clone(), name, length, content, channel: None, thread: None });
    Ok(json!({ "upload_url": url, "file_id": id }))
}

fn share_file(state: &mut State, args: &Args) -> Answer {
    let channel = text(args, "channel_id")?.to_owned();
    // <https://github.com/slackapi/bolt-js/issues/2115>
    if !channel.starts_with(['C', 'G', 'D', 'Z']) {
        return Err("invalid_arguments");
    }
    let member = state.channels.get(&channel).is_some_and(|members| members.contains(BOT));
    if !member && !state.direct.contains(&channel) {
        return Err("channel_not_found");
    }
    let thread = args.get("thread_ts").and_then(Value::as_str).map(str::to_owned);
    let wanted = args.get("files").and_then(Value::as_array).ok_or("invalid_arguments")?;
    let ids: Vec<&str> = wanted.iter().filter_map(|file| file["id"].as_str()).collect();
    for id in &ids {
        let file = state.files.iter_mut().find(|file| file.id == *id).ok_or("file_not_found")?;
        if file.content.len() != file.length {
            return Err("file_not_found");
        }
        (file.channel, file.thread) = (Some(channel.clone()), thread.clone());
    }
    Ok(json!({ "files": wanted }))
}

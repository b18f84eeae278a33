//! Messages as the browser gets them.

use serde::Serialize;
use serde_json::Value;
use time::format_description::well_known::Rfc3339;

use super::{ConsoleState, markdown};
use crate::app::console_message::{BOT, ConsoleMessage, MessageReaction, command_in};

/// One message as one person sees it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct View {
    pub id: String,
    /// Goes up with every change; the browser drops what is older than what it has.
    pub rev: i64,
    pub channel: String,
    pub thread: Option<String>,
    pub author: Author,
    /// Safe HTML.
    pub html: String,
    /// RFC 3339.
    pub at: String,
    pub edited: Option<String>,
    pub only_you: bool,
    pub card: Option<Value>,
    pub reactions: Vec<MessageReaction>,
    pub replies: i64,
    /// Of one's own messages: by it the browser knows what it has shown already.
    pub delivery: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Author {
    pub login: String,
    pub name: String,
    pub bot: bool,
}

/// The message as `login` sees it; `None` when they may not.
pub(super) fn view(message: &ConsoleMessage, login: &str, state: &ConsoleState) -> Option<View> {
    if !message.is_visible_to(login) {
        return None;
    }
    let name = if message.bot && message.author == BOT {
        "Metalbot".to_owned()
    } else {
        state.principal(&message.author).map_or_else(|| message.author.clone(), |who| who.name)
    };
    let html = if message.bot {
        markdown::to_html(&message.body)
    } else {
        markdown::typed(&message.body, command_in(&message.body).is_some())
    };
    let own = || message.key.strip_prefix("say:")?.strip_prefix(login)?.strip_prefix(':');
    Some(View {
        id: message.id.to_string(),
        rev: message.rev,
        channel: message.channel.clone(),
        thread: message.thread.map(|head| head.to_string()),
        author: Author { login: message.author.clone(), name, bot: message.bot },
        html,
        at: rfc3339(message.created_at),
        edited: message.edited_at.map(rfc3339),
        only_you: message.only_to.is_some(),
        card: message.card.clone(),
        reactions: message.reactions.0.clone(),
        replies: message.replies_for(login),
        delivery: own().map(str::to_owned),
    })
}

fn rfc3339(at: time::OffsetDateTime) -> String {
    at.format(&Rfc3339).expect("the database's times have four-digit years")
}

//! The simulated Slack in a browser: the channel for work on servers as each person sees it.

use axum::Router;
use axum::extract::{Path, State as Extracted};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use serde_json::Value;

use super::state::{BOT, Shown, State};
use super::{METAL, Shared, mrkdwn};
use crate::sim::fleet::PEOPLE;

const PAGE: &str = include_str!("page.html");

pub fn router() -> Router<Shared> {
    Router::new().route("/", get(page)).route("/seen-by/{who}", get(seen_by))
}

async fn page() -> Response {
    let person = |person: &crate::sim::fleet::SitePerson| {
        let (login, name, role) = (person.login, person.name, person.role);
        format!("<button data-who=\"{login}\">{name} <small>{role}</small></button>\n")
    };
    let people: String = PEOPLE.iter().map(person).collect();
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                  connect-src 'self'; frame-ancestors 'none'";
    let page = PAGE.replace("{people}", &people);
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(page)).into_response()
}

/// What this person sees of the channel and is told directly.
async fn seen_by(Extracted(world): Extracted<Shared>, Path(who): Path<String>) -> Response {
    let state = world.lock();
    if state.user(&who).is_err() {
        return StatusCode::NOT_FOUND.into_response();
    }
    let all = state.visible(&who);
    let mut html = String::new();
    for head in all.iter().filter(|message| message.thread.is_none()) {
        let replies = all.iter().filter(|reply| reply.thread.as_ref() == Some(&head.ts));
        let replies: String = replies.map(|reply| article(&state, reply, "")).collect();
        html += &article(&state, head, &replies);
    }
    Html(html).into_response()
}

fn article(state: &State, message: &Shown, replies: &str) -> String {
    let ts = &message.ts;
    let (class, author) = match state.users.get(&message.user) {
        Some(user) => ("person", user.login.as_str()),
        None => ("app", "metalbot"),
    };
    let mut html = format!("<article class=\"{class}\" data-ts=\"{ts}\"><b>{author}</b>");
    if message.only_to.is_some() {
        html += " <small>Only visible to you</small>";
    } else if message.channel != METAL {
        html += " <small>Direct message</small>";
    }
    html += &content(state, message);
    let buttons = message.elements();
    if !buttons.is_empty() {
        let button = |element: &Value| {
            let style = element["style"].as_str().unwrap_or_default();
            format!("<button class=\"{style}\">{}</button> ", escaped(&element["text"]["text"]))
        };
        html += &format!("<p>{}</p>", buttons.iter().map(button).collect::<String>());
    }
    if !message.reactions.is_empty() {
        let shown = message.reactions.iter().map(|(name, user)| {
            let login = state.users.get(user).map_or("", |user| &user.login);
            format!("<span class=\"reaction\">{} {login}</span> ", mrkdwn::emoji(name))
        });
        html += &format!("<p>{}</p>", shown.collect::<String>());
    }
    html + &format!("{replies}</article>\n")
}

/// What a message says, without its buttons.
pub fn content(state: &State, message: &Shown) -> String {
    let name = |id: &str| match state.users.get(id) {
        Some(user) => user.login.clone(),
        None if id == BOT => "metalbot".into(),
        None => id.into(),
    };
    let shown = |text: &Value| mrkdwn::html(text["text"].as_str().unwrap_or_default(), &name);
    let blocks = message.blocks.as_array().filter(|blocks| !blocks.is_empty());
    let Some(blocks) = blocks else {
        return format!("<p>{}</p>", mrkdwn::html(&message.fallback, &name));
    };
    let mut html = String::new();
    for block in blocks {
        match block["type"].as_str().unwrap_or_default() {
            "section" => html += &format!("<p>{}</p>", shown(&block["text"])),
            "header" => html += &format!("<p><b>{}</b></p>", escaped(&block["text"]["text"])),
            "context" => {
                let elements = block["elements"].as_array().into_iter().flatten();
                let texts: Vec<String> = elements.map(shown).collect();
                html += &format!("<p class=\"context\">{}</p>", texts.join(" "));
            }
            "divider" => html += "<hr>",
            _ => {}
        }
    }
    html
}

/// Plain text.
fn escaped(text: &Value) -> String {
    let text = text.as_str().unwrap_or_default();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

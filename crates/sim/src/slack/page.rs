//! Web page of the simulated Slack: the channel for work on servers as each person sees it, and
//! forms. The viewer may act as any person.

use axum::extract::{Path, State as Extracted};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::state::{BOT, ShownMessage, State};
use super::{METAL, Shared, World, deliver, mrkdwn};
use crate::fleet::PEOPLE;

const PAGE: &str = include_str!("page.html");

pub fn router() -> Router<Shared> {
    Router::new()
        .route("/", get(page))
        .route("/seen-by/{who}", get(seen_by))
        .route("/done-by/{who}", post(done_by))
}

async fn page() -> Response {
    let person = |person: &crate::fleet::SitePerson| {
        let (login, name, role) = (person.login, person.name, person.role);
        format!("<button data-who=\"{login}\">{name} <small>{role}</small></button>\n")
    };
    let people: String = PEOPLE.iter().map(person).collect();
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                  connect-src 'self'; frame-ancestors 'none'";
    let page = PAGE.replace("{people}", &people);
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(page)).into_response()
}

/// Channel and direct messages of this person, with their open form.
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
    let form = state.view(&who).map(|view| form(&state, view));
    Json(json!({ "messages": html, "form": form.unwrap_or_default() })).into_response()
}

/// Act of a person in the page.
#[derive(Deserialize)]
#[serde(tag = "does", rename_all = "snake_case")]
enum Does {
    Say { text: String, thread: Option<String> },
    React { ts: String, emoji: String },
    Press { ts: String, label: String },
    Choose { block: String, value: String },
    Submit { values: Value },
    Close,
}

/// Carries out an act and returns the app's answer to a form. Only JSON is accepted, so that no
/// other site can send such a request.
async fn done_by(
    Extracted(world): Extracted<Shared>,
    Path(who): Path<String>,
    Json(does): Json<Does>,
) -> Response {
    match carry_out(&world, &who, does).await {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => (StatusCode::UNPROCESSABLE_ENTITY, error.to_string()).into_response(),
    }
}

async fn carry_out(world: &World, who: &str, does: Does) -> anyhow::Result<Option<Value>> {
    let submits = matches!(does, Does::Submit { .. });
    let act = {
        let mut state = world.lock();
        match does {
            // Slack accepts no commands in threads.
            Does::Say { text, thread: None } if text.starts_with("/metal") => {
                state.slash(who, METAL, text["/metal".len()..].trim())?
            }
            Does::Say { text, thread } => state.say(who, METAL, thread.as_deref(), &text)?.1,
            Does::React { ts, emoji } => {
                let own = (emoji.clone(), state.user(who)?.id.clone());
                let added = !state.message(METAL, &ts)?.reactions.contains(&own);
                state.react(who, METAL, &ts, &emoji, added)?
            }
            Does::Press { ts, label } => state.click(who, METAL, &ts, &label)?,
            Does::Choose { block, value } => state.choose(who, &block, &value)?,
            Does::Submit { values } => state.submit_view(who, values)?,
            Does::Close => {
                state.close_view(who)?;
                return Ok(None);
            }
        }
    };
    let answer = deliver::deliver(world, act).await?;
    if submits {
        world.lock().answered(who, answer.as_ref())?;
    }
    Ok(answer)
}

fn article(state: &State, message: &ShownMessage, replies: &str) -> String {
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
            let (label, sure) =
                (escaped(&element["text"]["text"]), escaped(&element["confirm"]["text"]["text"]));
            format!(
                "<button class=\"{style}\" data-press=\"{label}\" data-sure=\"{sure}\">{label}</button> "
            )
        };
        html += &format!("<p>{}</p>", buttons.iter().map(button).collect::<String>());
    }
    let everybody = message.only_to.is_none() && message.channel == METAL;
    if everybody && message.thread.is_none() {
        html += "<p class=\"more\"><button data-react=\"+1\">👍</button> \
                 <button data-reply>Reply in the thread</button></p>";
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

/// Text of a message as HTML, without its buttons.
pub fn content(state: &State, message: &ShownMessage) -> String {
    match message.blocks.as_array().filter(|blocks| !blocks.is_empty()) {
        Some(blocks) => blocks.iter().map(|one| block(state, one)).collect(),
        None => format!("<p>{}</p>", text(state, &message.fallback.as_str().into())),
    }
}

fn form(state: &State, view: &Value) -> String {
    let blocks = view["blocks"].as_array().into_iter().flatten();
    let blocks: String = blocks.map(|one| block(state, one)).collect();
    let mut html = format!("<h2>{}</h2>{blocks}<p>", escaped(&view["title"]["text"]));
    if view["submit"].is_object() {
        let label = escaped(&view["submit"]["text"]);
        html += &format!("<button class=\"primary\">{label}</button> ");
    }
    html + &format!("<button type=\"button\">{}</button></p>", escaped(&view["close"]["text"]))
}

fn block(state: &State, block: &Value) -> String {
    match block["type"].as_str().unwrap_or_default() {
        "section" => format!("<p>{}</p>", text(state, &block["text"]["text"])),
        "header" => format!("<p><b>{}</b></p>", escaped(&block["text"]["text"])),
        "context" => {
            let elements = block["elements"].as_array().into_iter().flatten();
            let texts: Vec<String> = elements.map(|one| text(state, &one["text"])).collect();
            format!("<p class=\"context\">{}</p>", texts.join(" "))
        }
        "divider" => "<hr>".into(),
        "input" => field(block),
        _ => String::new(),
    }
}

/// Renders a field of a form. Elements that only Slack's own app can offer are left out.
fn field(block: &Value) -> String {
    let element = &block["element"];
    let (id, action) = (escaped(&block["block_id"]), escaped(&element["action_id"]));
    let kind = escaped(&element["type"]);
    let tells = if block["dispatch_action"] == true { " data-tells" } else { "" };
    let marks = format!("name=\"{id}\" data-action=\"{action}\" data-type=\"{kind}\"{tells}");
    let input = match element["type"].as_str().unwrap_or_default() {
        "plain_text_input" => {
            let lines = if element["multiline"] == true { 3 } else { 1 };
            let (value, placeholder) =
                (escaped(&element["initial_value"]), escaped(&element["placeholder"]["text"]));
            format!(
                "<textarea rows=\"{lines}\" {marks} placeholder=\"{placeholder}\">{value}</textarea>"
            )
        }
        "static_select" => {
            let initial = &element["initial_option"]["value"];
            let option = |option: &Value| {
                let chosen = if option["value"] == *initial { " selected" } else { "" };
                let (value, label) = (escaped(&option["value"]), escaped(&option["text"]["text"]));
                format!("<option value=\"{value}\"{chosen}>{label}</option>")
            };
            let options = element["options"].as_array().into_iter().flatten();
            format!("<select {marks}>{}</select>", options.map(option).collect::<String>())
        }
        _ => return String::new(),
    };
    let (label, hint) = (escaped(&block["label"]["text"]), escaped(&block["hint"]["text"]));
    format!("<label>{label}{input}<small>{hint}</small></label>")
}

fn text(state: &State, mrkdwn: &Value) -> String {
    let name = |id: &str| match state.users.get(id) {
        Some(user) => user.login.clone(),
        None if id == BOT => "metalbot".into(),
        None => id.into(),
    };
    mrkdwn::html(mrkdwn.as_str().unwrap_or_default(), &name)
}

/// Renders plain text.
fn escaped(text: &Value) -> String {
    let text = text.as_str().unwrap_or_default();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

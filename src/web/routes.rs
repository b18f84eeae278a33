//! The console's routes and what every answer carries.

use std::time::Duration;

use axum::Router;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Json, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};
use tower_http::set_header::SetResponseHeaderLayer;

use super::guard::{self, Signed, SignedChange};
use super::problem::{self, Problem};
use super::{ConsoleState, assets, error_page, live, login, view};
use crate::app::completion;
use crate::app::console_message::{self, By, ConsoleError};
use crate::app::query::{self, CardAddress};
use metalbot_core::domain::ids::BatchId;

/// Largest request body, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// Longest time until an answer begins; longer than the wait for a connection to the database.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(8);

/// No script, style or picture but our own files; nothing inline; nobody may frame us. Trusted Types
/// leave one function in `dom.js` as the only way to parse HTML.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types server-html";

/// The console. Needs no prefix; serve it with connection info, so that sign-in can count addresses.
pub fn router(state: ConsoleState) -> Router {
    let fixed = |name: HeaderName, value: &'static str| {
        SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value))
    };
    Router::new()
        .route("/", get(index))
        .route("/login", get(login::page).post(login::sign_in))
        .route("/logout", post(login::sign_out))
        .route("/batches/{id}", get(batch))
        .route("/console/assets/{name}", get(assets::asset))
        .route("/console/state", get(current_state))
        .route("/console/messages", get(messages))
        .route("/console/complete", get(complete))
        .route("/console/events", get(live::events))
        .route("/console/send", post(send))
        .route("/console/react", post(react))
        .route("/console/press", post(press))
        .fallback(error_page::no_such_page)
        .with_state(state)
        .layer(middleware::from_fn(answer_in_time))
        .layer(middleware::from_fn(error_page::readable))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(fixed(header::CONTENT_SECURITY_POLICY, POLICY))
        .layer(fixed(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(fixed(header::REFERRER_POLICY, "same-origin"))
        .layer(fixed(HeaderName::from_static("cross-origin-opener-policy"), "same-origin"))
        .layer(fixed(HeaderName::from_static("cross-origin-resource-policy"), "same-origin"))
        .layer(fixed(header::CACHE_CONTROL, "no-store"))
}

/// Answers for a handler that takes too long: the database does not answer it.
async fn answer_in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(ANSWER_WITHIN, next.run(request)).await {
        Ok(response) => response,
        Err(_) => problem::late().into_response(),
    }
}

async fn index(State(state): State<ConsoleState>, headers: HeaderMap) -> Result<Response, Problem> {
    Ok(match guard::signed(&headers, &state).await? {
        Some(_) => Html(assets::text("index.html")).into_response(),
        None => Redirect::to(state.options.sign_in).into_response(),
    })
}

/// Target of the links in tickets: the batch's thread.
async fn batch(
    State(state): State<ConsoleState>,
    headers: HeaderMap,
    Path(id): Path<i64>,
) -> Result<Redirect, Problem> {
    if guard::signed(&headers, &state).await?.is_none() {
        return Ok(to_sign_in(&state, &format!("/batches/{id}")));
    }
    let Some(CardAddress { location, message, permalink }) =
        query::card(&state.options.pool, BatchId(id)).await?
    else {
        return Err(no_card(&state, BatchId(id)).await?);
    };
    // What another platform shows it guards itself.
    Ok(match permalink {
        Some(url) => Redirect::to(&url),
        None if location.platform == console_message::PLATFORM => {
            Redirect::to(&format!("/#/{}/{message}", location.channel))
        }
        None => return Err(no_card(&state, BatchId(id)).await?),
    })
}

/// Says why a batch cannot be shown.
async fn no_card(state: &ConsoleState, id: BatchId) -> Result<Problem, sqlx::Error> {
    let mut conn = state.options.pool.acquire().await?;
    let detail = match query::batch(&mut conn, id).await {
        Ok(batch) => format!(
            "Batch {id} ({}, {}) has no card to show here. /metal status {} says how it stands.",
            batch.action, batch.state, id.0
        ),
        Err(_) => format!("There is no batch {id}."),
    };
    Ok(Problem::new(StatusCode::NOT_FOUND, detail))
}

/// Sends a visitor to sign in, and from there back to where they wanted to go.
fn to_sign_in(state: &ConsoleState, back: &str) -> Redirect {
    Redirect::to(&format!("{}?next={back}", state.options.sign_in))
}

async fn current_state(
    State(state): State<ConsoleState>,
    signed: Signed,
) -> Result<Json<Value>, Problem> {
    let mut channels = Vec::new();
    for channel in &state.options.channels {
        let last =
            console_message::newest(&state.options.pool, &signed.who.login, &channel.name).await?;
        channels.push(json!({
            "name": channel.name,
            "topic": channel.topic,
            "last": last.map(|id| id.to_string()),
        }));
    }
    Ok(Json(json!({
        "me": signed.who,
        "csrf": signed.csrf,
        "channels": channels,
    })))
}

#[derive(Deserialize)]
struct Where {
    channel: String,
    thread: Option<String>,
}

async fn messages(
    State(state): State<ConsoleState>,
    signed: Signed,
    Query(at): Query<Where>,
) -> Result<Json<Value>, Problem> {
    channel_exists(&state, &at.channel)?;
    let login = &signed.who.login;
    let pool = &state.options.pool;
    let found = console_message::list(pool, login, &at.channel, at.thread.as_deref()).await?;
    let views: Vec<view::View> =
        found.iter().filter_map(|message| view::view(message, login, &state)).collect();
    Ok(Json(json!({ "messages": views })))
}

#[derive(Deserialize)]
struct Typed {
    text: String,
    /// In UTF-16 units, as browsers count.
    cursor: usize,
}

async fn complete(
    State(state): State<ConsoleState>,
    _: Signed,
    Query(typed): Query<Typed>,
) -> Json<Value> {
    let items = completion::complete(&state.options.app, &typed.text, typed.cursor);
    Json(json!({ "items": items }))
}

#[derive(Deserialize)]
struct Send {
    delivery: String,
    channel: String,
    thread: Option<String>,
    text: String,
}

async fn send(
    State(state): State<ConsoleState>,
    SignedChange(signed): SignedChange,
    body: Result<Json<Send>, JsonRejection>,
) -> Result<StatusCode, Problem> {
    let given = read(body)?;
    let login = &signed.who.login;
    state.rate.check(login)?;
    channel_exists(&state, &given.channel)?;
    let by = By { login, delivery: &given.delivery };
    let thread = given.thread.as_deref();
    console_message::say(&state.options.pool, by, &given.channel, thread, &given.text).await?;
    Ok(StatusCode::ACCEPTED)
}

#[derive(Deserialize)]
struct React {
    delivery: String,
    message: String,
    name: String,
    on: bool,
}

async fn react(
    State(state): State<ConsoleState>,
    SignedChange(signed): SignedChange,
    body: Result<Json<React>, JsonRejection>,
) -> Result<StatusCode, Problem> {
    let given = read(body)?;
    let login = &signed.who.login;
    state.rate.check(login)?;
    let by = By { login, delivery: &given.delivery };
    console_message::react(&state.options.pool, by, &given.message, &given.name, given.on).await?;
    Ok(StatusCode::ACCEPTED)
}

#[derive(Deserialize)]
struct Press {
    delivery: String,
    message: String,
    value: String,
    /// Text that the person wrote when the button asked.
    answer: Option<String>,
}

async fn press(
    State(state): State<ConsoleState>,
    SignedChange(signed): SignedChange,
    body: Result<Json<Press>, JsonRejection>,
) -> Result<StatusCode, Problem> {
    let given = read(body)?;
    let login = &signed.who.login;
    state.rate.check(login)?;
    let by = By { login, delivery: &given.delivery };
    let answer = given.answer.as_deref();
    console_message::press(&state.options.pool, by, &given.message, &given.value, answer).await?;
    Ok(StatusCode::ACCEPTED)
}

fn read<T>(body: Result<Json<T>, JsonRejection>) -> Result<T, Problem> {
    match body {
        Ok(Json(given)) => Ok(given),
        Err(rejection) => Err(Problem::new(rejection.status(), rejection.body_text())),
    }
}

fn channel_exists(state: &ConsoleState, name: &str) -> Result<(), ConsoleError> {
    if state.options.channels.iter().any(|channel| channel.name == name) {
        Ok(())
    } else {
        Err(ConsoleError::NoSuchChannel)
    }
}

//! HTTP entry point of the Web API: tokens, faults, limits, and the shape of answers.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, Query, State as Extracted};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use serde_json::{Map, Value, json};

use super::state::{BOT, SlackFault, message};
use super::{APP_TOKEN, Shared, check, methods, page};

/// Scopes of the bot's token, as `slack manifest` asks for them.
pub const SCOPES: &str = "commands,chat:write,channels:history,channels:read,groups:read,groups:history,\
     im:write,im:history,reactions:read,users:read,users:read.email,files:read,files:write";

pub fn router(world: Shared) -> Router {
    Router::new()
        .route("/api/{method}", any(call))
        .route("/upload/{id}", post(upload))
        .route("/files/{id}", get(download))
        .route("/respond/{team}/{id}", post(respond))
        .merge(page::router())
        .layer(DefaultBodyLimit::max(32 << 20))
        .with_state(world)
}

async fn call(
    Extracted(world): Extracted<Shared>,
    Path(method): Path<String>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = bearer.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    let world = world.of_token(token);
    let args = args(&headers, query, &body);
    let fault = {
        let mut state = world.lock();
        *state.calls.entry(method.clone()).or_default() += 1;
        if state.down {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        let fault = state.faults.get_mut(&method).and_then(|faults| faults.pop_front());
        fault.or_else(|| too_often(&mut state, &method, &args))
    };
    match fault {
        Some(SlackFault::RateLimited(seconds)) => {
            let body = json!({ "ok": false, "error": "ratelimited" });
            let after = [(header::RETRY_AFTER, seconds.to_string())];
            return (StatusCode::TOO_MANY_REQUESTS, after, axum::Json(body)).into_response();
        }
        Some(SlackFault::Status(status)) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
            return status.into_response();
        }
        Some(SlackFault::Error(code)) => return answer(Err(code)),
        Some(SlackFault::Break) => return broken(),
        Some(SlackFault::LoseAnswer | SlackFault::Slow(_)) | None => {}
    }
    let bots = world.bot_token.as_str();
    let wanted = if method == "apps.connections.open" { APP_TOKEN } else { bots };
    let result = match token {
        "" => Err("not_authed"),
        token if token == wanted => {
            let mut state = world.lock();
            let channel = args.get("channel").and_then(Value::as_str).unwrap_or_default();
            let times = state.times.entry((method.clone(), channel.to_owned())).or_default();
            times.push(Instant::now());
            methods::call(&mut state, &world, &method, &args)
        }
        token if token == APP_TOKEN || token == bots => Err("not_allowed_token_type"),
        _ => Err("invalid_auth"),
    };
    match fault {
        Some(SlackFault::LoseAnswer) => broken(),
        Some(SlackFault::Slow(time)) => {
            tokio::time::sleep(time).await;
            answer(result)
        }
        _ => answer(result),
    }
}

/// True if a channel got more posts than the current limit allows.
fn too_often(
    state: &mut super::state::State,
    method: &str,
    args: &Map<String, Value>,
) -> Option<SlackFault> {
    let most = state.posts_a_second.filter(|_| method == "chat.postMessage")?;
    let channel = args.get("channel")?.as_str()?;
    let times = state.times.get(&(method.to_owned(), channel.to_owned()))?;
    let recent = times.iter().rev().take_while(|time| time.elapsed() < Duration::from_secs(1));
    (recent.count() >= most).then_some(SlackFault::RateLimited(1))
}

fn answer(result: Result<Value, &'static str>) -> Response {
    let mut body = result.unwrap_or_else(|code| json!({ "ok": false, "error": code }));
    if body.get("ok").is_none() {
        body["ok"] = true.into();
    }
    ([("x-oauth-scopes", SCOPES)], axum::Json(body)).into_response()
}

/// Response that is cut off in the middle.
fn broken() -> Response {
    let lost = io::Error::other("lost on purpose");
    let stream = futures_util::stream::iter([Err::<Bytes, _>(lost)]);
    Response::new(Body::from_stream(stream))
}

/// Reads arguments from a query, a form or JSON.
fn args(headers: &HeaderMap, query: HashMap<String, String>, body: &Bytes) -> Map<String, Value> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let mut args: Map<String, Value> =
        query.into_iter().map(|(name, value)| (name, value.into())).collect();
    if kind.is_some_and(|kind| kind.starts_with("application/json"))
        && let Ok(Value::Object(more)) = serde_json::from_slice(body)
    {
        args.extend(more);
    }
    args
}

/// Serves a file to the app, which must send its token.
async fn download(
    Extracted(world): Extracted<Shared>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = bearer.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    let world = world.of_token(token);
    let state = world.lock();
    match state.files.iter().find(|file| file.id == id) {
        Some(file) if token == world.bot_token => file.content.clone().into_response(),
        // Slack redirects to its login page.
        Some(_) => (StatusCode::FOUND, [(header::LOCATION, "/login")]).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// Accepts an answer to a slash command.
/// <https://docs.slack.dev/interactivity/handling-user-interaction>
async fn respond(
    Extracted(world): Extracted<Shared>,
    Path((team, id)): Path<(String, String)>,
    axum::Json(answer): axum::Json<Value>,
) -> Response {
    let world = world.of_team(&team);
    let mut state = world.lock();
    let Some((channel, user, left)) = state.responses.get_mut(&id) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if *left == 0 || answer["response_type"] != "ephemeral" {
        return (StatusCode::NOT_FOUND, "used_url").into_response();
    }
    if answer.as_object().is_none_or(|args| check::content(args).is_err()) {
        return (StatusCode::BAD_REQUEST, "invalid_payload").into_response();
    }
    *left -= 1;
    let mut message = message(channel, BOT, &answer);
    message.only_to = Some(user.clone());
    state.post(message);
    *state.calls.entry("response_url".into()).or_default() += 1;
    "ok".into_response()
}

async fn upload(
    Extracted(world): Extracted<Shared>,
    Path(id): Path<String>,
    body: Bytes,
) -> Response {
    let mut state = world.lock();
    let Some(file) = state.files.iter_mut().find(|file| file.id == id) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if body.len() != file.length {
        return (StatusCode::BAD_REQUEST, "the length is another one").into_response();
    }
    file.content = String::from_utf8_lossy(&body).into_owned();
    format!("OK - {}", body.len()).into_response()
}

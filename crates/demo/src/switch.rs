//! The switch between people: routes that sign a visitor in as whom they want to be, and a script
//! that adds the list of people to the console's page. The only place where somebody is signed in
//! without a password; no configuration leads here.

use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use metalbot::serve::service::{Extension, StartOptions};
use metalbot::web::{self, ConsoleState};
use metalbot_sim::fleet::PEOPLE;

/// Login of every new visitor.
const FIRST: &str = "alice";
/// Largest page that is rewritten, in bytes.
const MAX_PAGE: usize = 256 * 1024;
/// Stands in the page before the console's own script, which it must run before.
const HEAD: &str = "<link rel=\"stylesheet\" href=\"/demo/switch.css\">\n\
    <script type=\"module\" src=\"/demo/switch.js\"></script>\n";
const SCRIPT: &str = include_str!("../assets/switch.js");
const STYLE: &str = include_str!("../assets/switch.css");

/// Additions of the demo to the service.
pub fn options() -> StartOptions {
    let extension = Extension { sign_in: "/demo", wrap };
    StartOptions { extension: Some(extension), ..StartOptions::default() }
}

/// The finished router with the switch's routes, and its script in the console's page.
fn wrap(console: ConsoleState, router: Router) -> Router {
    let routes = Router::new()
        .route("/demo", get(enter))
        .route("/demo/people", get(people))
        .route("/demo/become", post(become_one))
        .route("/demo/switch.js", get(|| async { asset("text/javascript; charset=utf-8", SCRIPT) }))
        .route("/demo/switch.css", get(|| async { asset("text/css; charset=utf-8", STYLE) }))
        .with_state(console);
    router.layer(map_response(add_script)).merge(routes)
}

/// Adds the script to a page of the console; everything else passes as it is.
async fn add_script(response: Response) -> Response {
    let kind = response.headers().get(header::CONTENT_TYPE);
    let is_page = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    if !is_page || response.status() != StatusCode::OK {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(page) = to_bytes(body, MAX_PAGE).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let page = String::from_utf8_lossy(&page).replacen("<script ", &format!("{HEAD}<script "), 1);
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(page))
}

fn asset(kind: &'static str, text: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")], text)
}

/// A person as the list shows them.
#[derive(Serialize)]
struct Person {
    login: &'static str,
    name: &'static str,
    role: &'static str,
}

async fn people() -> Json<Vec<Person>> {
    let people = PEOPLE.iter();
    let shown = people.map(|one| Person { login: one.login, name: one.name, role: one.role });
    Json(shown.collect())
}

async fn enter(State(console): State<ConsoleState>) -> Response {
    match web::open_session(&console, FIRST).await {
        Ok(cookie) => (cookie, Redirect::to("/")).into_response(),
        Err(error) => unavailable(&error),
    }
}

#[derive(Deserialize)]
struct Become {
    login: String,
}

async fn become_one(State(console): State<ConsoleState>, Json(wanted): Json<Become>) -> Response {
    if !PEOPLE.iter().any(|person| person.login == wanted.login) {
        return (StatusCode::NOT_FOUND, "nobody of that name works here\n").into_response();
    }
    match web::open_session(&console, &wanted.login).await {
        Ok(cookie) => (StatusCode::NO_CONTENT, cookie).into_response(),
        Err(error) => unavailable(&error),
    }
}

fn unavailable(error: &sqlx::Error) -> Response {
    tracing::warn!(%error, "cannot open a session");
    (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n").into_response()
}

#[cfg(test)]
mod tests {
    use axum::response::Html;

    use super::*;

    async fn text(response: Response) -> String {
        let body = to_bytes(response.into_body(), MAX_PAGE).await.unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn only_pages_get_the_script() {
        let page = "<head>\n<script src=\"a\"></script><script src=\"b\"></script>";
        let changed = text(add_script(Html(page).into_response()).await).await;
        let script = changed.find("/demo/switch.js").unwrap();
        assert!(script < changed.find("src=\"a\"").unwrap(), "{changed}");
        assert_eq!(changed.matches("/demo/switch.js").count(), 1);
        assert_eq!(text(add_script(page.into_response()).await).await, page);
    }
}

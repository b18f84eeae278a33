//! Errors as pages, where a person's browser asked for a page.

use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Response};
use minijinja::{AutoEscape, Environment, context};

use super::assets;
use super::problem::Problem;

/// Answers an address that nothing has.
pub(super) async fn no_such_page() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "There is no such page.")
}

/// Makes a page of an error; scripts get it as it is.
pub(super) async fn readable(request: Request, next: Next) -> Response {
    let accepts = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let page =
        request.method() == Method::GET && accepts.is_some_and(|kinds| kinds.contains("text/html"));
    let response = next.run(request).await;
    let status = response.status();
    let is_page = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    if !page || is_page || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let title = status.canonical_reason().unwrap_or("Problem");
    let detail = response.extensions().get::<Problem>().map(|problem| problem.detail.clone());
    let detail = detail.unwrap_or_else(|| "This address is not right.".to_owned());
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    match environment.render_str(&assets::text("problem.html"), context! { title, detail }) {
        Ok(page) => (status, Html(page)).into_response(),
        Err(_) => response,
    }
}

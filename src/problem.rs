//! Refusals over HTTP as `application/problem+json` (RFC 9457), of the API and of the console.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// An answer that says why something was not done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    pub status: StatusCode,
    pub detail: String,
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Problem { status, detail: detail.into() }
    }

    /// From an error's text, which becomes a sentence.
    pub fn of(status: StatusCode, error: &dyn std::error::Error) -> Self {
        let text = error.to_string();
        let mut chars = text.chars();
        let first = chars.next().map(|c| c.to_ascii_uppercase()).into_iter();
        Problem::new(status, first.chain(chars).chain(['.']).collect::<String>())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("Problem");
        let body =
            json!({ "title": title, "status": self.status.as_u16(), "detail": &self.detail });
        let mut response = (self.status, axum::Json(body)).into_response();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        // For whoever shows it in another form.
        response.extensions_mut().insert(self);
        response
    }
}

//! Refusals as `application/problem+json` (RFC 9457). A private cause is logged, never sent.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::app::console_message::ConsoleError;
use crate::app::error::is_away;

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

    /// Ours, not the person's.
    pub fn internal(cause: &dyn std::error::Error) -> Self {
        tracing::error!(%cause, "the console could not answer");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "Metalbot had a problem. Try again.")
    }

    /// The database has not answered in time: nobody knows whether it did what was asked.
    pub fn late() -> Self {
        tracing::warn!("the database has not answered the console in time");
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "The database does not answer. See what was done before you try again.",
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("Problem");
        let body = json!({ "title": title, "status": self.status.as_u16(), "detail": self.detail });
        let mut response = (self.status, axum::Json(body)).into_response();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        if !is_away(&error) {
            return Problem::internal(&error);
        }
        tracing::warn!(%error, "the console cannot reach the database");
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "The database is away. Nothing was lost; try again in a moment.",
        )
    }
}

impl From<ConsoleError> for Problem {
    fn from(error: ConsoleError) -> Self {
        let status = match error {
            ConsoleError::NoSuchChannel | ConsoleError::NoSuchMessage => StatusCode::NOT_FOUND,
            ConsoleError::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            ConsoleError::Empty | ConsoleError::Unstorable | ConsoleError::Malformed => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            ConsoleError::Database(error) => return error.into(),
        };
        let text = error.to_string();
        let mut chars = text.chars();
        let first = chars.next().map(|c| c.to_ascii_uppercase()).into_iter();
        Problem::new(status, first.chain(chars).chain(['.']).collect::<String>())
    }
}

//! What the console refuses, and how it is told. A private cause is logged, never sent.

use axum::http::StatusCode;

use crate::app::console_message::ConsoleError;
use crate::app::error::is_away;
pub use crate::problem::Problem;

/// Ours, not the person's.
pub(super) fn internal(cause: &dyn std::error::Error) -> Problem {
    tracing::error!(%cause, "the console could not answer");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "Metalbot had a problem. Try again.")
}

/// The database has not answered in time: nobody knows whether it did what was asked.
pub(super) fn late() -> Problem {
    tracing::warn!("the database has not answered the console in time");
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "The database does not answer. See what was done before you try again.",
    )
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        if !is_away(&error) {
            return internal(&error);
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
        Problem::of(status, &error)
    }
}

//! What the API refuses, and how it is told. A private cause is logged, never sent.

use axum::http::StatusCode;

use crate::app::Error;
use crate::problem::Problem;

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Error::Forbidden(_) => StatusCode::FORBIDDEN,
            Error::NotFound(_) => StatusCode::NOT_FOUND,
            Error::Conflict(_) => StatusCode::CONFLICT,
            Error::Unavailable(cause) => {
                tracing::warn!(%cause, "the API cannot reach the database");
                StatusCode::SERVICE_UNAVAILABLE
            }
            Error::Internal(cause) => {
                tracing::error!(%cause, "the API could not answer");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Problem::of(status, &error)
    }
}

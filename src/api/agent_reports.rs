//! `POST /v1/agent/reports`: what machines tell of the attempts that they have claimed.
//!
//! The body is a [`Report`]; the token in `Authorization: Bearer` says of which attempt. 200 with
//! `{"result": "stored"}`, or `"repeated"` for one that was there before. 401: no such token; 409:
//! another report has its key; 410: the attempt has ended; 413: it is too long; 422: it cannot be read;
//! 429: the attempt has all the reports that it may have; 503: try again.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::json;

use crate::app::agent_report::{Accepted, AgentReports, ReportRefusal};
use crate::problem::Problem;
use metalbot_core::domain::report::{MAX_BODY, Report, ReportError};

/// Room for what stands around a report's body.
const ENVELOPE: usize = 4 * 1024;

/// The routes of machines.
pub fn router(reports: Arc<AgentReports>) -> Router {
    Router::new()
        .route("/v1/agent/reports", post(report))
        .layer(DefaultBodyLimit::max(MAX_BODY + ENVELOPE))
        .with_state(reports)
}

async fn report(
    State(reports): State<Arc<AgentReports>>,
    headers: HeaderMap,
    body: Result<Json<Report>, JsonRejection>,
) -> Response {
    let token = bearer(&headers).unwrap_or_default();
    let taken = match body {
        Ok(Json(report)) => reports.take(token, &report).await,
        Err(rejection) => return unreadable(&rejection).into_response(),
    };
    match taken {
        Ok(Accepted::Stored) => Json(json!({ "result": "stored" })).into_response(),
        Ok(Accepted::Repeated) => Json(json!({ "result": "repeated" })).into_response(),
        Err(refusal) => refused(refusal),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn unreadable(rejection: &JsonRejection) -> Problem {
    // A body that is no JSON, or no report, is what a client has to mend: 422 for both.
    let status = match rejection.status() {
        StatusCode::BAD_REQUEST => StatusCode::UNPROCESSABLE_ENTITY,
        other => other,
    };
    Problem::new(status, format!("The report cannot be read: {}.", rejection.body_text()))
}

fn refused(refusal: ReportRefusal) -> Response {
    let status = match refusal {
        ReportRefusal::Token => StatusCode::UNAUTHORIZED,
        ReportRefusal::Report(ReportError::TooLong(_)) => StatusCode::PAYLOAD_TOO_LARGE,
        ReportRefusal::Report(_) => StatusCode::UNPROCESSABLE_ENTITY,
        ReportRefusal::KeyTaken(_) => StatusCode::CONFLICT,
        ReportRefusal::Ended => StatusCode::GONE,
        ReportRefusal::TooMany => StatusCode::TOO_MANY_REQUESTS,
        ReportRefusal::Other(error) => return Problem::from(error).into_response(),
    };
    let mut response = Problem::of(status, &refusal).into_response();
    if status == StatusCode::UNAUTHORIZED {
        let bearer = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
    }
    response
}

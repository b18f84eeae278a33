//! HTTP mode: Slack sends signed deliveries to Metalbot's address.
//!
//! Invariants: no more of a body is read than `MOST_BYTES` before the signature is known to be
//! right; a request counts once, even if its repeat reaches another replica; the answer to a forged
//! request reveals nothing. <https://docs.slack.dev/authentication/verifying-requests-from-slack>

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::post;
use serde_json::{Map, Value, json};
use slack_morphism::SlackSigningSecret;
use slack_morphism::signature_verifier::SlackEventSignatureVerifier;

use super::ingest::{AnswerError, SlackIngest, Sorted};
use crate::app::ingest::{Once, first};
use secrecy::{ExposeSecret, SecretString};

/// Path for all of Slack's deliveries: events, slash commands, interactions.
pub const PATH: &str = "/slack/events";
/// Largest body of a request.
const MOST_BYTES: usize = 256 * 1024;
/// Longest time for a body to arrive.
const ARRIVES_WITHIN: Duration = Duration::from_secs(3);
/// Time for which a signature is remembered: it is valid for five minutes before and after its
/// time.
const SIGNATURE: Duration = Duration::from_secs(11 * 60);

#[derive(Clone)]
struct EventsState {
    ingest: SlackIngest,
    verifier: Arc<SlackEventSignatureVerifier>,
}

/// Routes that Slack sends to.
pub fn router(ingest: SlackIngest, secret: &SecretString) -> Router {
    let secret = SlackSigningSecret(secret.expose_secret().into());
    let verifier = Arc::new(SlackEventSignatureVerifier::new(&secret));
    Router::new().route(PATH, post(receive)).with_state(EventsState { ingest, verifier })
}

async fn receive(State(state): State<EventsState>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = match read(body).await {
        Ok(body) => body,
        Err(status) => return status.into_response(),
    };
    let Some(signature) = verified(&state.verifier, &parts.headers, &body) else {
        return StatusCode::UNAUTHORIZED.into_response();
    };
    let once = Once { key: format!("slack request {signature}"), window: SIGNATURE };
    let body = envelope(&parts.headers, &body);
    if body["payload"]["type"] == "url_verification" {
        let challenge = body["payload"]["challenge"].as_str().unwrap_or_default().to_owned();
        return challenge.into_response();
    }
    if body["payload"]["ssl_check"] == "1" {
        return StatusCode::OK.into_response();
    }
    let taken = match state.ingest.sort(body.clone()) {
        Sorted::Later => {
            tracing::warn!("a delivery of Slack came before Slack has said whose the token is");
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        Sorted::Drop => Ok(None),
        Sorted::Refuse(response) => Ok(response),
        Sorted::Store(mut delivery) => {
            delivery.once.push(once);
            state.ingest.store(&[delivery]).await.map(|()| None).map_err(AnswerError::from)
        }
        Sorted::AnswerNow => answer(&state.ingest, body, &once).await,
    };
    match taken {
        Ok(None) => StatusCode::OK.into_response(),
        Ok(Some(response)) => Json(response).into_response(),
        Err(why) => {
            tracing::warn!(%why, "a delivery of Slack was not taken; it is not acknowledged");
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
    }
}

async fn answer(
    ingest: &SlackIngest,
    body: Value,
    once: &Once,
) -> Result<Option<Value>, AnswerError> {
    if !first(&ingest.pool, once).await? {
        return Ok(None);
    }
    ingest.answer(body).await
}

async fn read(body: Body) -> Result<Bytes, StatusCode> {
    match tokio::time::timeout(ARRIVES_WITHIN, to_bytes(body, MOST_BYTES)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(_)) => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
    }
}

/// Returns the signature of a request, if Slack has signed it at most five minutes ago.
fn verified<'a>(
    verifier: &SlackEventSignatureVerifier,
    headers: &'a HeaderMap,
    body: &[u8],
) -> Option<&'a str> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let signature = header(SlackEventSignatureVerifier::SLACK_SIGNED_HASH_HEADER)?;
    let stamp = header(SlackEventSignatureVerifier::SLACK_SIGNED_TIMESTAMP)?;
    let body = str::from_utf8(body).ok()?;
    verifier.verify(signature, body, stamp).ok()?;
    Some(signature)
}

/// Converts a request to the shape of Socket Mode's envelopes.
fn envelope(headers: &HeaderMap, body: &[u8]) -> Value {
    let text = String::from_utf8_lossy(body);
    let content_type = headers.get("content-type").and_then(|value| value.to_str().ok());
    let unreadable = || json!({ "unreadable": text });
    if content_type.is_some_and(|kind| kind.starts_with("application/json")) {
        let payload = serde_json::from_slice::<Value>(body);
        return payload.map_or_else(
            |_| unreadable(),
            |payload| json!({ "type": "events_api", "payload": payload }),
        );
    }
    let Some(fields) = form(&text) else { return unreadable() };
    match fields.get("payload").and_then(Value::as_str) {
        Some(payload) => serde_json::from_str::<Value>(payload).map_or_else(
            |_| unreadable(),
            |payload| json!({ "type": "interactive", "payload": payload }),
        ),
        None => json!({ "type": "slash_commands", "payload": fields }),
    }
}

/// Reads the fields of `application/x-www-form-urlencoded`; `None` if the text is not in that form.
fn form(text: &str) -> Option<Map<String, Value>> {
    let part = |text: &str| -> Option<String> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            bytes.push(match byte {
                b'+' => b' ',
                b'%' => {
                    let digits = [rest.next()?, rest.next()?];
                    u8::from_str_radix(str::from_utf8(&digits).ok()?, 16).ok()?
                }
                byte => byte,
            });
        }
        String::from_utf8(bytes).ok()
    };
    text.split('&')
        .map(|field| {
            let (name, value) = field.split_once('=')?;
            Some((part(name)?, Value::String(part(value)?)))
        })
        .collect()
}

//! Delivery of envelopes to the app, over Socket Mode or as signed requests.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::sync::oneshot;

use super::{SIGNING_SECRET, World};

/// Time that Slack waits for an acknowledgement.
pub const WAIT: Duration = Duration::from_secs(3);
/// Largest number of times that an event is sent. Slack waits between its tries, up to minutes.
const TRIES: u32 = 4;

/// Act of a person, in the form that the app gets.
#[derive(Clone, PartialEq, Debug)]
pub struct UserAction {
    /// `slash_commands`, `interactive` or `events_api`.
    pub kind: &'static str,
    pub payload: Value,
}

/// Transport of envelopes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SlackTransport {
    Socket,
    /// Requests to this address.
    Http(String),
}

/// Sends an act until it is acknowledged; returns the content of the acknowledgement. An error is
/// the message that the person sees; for an event, it means that Slack gave up.
pub async fn deliver(world: &World, act: UserAction) -> anyhow::Result<Option<Value>> {
    let is_event = act.kind == "events_api";
    let (way, repeats, other_ids, wait) = {
        let state = world.lock();
        (state.way.clone(), state.repeats, state.other_event_ids, state.wait)
    };
    let mut answer = None;
    for copy in 0..=repeats {
        let mut payload = act.payload.clone();
        if copy > 0 && other_ids && is_event {
            payload["event_id"] = format!("EvCopy{copy}{}", payload["event_id"]).into();
        }
        let tries = if is_event { TRIES } else { 1 };
        let mut last = Ok(None);
        for attempt in 0..tries {
            last = match &way {
                SlackTransport::Socket => {
                    over_socket(world, act.kind, &payload, attempt, wait).await
                }
                SlackTransport::Http(url) => {
                    over_http(world, url, act.kind, &payload, attempt, wait).await
                }
            };
            if last.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        if copy == 0 {
            answer = last?;
        }
    }
    Ok(answer)
}

async fn over_socket(
    world: &World,
    kind: &str,
    payload: &Value,
    attempt: u32,
    wait: Duration,
) -> anyhow::Result<Option<Value>> {
    let front = world.front.upgrade().context("Slack has stopped")?;
    let (id, acked) = {
        let mut state = front.lock();
        let id = format!("envelope-{}", state.next());
        let mut envelope = json!({
            "envelope_id": id, "type": kind, "payload": payload,
            "accepts_response_payload": kind != "events_api",
        });
        if kind == "events_api" {
            envelope["retry_attempt"] = attempt.into();
            envelope["retry_reason"] = if attempt > 0 { "timeout" } else { "" }.into();
        }
        state.turn += 1;
        let count = state.connections.len() as u64;
        ensure!(count > 0, "dispatch_failed: the app is not connected");
        let index = usize::try_from(state.turn % count)?;
        let connection = state.connections.values().nth(index).cloned();
        let (sender, acked) = oneshot::channel();
        state.waiting.insert(id.clone(), sender);
        if let Some(connection) = connection {
            let _ = connection.send(envelope.to_string());
        }
        (id, acked)
    };
    match tokio::time::timeout(wait, acked).await {
        Ok(Ok(answer)) => Ok(answer),
        _ => {
            front.lock().waiting.remove(&id);
            bail!("operation_timeout: the app did not answer in time")
        }
    }
}

async fn over_http(
    world: &World,
    url: &str,
    kind: &str,
    payload: &Value,
    attempt: u32,
    wait: Duration,
) -> anyhow::Result<Option<Value>> {
    let (content_type, body) = request_body(kind, payload)?;
    let (stamp, signature) = sign(&body, now());
    // Created at the first use, because it reads the system's certificates.
    let client = world.client.get_or_init(|| {
        let client = reqwest::Client::builder().use_rustls_tls().no_proxy().build();
        client.expect("the system's certificates can be read")
    });
    let mut request = client
        .post(url)
        .timeout(wait)
        .header("content-type", content_type)
        .header("x-slack-request-timestamp", stamp)
        .header("x-slack-signature", signature)
        .body(body);
    if attempt > 0 {
        request = request
            .header("x-slack-retry-num", attempt)
            .header("x-slack-retry-reason", "http_timeout");
    }
    let answer = request.send().await?;
    ensure!(answer.status().is_success(), "the app answered {}", answer.status());
    let text = answer.text().await?;
    Ok(if text.is_empty() { None } else { Some(serde_json::from_str(&text)?) })
}

/// Body of a request: JSON for events, a form for the others.
pub fn request_body(kind: &str, payload: &Value) -> anyhow::Result<(&'static str, String)> {
    let form = "application/x-www-form-urlencoded";
    Ok(match kind {
        "events_api" => ("application/json", payload.to_string()),
        "interactive" => (form, encoded([("payload", payload.to_string().as_str())])),
        _ => {
            let fields = payload.as_object().into_iter().flatten();
            let fields = fields.filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)));
            (form, encoded(fields))
        }
    })
}

fn encoded<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let part = |text: &str| -> String {
        text.bytes()
            .map(|byte| match byte {
                b' ' => "+".into(),
                byte if byte.is_ascii_alphanumeric() || b"-_.*".contains(&byte) => {
                    char::from(byte).to_string()
                }
                byte => format!("%{byte:02X}"),
            })
            .collect()
    };
    let fields = fields.into_iter().map(|(name, value)| format!("{}={}", part(name), part(value)));
    fields.collect::<Vec<_>>().join("&")
}

/// Headers `X-Slack-Request-Timestamp` and `X-Slack-Signature` for a body.
pub fn sign(body: &str, seconds: u64) -> (String, String) {
    let mut mac = Hmac::<Sha256>::new_from_slice(SIGNING_SECRET.as_bytes())
        .expect("HMAC takes a key of any length");
    mac.update(format!("v0:{seconds}:{body}").as_bytes());
    (seconds.to_string(), format!("v0={}", hex::encode(mac.finalize().into_bytes())))
}

/// Current time in seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "the simulated Slack has a clock of its own")]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

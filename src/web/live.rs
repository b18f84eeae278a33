//! The live stream of one browser, as server-sent events.
//!
//! Invariant: a stream ends with its session, at the latest one heartbeat later, and never carries
//! what its person may not see.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::IntoResponse;
use axum::response::sse::{Event, Sse};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use super::guard::{self, Signed};
use super::problem::Problem;
use super::routes::ANSWER_WITHIN;
use super::{ConsoleState, view};
use crate::app::console_message::LiveEvent;

/// The browser takes a stream for dead that is silent for 40 s.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Streams of one session; the windows of a browser share one.
const MOST_STREAMS: usize = 16;

pub(super) async fn events(
    State(state): State<ConsoleState>,
    signed: Signed,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Problem> {
    let place = state.streams.place(signed.token_hash).ok_or_else(|| {
        let why = "This session has too many pages open. Close some, or load this one again.";
        Problem::new(StatusCode::TOO_MANY_REQUESTS, why)
    })?;
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(async move {
        let stop = state.options.live.clone();
        tokio::select! {
            () = stop.stopped() => {}
            () = sender.closed() => {}
            () = run_stream(&state, signed, &headers, &sender) => {}
        }
        drop(place);
    });
    // nginx holds back what it passes on until it has a whole page of it, unless it is told not to.
    let unbuffered = [(HeaderName::from_static("x-accel-buffering"), "no")];
    Ok((unbuffered, Sse::new(ReceiverStream::new(receiver))))
}

/// How many streams each session has open.
#[derive(Debug, Default)]
pub(super) struct Streams(Mutex<HashMap<[u8; 32], usize>>);

/// A stream that is counted, for as long as the value lives.
struct StreamPlace {
    streams: Arc<Streams>,
    session: [u8; 32],
}

impl Streams {
    fn place(self: &Arc<Self>, session: [u8; 32]) -> Option<StreamPlace> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(session).or_default();
        if *count >= MOST_STREAMS {
            return None;
        }
        *count += 1;
        Some(StreamPlace { streams: Arc::clone(self), session })
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut counts = self.streams.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.session) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.session);
            }
        }
    }
}

async fn run_stream(
    state: &ConsoleState,
    signed: Signed,
    headers: &HeaderMap,
    sender: &mpsc::Sender<Result<Event, Infallible>>,
) {
    let login = signed.who.login;
    let mut changes = state.options.live.subscribe();
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    loop {
        let event = tokio::select! {
            change = changes.recv() => match change {
                Ok(LiveEvent::Changed(message)) => {
                    let Some(view) = view::view(&message, &login, state) else { continue };
                    match Event::default().event("message").json_data(view) {
                        Ok(event) => event,
                        Err(error) => {
                            tracing::error!(%error, "a message cannot be written as JSON");
                            continue;
                        }
                    }
                }
                Ok(LiveEvent::Resync) | Err(RecvError::Lagged(_)) => {
                    Event::default().event("resync").data("")
                }
                Err(RecvError::Closed) => return,
            },
            _ = heartbeat.tick() => match timeout(ANSWER_WITHIN, guard::signed(headers, state)).await {
                Ok(Ok(None)) => {
                    let _ = sender.send(Ok(Event::default().event("bye").data(""))).await;
                    return;
                }
                // A database that is away for a moment signs nobody out.
                Ok(Ok(Some(_)) | Err(_)) | Err(_) => Event::default().event("ping").data(""),
            },
        };
        if sender.send(Ok(event)).await.is_err() {
            return;
        }
    }
}

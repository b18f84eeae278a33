//! The live stream of one browser, as server-sent events.
//!
//! Invariant: a stream ends with its session, at the latest one heartbeat later, and never carries
//! what its person may not see.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, Sse};
use futures_util::Stream;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use super::guard::{self, Signed};
use super::routes::ANSWER_WITHIN;
use super::{ConsoleState, view};
use crate::app::console_message::LiveEvent;

/// The browser takes a stream for dead that is silent for 40 s.
const HEARTBEAT: Duration = Duration::from_secs(15);

pub(super) async fn events(
    State(state): State<ConsoleState>,
    signed: Signed,
    headers: HeaderMap,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(async move {
        let stop = state.options.live.clone();
        tokio::select! {
            () = stop.stopped() => {}
            () = sender.closed() => {}
            () = run_stream(&state, signed, &headers, &sender) => {}
        }
    });
    Sse::new(ReceiverStream::new(receiver))
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

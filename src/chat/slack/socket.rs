//! Socket Mode: deliveries over a connection that Metalbot opens, so no public address is needed.
//!
//! The loop is our own: the crate's loop waits for each callback before it reads on, drops messages
//! that it cannot parse, and connects again after a fixed pause.
//!
//! Invariants: an envelope is acknowledged only after it was stored; the read loop waits for
//! nothing but the socket; deliveries of one connection are stored in the order in which they came.
//! A process counts as connected from `hello` to the end of a connection.
//! <https://docs.slack.dev/apis/events-api/using-socket-mode>

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_util::sync::CancellationToken;

use super::ingest::{SlackIngest, Sorted};
use super::web_api::{ApiError, WebApi};
use crate::app::ingest::NewDelivery;
use crate::outgoing::WebSocket;

/// Longest time to open a connection, until its `hello`, and to send a frame.
const PATIENCE: Duration = Duration::from_secs(20);
/// Time between two pings, and longest time without a frame before the connection is given up.
const PING: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(35);
/// Shortest and longest pause before another try.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Time for which a connection that Slack wants replaced is still read.
const FAREWELL: Duration = Duration::from_secs(60);
/// Most envelopes of one connection that wait to be stored; more are left to Slack's retries.
const WAITING: usize = 2_000;
/// Most envelopes stored in one transaction.
const AT_ONCE: usize = 64;
/// Most forms of one connection that are answered at a time.
const FORMS: usize = 32;
/// Largest frame in bytes; Slack's largest payload, a form's, is far smaller.
const MAX_FRAME: usize = 4 << 20;

/// Count of this process's connections that are up: Slack has sent `hello`.
#[derive(Clone, Debug, Default)]
pub struct Connections(Arc<AtomicUsize>);

impl Connections {
    /// Returns whether deliveries can come in.
    pub fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

/// One connection that is up, for as long as the value lives.
struct Up(Connections);

impl Up {
    fn new(connections: &Connections) -> Up {
        connections.0.fetch_add(1, Ordering::Relaxed);
        Up(connections.clone())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Time at which the next connection is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Successor {
    /// At once: Slack asked for it, and still sends on the old connection.
    AtOnce,
    /// After a short pause: the old connection worked (`hello` had come) and then ended.
    Soon,
    /// After a pause that grows: the old connection never worked.
    Later,
}

/// Keeps a connection to Slack open until `stop` is cancelled.
pub async fn run_socket(
    api: Arc<WebApi>,
    ingest: SlackIngest,
    connections: Connections,
    stop: CancellationToken,
) {
    let mut open = JoinSet::new();
    let mut failures = 0;
    while !stop.is_cancelled() {
        while open.try_join_next().is_some() {}
        let successor = match connect(&api).await {
            Ok(socket) => {
                let (ask, asked) = oneshot::channel();
                open.spawn(serve(socket, ingest.clone(), connections.clone(), ask, stop.clone()));
                asked.await.unwrap_or(Successor::Soon)
            }
            Err(error) => {
                tracing::warn!(%error, failures, "cannot connect to Slack");
                if let ApiError::Later { wait: Some(wait), .. } = error {
                    pause(jitter(wait.min(LONGEST_PAUSE)), &stop).await;
                }
                Successor::Later
            }
        };
        failures = if successor == Successor::Later { failures + 1 } else { 0 };
        if successor != Successor::AtOnce {
            pause(pause_after(failures), &stop).await;
        }
    }
    while open.join_next().await.is_some() {}
}

/// Pause before the next try. It doubles with every failure, and is random in part, so that
/// processes do not all connect at the same moment.
fn pause_after(failures: u32) -> Duration {
    jitter((FIRST_PAUSE * 2u32.saturating_pow(failures.min(10))).min(LONGEST_PAUSE))
}

/// Random time between half of `time` and all of it.
fn jitter(time: Duration) -> Duration {
    time.mul_f64(rand::random_range(0.5..=1.0))
}

async fn pause(time: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        () = stop.cancelled() => {}
    }
}

async fn connect(api: &WebApi) -> Result<WebSocket, ApiError> {
    let mut config = WebSocketConfig::default();
    config.max_message_size = Some(MAX_FRAME);
    config.max_frame_size = Some(MAX_FRAME);
    let late = |_| ApiError::Unknown(format!("the connection was not open after {PATIENCE:?}"));
    timeout(PATIENCE, api.connect(config)).await.map_err(late)?
}

/// An envelope on its way into the database.
struct Envelope {
    id: String,
    delivery: NewDelivery,
}

/// Reads a connection until it ends.
async fn serve(
    socket: WebSocket,
    ingest: SlackIngest,
    connections: Connections,
    successor: oneshot::Sender<Successor>,
    stop: CancellationToken,
) {
    let (mut sink, stream) = socket.split();
    let (acks, mut acked) = mpsc::unbounded_channel::<Value>();
    let (waiting, to_store) = mpsc::channel(WAITING);
    let storing = tokio::spawn(store_in_order(ingest.clone(), to_store, acks.clone()));
    let mut reader = Reader {
        stream,
        ingest,
        connections,
        successor: Some(successor),
        up: None,
        acks,
        waiting,
        forms: JoinSet::new(),
        opened: Instant::now(),
        heard: Instant::now(),
        until: None,
    };
    let mut ping = tokio::time::interval(PING);
    let why = loop {
        tokio::select! {
            frame = reader.stream.next() => match frame {
                Some(Ok(frame)) => if let Err(why) = reader.take(frame) { break why },
                Some(Err(_)) | None => break "the connection broke",
            },
            Some(ack) = acked.recv() => {
                if send(&mut sink, ack).await.is_err() { break "acknowledgements cannot be sent" }
            }
            _ = ping.tick() => {
                if let Some(why) = reader.overdue() { break why }
                let ping = sink.send(Message::Ping(Vec::new().into()));
                if timeout(PATIENCE, ping).await.is_err() { break "pings cannot be sent" }
            }
            () = stop.cancelled() => break "the process stops",
        }
    };
    tracing::info!(why, "a connection to Slack ended");
    reader.ask_for_successor(if reader.up.is_some() { Successor::Soon } else { Successor::Later });
    // Envelopes that were read are still stored, and acknowledged if the connection still works.
    let Reader { waiting, acks, mut forms, .. } = reader;
    drop((waiting, acks));
    let _ = timeout(PATIENCE, async {
        while forms.join_next().await.is_some() {}
        let _ = storing.await;
        while let Ok(ack) = acked.try_recv() {
            send(&mut sink, ack).await?;
        }
        sink.close().await
    })
    .await;
}

/// Builds the acknowledgement of an envelope, with the response to a form if there is one.
fn ack(id: Option<String>, response: Option<Value>) -> Value {
    let mut ack = json!({ "envelope_id": id });
    if let Some(response) = response {
        ack["payload"] = response;
    }
    ack
}

async fn send(
    sink: &mut SplitSink<WebSocket, Message>,
    ack: Value,
) -> Result<(), tokio_tungstenite::tungstenite::Error> {
    match timeout(PATIENCE, sink.send(Message::text(ack.to_string()))).await {
        Ok(sent) => sent,
        Err(_) => Err(tokio_tungstenite::tungstenite::Error::ConnectionClosed),
    }
}

struct Reader {
    stream: SplitStream<WebSocket>,
    ingest: SlackIngest,
    connections: Connections,
    successor: Option<oneshot::Sender<Successor>>,
    up: Option<Up>,
    acks: mpsc::UnboundedSender<Value>,
    waiting: mpsc::Sender<Envelope>,
    forms: JoinSet<()>,
    opened: Instant,
    heard: Instant,
    /// Time at which a connection that was replaced is closed.
    until: Option<Instant>,
}

impl Reader {
    /// Handles one frame; the error is the reason why the connection ends.
    fn take(&mut self, frame: Message) -> Result<(), &'static str> {
        self.heard = Instant::now();
        match frame {
            Message::Text(text) => self.take_text(&text),
            Message::Close(_) => Err("Slack closed the connection"),
            // Pings are answered by the library.
            _ => Ok(()),
        }
    }

    fn take_text(&mut self, text: &str) -> Result<(), &'static str> {
        let Ok(body) = serde_json::from_str::<Value>(text) else {
            // Without an envelope there is nothing to acknowledge.
            let body = json!({ "unreadable": text });
            self.keep(None, self.ingest.sort(body));
            return Ok(());
        };
        match body["type"].as_str() {
            Some("hello") => {
                self.up = Some(Up::new(&self.connections));
                tracing::info!(
                    connections = body["num_connections"].as_u64(),
                    "connected to Slack"
                );
            }
            Some("disconnect") => return self.asked_to_leave(&body),
            _ => {
                let id = body["envelope_id"].as_str().map(str::to_owned);
                match self.ingest.sort(body.clone()) {
                    Sorted::AnswerNow => self.answer(id, body),
                    Sorted::Refuse(response) => {
                        let _ = self.acks.send(ack(id, response));
                    }
                    Sorted::Later => {}
                    sorted => self.keep(id, sorted),
                }
            }
        }
        Ok(())
    }

    fn asked_to_leave(&mut self, body: &Value) -> Result<(), &'static str> {
        match body["reason"].as_str() {
            Some("warning" | "refresh_requested") => {
                self.until = Some(Instant::now() + FAREWELL);
                self.ask_for_successor(Successor::AtOnce);
                Ok(())
            }
            Some("link_disabled") => {
                self.up = None;
                Err("Socket Mode is switched off for the app: switch it on in its settings")
            }
            Some("too_many_websockets") => {
                self.up = None;
                Err("the app has too many connections: at most 10 processes can connect")
            }
            _ => Err("Slack asked to end the connection"),
        }
    }

    fn ask_for_successor(&mut self, when: Successor) {
        if let Some(ask) = self.successor.take() {
            let _ = ask.send(when);
        }
    }

    fn keep(&mut self, id: Option<String>, sorted: Sorted) {
        let Sorted::Store(delivery) = sorted else {
            if let Some(id) = id {
                let _ = self.acks.send(json!({ "envelope_id": id }));
            }
            return;
        };
        let envelope = Envelope { id: id.unwrap_or_default(), delivery };
        if self.waiting.try_send(envelope).is_err() {
            tracing::warn!(
                "too many deliveries of Slack wait to be stored; it will repeat this one"
            );
        }
    }

    fn answer(&mut self, id: Option<String>, body: Value) {
        while self.forms.try_join_next().is_some() {}
        if self.forms.len() >= FORMS {
            tracing::warn!("too many forms wait for an answer; this one gets none");
            return;
        }
        let (ingest, acks) = (self.ingest.clone(), self.acks.clone());
        self.forms.spawn(async move {
            match ingest.answer(body).await {
                Ok(response) => {
                    let _ = acks.send(ack(id, response));
                }
                Err(why) => tracing::warn!(%why, "a form was not answered"),
            }
        });
    }

    /// Reason why the connection must be closed now although it did not break.
    fn overdue(&self) -> Option<&'static str> {
        let now = Instant::now();
        if now - self.heard > SILENCE {
            Some("Slack sent nothing for too long")
        } else if self.until.is_some_and(|until| now > until) {
            Some("the connection was replaced")
        } else if self.up.is_none() && now - self.opened > PATIENCE {
            Some("Slack sent no hello")
        } else {
            None
        }
    }
}

/// Stores envelopes in their order, those that wait in one transaction, and acknowledges them.
async fn store_in_order(
    ingest: SlackIngest,
    mut waiting: mpsc::Receiver<Envelope>,
    acks: mpsc::UnboundedSender<Value>,
) {
    let mut batch = Vec::with_capacity(AT_ONCE);
    while waiting.recv_many(&mut batch, AT_ONCE).await > 0 {
        let (ids, deliveries): (Vec<String>, Vec<NewDelivery>) =
            batch.drain(..).map(|envelope| (envelope.id, envelope.delivery)).unzip();
        let mut stored: VecDeque<bool> = VecDeque::new();
        if ingest.store(&deliveries).await.is_ok() {
            stored.resize(deliveries.len(), true);
        } else {
            // A delivery that cannot be stored must not keep the others from being stored.
            for delivery in &deliveries {
                let result = ingest.store(std::slice::from_ref(delivery)).await;
                if let Err(error) = &result {
                    tracing::warn!(%error, "a delivery of Slack was not stored or acknowledged");
                }
                stored.push_back(result.is_ok());
            }
        }
        for (id, stored) in ids.into_iter().zip(stored) {
            if stored && !id.is_empty() {
                let _ = acks.send(json!({ "envelope_id": id }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_differ() {
        for (failures, most) in [(0, 500), (1, 1_000), (3, 4_000), (20, 30_000)] {
            let most = Duration::from_millis(most);
            let pauses: Vec<Duration> = (0..50).map(|_| pause_after(failures)).collect();
            assert!(pauses.iter().all(|pause| *pause >= most / 2 && *pause <= most), "{pauses:?}");
            assert!(pauses.iter().any(|pause| *pause != pauses[0]), "they have jitter");
        }
    }
}

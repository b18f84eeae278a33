//! Socket Mode: accepts connections by their ticket, greets them, and reads acknowledgements.

use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_util::sync::CancellationToken;

use super::Shared;

pub async fn run(world: Shared, listener: TcpListener, stop: CancellationToken) {
    loop {
        tokio::select! {
            taken = listener.accept() => {
                if let Ok((stream, _)) = taken {
                    tokio::spawn(serve(Arc::clone(&world), stream));
                }
            }
            () = stop.cancelled() => return,
        }
    }
}

async fn serve(world: Shared, stream: TcpStream) {
    let mut allowed = false;
    #[expect(clippy::result_large_err, reason = "the library's own callback")]
    let look = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        let ticket = request.uri().query().and_then(|query| query.strip_prefix("ticket="));
        let mut state = world.lock();
        allowed = !state.down && ticket.is_some_and(|ticket| state.tickets.remove(ticket));
        Ok(response)
    };
    let Ok(socket) = accept_hdr_async(stream, look).await else { return };
    let (mut sink, mut stream) = socket.split();
    if !allowed {
        let _ = sink.close().await;
        return;
    }
    let (sender, mut out) = mpsc::unbounded_channel();
    let (id, count, silent) = {
        let mut state = world.lock();
        let id = state.next();
        if state.connections.len() < state.most_connections {
            state.connections.insert(id, sender);
        } else {
            state.sent_away += 1;
        }
        (id, state.connections.len(), state.silent)
    };
    if !world.lock().connections.contains_key(&id) {
        let away = json!({ "type": "disconnect", "reason": "too_many_websockets" });
        let _ = sink.send(Message::text(away.to_string())).await;
        let _ = sink.close().await;
        return;
    }
    let greeting = json!({
        "type": "hello", "num_connections": count,
        "debug_info": {
            "host": "applink-stand-in", "build_number": 1, "approximate_connection_time": 18_060,
        },
        "connection_info": { "app_id": "A0METAL" },
    });
    if !silent {
        let _ = sink.send(Message::text(greeting.to_string())).await;
    }
    loop {
        tokio::select! {
            text = out.recv() => match text {
                Some(text) => if sink.send(Message::text(text)).await.is_err() { break },
                // Dropped by the simulated Slack: the connection ends without a message.
                None => break,
            },
            frame = stream.next() => match frame {
                Some(Ok(Message::Text(text))) => hear(&world, &text),
                Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                Some(Ok(_)) => {}
            },
        }
    }
    world.lock().connections.remove(&id);
}

fn hear(world: &Shared, text: &str) {
    let Ok(ack) = serde_json::from_str::<Value>(text) else { return };
    let id = ack["envelope_id"].as_str().unwrap_or_default();
    if let Some(waiting) = world.lock().waiting.remove(id) {
        let _ = waiting.send(ack.get("payload").filter(|payload| !payload.is_null()).cloned());
    }
}

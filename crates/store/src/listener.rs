//! The database's notifications.

use std::time::Duration;

use sqlx::postgres::{PgListener, PgNotification};
use sqlx::{Executor as _, PgPool};
use tokio::time::timeout;

use super::connect::{SILENT, answered_within, connect_beside};

/// Time without a notification after which the server is asked whether it is still there.
const PING: Duration = Duration::from_secs(10);

/// Listens to a channel, over a connection of its own: one that goes silent is left behind and takes
/// no place in a pool with it.
#[derive(Debug)]
pub struct Listener(PgListener);

impl Listener {
    /// Listens from now on.
    pub async fn open(pool: &PgPool, channel: &str) -> sqlx::Result<Listener> {
        let mut listener = PgListener::connect_with(&connect_beside(pool)).await?;
        // The caller has to know that notifications may have been missed.
        listener.eager_reconnect(false);
        answered_within(SILENT, listener.listen(channel)).await?;
        Ok(Listener(listener))
    }

    /// Waits for the next notification. Fails when the connection is lost or has gone silent.
    pub async fn next(&mut self) -> sqlx::Result<PgNotification> {
        loop {
            match timeout(PING, self.0.try_recv()).await {
                Ok(Ok(Some(notification))) => return Ok(notification),
                Ok(Ok(None)) => return Err(lost()),
                Ok(Err(error)) => return Err(error),
                Err(_) => answered_within(SILENT, self.0.execute("select")).await.map(drop)?,
            }
        }
    }

    /// Returns a notification that has come already.
    pub fn next_buffered(&mut self) -> Option<PgNotification> {
        self.0.next_buffered()
    }
}

fn lost() -> sqlx::Error {
    let why = "the connection that listened to the database is lost";
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::ConnectionAborted, why))
}

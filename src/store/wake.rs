//! Wakes loops as soon as there is work, across processes, by `NOTIFY`. A wake-up carries nothing
//! and may be lost: loops also look by themselves from time to time.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgListener;
use sqlx::{PgConnection, PgPool};
use tokio::sync::Notify;

const CHANNEL: &str = "metalbot";
/// Least time between two rings for jobs that ended.
const PAUSE: Duration = Duration::from_millis(100);

/// The bells of one process.
#[derive(Debug, Default)]
pub struct Wake {
    /// A delivery waits in the inbox.
    pub inbox: Notify,
    /// A notice, ticket or card waits to be sent.
    pub outbox: Notify,
    /// A batch or job can go on.
    pub work: Notify,
    ended: Notify,
}

impl Wake {
    /// The bell that one's work waits for.
    pub fn bell(&self, bell: Bell) -> &Notify {
        match bell {
            Bell::Inbox => &self.inbox,
            Bell::Outbox => &self.outbox,
            Bell::Work => &self.work,
        }
    }

    /// Rings for work at every process, at once and then at most every `PAUSE`.
    pub fn jobs_ended(&self) {
        self.ended.notify_one();
    }
}

/// Whom to wake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bell {
    Inbox,
    Outbox,
    Work,
}

impl Bell {
    fn as_str(self) -> &'static str {
        match self {
            Bell::Inbox => "inbox",
            Bell::Outbox => "outbox",
            Bell::Work => "work",
        }
    }
}

/// Rings at every process when the surrounding transaction commits.
pub async fn ring(conn: &mut PgConnection, bell: Bell) -> sqlx::Result<()> {
    sqlx::query!("select pg_notify($1, $2)", CHANNEL, bell.as_str()).execute(conn).await?;
    Ok(())
}

/// Listens for ever and rings this process's bells, and tells the others of jobs that ended here.
pub async fn run_listener(pool: PgPool, wake: Arc<Wake>) {
    tokio::join!(run_ears(&pool, &wake), run_ended(&pool, &wake));
}

async fn run_ended(pool: &PgPool, wake: &Wake) {
    loop {
        wake.ended.notified().await;
        let rung = async { ring(&mut *pool.acquire().await?, Bell::Work).await };
        if let Err(error) = rung.await {
            tracing::debug!(%error, "cannot ring for work; whoever waits looks by itself");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn run_ears(pool: &PgPool, wake: &Wake) {
    loop {
        if let Err(error) = listen(pool, wake).await {
            tracing::warn!(%error, "lost the database's notifications; polling meanwhile");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn listen(pool: &PgPool, wake: &Wake) -> sqlx::Result<()> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    loop {
        match listener.recv().await?.payload() {
            "inbox" => wake.inbox.notify_waiters(),
            "outbox" => wake.outbox.notify_waiters(),
            "work" => wake.work.notify_waiters(),
            _ => {}
        }
    }
}

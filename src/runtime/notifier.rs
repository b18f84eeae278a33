//! Wakes this process's loops as soon as any process has made work for them. A wake-up may be lost,
//! so loops also poll.

use std::sync::Arc;
use std::time::Duration;

use metalbot_store::answered_within;
use metalbot_store::listener::Listener;
use metalbot_store::notifier::{CHANNEL, Topic, notify};
use sqlx::PgPool;
use tokio::sync::Notify;

/// Shortest time between two notifications about jobs that ended, or were woken, in this process.
const CHANGED_INTERVAL: Duration = Duration::from_millis(100);
/// Wait before the database is listened to again after the connection was lost.
const RECONNECT: Duration = Duration::from_secs(1);
/// Time that a notification has to be sent; the others poll.
const SENT: Duration = Duration::from_secs(5);

/// Signals that the loops of one process wait for, one for each [`Topic`].
#[derive(Debug, Default)]
pub struct Notifier {
    inbox: Notify,
    outbox: Notify,
    work: Notify,
    changed: Notify,
}

impl Notifier {
    /// Returns the signal of a topic; awaiting it ends at the next notification.
    pub fn topic(&self, topic: Topic) -> &Notify {
        match topic {
            Topic::Inbox => &self.inbox,
            Topic::Outbox => &self.outbox,
            Topic::Work => &self.work,
        }
    }

    /// Notifies all processes of [`Topic::Work`], at once and then at most once every
    /// `CHANGED_INTERVAL`: jobs end by the thousand, and as many are woken.
    pub fn work_changed(&self) {
        self.changed.notify_one();
    }
}

/// Passes the database's notifications on to this process's loops, and tells the other processes of
/// jobs that ended or were woken here. Never returns.
pub async fn run_listener(pool: PgPool, notifier: Arc<Notifier>) {
    tokio::join!(run_listening(&pool, &notifier), run_work_changed(&pool, &notifier));
}

async fn run_work_changed(pool: &PgPool, notifier: &Notifier) {
    loop {
        notifier.changed.notified().await;
        let sent = async { notify(&mut *pool.acquire().await?, Topic::Work).await };
        if let Err(error) = answered_within(SENT, sent).await {
            tracing::debug!(%error, "cannot notify other processes of jobs; they poll");
        }
        tokio::time::sleep(CHANGED_INTERVAL).await;
    }
}

async fn run_listening(pool: &PgPool, notifier: &Notifier) {
    loop {
        if let Err(error) = listen(pool, notifier).await {
            tracing::warn!(%error, "lost the database's notifications; polling meanwhile");
        }
        tokio::time::sleep(RECONNECT).await;
    }
}

async fn listen(pool: &PgPool, notifier: &Notifier) -> sqlx::Result<()> {
    let mut listener = Listener::open(pool, CHANNEL).await?;
    loop {
        // A payload of a newer version is for loops that this one does not have.
        if let Some(topic) = Topic::parse(listener.next().await?.payload()) {
            notifier.topic(topic).notify_waiters();
        }
    }
}

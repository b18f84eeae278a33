//! Notifies the loops of all processes of work, by `NOTIFY`. A notification carries nothing and
//! may be lost: loops also poll.

use sqlx::PgConnection;

/// Channel of `LISTEN` and `NOTIFY`; the payload is a [`Topic`].
pub const CHANNEL: &str = "metalbot";

/// Kind of work that a notification is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Topic {
    /// A delivery waits in the inbox.
    Inbox,
    /// A notice, ticket or card waits to be sent.
    Outbox,
    /// A batch or job can go on.
    Work,
}

impl Topic {
    /// Payload of a notification.
    pub fn as_str(self) -> &'static str {
        match self {
            Topic::Inbox => "inbox",
            Topic::Outbox => "outbox",
            Topic::Work => "work",
        }
    }

    /// Topic of a payload; `None` for one that this version does not know.
    pub fn parse(payload: &str) -> Option<Topic> {
        [Topic::Inbox, Topic::Outbox, Topic::Work].into_iter().find(|t| t.as_str() == payload)
    }
}

/// Notifies every process when the surrounding transaction commits.
pub async fn notify(conn: &mut PgConnection, topic: Topic) -> sqlx::Result<()> {
    sqlx::query!("select pg_notify($1, $2)", CHANNEL, topic.as_str()).execute(conn).await?;
    Ok(())
}

//! Facts of a comment on a ticket. It is rendered when it is sent, by `templates/tickets/`.

use serde::{Deserialize, Serialize};
use sqlx::PgTransaction;

use metalbot_core::domain::host::{HostName, fold};
use metalbot_core::domain::ids::{BatchId, TicketId};
use metalbot_store::ticket;

/// Comment that waits to be sent; its serialised `kind` names its template.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Comment {
    /// Hosts have failed in the same way.
    Again { batch: BatchId, action: String, submitter: String, hosts: Vec<HostName>, error: String },
    /// Every host of the ticket has succeeded since.
    Resolved { batches: Vec<BatchId>, hosts: Vec<HostName> },
}

impl Comment {
    /// Batches that it names.
    pub fn batches(&self) -> &[BatchId] {
        match self {
            Comment::Again { batch, .. } => std::slice::from_ref(batch),
            Comment::Resolved { batches, .. } => batches,
        }
    }

    /// Text that is the same for two comments that differ in their batch alone: they are one comment.
    fn facts(&self) -> String {
        match self {
            Comment::Again { hosts, action, error, .. } => {
                format!("again {action} {} {error}", fold(hosts))
            }
            Comment::Resolved { hosts, .. } => format!("resolved {}", fold(hosts)),
        }
    }

    /// Queues it, unless the ticket's last one says the same.
    pub async fn queue(&self, tx: &mut PgTransaction<'_>, ticket: TicketId) -> sqlx::Result<bool> {
        let body = serde_json::to_value(self).unwrap_or_default();
        ticket::comment(tx, ticket, &body, &self.facts()).await
    }
}

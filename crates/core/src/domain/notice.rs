//! Notices, as the outbox stores them: an event or an answer, never its wording. The wording is
//! `templates/chat/<kind>.md`, rendered with the fields.

use serde::{Deserialize, Serialize};

use super::event::Event;
use super::host::HostName;
use super::ids::BatchId;
use super::inbound::ChatLocation;
use super::notice_digest::DigestLine;
use super::reply::Reply;

/// Readers of a notice.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "to", rename_all = "snake_case")]
pub enum Audience {
    /// All people in a channel or thread.
    Channel { location: ChatLocation },
    /// One platform user in a channel or thread.
    Only { location: ChatLocation, user: String },
    /// Thread under the batch's card. A batch that is announced in no channel has none: then
    /// nothing is queued.
    Thread { batch: BatchId },
    /// One person, by direct message. `near` names the platform, and the channel to use on a
    /// platform without direct messages.
    Person { login: String, near: ChatLocation },
}

impl Audience {
    /// Key of an ordered queue: notices with the same key are sent in order. `None` for an answer
    /// to one person, which waits for nothing.
    pub fn ordering_key(&self) -> Option<String> {
        match self {
            Audience::Only { .. } => None,
            Audience::Thread { batch } => Some(format!("thread:{}", batch.0)),
            Audience::Channel { location } => {
                let thread = location.thread.as_deref().unwrap_or_default();
                Some(format!("channel:{}/{}/{thread}", location.platform, location.channel))
            }
            Audience::Person { login, near } => Some(format!("person:{}/{login}", near.platform)),
        }
    }
}

/// Message to people.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    Event {
        #[serde(flatten)]
        event: Event,
        /// Set when the batch's submitter is mentioned, so that their platform notifies them.
        mention: bool,
    },
    Reply(Reply),
    /// Several notices with one ordering key, folded into one.
    Digest {
        count: u32,
        lines: Vec<DigestLine>,
    },
    /// The batch's card cannot be posted yet.
    CardDelayed {
        batch: BatchId,
        action: String,
        hosts: Vec<HostName>,
        /// Step that somebody must do first.
        why: String,
    },
}

impl Notice {
    /// Notice of an event, with nobody mentioned.
    pub fn event(event: Event) -> Notice {
        Notice::Event { event, mention: false }
    }

    /// Batch of the notice, if it has one.
    pub fn batch(&self) -> Option<BatchId> {
        match self {
            Notice::Event { event, .. } => Some(event.batch),
            Notice::CardDelayed { batch, .. } => Some(*batch),
            Notice::Reply(Reply::Acted { batch, .. }) => Some(batch.id),
            Notice::Reply(_) | Notice::Digest { .. } => None,
        }
    }
}

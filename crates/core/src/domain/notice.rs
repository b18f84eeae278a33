//! Things that people should hear of, as the outbox keeps them: what happened or what is answered,
//! never its wording. The wording is `templates/chat/<kind>.md`, rendered with the fields.

use serde::{Deserialize, Serialize};

use super::event::Event;
use super::host::HostName;
use super::ids::BatchId;
use super::inbound::ChatLocation;
use super::notice_digest::DigestLine;
use super::reply::Reply;

/// Who is to see a notice.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "to", rename_all = "snake_case")]
pub enum Audience {
    /// Everybody in a channel or thread.
    Channel { location: ChatLocation },
    /// One platform user in a channel or thread.
    Only { location: ChatLocation, user: String },
    /// The thread under the batch's card. A batch that is announced nowhere has none: nothing is
    /// queued then.
    Thread { batch: BatchId },
    /// One person alone, by direct message. `near` names the platform, and the channel for a
    /// platform without direct messages.
    Person { login: String, near: ChatLocation },
}

impl Audience {
    /// Notices with the same key are sent in their order. An answer to one person has none: it waits
    /// for nothing.
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

/// Something to be said to people.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    Event {
        #[serde(flatten)]
        event: Event,
        /// Whether the batch's submitter is mentioned, so that their platform notifies them.
        mention: bool,
    },
    Reply(Reply),
    /// Many notices with one ordering key in one.
    Digest {
        count: u32,
        lines: Vec<DigestLine>,
    },
    /// The batch's card cannot be shown yet.
    CardDelayed {
        batch: BatchId,
        action: String,
        hosts: Vec<HostName>,
        /// What has to be done first.
        why: String,
    },
}

impl Notice {
    /// An event that mentions nobody.
    pub fn event(event: Event) -> Notice {
        Notice::Event { event, mention: false }
    }

    /// The batch that it is about, if it is about one.
    pub fn batch(&self) -> Option<BatchId> {
        match self {
            Notice::Event { event, .. } => Some(event.batch),
            Notice::CardDelayed { batch, .. } => Some(*batch),
            Notice::Reply(_) | Notice::Digest { .. } => None,
        }
    }
}

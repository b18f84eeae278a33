//! Slack as a chat platform.
//!
//! Deliveries come by Socket Mode ([`socket`]) or over HTTP ([`http`]). [`ingest`] stores them raw, in
//! PostgreSQL, before they are acknowledged; the inbox turns them into what they mean by
//! [`decode`]. Messages leave by [`chat`], as Block Kit made in [`blocks`], over [`web_api`].
//!
//! Invariants: nothing is acknowledged that is not stored, except what concerns nobody here; a
//! delivery that cannot be read is stored as well; no text of a person becomes markup or a ping; a
//! post whose outcome is not known is looked for before it is repeated.
//!
//! # Ids
//!
//! Slack's ids are unique within a workspace or, where an app is installed for a whole Enterprise
//! Grid organisation, within that. So users and channels are named by both: `T123/U456` and
//! `T123/C789`, or `E12/U456` and `E12/C789` for an installation of organisation `E12`, whatever
//! workspace of it somebody is in. A message is named by its `ts`, which is unique in its channel.

pub mod blocks;
pub mod channel_access;
pub mod chat;
pub mod decode;
pub mod forms;
pub mod home;
pub mod http;
pub mod ingest;
mod modal;
mod mrkdwn;
pub mod people;
mod platform;
pub mod socket;
pub mod web_api;

/// The platform's name in locations and users.
pub const PLATFORM: &str = "slack";

/// The part of one of our ids that Slack itself knows: `U456` of `T123/U456`.
pub fn own_id(id: &str) -> &str {
    id.rsplit_once('/').map_or(id, |(_, own)| own)
}

/// The installation that one of our ids belongs to: `T123` of `T123/U456`.
pub fn scope(id: &str) -> &str {
    id.rsplit_once('/').map_or("", |(scope, _)| scope)
}

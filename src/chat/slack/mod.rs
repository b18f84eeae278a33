//! Slack as a chat platform.
//!
//! Deliveries come by Socket Mode ([`socket`]) or over HTTP ([`http`]). [`ingest`] stores them raw,
//! in PostgreSQL, before they are acknowledged; the inbox decodes them by [`decode`]. [`chat`]
//! sends messages, rendered as Block Kit by [`blocks`], over [`web_api`].
//!
//! Invariants: a delivery is acknowledged only after it was stored, unless it is not for Metalbot;
//! a delivery that cannot be read is stored as well; no text of a person becomes markup or a
//! mention; a post whose outcome is not known is searched for before it is repeated.
//!
//! # Ids
//!
//! Slack's ids are unique within a workspace or, where an app is installed for a whole Enterprise
//! Grid organisation, within that. So users and channels are named by both: `T123/U456` and
//! `T123/C789`, or `E12/U456` and `E12/C789` for an installation of organisation `E12`, in
//! any workspace of it. A message is named by its `ts`, which is unique in its channel.

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

/// Returns the part of one of our ids that is Slack's own: `U456` of `T123/U456`.
pub fn own_id(id: &str) -> &str {
    id.rsplit_once('/').map_or(id, |(_, own)| own)
}

/// Returns the installation that one of our ids belongs to: `T123` of `T123/U456`.
pub fn scope(id: &str) -> &str {
    id.rsplit_once('/').map_or("", |(scope, _)| scope)
}

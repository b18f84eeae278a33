//! Chat in a browser: channels, threads, live cards, sign-in.
//!
//! Invariants: everything that changes something goes through [`crate::app::console_message`] into the same
//! inbox as any other chat platform; pages run under a strict content security policy; a message
//! for one person reaches nobody else.
//!
//! Routes:
//!
//! ```text
//! GET  /                    the page (a visitor without a session is sent to sign in)
//! GET  /login  POST /login  POST /logout
//! GET  /console/assets/FILE
//! GET  /console/state       { me, csrf, people, channels: [{ name, topic, last }] }
//! GET  /console/messages    ?channel=NAME[&thread=ID] -> { messages: [View] }
//! GET  /console/complete    ?text=&cursor= -> { items: [{ from, insert, label, help }] }
//! GET  /console/events      server-sent events: message (a View), resync, ping, bye
//! POST /console/send        { delivery, channel, thread, text }       202
//! POST /console/react       { delivery, message, name, on }           202
//! POST /console/press       { delivery, message, value }              202
//! ```

mod assets;
mod guard;
mod live;
mod login;
pub mod markdown;
mod problem;
mod routes;
#[cfg(test)]
mod tests;
pub mod view;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Serialize;
use sqlx::PgPool;

pub use guard::{Signed, SignedChange};
pub use login::{close_session, open_session};
pub use problem::Problem;
pub use routes::router;

use crate::app::console_message::Live;
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::principal::Principal;

/// The author of the bot's messages.
pub const BOT: &str = "metalbot";

/// One way to go on typing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CompletionItem {
    /// Byte offset in the text from which to the cursor `insert` replaces.
    pub from: usize,
    pub insert: String,
    pub label: String,
    pub help: String,
}

/// Finds the address of a batch's card on another platform.
pub type FindCard = Arc<dyn Fn(BatchId) -> BoxFuture<'static, Option<String>> + Send + Sync>;

/// Completes the text behind `/metal `; the number is the cursor's byte offset in it.
pub type Completer = Arc<dyn Fn(&str, usize) -> Vec<CompletionItem> + Send + Sync>;
/// A person of the directory by login, with today's groups.
pub type FindPrincipal = Arc<dyn Fn(&str) -> Option<Principal> + Send + Sync>;
/// Whether the password is that login's. May be slow: it is run where blocking is allowed. It
/// should take as long for a login that does not exist.
pub type VerifyPassword = Arc<dyn Fn(&str, &str) -> bool + Send + Sync>;

/// A channel of the console.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ChannelInfo {
    pub name: String,
    pub topic: String,
}

/// A person whom the demo's switch offers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Person {
    pub login: String,
    pub name: String,
    /// Shown under the name: `SRE`, `owns web`.
    pub role: String,
}

/// What the console is made of.
#[derive(Clone)]
pub struct ConsoleOptions {
    pub pool: PgPool,
    pub live: Live,
    /// The channels there are, in the order shown; at least one.
    pub channels: Vec<ChannelInfo>,
    pub principal: FindPrincipal,
    pub verify: VerifyPassword,
    pub complete: Completer,
    pub elsewhere: FindCard,
    /// The demo's people, who can be switched between by `POST /demo/become`.
    pub people: Option<Vec<Person>>,
    /// Where a visitor without a session is sent: `/login`, or the demo's own entry.
    pub sign_in: String,
    /// Served over TLS: cookies are `Secure` and named `__Host-`.
    pub secure: bool,
    pub session_lifetime: Duration,
}

/// The console's state, shared by its handlers.
#[derive(Clone)]
pub struct ConsoleState {
    options: Arc<ConsoleOptions>,
    rate: Arc<guard::Rate>,
}

impl ConsoleState {
    pub fn new(options: ConsoleOptions) -> Self {
        ConsoleState { options: Arc::new(options), rate: Arc::default() }
    }
}

impl fmt::Debug for ConsoleState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsoleState").field("channels", &self.options.channels).finish()
    }
}

impl fmt::Debug for ConsoleOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsoleOptions").field("channels", &self.channels).finish_non_exhaustive()
    }
}

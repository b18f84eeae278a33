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
//! GET  /console/state       { me, csrf, channels: [{ name, topic, last }] }
//! GET  /console/messages    ?channel=NAME[&thread=ID] -> { messages: [View] }
//! GET  /console/complete    ?text=&cursor= -> { items: [{ from, insert, label, help }] }
//! GET  /console/events      server-sent events: message (a View), resync, ping, bye
//! POST /console/send        { delivery, channel, thread, text }       202
//! POST /console/react       { delivery, message, name, on }           202
//! POST /console/press       { delivery, message, value }              202
//! ```

mod assets;
mod error_page;
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

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use sqlx::PgPool;

pub use guard::{Signed, SignedChange};
pub use login::{close_session, open_session};
pub use problem::Problem;
pub use routes::router;

use crate::app::App;
use crate::app::console_message::Live;
use crate::app::sessions::Session;
use crate::identity::password::Hashing;
use crate::runtime::client_address::TrustedProxies;
use metalbot_core::domain::principal::Principal;

/// A channel of the console.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ChannelInfo {
    pub name: String,
    pub topic: String,
}

/// State that the console's routes share.
#[derive(Clone)]
pub struct ConsoleOptions {
    pub pool: PgPool,
    pub live: Live,
    /// The channels there are, in the order shown; at least one.
    pub channels: Vec<ChannelInfo>,
    pub app: Arc<App>,
    /// Path to which a visitor without a session is sent.
    pub sign_in: &'static str,
    /// Served over TLS: cookies are `Secure` and named `__Host-`.
    pub secure: bool,
    /// The address that people use, where it is configured.
    pub public_url: Option<String>,
    pub trusted_proxies: TrustedProxies,
    pub session_lifetime: Duration,
}

/// The console's state, shared by its handlers.
#[derive(Clone)]
pub struct ConsoleState {
    options: Arc<ConsoleOptions>,
    rate: Arc<guard::Rate>,
    hashing: Arc<Hashing>,
    streams: Arc<live::Streams>,
}

impl ConsoleState {
    pub fn new(options: ConsoleOptions) -> Self {
        ConsoleState {
            options: Arc::new(options),
            rate: Arc::default(),
            hashing: Arc::default(),
            streams: Arc::default(),
        }
    }

    /// A session that is opened now for this login.
    fn session(&self, login: &str) -> Session {
        let directory = self.options.app.directory.current();
        let digest = directory.password_hash(login).map(|hash| Sha256::digest(hash).to_vec());
        Session { login: login.to_owned(), password_digest: digest }
    }

    /// A person of the directory by login, with today's groups.
    fn principal(&self, login: &str) -> Option<Principal> {
        self.options.app.directory.current().by_login(login)
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

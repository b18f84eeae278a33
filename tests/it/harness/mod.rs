//! The world of a test: a site around Metalbot, on a database of its own. Tests act as persons and
//! compare what these are told.
//!
//! A [`Site`] is everything outside: database, machines, Jira, Slack, configuration. Metalbot runs on
//! it either inside the test, with its people at the console ([`World`]), or as processes of their own
//! that can be killed, frozen and started again ([`Process`]). [`TicketWorld`] is the ticket tasks
//! alone, without people and machines.
//!
//! Invariants: a site is given back by [`Site::finish`] (a world by [`World::finish`]), which lets no
//! test pass that leaves something unsent, a lease that lives, an audit that is broken or unsealed, or
//! a task that panicked; a test that forgets it fails. Only [`database`] speaks SQL.

pub mod browser;
pub mod database;
pub mod faults;
pub mod process;
pub mod site;
pub mod slack;
pub mod tcp_proxy;
pub mod template;
pub mod tickets;
pub mod wait;
pub mod world;

pub use database::{Count, Database};
pub use process::Process;
pub use site::{Builder, Site};
pub use tcp_proxy::TcpProxy;
pub use tickets::{FailedHost, TicketWorld};
pub use wait::{PATIENCE, until};
pub use world::{World, told};

/// The channel where everybody acts.
pub const METAL: &str = "metal";

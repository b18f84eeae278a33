//! Metalbot: Metal as a Service from chat.
//!
//! A person types `/metal reboot web[01-40] reason="CVE-2026-1"` in a channel. Metalbot proves that
//! nobody else holds those hosts, asks their owners in the thread, drives the machines' BMCs over
//! IPMI, shows progress in the same message, and files one ticket for each kind of failure.
//!
//! # The crates
//!
//! | Crate | What it is | What it cannot do |
//! |---|---|---|
//! | [`metalbot_core`] | the words and rules ([`domain`](metalbot_core::domain)), the language of commands ([`command`](metalbot_core::command)) | IO, clocks, async |
//! | [`metalbot_store`] | the only SQL, one file for each table | decide anything: transitions are the core's |
//! | [`metalbot_ipmi`] | the RMCP+ client | know hosts and batches |
//! | [`metalbot_jira`] | the Jira client, two dialects | know hosts and batches |
//! | this one | use cases, executor, chat, console, composition | contain the simulated world |
//! | `metalbot-sim`, `metalbot-demo` | the world around, simulated, and the demo on it | be served to a site |
//!
//! # The way of a submission
//!
//! 1. The delivery is authenticated and stored raw before it is acknowledged: Slack's by
//!    [`chat::slack::ingest`], the console's by [`app::console_message::say`]. A repeat is dropped
//!    there.
//! 2. [`app::intake::run_intake`] takes one delivery, in one transaction: the platform's decoder makes
//!    an [`Inbound`](metalbot_core::domain::inbound::Inbound) of it, `app::interpret` reads what it
//!    asks for, once, and [`app::identify`] says which person of the directory it is. What only
//!    holds something back goes ahead of what is held up ([`app::stop_intake::run_stop_intake`]).
//! 3. [`command::understand`](metalbot_core::command::understand) has made a typed
//!    [`Command`](metalbot_core::command::Command) of the text; [`app::execute::execute`] finds its use
//!    case and hands it the [`RequestContext`](app::RequestContext): who asks, by which way, when.
//! 4. [`app::submit::submit`] authorises ([`identity::authz::authorise`]) and, under the admission
//!    locks ([`metalbot_store::lock::admission`]), reads the live claims
//!    ([`metalbot_store::claim::live`]) and writes batch and jobs, or a refusal that names who holds
//!    the hosts. It answers with [data](metalbot_core::domain::reply::Reply); chat makes a message of
//!    it, the shell a table.
//! 5. [`executor::checker`] looks at each host ([`preflight::check`]) where the action wants it; then
//!    the batch waits for approval, or is scheduled.
//! 6. [`notify::relay`] posts the batch's card, worded by [`notify::render`]; [`app::decide::decide`]
//!    counts approvals, which are for one [plan digest](metalbot_core::domain::workflow::digest).
//! 7. [`executor::rollout::Conductor`] lets wave after wave of jobs start, as far as caps and failure
//!    budget allow and while the approval stands ([`app::approval_check`]); a worker leases them
//!    ([`executor::worker::run_worker`], [`metalbot_store::lease`]), and each yields a
//!    [`executor::hold::Hold`]; [`executor::job_run::run_job`] begins a [`step`] over a [`bmc`], which
//!    asks the hold right before it acts, and writes the outcome, grouped with others' by
//!    [`executor::journal`].
//!    A step that waits parks its job, which is a row until its time or a machine's report
//!    ([`app::agent_report`]) wakes it.
//! 8. The last job folds the batch. Its [event](metalbot_core::domain::event::Event) and its tickets
//!    leave through the outbox, written in the same transaction: [`notify::relay`] tells people,
//!    [`ticket::assign`] and [`ticket::relay`] tell Jira.
//!
//! # Invariants
//!
//! - A host has at most one live job: advisory locks decide, a partial unique index stands behind.
//! - A delivery and all its effects are one transaction; what must leave is in the outbox with it.
//! - No transaction stays open across a network call to anything but the database.
//! - States change only by the tables of [`batch`](metalbot_core::domain::batch) and
//!   [`job`](metalbot_core::domain::job).
//! - No act without a durable intent under the newest lease; none that was allowed more than two seconds
//!   ago; no write with an old epoch.
//! - What may have happened is never blindly repeated: the host is asked, or a person is.
//! - Who may do what is judged in [`identity::authz`] and
//!   [`approval`](metalbot_core::domain::approval) alone; closed by default.
//! - A process asks and drives only BMCs in the datacenters that it
//!   [reaches](metalbot_core::domain::placement); what none reaches waits, and is said.
//! - An error keeps its type: what can go wrong with a host is an
//!   [`ErrorKind`](metalbot_core::domain::error_kind::ErrorKind), what a use case refuses an
//!   [`app::Error`]; both are worded at the edge.
//! - The audit's order is given after the commit ([`metalbot_store::audit::seal`]); whoever reads what
//!   has happened since goes by position.
//! - Only [`serve`] constructs what runs. Every background task is a row of [`serve::tasks`].
//! - Nobody is signed in without proof: simulated people are in crates that this one cannot name.

// In reading order.
pub mod app;
pub mod identity;
pub mod inventory;

pub mod bmc;
pub mod executor;
pub mod preflight;
pub mod step;

pub mod api;
pub mod chat;
pub mod notify;
pub mod ticket;
pub mod web;

pub mod config;
pub mod failpoint;
pub mod outgoing;
pub mod problem;
pub mod runtime;
pub mod telemetry;

pub mod cli;
pub mod operator;
pub mod serve;

/// Makes ring the process's cryptography for TLS. Call it first: a TLS client that is made without
/// a provider panics.
pub fn use_ring() {
    // A second call finds the first one's provider, which is the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

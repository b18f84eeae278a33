//! Metalbot: Metal as a Service from chat.
//!
//! A person types `/metal reboot web[01-40] reason="CVE-2026-1"` in a channel. Metalbot proves that
//! nobody else holds those hosts, asks their owners in the thread, drives the machines' BMCs over
//! IPMI, shows progress in the same message, and files one ticket for each kind of failure.
//!
//! # The way of a submission
//!
//! 1. A chat door ([`console`]) authenticates a delivery and stores it in the inbox.
//! 2. [`app::intake`] takes it: [`identity`] says who it is, [`command`] what it means.
//! 3. [`app::submit`] authorises it and, under the admission locks of [`store::lock`], writes batch
//!    and jobs, or a refusal that names who holds the hosts.
//! 4. [`notice::relay`] posts the batch's card; [`app::decide`] counts approvals.
//! 5. [`executor::rollout`] lets wave after wave of jobs start; [`executor::worker`] leases them;
//!    [`executor::attempt`] writes an intent, acts by a [`step`] over a [`bmc`], writes the outcome.
//! 6. The last job folds the batch; [`notice::relay`] and [`ticket::relay`] tell people and Jira.
//!
//! # Invariants
//!
//! - A host has at most one live job: advisory locks decide, a partial unique index stands behind.
//! - A delivery and all its effects are one transaction; what must leave is in the outbox with it.
//! - No transaction stays open across a network call to anything but the database.
//! - State changes only by the tables of [`domain::batch`] and [`domain::job`].
//! - No act without a durable intent under a lease that stands; no write with an old epoch.
//! - What may have happened is never blindly repeated: the host is asked, or a person is.
//! - Who may do what is judged in [`identity::authz`] and [`domain::approval`] alone; closed by
//!   default.
//! - Only [`cli`] constructs; `serve` cannot reach [`sim`].

// In reading order.
pub mod app;
pub mod identity;
pub mod inventory;

pub mod bmc;
pub mod executor;
pub mod preflight;
pub mod step;

pub mod chat;
pub mod notify;
pub mod ticket;
pub mod web;

pub mod config;
pub mod failpoint;
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

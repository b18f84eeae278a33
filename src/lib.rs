//! Metalbot: Metal as a Service from chat.

pub mod app;
pub mod bmc;
pub mod chat;
pub mod cli;
pub mod cluster;
pub mod command;
pub mod config;
pub mod console;
pub mod domain;
pub mod executor;
pub mod identity;
pub mod inventory;
pub mod notice;
pub mod sim;
pub mod step;
pub mod store;
pub mod telemetry;
pub mod ticket;

/// Makes ring the process's cryptography for TLS. Call it first: a TLS client that is made without
/// a provider panics.
pub fn use_ring() {
    // A second call finds the first one's provider, which is the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

//! Metalbot: Metal as a Service from chat.

pub mod app;
pub mod bmc;
pub mod chat;
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

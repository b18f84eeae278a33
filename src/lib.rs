//! Metalbot: Metal as a Service from chat.

pub mod bmc;
pub mod chat;
pub mod cluster;
pub mod command;
pub mod domain;
pub mod identity;
pub mod inventory;
pub mod sim;
pub mod store;
pub mod ticket;

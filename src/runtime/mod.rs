//! Base of a process: its database, its signals, its background tasks, and files that are read
//! again when they change.

pub mod client_address;
pub mod database;
pub mod hot_reload;
pub mod notifier;
pub mod private_postgres;
pub mod shutdown;
pub mod task;

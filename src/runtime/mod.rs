//! What a process stands on: its database, its signals, its background tasks, files
//! that are read again when they change.

pub mod database;
pub mod hot_reload;
pub mod notifier;
pub mod private_postgres;
pub mod shutdown;
pub mod task;

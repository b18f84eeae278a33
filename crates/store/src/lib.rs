//! The only SQL. Free functions, one file per table; callers own the transactions.
//!
//! Invariants: [`batch::apply`] and the functions of [`job`], [`lease`] and [`attempt`] are the only
//! writers of a state, each by the transition functions of `domain`; the database's clock is the
//! clock of leases and expiry, so that replicas cannot disagree about the time.

use sqlx::PgConnection;
use time::OffsetDateTime;

use metalbot_core::domain::error_kind::ErrorKind;

pub mod account;
mod address;
pub mod app_home;
pub mod approval;
pub mod attempt;
pub mod audit;
pub mod batch;
pub mod bmc_identity;
pub mod caps;
pub mod card;
pub mod channel_access;
pub mod claim;
mod connect;
pub mod console_message;
pub mod decision;
pub mod dedup_key;
pub mod draft;
pub mod host_wont_fix;
pub mod inbox;
pub mod job;
mod jobs_to_lease;
pub mod lease;
pub mod listener;
pub mod lock;
pub mod notice_digest;
pub mod notifier;
pub mod notify_route;
pub mod outbox;
pub mod outgoing_post;
pub mod placement;
pub mod plan;
pub mod preference;
pub mod preflight;
pub mod reaction;
pub mod relay_scope;
pub mod report;
pub mod retention;
pub mod schema;
pub mod server;
pub mod session;
pub mod task_lease;
pub mod ticket;
pub mod ticket_host;
pub mod ticket_poll;
pub mod ticket_work;
pub mod view;

pub use address::{AddressError, DatabaseAddress};
pub use connect::{
    PoolRole, answered_by, answered_within, connect_beside, connect_lazy, notice_stale_plan,
};

/// The schema, compiled in. A database is brought up to date by [`schema::migrate`].
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations");

/// The database's time, which is everybody's: that of the transaction's start.
pub async fn now(conn: &mut PgConnection) -> sqlx::Result<OffsetDateTime> {
    sqlx::query_scalar!(r#"select now() as "now!""#).fetch_one(conn).await
}

/// Kind of a stored error: [`ErrorKind::Unspecified`] where none is stored, or one that only a newer
/// version knows.
fn error_kind(stored: Option<&str>) -> ErrorKind {
    stored.and_then(|name| name.parse().ok()).unwrap_or(ErrorKind::Unspecified)
}

/// A row that this version of the code cannot read, as an error of the driver.
fn corrupt(error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}

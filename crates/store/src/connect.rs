//! How the database is reached, and how long it may take to answer.
//!
//! Invariant: a connection that has gone silent holds nobody for ever, and nobody's connection. Four
//! limits together see to it, since none of them sees everything:
//!
//! - the server gives a statement, a wait for a lock and an idle transaction up (the [`PoolRole`] says
//!   when), and notices by keepalives that a client is gone, so that its locks are free;
//! - [`answered_by`] and the limits of the loops give an answer up that never comes;
//! - a connection that comes back to the pool with an answer outstanding is closed if that does not
//!   come within `SILENT`, so that what was given up does not use the pool up;
//! - a connection that leaves the pool is tried first, for as long.
//!
//! The client's own socket has the system's limits: the driver gives no way to set others.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::pool::PoolConnectionMetadata;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{Connection, PgConnection};
use tokio::time::{Instant, timeout, timeout_at};

use super::address::DatabaseAddress;

/// Longest wait for a connection of a pool.
const ACQUIRE: Duration = Duration::from_secs(5);
/// Time after which a connection that should answer at once is taken for dead.
pub(crate) const SILENT: Duration = Duration::from_secs(2);
/// Longest wait of a statement for a lock.
const LOCK: Duration = Duration::from_secs(10);
/// Ends a transaction whose process stands still or is cut off: until then its locks would keep all
/// others from its jobs and batches.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(5);
/// Time after which the server takes a client for gone that acknowledges nothing.
const CLIENT_GONE: Duration = Duration::from_secs(20);
/// How often the server looks, during a statement, whether its client is still connected.
const CLIENT_CHECK: Duration = Duration::from_secs(5);

/// What a pool is for, which says how long its statements may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PoolRole {
    /// Requests, deliveries, jobs and background tasks: all that other work waits for.
    Service {
        /// Time after which the server gives a statement up.
        statement_timeout: Duration,
    },
    /// Migrations and what operators run by hand: statements and waits for locks take their time.
    Maintenance,
}

impl PoolRole {
    /// Settings of a session, each with its value as PostgreSQL reads it. None has one that this
    /// version of the server does not know.
    fn settings(self) -> Vec<(&'static str, String)> {
        let ms = |limit: Duration| format!("{}ms", limit.as_millis());
        let seconds = |limit: Duration| limit.as_secs().to_string();
        let (statement, lock) = match self {
            PoolRole::Service { statement_timeout } => {
                (statement_timeout, LOCK.min(statement_timeout))
            }
            PoolRole::Maintenance => (Duration::ZERO, Duration::ZERO),
        };
        vec![
            ("statement_timeout", ms(statement)),
            ("lock_timeout", ms(lock)),
            ("idle_in_transaction_session_timeout", ms(IDLE_IN_TRANSACTION)),
            ("tcp_user_timeout", ms(CLIENT_GONE)),
            ("tcp_keepalives_idle", seconds(CLIENT_GONE / 2)),
            ("tcp_keepalives_interval", seconds(CLIENT_GONE / 4)),
            ("tcp_keepalives_count", "2".to_owned()),
            ("client_connection_check_interval", ms(CLIENT_CHECK)),
            // What is locked here, and looked at again after the wait for it, counts on it.
            ("default_transaction_isolation", "read committed".to_owned()),
        ]
    }
}

/// Opens a pool. Does not wait for the server: a database that is away comes back to a pool that
/// is still there.
pub fn connect_lazy(address: &DatabaseAddress, max_connections: u32, role: PoolRole) -> PgPool {
    PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(ACQUIRE)
        .after_connect(move |connection, _| Box::pin(set_limits(connection, role)))
        // In place of the driver's own test, which has no limit.
        .test_before_acquire(false)
        .before_acquire(|connection, known| {
            Box::pin(async move {
                if may_have_stale_plans(&known) {
                    return Ok(false);
                }
                answered_within(SILENT, connection.ping()).await.map(|()| true)
            })
        })
        // Costs nothing where no answer is outstanding.
        .after_release(|connection, _| {
            Box::pin(
                async move { answered_within(SILENT, connection.flush()).await.map(|()| true) },
            )
        })
        .connect_lazy_with(address.options().clone())
}

/// A pool of one connection beside another one, to the same server with the same limits: for what
/// holds its connection for as long as it lives.
pub fn connect_beside(pool: &PgPool) -> PgPool {
    let options = pool.options().clone().max_connections(1).min_connections(0);
    options.connect_lazy_with((*pool.connect_options()).clone())
}

/// Sets those limits that the server knows: some are younger than others.
async fn set_limits(connection: &mut PgConnection, role: PoolRole) -> sqlx::Result<()> {
    let (names, values): (Vec<_>, Vec<_>) = role.settings().into_iter().unzip();
    let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
    sqlx::query!(
        "select set_config(known.name, wanted.value, false)
         from unnest($1::text[], $2::text[]) as wanted (name, value)
         join pg_settings as known on known.name = wanted.name",
        &names,
        &values
    )
    .fetch_all(connection)
    .await?;
    Ok(())
}

/// When a migration was last noticed that changed what a statement returns, in this process.
static PLANS_STALE_SINCE: Mutex<Option<std::time::Instant>> = Mutex::new(None);

/// Looks whether this error says that a connection has a plan which cannot be used any more: a migration
/// that changes what a statement returns makes the server refuse it on each connection that has
/// prepared it before (error 0A000). Those that are open are replaced then when they are next used.
pub fn notice_stale_plan(error: &sqlx::Error) {
    let code = error.as_database_error().and_then(|error| error.code());
    if code.as_deref() == Some("0A000") {
        let now = Some(std::time::Instant::now());
        *PLANS_STALE_SINCE.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }
}

fn may_have_stale_plans(connection: &PoolConnectionMetadata) -> bool {
    let since = *PLANS_STALE_SINCE.lock().unwrap_or_else(PoisonError::into_inner);
    since.is_some_and(|since| connection.age >= since.elapsed())
}

/// Gives an answer of the database up at the deadline. One that needs no waiting is there even later.
pub async fn answered_by<T, E: From<sqlx::Error>>(
    deadline: Instant,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    timeout_at(deadline, answer).await.unwrap_or_else(|_| Err(silent().into()))
}

/// The same with a limit that begins now.
pub async fn answered_within<T, E: From<sqlx::Error>>(
    limit: Duration,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    timeout(limit, answer).await.unwrap_or_else(|_| Err(silent().into()))
}

fn silent() -> sqlx::Error {
    let late = "the database has not answered in time";
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, late))
}

#[cfg(test)]
mod tests {
    use sqlx::ConnectOptions as _;

    use super::*;

    const SERVICE: PoolRole = PoolRole::Service { statement_timeout: Duration::from_secs(3) };

    fn open(database: &PgPool, role: PoolRole) -> PgPool {
        let url = database.connect_options().to_url_lossy();
        connect_lazy(&DatabaseAddress::read(url.as_str()).unwrap(), 1, role)
    }

    async fn setting(pool: &PgPool, name: &str) -> String {
        let query = "select current_setting($1)";
        sqlx::query_scalar(query).bind(name).fetch_one(pool).await.unwrap()
    }

    #[sqlx::test(migrations = false)]
    async fn the_server_knows_the_limits_of_each_role(pool: PgPool) {
        let other = "do $$ begin execute format(
                 'alter database %I set default_transaction_isolation = serializable',
                 current_database()); end $$";
        sqlx::raw_sql(other).execute(&pool).await.unwrap();
        let (service, maintenance) = (open(&pool, SERVICE), open(&pool, PoolRole::Maintenance));
        for (name, of_service, of_maintenance) in [
            ("statement_timeout", "3s", "0"),
            ("lock_timeout", "3s", "0"),
            ("idle_in_transaction_session_timeout", "5s", "5s"),
            ("client_connection_check_interval", "5s", "5s"),
            ("default_transaction_isolation", "read committed", "read committed"),
        ] {
            assert_eq!(setting(&service, name).await, of_service, "{name}");
            assert_eq!(setting(&connect_beside(&service), name).await, of_service, "{name}");
            assert_eq!(setting(&maintenance, name).await, of_maintenance, "{name}");
        }
    }

    #[sqlx::test(migrations = false)]
    async fn a_statement_that_was_planned_before_a_migration_can_be_planned_anew(pool: PgPool) {
        let pool = open(&pool, PoolRole::Maintenance);
        sqlx::raw_sql("create table t (x int); insert into t values (1)")
            .execute(&pool)
            .await
            .unwrap();
        let all = async || sqlx::query("select * from t").fetch_all(&pool).await;
        all().await.unwrap();
        sqlx::raw_sql("alter table t add column y int").execute(&pool).await.unwrap();
        all().await.unwrap_err();
        let again = all().await.unwrap_err();
        notice_stale_plan(&again);
        all().await.unwrap();
    }

    #[sqlx::test(migrations = false)]
    async fn an_answer_that_was_given_up_does_not_use_the_pool_up(pool: PgPool) {
        let pool = open(&pool, PoolRole::Maintenance);
        let sleep = async { sqlx::query("select pg_sleep(60)").execute(&pool).await };
        let error = answered_within(Duration::from_millis(100), sleep).await.unwrap_err();
        assert!(matches!(error, sqlx::Error::Io(_)), "{error}");
        assert_eq!(setting(&pool, "lock_timeout").await, "0");
    }
}

//! The server behind an address: whether it can be reached, and whether Metalbot can work with it.
//!
//! Everything is asked by the simple protocol: a pooler that hands each transaction to another session
//! of the server breaks prepared statements, and is to be found and not stumbled over.

use std::io;
use std::time::Duration;

use sqlx::{ConnectOptions as _, Connection, PgConnection, Row as _, raw_sql};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::address::DatabaseAddress;

/// Oldest version of PostgreSQL that is supported, as in `server_version_num`.
const OLDEST: i32 = 150_000;
/// Time in which a server is reached, or it is said why not.
const LIMIT: Duration = Duration::from_millis(4_500);
/// Time for which a server is tried again that is just starting or full.
const TRY_AGAIN: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(200);
/// Pairs of connections that are compared to find a pooler: others use its sessions meanwhile.
const PAIRS: usize = 3;

/// A server that cannot be reached, or that lets nobody in. Holds no user and no password.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct Unreachable {
    pub place: String,
    pub reason: String,
}

/// What keeps Metalbot from working with a server that answers.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unfit {
    #[error("PostgreSQL {0} is too old: 15 or a later version is needed")]
    Version(String),
    #[error(
        "the database's encoding is {0}, which cannot hold every text: make one with `create database \
         ... encoding 'UTF8' template template0`"
    )]
    Encoding(String),
    #[error("the server is a standby, and nothing can be written: name the primary")]
    Standby,
    #[error(
        "transactions are read-only (default_transaction_read_only), and nothing can be written"
    )]
    ReadOnly,
    #[error(
        "a pooler gives each transaction another session of the server, which loses settings, \
         notifications and prepared statements: let it pool by session (PgBouncer: pool_mode = session), \
         or name the server itself"
    )]
    PooledByTransaction,
}

/// Connects once, or says within 5 s why that cannot be.
pub async fn connect(address: &DatabaseAddress) -> Result<PgConnection, Unreachable> {
    let (begin, deadline) = (Instant::now(), Instant::now() + LIMIT);
    let reason = loop {
        match timeout_at(deadline, address.options().connect()).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) if may_pass(&error) && begin.elapsed() < TRY_AGAIN => sleep(PAUSE).await,
            Ok(Err(error)) => break reason(&error),
            Err(_) => break "it does not answer".to_owned(),
        }
    };
    Err(Unreachable { place: address.to_string(), reason })
}

fn may_pass(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(cause) => cause.kind() == io::ErrorKind::ConnectionRefused,
        // The server starts, or has no connection left.
        sqlx::Error::Database(answer) => {
            answer.code().is_some_and(|code| ["57P03", "53300"].contains(&&*code))
        }
        _ => false,
    }
}

fn reason(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Io(cause) => match cause.kind() {
            io::ErrorKind::ConnectionRefused => {
                "the connection is refused: no PostgreSQL listens there".to_owned()
            }
            io::ErrorKind::NotFound => "there is no socket of PostgreSQL".to_owned(),
            _ => cause.to_string(),
        },
        // The server's own words name roles and databases, never passwords.
        sqlx::Error::Database(answer) => answer.message().to_owned(),
        other => other.to_string(),
    }
}

/// Finds all that is wrong with a server.
pub async fn look(address: &DatabaseAddress) -> Result<Vec<Unfit>, Unreachable> {
    let mut first = connect(address).await?;
    let mut second = connect(address).await?;
    let looked = async {
        let mut unfit = facts(&mut first).await?;
        if is_pooled(&mut first, &mut second).await? {
            unfit.push(Unfit::PooledByTransaction);
        }
        Ok::<_, sqlx::Error>(unfit)
    };
    let looked = match timeout(LIMIT, looked).await {
        Ok(looked) => looked.map_err(|error| reason(&error)),
        Err(_) => Err("it does not answer".to_owned()),
    };
    for connection in [first, second] {
        let _ = timeout(PAUSE, connection.close()).await;
    }
    looked.map_err(|reason| Unreachable { place: address.to_string(), reason })
}

async fn facts(connection: &mut PgConnection) -> sqlx::Result<Vec<Unfit>> {
    let query = "select current_setting('server_version_num') as number,
            current_setting('server_version') as version,
            (select pg_encoding_to_char(encoding)::text from pg_database
             where datname = current_database()) as encoding";
    let row = raw_sql(query).fetch_one(&mut *connection).await?;
    let number: String = row.try_get("number")?;
    let (version, encoding): (String, String) = (row.try_get("version")?, row.try_get("encoding")?);
    let mut unfit = Vec::new();
    if number.parse::<i32>().is_ok_and(|number| number < OLDEST) {
        unfit.push(Unfit::Version(version));
    }
    if encoding != "UTF8" {
        unfit.push(Unfit::Encoding(encoding));
    }
    unfit.extend(only_reads(connection).await?);
    Ok(unfit)
}

/// Says why nothing can be written over this connection, if so. Costs one small query; a server may
/// become a standby at any time.
pub async fn only_reads(connection: &mut PgConnection) -> sqlx::Result<Option<Unfit>> {
    let query = "select pg_is_in_recovery()::text as standby,
                        current_setting('transaction_read_only') as read_only";
    let row = raw_sql(query).fetch_one(connection).await?;
    let (standby, read_only): (String, String) =
        (row.try_get("standby")?, row.try_get("read_only")?);
    Ok(match (&*standby, &*read_only) {
        ("true", _) => Some(Unfit::Standby),
        (_, "on") => Some(Unfit::ReadOnly),
        _ => None,
    })
}

/// Two connections have two sessions of the server, and each keeps its own: otherwise a pooler stands
/// between that gives a session away with the end of each transaction.
async fn is_pooled(first: &mut PgConnection, second: &mut PgConnection) -> sqlx::Result<bool> {
    for _ in 0..PAIRS {
        let before = session(first).await?;
        raw_sql("begin").execute(&mut *second).await?;
        let beside = session(second).await?;
        let after = session(first).await?;
        raw_sql("rollback").execute(&mut *second).await?;
        if before == beside || before != after {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn session(connection: &mut PgConnection) -> sqlx::Result<String> {
    let row = raw_sql("select pg_backend_pid()::text as pid").fetch_one(connection).await?;
    row.try_get("pid")
}

//! Admission locks: multi-granularity advisory locks, held until the transaction ends.
//!
//! Up to [`SMALL`] hosts: the fleet shared, then each host in the order of its lock key, so that
//! small submissions admit in parallel and cannot deadlock. More: the fleet alone, exclusively, so
//! that a large submission cannot exhaust the server's lock table.

use sqlx::PgTransaction;

use metalbot_core::domain::host::HostName;

/// Largest submission that locks host by host.
pub const SMALL: usize = 128;

/// Key of the fleet's lock in the two-number key space, which per-host keys cannot reach.
const FLEET: (i32, i32) = (0x4d42, 1);

/// Proof that nobody else admits these hosts until the transaction ends. Reading live claims for
/// an admission needs it.
#[derive(Debug)]
pub struct ClaimLock {
    hosts: Vec<String>,
}

impl ClaimLock {
    /// The hosts that the lock covers.
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }
}

/// Waits for and takes the admission locks of these hosts.
pub async fn admission(tx: &mut PgTransaction<'_>, hosts: &[HostName]) -> sqlx::Result<ClaimLock> {
    let hosts: Vec<String> = hosts.iter().map(|host| host.as_str().to_owned()).collect();
    if hosts.len() <= SMALL {
        sqlx::query!("select pg_advisory_xact_lock_shared($1, $2)", FLEET.0, FLEET.1)
            .execute(&mut **tx)
            .await?;
        sqlx::query!(
            "select pg_advisory_xact_lock(key)
             from (select distinct hashtextextended(host, 0) as key
                   from unnest($1::text[]) as host order by 1) as keys",
            &hosts
        )
        .execute(&mut **tx)
        .await?;
    } else {
        sqlx::query!("select pg_advisory_xact_lock($1, $2)", FLEET.0, FLEET.1)
            .execute(&mut **tx)
            .await?;
    }
    Ok(ClaimLock { hosts })
}

//! Leases of background tasks: one replica at a time has a task's, and another takes it over when
//! its owner dies.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::types::PgInterval;

use metalbot_core::domain::ids::Epoch;

/// Takes or renews this process's lease of a task. `None` while another process has it.
pub async fn claim_task(
    pool: &PgPool,
    name: &str,
    owner: &str,
    lease: Duration,
) -> sqlx::Result<Option<Epoch>> {
    sqlx::query!("insert into task_lease (name) values ($1) on conflict do nothing", name)
        .execute(pool)
        .await?;
    let epoch = sqlx::query_scalar!(
        "update task_lease set
             owner = $2,
             epoch = epoch + (owner is distinct from $2)::int,
             lease_until = now() + $3
         where name = (
             select name from task_lease
             where name = $1 and (owner = $2 or lease_until < now())
             for update skip locked)
         returning epoch",
        name,
        owner,
        interval(lease)
    )
    .fetch_optional(pool)
    .await?;
    Ok(epoch.map(Epoch))
}

/// Notes that a round of the task has succeeded, or goes on.
pub async fn record_round(pool: &PgPool, name: &str) -> sqlx::Result<()> {
    sqlx::query!("update task_lease set last_round_at = now() where name = $1", name)
        .execute(pool)
        .await?;
    Ok(())
}

/// Seconds since the last round of each task that has ever had one, by its name.
pub async fn round_ages(pool: &PgPool) -> sqlx::Result<BTreeMap<String, f64>> {
    let rows = sqlx::query!(
        r#"select name, extract(epoch from now() - last_round_at)::float8 as "age!"
           from task_lease where last_round_at is not null"#
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.name, row.age.max(0.0))).collect())
}

/// Gives the leases of a process that stops in order to the others at once.
pub async fn release_tasks(pool: &PgPool, owner: &str) -> sqlx::Result<()> {
    sqlx::query!("update task_lease set lease_until = '-infinity' where owner = $1", owner)
        .execute(pool)
        .await?;
    Ok(())
}

/// A duration as PostgreSQL's interval, in whole microseconds.
pub fn interval(duration: Duration) -> PgInterval {
    PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(60);

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn a_turn_is_one_process_s_until_it_ends(pool: PgPool) {
        let take = |owner: &'static str| claim_task(&pool, "t", owner, LEASE);
        let first = take("a").await.unwrap().expect("nobody has it");
        assert_eq!(take("b").await.unwrap(), None);
        assert_eq!(take("a").await.unwrap(), Some(first), "renewed under the same epoch");
        release_tasks(&pool, "a").await.unwrap();
        let second = take("b").await.unwrap().expect("it was given up");
        assert!(second.0 > first.0);
        assert_eq!(take("a").await.unwrap(), None);
        claim_task(&pool, "u", "b", Duration::ZERO).await.unwrap();
        let expired = claim_task(&pool, "u", "a", LEASE).await.unwrap();
        assert!(expired.is_some(), "its owner died");
    }
}

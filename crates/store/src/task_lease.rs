//! Leases of background tasks: one replica at a time has a task's, and another takes it over when
//! its owner dies. A task that asks BMCs has a lease for each set of datacenters that processes reach,
//! named `TASK@DATACENTER,DATACENTER`; of its rounds the newest counts.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::types::PgInterval;

use metalbot_core::domain::ids::Epoch;
use metalbot_core::domain::placement::ReachableDatacenters;

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

/// Name of a task's lease in a process that reaches these datacenters.
pub fn lease_name(task: &str, reachable: &ReachableDatacenters) -> String {
    match reachable.names() {
        Some(names) => format!("{task}@{}", names.join(",")),
        None => task.to_owned(),
    }
}

/// Name of the task that a lease is of.
pub fn task_of(lease: &str) -> &str {
    lease.split('@').next().unwrap_or(lease)
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
           from task_lease where last_round_at is not null order by last_round_at"#
    )
    .fetch_all(pool)
    .await?;
    let ages = rows.into_iter().map(|row| (task_of(&row.name).to_owned(), row.age.max(0.0)));
    Ok(ages.collect())
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

    #[sqlx::test(migrator = "crate::MIGRATIONS")]
    async fn each_set_of_datacenters_has_its_lease_and_their_rounds_are_the_task_s(pool: PgPool) {
        let here = |name: &str| lease_name("t", &ReachableDatacenters::only([name.to_owned()]));
        assert_eq!(lease_name("t", &ReachableDatacenters::ALL), "t");
        for (lease, owner) in [(here("fra1"), "a"), (here("ams1"), "b"), ("t".into(), "c")] {
            assert!(claim_task(&pool, &lease, owner, LEASE).await.unwrap().is_some(), "{lease}");
        }
        record_round(&pool, &here("ams1")).await.unwrap();
        record_round(&pool, &here("fra1")).await.unwrap();
        sqlx::query(
            "update task_lease set last_round_at = now() - interval '1 day'
                     where name = 't@ams1'",
        )
        .execute(&pool)
        .await
        .unwrap();
        let ages = round_ages(&pool).await.unwrap();
        assert!(ages.len() == 1 && ages["t"] < 3600.0, "{ages:?}");
    }
}

//! Background tasks: one copy of each runs at a time among all replicas, and another process takes
//! over when its owner dies.

use sqlx::PgPool;
use sqlx::postgres::types::PgInterval;
use std::time::Duration;

use crate::domain::ids::Epoch;

/// Takes or renews this process's turn at a task. `None` while another process has it.
pub async fn take_turn(
    pool: &PgPool,
    name: &str,
    owner: &str,
    lease: Duration,
) -> sqlx::Result<Option<Epoch>> {
    sqlx::query!("insert into task (name) values ($1) on conflict do nothing", name)
        .execute(pool)
        .await?;
    let epoch = sqlx::query_scalar!(
        "update task set
             owner = $2,
             epoch = epoch + (owner is distinct from $2)::int,
             lease_until = now() + $3
         where name = (
             select name from task
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

/// Gives the turns of a process that stops in order to the others at once.
pub async fn give_up_turns(pool: &PgPool, owner: &str) -> sqlx::Result<()> {
    sqlx::query!("update task set lease_until = '-infinity' where owner = $1", owner)
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

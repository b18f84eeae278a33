//! Background tasks: one copy of each runs at a time among all replicas, and another process takes
//! over when its owner dies.

use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::types::PgInterval;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

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

/// Who runs which task, and how often.
#[derive(Clone, Debug)]
pub struct Turns {
    pub pool: PgPool,
    /// Name of this process, unique among the replicas.
    pub owner: String,
    pub stop: CancellationToken,
}

/// Renews the turn while a round runs; returns when it is lost.
async fn turn_ends(turns: &Turns, name: &str) {
    let mut until = Instant::now() + TURN;
    loop {
        tokio::time::sleep(TURN / 5).await;
        let asked = Instant::now();
        match take_turn(&turns.pool, name, &turns.owner, TURN).await {
            Ok(Some(_)) => until = asked + TURN,
            Ok(None) => return,
            Err(_) if Instant::now() >= until => return,
            Err(_) => {}
        }
    }
}

/// How long a turn lasts when its owner dies in the middle of it.
const TURN: Duration = Duration::from_secs(5);

/// Runs `round` again and again while this process has the turn: when `bell` rings, and at least
/// every `period`. `round` takes no input: it reads what there is to do, and returns whether it
/// should run again at once.
pub async fn run_rounds<F>(
    turns: Turns,
    name: &'static str,
    period: Duration,
    bell: Option<&Notify>,
    mut round: impl FnMut() -> F,
) where
    F: Future<Output = anyhow::Result<bool>>,
{
    while !turns.stop.is_cancelled() {
        let ring = async {
            match bell {
                Some(bell) => bell.notified().await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(ring);
        // A bell that rings during the round must not be missed.
        let _ = futures_util::poll!(&mut ring);
        let again = match take_turn(&turns.pool, name, &turns.owner, TURN).await {
            Ok(Some(_)) => tokio::select! {
                done = round() => done.unwrap_or_else(|error| {
                    tracing::warn!(task = name, error = format!("{error:#}"), "a round failed");
                    false
                }),
                // Another process may have it from now on.
                () = turn_ends(&turns, name) => {
                    tracing::warn!(task = name, "the turn was lost in the middle of a round");
                    false
                }
            },
            Ok(None) => false,
            Err(error) => {
                tracing::warn!(task = name, %error, "cannot take a turn");
                false
            }
        };
        if again {
            continue;
        }
        tokio::select! {
            _ = tokio::time::timeout(period, &mut ring) => {}
            () = turns.stop.cancelled() => {}
        }
    }
}
